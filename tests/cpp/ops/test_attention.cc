#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

constexpr int kBlocks = 40;

ops::KvLayer make_layer(ops::Heads h, DType type) {
  // Filled with NaN: a kernel that reads a slot nobody wrote shows it.
  ops::KvLayer l{Tensor::empty({kBlocks, h.kv, h.dim, 16}, type),
                 Tensor::empty({kBlocks, h.kv, 16, h.dim}, type)};
  std::memset(l.k.data<std::byte>(), 0xff, l.k.nbytes());
  std::memset(l.v.data<std::byte>(), 0xff, l.v.nbytes());
  return l;
}

// A sequence's table of shuffled blocks and the slots of its tokens [0, n).
struct Table {
  std::vector<std::int32_t> blocks;
  Tensor slots(int begin, int end) const {
    std::vector<std::int32_t> s;
    for (int t = begin; t < end; ++t) s.push_back(blocks[t / 16] * 16 + t % 16);
    return ints(s);
  }
};

// A GPU's tensor cores take a bf16 or f16 cache of these dimensions, and round queries and weights.
bool tensor_cores(const Stream& s, ops::Heads h, DType type) {
  return s.device().on_cuda() && type != DType::f32 && (h.dim == 64 || h.dim == 128);
}
// A weight is off by a rounding of itself, a value below 5: tests/cpp/cuda holds them to the tight
// bound.
double allowed(bool rounded, DType type) { return rounded ? 5 * rounding(type) : 5e-6; }

// softmax(q k^T / sqrt(dim)) v of query row `q` over key rows `keys` of qkv, in double.
void oracle_row(const Tensor& qkv, ops::Heads h, int q, const std::vector<int>& keys, DType type,
                std::vector<double>& out, bool rounded_query = false) {
  const auto width = qkv.dim(1);
  for (int head = 0; head < h.q; ++head) {
    const float* query = qkv.f32() + q * width + head * h.dim;
    const int k_at = (h.q + head / (h.q / h.kv)) * h.dim, v_at = k_at + h.kv * h.dim;
    std::vector<double> p;
    double z = 0;
    for (const int j : keys) {
      double s = 0;
      for (int d = 0; d < h.dim; ++d)
        s += static_cast<double>(rounded_query ? kept(query[d], type) : query[d]) *
             kept(qkv.f32()[j * width + k_at + d], type);
      p.push_back(std::exp(s / std::sqrt(h.dim)));
      z += p.back();
    }
    for (int d = 0; d < h.dim; ++d) {
      double sum = 0;
      for (std::size_t j = 0; j < keys.size(); ++j)
        sum += p[j] / z * kept(qkv.f32()[keys[j] * width + v_at + d], type);
      out.push_back(sum);
    }
  }
}

std::vector<int> upto(int n) {
  std::vector<int> v;
  for (int i = 0; i < n; ++i) v.push_back(i);
  return v;
}

struct Case {
  ops::Heads heads;
  DType type;
};
const Case kCases[] = {{{4, 2, 32}, DType::f32},  {{4, 2, 32}, DType::bf16},
                       {{3, 3, 16}, DType::f32},  {{6, 1, 48}, DType::f32},
                       {{5, 1, 80}, DType::bf16}, {{16, 8, 128}, DType::bf16},
                       {{80, 1, 16}, DType::f32}};
const Case kDeviceCases[] = {
    {{4, 2, 32}, DType::f16}, {{4, 2, 64}, DType::f16}, {{16, 8, 128}, DType::f16}};

std::vector<Case> cases(const Stream& s) {
  std::vector<Case> all(std::begin(kCases), std::end(kCases));
  if (s.device().on_cuda()) all.insert(all.end(), std::begin(kDeviceCases), std::end(kDeviceCases));
  return all;
}

}  // namespace

TEST_CASE("causal attention over a paged cache") {
  each_device([](Stream& s) {
    Random r;
    for (const auto& [h, type] : cases(s))
      for (const int tokens : {1, 15, 16, 17, 50}) {
        const Tensor qkv = r.tensor({tokens, (h.q + 2 * h.kv) * h.dim});
        const ops::KvLayer layer = make_layer(h, type);
        const Table table{{7, 2, 30, 4}};
        run(s, ops::kv_write, qkv, h, table.slots(0, tokens), layer);
        const ops::AttentionRow row{0, tokens, nullptr, 0, table.blocks.data(), 0};
        Tensor out = filled({tokens, h.q * h.dim}, NAN);
        run(s, ops::attention, qkv, h, layer, std::span(&row, 1), out);
        const bool rounded = tensor_cores(s, h, type);
        std::vector<double> want;
        for (int t = 0; t < tokens; ++t) oracle_row(qkv, h, t, upto(t + 1), type, want, rounded);
        CHECK(error(out, want) < allowed(rounded, type));
      }
  });
}

TEST_CASE("branches see a shared prefix and not each other") {
  each_device([](Stream& s) {
    Stream host(1);
    Random r;
    const ops::Heads h{4, 2, 32};
    const int width = 8 * 32;
    for (const int prefix : {1, 16, 21, 40}) {
      const Tensor qkv = r.tensor({prefix + 5, width});
      const ops::KvLayer layer = make_layer(h, DType::f32);
      const Table shared{{3, 9, 1}}, a{{20}}, b{{21}};
      ops::kv_write(host, qkv.rows(0, prefix), h, shared.slots(0, prefix), layer);
      ops::kv_write(host, qkv.rows(prefix, prefix + 2), h, a.slots(0, 2), layer);
      ops::kv_write(host, qkv.rows(prefix + 2, prefix + 5), h, b.slots(0, 3), layer);
      const ops::AttentionRow rows[] = {
          {0, 2, shared.blocks.data(), prefix, a.blocks.data(), 0},
          {3, 2, shared.blocks.data(), prefix, b.blocks.data(), 1},  // tokens 1, 2 of branch b
      };
      Tensor out = filled({5, h.q * h.dim}, -1.0f);
      run(s, ops::attention, qkv.rows(prefix, prefix + 5), h, layer, std::span(rows), out);
      std::vector<double> want;
      auto keys = upto(prefix);
      const auto row = [&](int q, std::vector<int> own) {
        auto all = keys;
        all.insert(all.end(), own.begin(), own.end());
        oracle_row(qkv, h, q, all, DType::f32, want);
      };
      row(prefix, {prefix});
      row(prefix + 1, {prefix, prefix + 1});
      want.insert(want.end(), static_cast<std::size_t>(h.q * h.dim), -1.0);  // no row asked for it
      row(prefix + 3, {prefix + 2, prefix + 3});
      row(prefix + 4, {prefix + 2, prefix + 3, prefix + 4});
      CHECK(error(out, want) < 5e-6);
    }
  });
}

TEST_CASE("chunks, single tokens, threads and neighbours give the same bits") {
  each_isa([](Stream& one) {
    Stream two(2);
    Random r;
    for (const auto& [h, type] : kCases) {
      const int tokens = 75;
      const Tensor qkv = r.tensor({tokens, (h.q + 2 * h.kv) * h.dim});
      const ops::KvLayer layer = make_layer(h, type);
      const Table table{{7, 2, 30, 4, 11}};
      ops::kv_write(one, qkv, h, table.slots(0, tokens), layer);
      const ops::AttentionRow whole{0, tokens, nullptr, 0, table.blocks.data(), 0};
      Tensor all = filled({tokens, h.q * h.dim}, 0), split = copy(all), parts = copy(all);
      ops::attention(one, qkv, h, layer, std::span(&whole, 1), all);
      ops::attention(two, qkv, h, layer, std::span(&whole, 1), split);
      CHECK(same_bits(all, split));
      // As chunks of 33, 1, 1, 40 in one call, out of order.
      const ops::AttentionRow chunks[] = {{34, 1, nullptr, 0, table.blocks.data(), 34},
                                          {0, 33, nullptr, 0, table.blocks.data(), 0},
                                          {35, 40, nullptr, 0, table.blocks.data(), 35},
                                          {33, 1, nullptr, 0, table.blocks.data(), 33}};
      ops::attention(two, qkv, h, layer, chunks, parts);
      CHECK(same_bits(all, parts));
    }
  });
}

TEST_CASE("large scores and a late maximum stay finite") {
  each_device([](Stream& s) {
    Stream host(1);
    const ops::Heads h{1, 1, 16};
    Tensor qkv = filled({40, 48}, 1.0f);
    for (int t = 0; t < 40; ++t)
      for (int d = 0; d < 16; ++d) {
        qkv.f32()[t * 48 + d] = 100.0f;
        qkv.f32()[t * 48 + 16 + d] = static_cast<float>(t - 20);  // scores of -8000 .. 7600
        qkv.f32()[t * 48 + 32 + d] = static_cast<float>(t);
      }
    const ops::KvLayer layer = make_layer(h, DType::f32);
    const Table table{{0, 1, 2}};
    ops::kv_write(host, qkv, h, table.slots(0, 40), layer);
    const ops::AttentionRow row{0, 40, nullptr, 0, table.blocks.data(), 0};
    Tensor out = filled({40, 16}, NAN);
    run(s, ops::attention, qkv, h, layer, std::span(&row, 1), out);
    for (int t = 0; t < 40; ++t) CHECK(out.f32()[t * 16] == static_cast<float>(t));
  });
}

TEST_CASE("attention inside segments") {
  each_device([](Stream& s) {
    Random r;
    const auto f32 = ops::Products::f32;
    for (const int dim : {8, 32, 64, 72}) {
      const int heads = 3, tokens = 150;
      const Tensor qkv = r.tensor({tokens, 3 * heads * dim});
      const std::vector<std::int32_t> cu = {0, 1, 18, 18, 20, 150};
      Tensor out = filled({tokens, heads * dim}, NAN);
      run(s, ops::segment_attention, qkv, heads, dim, cu, f32, out);
      std::vector<double> want;
      for (std::size_t g = 1; g < cu.size(); ++g)
        for (int t = cu[g - 1]; t < cu[g]; ++t) {
          std::vector<int> keys;
          for (int j = cu[g - 1]; j < cu[g]; ++j) keys.push_back(j);
          oracle_row(qkv, {heads, heads, dim}, t, keys, DType::f32, want);
        }
      CHECK(error(out, want) < 5e-6);
      if (s.device().on_cuda()) continue;
      Stream two(2);
      Tensor split = filled({tokens, heads * dim}, NAN);
      ops::segment_attention(two, qkv, heads, dim, cu, f32, split);
      CHECK(same_bits(out, split));
      const std::vector<std::int32_t> gap = {0, 149}, down = {0, 20, 10, 150};
      CHECK(rejects("segment_attention",
                    [&] { ops::segment_attention(s, qkv, heads, dim, gap, f32, out); }));
      CHECK(rejects("segment_attention",
                    [&] { ops::segment_attention(s, qkv, heads, dim, down, f32, out); }));
    }
  });
}

TEST_CASE("kv_write rounds and leaves other slots alone") {
  each_device([](Stream& s) {
    for (const DType type : element_types(s)) {
      Random r;
      const ops::Heads h{2, 2, 16};
      Tensor qkv = r.tensor({2, 96});
      qkv.f32()[32 + 16] = 1e9f;
      const ops::KvLayer layer = make_layer(h, type);
      run(s, ops::kv_write, qkv, h, ints({5 * 16 + 3, 16}), layer);
      int written = 0;
      for (std::int64_t i = 0; i < layer.k.numel(); ++i)
        written += !std::isnan(float_at(layer.k, i));
      CHECK(written == 2 * 2 * 16);
      const auto at = [&](int head, int d) { return ((5 * 2 + head) * 16 + d) * 16 + 3; };
      for (int d = 0; d < 16; ++d) {
        CHECK(float_at(layer.k, at(1, d)) == kept(qkv.f32()[32 + 16 + d], type));
        CHECK(float_at(layer.v, ((5 * 2 + 1) * 16 + 3) * 16 + d) ==
              kept(qkv.f32()[32 + 32 + 16 + d], type));
      }
      CHECK(rejects("kv_write", [&] { run(s, ops::kv_write, qkv, h, ints({0}), layer); }));
      if (s.device().on_cuda()) continue;  // slots there are not checked
      CHECK(rejects("kv_write", [&] { ops::kv_write(s, qkv, h, ints({0, kBlocks * 16}), layer); }));
    }
  });
}

TEST_CASE("a cache of f16 is refused on the CPU") {
  Stream s(1);
  const ops::Heads h{2, 1, 16};
  const ops::KvLayer layer = make_layer(h, DType::f16);
  Tensor qkv = filled({1, 64}, 0), out = filled({1, 32}, 0);
  const std::int32_t table[] = {0};
  const ops::AttentionRow row{0, 1, nullptr, 0, table, 0};
  CHECK(rejects("kv_write", [&] { ops::kv_write(s, qkv, h, ints({0}), layer); }));
  CHECK(rejects("attention", [&] { ops::attention(s, qkv, h, layer, std::span(&row, 1), out); }));
  const Tensor angle = filled({1, 8}, 1);
  CHECK(rejects("qk_norm_rope_write", [&] {
    ops::qk_norm_rope_write(s, qkv, h, {}, {}, 1e-6f, angle, angle, ints({0}), layer);
  }));
}

TEST_CASE("copy_blocks copies whole blocks of every layer") {
  each_device([](Stream& one) {
    const auto second = another(one);
    Stream& s = *second;
    Random r;
    const ops::KvLayer layers[] = {{r.tensor({6, 2, 32, 16}), r.tensor({6, 2, 16, 32})},
                                   {r.tensor({6, 2, 32, 16}), r.tensor({6, 2, 16, 32})}};
    const Tensor before = copy(layers[1].v);
    const ops::BlockCopy copies[] = {{4, 0}, {1, 5}};
    Visit visit(s);
    std::vector<ops::KvLayer> there;
    for (const auto& l : layers) there.push_back({visit.out(l.k), visit.out(l.v)});
    ops::copy_blocks(s, there, copies);
    visit.home();
    for (const auto& l : layers)
      for (const auto& t : {l.k, l.v}) {
        CHECK(same_bits(t.rows(4, 5), t.rows(0, 1)));
        CHECK(same_bits(t.rows(1, 2), t.rows(5, 6)));
      }
    CHECK(same_bits(before.rows(1, 5), layers[1].v.rows(1, 5)));
    const ops::BlockCopy bad[] = {{4, 6}};
    CHECK(rejects("copy_blocks", [&] { ops::copy_blocks(s, there, bad); }));
  });
}

TEST_CASE("attention rejects rows and tables outside the cache") {
  Stream s(1);
  const ops::Heads h{2, 1, 16};
  const ops::KvLayer layer = make_layer(h, DType::f32);
  const Tensor qkv = filled({2, 64}, 0);
  Tensor out = filled({2, 32}, 0);
  const std::int32_t table[] = {0, kBlocks}, good[] = {0, 1};
  const auto run = [&](ops::AttentionRow row) {
    return rejects("attention", [&] { ops::attention(s, qkv, h, layer, std::span(&row, 1), out); });
  };
  CHECK(run({0, 3, nullptr, 0, good, 0}));
  CHECK(run({-1, 2, nullptr, 0, good, 0}));
  CHECK(run({0, 2, nullptr, 0, table, 20}));
  CHECK(run({0, 2, table, 17, good, 0}));
  CHECK(run({0, 2, nullptr, 0, good, -1}));
  CHECK(!run({0, 2, nullptr, 0, table, 14}));
}
