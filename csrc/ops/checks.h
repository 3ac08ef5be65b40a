#pragma once
// Argument checks shared by the ops, and the cost estimate that decides how far work is split.
#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/tensor.h"

namespace dream_r::ops {

inline void check_shape(const char* op, const char* name, const Tensor& t, DType dtype,
                        const Shape& shape) {
  DR_CHECK(t.defined() || shape.numel() == 0) << op << ": " << name << " is undefined";
  DR_CHECK(t.dtype() == dtype && t.shape() == shape)
      << op << ": " << name << " is " << name_of(t.dtype()) << " " << t.shape().str() << ", "
      << name_of(dtype) << " " << shape.str() << " wanted";
}

inline void check_rank(const char* op, const char* name, const Tensor& t, DType dtype, int rank) {
  DR_CHECK(t.dtype() == dtype && t.shape().rank() == rank)
      << op << ": " << name << " is " << name_of(t.dtype()) << " " << t.shape().str() << ", "
      << name_of(dtype) << " of rank " << rank << " wanted";
}

// Of a weight or a cache, on the CPU.
inline void check_cpu_dtype(const char* op, DType dtype) {
  DR_CHECK(dtype != DType::f16) << op << ": f16 is for CUDA devices: use bf16 or f32 on the CPU";
}

// ids[i] in [0, limit) for all i, which the host can read.
inline void check_ids(const char* op, const char* name, const std::int32_t* ids, std::int64_t count,
                      std::int64_t limit) {
  for (std::int64_t i = 0; i < count; ++i)
    DR_CHECK(ids[i] >= 0 && ids[i] < limit)
        << op << ": " << name << "[" << i << "] = " << ids[i] << " is not in [0, " << limit << ")";
}

// Items that are worth a member's coming: about 2.5 us of work (a round trip costs about 1).
inline std::int64_t grain_for(double ns_per_item) {
  constexpr double kWorthwhileNs = 2'500.0;
  return static_cast<std::int64_t>(kWorthwhileNs / ns_per_item) + 1;
}

}  // namespace dream_r::ops
