// The CUDA runtime of a build without CUDA.
#include "core/check.h"
#include "core/cuda.h"

namespace dream_r::cuda {

std::string unusable() {
  return "this build has no CUDA: rebuild with -DDREAM_R_CUDA=ON where nvcc is installed, or use "
         "the CPU";
}
std::vector<DeviceInfo> devices() { return {}; }
void require_device(int) { DR_FAIL(state) << unusable(); }

void use_device(int index) { require_device(index); }
std::size_t free_bytes(int index) {
  require_device(index);
  return 0;
}
std::byte* allocate(std::size_t, int index) {
  require_device(index);
  return nullptr;
}
void release(std::byte*, int) noexcept {}
cudaStream_t make_stream(int index, int) {
  require_device(index);
  return nullptr;
}
void release_stream(cudaStream_t, int) noexcept {}
void wait(cudaStream_t) {}
void copy(void*, const void*, std::size_t, cudaStream_t) { require_device(0); }

void Graph::Destroy::operator()(CUgraphExec_st*) const noexcept {}
void Graph::launch(cudaStream_t) const { require_device(0); }
Capture::Capture(cudaStream_t stream) : stream_(stream) { require_device(0); }
Capture::~Capture() = default;
Graph Capture::end() { return {}; }
bool kernels_overlap() { return false; }

}  // namespace dream_r::cuda
