#pragma once
// What the other stand-ins need from the emulated device.
#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "block.h"
#include "cuda_runtime_api.h"

struct CUstream_st {
  int device;
  cudaGraph_t capture = nullptr;  // what is issued goes there
};

namespace cuda_emulation {

// Runs `kernel`, or notes it where the stream is being captured. `pointers`: its pointer arguments,
// which must be null or lie in the memory of the stream's device.
cudaError_t launch(cudaStream_t stream, const void* function, const Kernel& kernel,
                   std::span<const void* const> pointers);
bool starts_early(const cudaLaunchConfig_t& config);
cudaError_t allow_dynamic_shared(const void* kernel, int bytes);

// Keeps the error for cudaGetLastError and its text for cudaGetErrorString.
cudaError_t report(cudaError_t error, const std::string& text);

// Opens all device memory while it lives, alone.
class Open {
 public:
  Open();
  ~Open();
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;

 private:
  std::lock_guard<std::mutex> lock_;
};

}  // namespace cuda_emulation
