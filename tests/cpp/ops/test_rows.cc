#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

TEST_CASE("gather, scatter and scatter_add move rows") {
  each_device([](Stream& s) {
    Random r;
    const Tensor x = r.tensor({7, 19}), y = r.tensor({3, 19});
    const Tensor index = ints({5, 0, 2});
    Tensor out = filled({3, 19}, 0);
    run(s, ops::gather_rows, x, index, out);
    Tensor put = copy(x), added = copy(x);
    run(s, ops::scatter_rows, y, index, put);
    run(s, ops::scatter_add_rows, y, index, added);
    for (int i = 0; i < 3; ++i) {
      const int at = index.data<int>()[i];
      for (int d = 0; d < 19; ++d) {
        CHECK(out.f32()[i * 19 + d] == x.f32()[at * 19 + d]);
        CHECK(put.f32()[at * 19 + d] == y.f32()[i * 19 + d]);
        CHECK(added.f32()[at * 19 + d] == x.f32()[at * 19 + d] + y.f32()[i * 19 + d]);
      }
    }
    CHECK(put.f32()[19] == x.f32()[19]);
    CHECK(added.f32()[19] == x.f32()[19]);
    CHECK(rejects("gather_rows", [&] { run(s, ops::gather_rows, x, ints({1}), out); }));
    CHECK(rejects("scatter_add_rows", [&] { run(s, ops::scatter_add_rows, y, ints({0}), put); }));
    if (s.device().on_cuda()) return;  // indices there are not checked
    CHECK(rejects("gather_rows", [&] { ops::gather_rows(s, x, ints({1, 7, 0}), out); }));
    CHECK(rejects("scatter_rows", [&] { ops::scatter_rows(s, y, ints({0, 1, -1}), put); }));
  });
}

TEST_CASE("embedding reads rows of a packed matrix") {
  each_device([](Stream& s) {
    Random r;
    for (const DType type : element_types(s)) {
      const Tensor table = r.tensor({21, 13});
      const LinearWeight w = pack_linear(s, std::span(&table, 1), format_of(type));
      const Tensor ids = ints({20, 0, 15, 16});
      Tensor out = filled({4, 13}, 0);
      run(s, ops::embedding, ids, w, out);
      for (int t = 0; t < 4; ++t)
        for (int i = 0; i < 13; ++i) {
          const float v = table.f32()[ids.data<int>()[t] * 13 + i];
          CHECK(out.f32()[t * 13 + i] == kept(v, type));
        }
      CHECK(rejects("embedding", [&] { run(s, ops::embedding, ints({0, 1, 2}), w, out); }));
      if (s.device().on_cuda()) continue;
      CHECK(rejects("embedding", [&] { ops::embedding(s, ints({0, 1, 2, 21}), w, out); }));
      const LinearWeight half = pack_linear(s, std::span(&table, 1), WeightFormat::f16);
      CHECK(rejects("embedding", [&] { ops::embedding(s, ids, half, out); }));
    }
  });
}

TEST_CASE("bilinear_rows mixes four rows") {
  each_device([](Stream& s) {
    Random r;
    const Tensor table = r.tensor({9, 21}), weight = r.tensor({5, 4});
    Tensor index = Tensor::empty({5, 4}, DType::i32);
    for (int i = 0; i < 20; ++i) index.data<int>()[i] = r.below(9);
    Tensor out = filled({5, 21}, 0);
    run(s, ops::bilinear_rows, table, index, weight, out);
    std::vector<double> want(5 * 21, 0.0);
    for (int t = 0; t < 5; ++t)
      for (int j = 0; j < 4; ++j)
        for (int d = 0; d < 21; ++d)
          want[t * 21 + d] += static_cast<double>(weight.f32()[t * 4 + j]) *
                              table.f32()[index.data<int>()[t * 4 + j] * 21 + d];
    CHECK(error(out, want) < 2e-6);
    if (s.device().on_cuda()) return;
    index.data<int>()[3] = 9;
    CHECK(rejects("bilinear_rows", [&] { run(s, ops::bilinear_rows, table, index, weight, out); }));
  });
}
