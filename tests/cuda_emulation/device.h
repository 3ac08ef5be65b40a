#pragma once
// What the stand-in for cudaLaunchKernelEx needs from the emulated device.
#include <functional>
#include <span>

#include "cuda_runtime_api.h"

namespace cuda_emulation {

// Runs body() as every thread of the grid. `pointers`: the kernel's pointer arguments, which must
// be null or lie in the memory of the stream's device.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel,
                   std::span<const void* const> pointers, const std::function<void()>& body);
cudaError_t allow_dynamic_shared(const void* kernel, int bytes);

}  // namespace cuda_emulation
