#include "device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "graph.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

struct CUevent_st {};

namespace cuda_emulation {
namespace {

constexpr int kDevices = 2;
constexpr std::size_t kAlign = 256, kTail = 256;
constexpr int kMostShared = 227 * 1024, kPlainShared = 48 * 1024;

// A device's memory: one range of addresses, handed out once and never again, that only the calls
// below open. So a host that reads through a device pointer crashes here as it does elsewhere.
class Heap {
 public:
  bool holds(const void* p, std::size_t bytes = 1) const {
    const auto* at = static_cast<const std::byte*>(p);
    return base_ && at >= base_ && at + bytes <= base_ + used_;
  }
  void* allocate(std::size_t bytes);
  bool release(void* p);
  void protect(int how);
  std::size_t in_use() const { return in_use_; }
  static constexpr std::size_t kBytes = std::size_t{8} << 30;

 private:
  static constexpr std::size_t kAddresses = std::size_t{1} << 38;
  std::byte* base_ = nullptr;
  std::size_t used_ = 0, in_use_ = 0;
  std::map<void*, std::size_t> blocks_;
};

// From the first block on that is in use: what lies before it stays closed for good, and to open
// and close all that a process ever had would take longer than its kernels.
void Heap::protect(int how) {
  if (blocks_.empty()) return;
  const auto page = std::size_t{4096};
  const auto first =
      static_cast<std::size_t>(static_cast<std::byte*>(blocks_.begin()->first) - base_);
  const std::size_t begin = first / page * page, end = (used_ + page - 1) / page * page;
  mprotect(base_ + begin, end - begin, how);
}

void* Heap::allocate(std::size_t bytes) {
  if (!base_)
    base_ = static_cast<std::byte*>(
        mmap(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  const std::size_t padded = (bytes + kTail + kAlign - 1) / kAlign * kAlign;
  if (in_use_ + bytes > kBytes || used_ + padded > kAddresses) return nullptr;
  std::byte* p = base_ + used_;
  used_ += padded;
  in_use_ += bytes;
  blocks_[p] = bytes;
  protect(PROT_READ | PROT_WRITE);
  std::memset(p, 0xff, bytes);  // NaN as f32 and as bf16
  std::memset(p + bytes, 0xa5, padded - bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(p + bytes, padded - bytes);
#endif
  protect(PROT_NONE);
  return p;
}

// False where `p` is none of ours or something was written past its end.
bool Heap::release(void* p) {
  const auto found = blocks_.find(p);
  if (found == blocks_.end()) return false;
  auto* data = static_cast<unsigned char*>(p);
  const std::size_t bytes = found->second;
  bool intact = true;
  protect(PROT_READ | PROT_WRITE);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(data, bytes);
#else
  intact = std::all_of(data + bytes, data + bytes + kTail, [](auto b) { return b == 0xa5; });
  std::memset(data, 0xff, bytes);
#endif
  protect(PROT_NONE);
  in_use_ -= bytes;
  blocks_.erase(found);
  return intact;
}

// One lock over everything: an emulated kernel runs alone.
struct Machine {
  std::mutex mutex;
  Heap heap[kDevices];
  std::map<const void*, int> dynamic_shared;
  std::map<const std::byte*, std::size_t> pinned;  // host memory of cudaMallocHost
};
Machine& machine() {
  static Machine m;
  return m;
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_text;

int device_of(const void* p, std::size_t bytes) {
  for (int i = 0; i < kDevices; ++i)
    if (machine().heap[i].holds(p, bytes)) return i;
  return -1;
}

bool is_pinned(const void* p, std::size_t bytes) {
  const auto* at = static_cast<const std::byte*>(p);
  const auto after = machine().pinned.upper_bound(at);
  if (after == machine().pinned.begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return at + bytes <= begin + size;
}

bool good_shape(const Kernel& k) {
  const Dim &g = k.grid, &b = k.block;
  return g.x && g.y && g.z && g.x <= 0x7fffffffu && g.y <= 65535 && g.z <= 65535 && b.x && b.y &&
         b.z && b.z <= 64 && std::size_t{b.x} * b.y * b.z <= 1024;
}

}  // namespace

cudaError_t allow_dynamic_shared(const void* kernel, int bytes) {
  if (bytes > kMostShared) return report(cudaErrorInvalidValue, "more shared memory than there is");
  std::lock_guard lock(machine().mutex);
  machine().dynamic_shared[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t report(cudaError_t error, const std::string& text) {
  last_error = error;
  last_text = text;
  return error;
}

Open::Open() : lock_(machine().mutex) {
  for (Heap& h : machine().heap) h.protect(PROT_READ | PROT_WRITE);
}
Open::~Open() {
  for (Heap& h : machine().heap) h.protect(PROT_NONE);
}

bool starts_early(const cudaLaunchConfig_t& c) {
  return std::any_of(c.attrs, c.attrs + c.numAttrs, [](const cudaLaunchAttribute& a) {
    return a.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
           a.val.programmaticStreamSerializationAllowed;
  });
}

cudaError_t launch(cudaStream_t stream, const void* function, const Kernel& kernel,
                   std::span<const void* const> pointers) {
  Open open;
  if (!stream) return report(cudaErrorInvalidResourceHandle, "a launch on the default stream");
  if (stream->device != current_device)
    return report(cudaErrorInvalidResourceHandle, "a launch on a stream of another device");
  if (!good_shape(kernel))
    return report(cudaErrorInvalidConfiguration, "grid or block out of range");
  const auto allowed = machine().dynamic_shared.find(function);
  const int most = allowed == machine().dynamic_shared.end() ? kPlainShared : allowed->second;
  if (kernel.dynamic_bytes > static_cast<std::size_t>(most))
    return report(cudaErrorInvalidValue, "more dynamic shared memory than the kernel may have");
  for (std::size_t i = 0; i < pointers.size(); ++i)
    if (pointers[i] && !machine().heap[stream->device].holds(pointers[i]))
      return report(cudaErrorLaunchFailure, "pointer argument " + std::to_string(i) +
                                                " is not in the memory of device " +
                                                std::to_string(stream->device));
  if (stream->capture) {
    note(stream->capture, kernel);
    return cudaSuccess;
  }
  const auto text = Grid(kernel).finish();
  return text.empty() ? cudaSuccess : report(cudaErrorLaunchFailure, text);
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : last_text.c_str();
}
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return report(cudaErrorInvalidDevice, "invalid device");
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kMostShared
           : attribute == cudaDevAttrMultiProcessorCount        ? 4
           : attribute == cudaDevAttrComputeCapabilityMajor     ? 9
                                                                : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device < 0 || device >= kDevices) return report(cudaErrorInvalidDevice, "invalid device");
  *p = {"emulated", Heap::kBytes, 9, 0, 4};
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  std::lock_guard lock(machine().mutex);
  *total = Heap::kBytes;
  *free = Heap::kBytes - machine().heap[current_device].in_use();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return forbid_in_capture("a wait for the device"); }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = new CUstream_st{current_device};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream && stream->capture ? spoil_capture(stream->capture, "a wait for it") : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  if (const auto error = forbid_in_capture("cudaMalloc"); error != cudaSuccess) return error;
  std::lock_guard lock(machine().mutex);
  *data = machine().heap[current_device].allocate(bytes);
  return *data ? cudaSuccess : report(cudaErrorMemoryAllocation, "out of memory");
}
cudaError_t cudaFree(void* data) {
  if (!data) return cudaSuccess;
  if (const auto error = forbid_in_capture("cudaFree"); error != cudaSuccess) return error;
  std::lock_guard lock(machine().mutex);
  for (Heap& h : machine().heap)
    if (h.holds(data))
      return h.release(data) ? cudaSuccess
                             : report(cudaErrorInvalidValue,
                                      "device memory freed twice or written past its end");
  return report(cudaErrorInvalidValue, "not device memory");
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  if (const auto error = forbid_in_capture("cudaMallocHost"); error != cudaSuccess) return error;
  *data = ::operator new(bytes, std::align_val_t{64}, std::nothrow);
  if (!*data) return report(cudaErrorMemoryAllocation, "out of memory");
  std::lock_guard lock(machine().mutex);
  machine().pinned[static_cast<std::byte*>(*data)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  if (const auto error = forbid_in_capture("cudaFreeHost"); error != cudaSuccess) return error;
  std::lock_guard lock(machine().mutex);
  if (data && machine().pinned.erase(static_cast<std::byte*>(data)) == 0)
    return report(cudaErrorInvalidValue, "not memory of cudaMallocHost");
  ::operator delete(data, std::align_val_t{64});
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  Open open;
  if (!stream) return report(cudaErrorInvalidResourceHandle, "a copy on the default stream");
  if (bytes == 0) return cudaSuccess;
  const bool to_device = device_of(to, bytes) >= 0, from_device = device_of(from, bytes) >= 0;
  const bool says_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool says_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (to_device != says_to || from_device != says_from))
    return report(cudaErrorInvalidValue, "a copy's kind differs from where its memory lies");
  if (!stream->capture) {
    std::memmove(to, from, bytes);
    return cudaSuccess;
  }
  if ((!to_device && !is_pinned(to, bytes)) || (!from_device && !is_pinned(from, bytes)))
    return spoil_capture(stream->capture, "a copy of pageable host memory");
  note(stream->capture, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  Open open;
  if (!stream) return report(cudaErrorInvalidResourceHandle, "a fill on the default stream");
  if (bytes == 0) return cudaSuccess;
  if (device_of(to, bytes) < 0) return report(cudaErrorInvalidValue, "not device memory");
  if (stream->capture)
    note(stream->capture, [=] { std::memset(to, value, bytes); });
  else
    std::memset(to, value, bytes);
  return cudaSuccess;
}
