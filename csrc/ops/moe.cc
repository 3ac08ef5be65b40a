#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/checks.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {

// One token. `order` is scratch of `experts` ids, reused between tokens.
void route(const float* logits, std::vector<std::int32_t>& order, std::int64_t k, bool renormalise,
           std::int32_t* expert, float* weight) {
  const auto value = [logits](std::int32_t e) {
    return std::isnan(logits[e]) ? -std::numeric_limits<float>::infinity() : logits[e];
  };
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const float x = value(a), y = value(b);
                      return x != y ? x > y : a < b;
                    });
  const float most = value(order[0]);
  const auto part = [&](std::int32_t e) { return std::exp(value(e) - most); };
  float sum = 0.0f;
  if (renormalise) {
    for (std::int64_t j = 0; j < k; ++j) sum += part(order[j]);
  } else {
    for (std::int32_t e = 0; e < static_cast<std::int32_t>(order.size()); ++e) sum += part(e);
  }
  for (std::int64_t j = 0; j < k; ++j) {
    expert[j] = order[j];
    weight[j] = part(order[j]) / sum;
  }
}

}  // namespace

void moe_route(Stream& s, const Tensor& logits, bool renormalise, Tensor expert, Tensor weight) {
  const char* op = "moe_route";
  check_rank(op, "logits", logits, DType::f32, 2);
  check_rank(op, "expert", expert, DType::i32, 2);
  const std::int64_t rows = logits.dim(0), experts = logits.dim(1), k = expert.dim(1);
  check_shape(op, "expert", expert, DType::i32, {rows, k});
  check_shape(op, "weight", weight, DType::f32, {rows, k});
  DR_CHECK(k >= 1 && k <= experts) << op << ": " << k << " of " << experts << " experts";
  check_device(op, s, logits, expert, weight);
  if (on_cuda(s, [&](auto stream) {
        cuda::moe_route(logits.data<float>(), rows, experts, k, renormalise,
                        expert.data<std::int32_t>(), weight.data<float>(), stream);
      }))
    return;
  const double ns = 20.0 + 4.0 * static_cast<double>(experts);
  s.parallel_for(rows, grain_for(ns), [&](auto begin, auto end) {
    thread_local std::vector<std::int32_t> order;
    order.resize(static_cast<std::size_t>(experts));
    for (auto t = begin; t < end; ++t)
      route(logits.data<float>() + t * experts, order, k, renormalise,
            expert.data<std::int32_t>() + t * k, weight.data<float>() + t * k);
  });
}

void moe_group(Stream& s, const Tensor& expert, Tensor token, Tensor place, Tensor begin) {
  const char* op = "moe_group";
  check_rank(op, "expert", expert, DType::i32, 2);
  check_rank(op, "begin", begin, DType::i32, 1);
  const std::int64_t pairs = expert.numel(), k = expert.dim(1), experts = begin.dim(0) - 1;
  check_shape(op, "token", token, DType::i32, {pairs});
  check_shape(op, "place", place, DType::i32, {pairs});
  check_device(op, s, expert, token, place, begin);
  if (on_cuda(s, [&](auto stream) {
        cuda::moe_group(expert.data<std::int32_t>(), pairs, k, experts, token.data<std::int32_t>(),
                        place.data<std::int32_t>(), begin.data<std::int32_t>(), stream);
      }))
    return;
  const auto* id = expert.data<std::int32_t>();
  check_ids(op, "expert", id, pairs, experts);
  auto* first = begin.data<std::int32_t>();
  std::fill_n(first, experts + 1, 0);
  for (std::int64_t i = 0; i < pairs; ++i) ++first[id[i] + 1];
  std::partial_sum(first, first + experts + 1, first);
  // `first` moves to each expert's end while the pairs are placed, and is moved back afterwards.
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int32_t to = first[id[i]]++;
    place.data<std::int32_t>()[i] = to;
    token.data<std::int32_t>()[to] = static_cast<std::int32_t>(i / k);
  }
  std::copy_backward(first, first + experts, first + experts + 1);
  first[0] = 0;
}

void moe_combine(Stream& s, const Tensor& y, const Tensor& place, const Tensor& weight,
                 Tensor out) {
  const char* op = "moe_combine";
  check_rank(op, "out", out, DType::f32, 2);
  check_rank(op, "weight", weight, DType::f32, 2);
  const std::int64_t rows = out.dim(0), h = out.dim(1), k = weight.dim(1);
  check_shape(op, "weight", weight, DType::f32, {rows, k});
  check_shape(op, "y", y, DType::f32, {rows * k, h});
  check_shape(op, "place", place, DType::i32, {rows * k});
  check_device(op, s, y, place, weight, out);
  if (on_cuda(s, [&](auto stream) {
        cuda::moe_combine(y.data<float>(), place.data<std::int32_t>(), weight.data<float>(), rows,
                          h, k, out.data<float>(), stream);
      }))
    return;
  const auto* at = place.data<std::int32_t>();
  check_ids(op, "place", at, rows * k, rows * k);
  const double ns = 20.0 + 0.2 * static_cast<double>(h * k);
  s.parallel_for(rows, grain_for(ns), [&](auto begin, auto end) {
    for (auto t = begin; t < end; ++t) {
      float* to = out.data<float>() + t * h;
      std::memset(to, 0, static_cast<std::size_t>(h) * sizeof(float));
      for (std::int64_t j = 0; j < k; ++j) {
        const float w = weight.data<float>()[t * k + j];
        const float* from = y.data<float>() + at[t * k + j] * h;
        for (std::int64_t i = 0; i < h; ++i) to[i] += w * from[i];
      }
    }
  });
}

}  // namespace dream_r::ops
