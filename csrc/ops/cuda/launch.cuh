#pragma once
// How every kernel is started: launch(kernel, {grid, block, smem_bytes, stream}, args...). One
// place for what launches have in common (errors, large shared memory, launch attributes), and
// calls that any C++ compiler reads.
//
// Where the device can, every kernel is launched before the one in front of it has ended
// (programmatic dependent launch), so one rule holds for all of them: until
// wait_for_previous_kernel() a thread reads nothing but what no kernel writes (arguments, weights)
// and writes to nothing but registers and shared memory; and every block calls it, so that a kernel
// that has ended has seen the end of all before it. let_next_kernel_start() comes after it: then
// only neighbours overlap. A kernel without a prologue begins with both, as follow().
#include <cuda_runtime.h>

#include <utility>

#include "core/cuda.h"
#include "ops/cuda/ptx.cuh"

namespace dream_r::cuda {

// Throws Error with `what` and the runtime's text unless status is cudaSuccess.
void check(cudaError_t status, const char* what);

struct Launch {
  dim3 grid, block;
  std::size_t smem_bytes = 0;  // dynamic shared memory
  cudaStream_t stream = nullptr;
};

__device__ __forceinline__ void follow() {
  wait_for_previous_kernel();
  let_next_kernel_start();
}

template <class... P, class... A>
void launch(void (*kernel)(P...), const Launch& where, A&&... args) {
  constexpr std::size_t kPlainBytes = 48 * 1024;  // more must be asked for
  if (where.smem_bytes > kPlainBytes)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(where.smem_bytes)),
          "shared memory of a kernel");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = where.grid;
  config.blockDim = where.block;
  config.dynamicSmemBytes = where.smem_bytes;
  config.stream = where.stream;
  config.attrs = &early;
  config.numAttrs = kernels_overlap() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...), "a kernel's launch");
}

}  // namespace dream_r::cuda

// `type* name`: the block's dynamic shared memory, 128-byte aligned.
#ifndef DR_DYNAMIC_SHARED
#define DR_DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(128) unsigned char dr_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dr_dynamic_shared)
#endif
