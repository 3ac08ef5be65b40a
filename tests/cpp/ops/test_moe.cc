#include <algorithm>
#include <limits>
#include <numeric>

#include "common.h"

using namespace dream_r;
using namespace dream_r::test;

namespace {

struct Routed {
  Tensor expert, weight;
};

Routed route(Stream& s, const Tensor& logits, std::int64_t k, bool renormalise) {
  Routed r{Tensor::empty({logits.dim(0), k}, DType::i32), filled({logits.dim(0), k}, 0)};
  run(s, ops::moe_route, logits, renormalise, r.expert, r.weight);
  return r;
}

Tensor row(std::vector<float> v) {
  Tensor t = filled({1, static_cast<std::int64_t>(v.size())}, 0);
  std::copy(v.begin(), v.end(), t.f32());
  return t;
}

std::vector<int> list(const Tensor& t) { return {t.data<int>(), t.data<int>() + t.numel()}; }

}  // namespace

TEST_CASE("moe_route: softmax over all experts, the largest, weights as asked") {
  each_device([](Stream& s) {
    // exp of the logits: 1, 4, 2, 1, of 8
    const Tensor logits = row({0.0f, std::log(4.0f), std::log(2.0f), 0.0f});
    const Routed plain = route(s, logits, 2, false), shared = route(s, logits, 2, true);
    CHECK(list(plain.expert) == std::vector<int>{1, 2});
    CHECK(list(shared.expert) == list(plain.expert));
    CHECK(error(plain.weight, {0.5, 0.25}) < 1e-6);
    CHECK(error(shared.weight, {2.0 / 3, 1.0 / 3}) < 1e-6);
    CHECK(error(route(s, logits, 4, false).weight, {0.5, 0.25, 0.125, 0.125}) < 1e-6);
  });
}

TEST_CASE("moe_route: ties go to the lowest expert, NaN to none, large logits do not overflow") {
  each_device([](Stream& s) {
    CHECK(list(route(s, row({1, 3, 3, 3, 1}), 3, true).expert) == std::vector<int>{1, 2, 3});
    CHECK(list(route(s, row({2, 2, 2, 2}), 2, true).expert) == std::vector<int>{0, 1});
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(list(route(s, row({nan, -5, nan, -6}), 2, true).expert) == std::vector<int>{1, 3});
    CHECK(error(route(s, row({300, 299.3068528f, -300}), 2, true).weight, {2.0 / 3, 1.0 / 3}) <
          1e-4);
  });
}

TEST_CASE("moe_group sorts the pairs by expert and keeps the order of the tokens") {
  each_device([](Stream& s) {
    Tensor expert = ints({3, 0, 0, 3, 1, 3});
    Tensor token = ints(std::vector<int>(6, -1)), place = ints(std::vector<int>(6, -1));
    Tensor begin = ints(std::vector<int>(6, -1));
    run(s, ops::moe_group, expert.view({3, 2}), token, place, begin);
    CHECK(list(begin) == std::vector<int>{0, 2, 3, 3, 6, 6});
    CHECK(list(token) == std::vector<int>{0, 1, 2, 0, 1, 2});
    CHECK(list(place) == std::vector<int>{3, 0, 1, 4, 2, 5});
  });
}

TEST_CASE("moe_combine adds a token's experts by their weights, in their order") {
  each_device([](Stream& one) {
    Random r;
    const auto second = another(one);
    Stream& s = *second;
    const Tensor y = r.tensor({6, 33}), weight = r.tensor({3, 2});
    const Tensor place = ints({3, 0, 1, 4, 2, 5});
    Tensor out = filled({3, 33}, 7);
    run(s, ops::moe_combine, y, place, weight, out);
    for (int t = 0; t < 3; ++t)
      for (int i = 0; i < 33; ++i) {
        float want = 0;
        for (int j = 0; j < 2; ++j)
          want += weight.f32()[t * 2 + j] * y.f32()[place.data<int>()[t * 2 + j] * 33 + i];
        CHECK(out.f32()[t * 33 + i] == want);
      }
  });
}

TEST_CASE("moe: a row's result does not depend on the others, threads or instruction set aside") {
  each_device([](Stream& one) {
    constexpr int kRows = 37, kExperts = 8, kPer = 3, kHidden = 48;
    Random r(3);
    const Tensor logits = r.tensor({kRows, kExperts}), y = r.tensor({kRows * kPer, kHidden});
    const auto pass = [&](Stream& s, std::int64_t from, std::int64_t to) {
      const std::int64_t n = to - from;
      const Routed chosen = route(s, logits.rows(from, to), kPer, true);
      Tensor token = ints(std::vector<int>(n * kPer)), place = ints(std::vector<int>(n * kPer));
      Tensor begin = ints(std::vector<int>(kExperts + 1));
      run(s, ops::moe_group, chosen.expert, token, place, begin);
      Tensor grouped = filled({n * kPer, kHidden}, 0), out = filled({n, kHidden}, 0);
      for (std::int64_t p = 0; p < n * kPer; ++p)  // what pair p computed, where it was put
        std::copy_n(y.f32() + (from * kPer + p) * kHidden, kHidden,
                    grouped.f32() + place.data<int>()[p] * kHidden);
      run(s, ops::moe_combine, grouped, place, chosen.weight, out);
      return out;
    };
    const auto second = another(one);
    Stream& many = *second;
    const Tensor all = pass(one, 0, kRows);
    CHECK(same_bits(all, pass(many, 0, kRows)));
    for (int t = 0; t < kRows; ++t) CHECK(same_bits(all.rows(t, t + 1), pass(one, t, t + 1)));
  });
}

TEST_CASE("moe ops refuse what does not fit") {
  each_device([](Stream& s) {
    Random r;
    const Tensor logits = r.tensor({3, 4}), weight = filled({3, 2}, 0);
    Tensor expert = ints({0, 1, 2, 3, 0, 1}).view({3, 2});
    Tensor six = ints(std::vector<int>(6)), begin = ints(std::vector<int>(5));
    CHECK(rejects("moe_route",
                  [&] { run(s, ops::moe_route, logits, true, expert, filled({3, 1}, 0)); }));
    CHECK(rejects("moe_route", [&] { route(s, logits, 5, true); }));
    CHECK(rejects("moe_route",
                  [&] { run(s, ops::moe_route, r.tensor({2, 4}), true, expert, weight); }));
    CHECK(rejects("moe_group", [&] { run(s, ops::moe_group, expert, six, ints({0}), begin); }));
    const Tensor y = r.tensor({6, 8});
    Tensor out = filled({3, 8}, 0);
    CHECK(
        rejects("moe_combine", [&] { run(s, ops::moe_combine, y.rows(0, 5), six, weight, out); }));
    if (s.device().on_cuda()) return;  // indices there are not checked
    CHECK(rejects("moe_group", [&] { ops::moe_group(s, expert, six, six, ints({0, 0, 0, 0})); }));
    CHECK(rejects("moe_combine",
                  [&] { run(s, ops::moe_combine, y, ints({0, 1, 2, 3, 4, 6}), weight, out); }));
  });
}
