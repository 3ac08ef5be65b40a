#pragma once
// Where a token's keys and values lie in the paged cache.
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/element.cuh"

namespace dream_r::cuda {

constexpr int kKvTokens = 16;  // of a KV block

template <class T>
__device__ __forceinline__ void put(T* to, float x) {
  *to = Element<T>::narrow(x);
}

// Of one kv head: element d of the token's key is at key[d * kKvTokens], of its value at value[d].
template <class T>
struct KvPlace {
  T *key, *value;

  __device__ KvPlace(void* keys, void* values, int slot, int kv_heads, int head, int dim) {
    const std::int64_t at = slot % kKvTokens;
    const std::int64_t block = (std::int64_t{slot / kKvTokens} * kv_heads + head) * dim * kKvTokens;
    key = static_cast<T*>(keys) + block + at;
    value = static_cast<T*>(values) + block + at * dim;
  }
};

}  // namespace dream_r::cuda
