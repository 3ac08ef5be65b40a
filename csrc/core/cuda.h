#pragma once
// What the project asks of the CUDA runtime, in plain C++. Built without CUDA every call throws the
// same one line. Errors of the runtime are Errors: `state`, or `memory` where memory ran out.
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

struct CUstream_st;
typedef CUstream_st* cudaStream_t;
struct CUgraphExec_st;

namespace dream_r::cuda {

// One line, what and what to do, where device `index` cannot be used: a build without CUDA, no
// driver or one older than the runtime, no such device, a GPU older than sm_80. Else nothing.
void require_device(int index);

struct DeviceInfo {
  std::string name;
  std::size_t bytes = 0;
  int major = 0, minor = 0;  // compute capability
};
// Of every device, usable or not; empty where there is none.
std::vector<DeviceInfo> devices();
// Why there is no device to use at all, one line; empty where there is one.
std::string unusable();

// Makes `index` the calling thread's device: allocation and launches go there.
void use_device(int index);
std::size_t free_bytes(int index);

std::byte* allocate(std::size_t bytes, int index);
void release(std::byte* data, int index) noexcept;

// `priority` 0 is the lowest; one larger than the device has counts as its highest.
cudaStream_t make_stream(int index, int priority);
void release_stream(cudaStream_t stream, int index) noexcept;
void wait(cudaStream_t stream);
// In the stream's order; either side may be host memory. A copy to the host has ended when the
// stream has been waited for.
void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream);

// What a Capture took down: kernels with the values of their arguments, copies, fills. What their
// pointers point to is read anew by every launch, so it must outlive the graph.
class Graph {
 public:
  Graph() = default;  // empty
  explicit operator bool() const { return exec_ != nullptr; }
  // In the stream's order, as one piece. Launches of one graph run one after another.
  void launch(cudaStream_t stream) const;

 private:
  friend class Capture;
  struct Destroy {
    void operator()(CUgraphExec_st* exec) const noexcept;
  };
  std::unique_ptr<CUgraphExec_st, Destroy> exec_;
};

// While it lives nothing that the calling thread issues to the stream runs: it becomes a graph.
// What cannot (allocating or freeing device memory, waiting for the stream, a copy from or to host
// memory that is not pinned) is an Error there, and the capture fails. So whatever grows on demand
// must have grown before: a first pass outside does that.
class Capture {
 public:
  explicit Capture(cudaStream_t stream);
  ~Capture();  // gives up what was not ended
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  Graph end();

 private:
  cudaStream_t stream_;
};

// Whether a kernel of the calling thread's device may start before the one in front of it has ended
// (sm_90 and newer).
bool kernels_overlap();

}  // namespace dream_r::cuda
