#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/check.h"
#include "core/cuda.h"

namespace dream_r::cuda {
namespace {

constexpr int kOldestMajor = 8;  // the kernels are compiled for sm_80 and sm_90a

std::string version(int v) {
  return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // the next call is not to report it again
  const char* text = cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) DR_FAIL(memory) << "CUDA: " << what << ": " << text;
  DR_FAIL(state) << "CUDA: " << what << ": " << text;
}

std::string unusable() {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  check(cudaDriverGetVersion(&driver), "driver version");
  check(cudaRuntimeGetVersion(&runtime), "runtime version");
  if (driver == 0) return "no NVIDIA driver is installed: install one for CUDA " + version(runtime);
  if (status == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is for CUDA " + version(driver) + ", this build needs " +
           version(runtime) + ": update the driver";
  if (status == cudaErrorNoDevice || status == cudaSuccess)
    return "no CUDA device: the driver sees no GPU (is CUDA_VISIBLE_DEVICES set?)";
  return std::string("the NVIDIA driver cannot be used: ") + cudaGetErrorString(status);
}

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> all;
  if (!unusable().empty()) return all;
  int count = 0;
  check(cudaGetDeviceCount(&count), "device count");
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, i), "device properties");
    all.push_back({p.name, p.totalGlobalMem, p.major, p.minor});
  }
  return all;
}

void require_device(int index) {
  const std::string why = unusable();
  DR_STATE(why.empty()) << why;
  const auto all = devices();
  DR_CHECK(index >= 0 && index < static_cast<int>(all.size()))
      << "cuda:" << index << " is not there: the driver shows cuda:0"
      << (all.size() > 1 ? " to cuda:" + std::to_string(all.size() - 1) : "")
      << ", use one of them";
  const DeviceInfo& d = all[static_cast<std::size_t>(index)];
  DR_STATE(d.major >= kOldestMajor)
      << "cuda:" << index << " (" << d.name << ") has compute capability " << d.major << "."
      << d.minor << ", " << kOldestMajor << ".0 or newer is needed: use the CPU";
}

void use_device(int index) {
  thread_local int current = -1;
  if (current == index) return;
  check(cudaSetDevice(index), "set device");
  current = index;
}

std::size_t free_bytes(int index) {
  use_device(index);
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  return free;
}

std::byte* allocate(std::size_t bytes, int index) {
  use_device(index);
  void* data = nullptr;
  // Never null, so that a tensor of no elements is defined.
  if (cudaMalloc(&data, std::max<std::size_t>(bytes, 1)) == cudaSuccess)
    return static_cast<std::byte*>(data);
  cudaGetLastError();
  DR_FAIL(memory) << "cuda:" << index << ": out of memory, " << bytes << " bytes asked for, "
                  << free_bytes(index)
                  << " free: end what else runs there, or ask for less (INT4, fewer KV tokens)";
}

void release(std::byte* data, int) noexcept { cudaFree(data); }

cudaStream_t make_stream(int index, int priority) {
  use_device(index);
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                     std::max(greatest, least - priority)),
        "stream");
  return stream;
}

void release_stream(cudaStream_t stream, int) noexcept { cudaStreamDestroy(stream); }

void wait(cudaStream_t stream) { check(cudaStreamSynchronize(stream), "wait for a stream"); }

bool kernels_overlap() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "capability");
  return major >= 9;
}

void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copy");
}

}  // namespace dream_r::cuda
