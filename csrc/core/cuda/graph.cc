#include <cuda_runtime_api.h>

#include <memory>
#include <type_traits>
#include <utility>

#include "core/check.h"
#include "core/cuda.h"

namespace dream_r::cuda {

void check(cudaError_t status, const char* what);

namespace {

struct DestroyPlan {
  void operator()(cudaGraph_t graph) const noexcept { cudaGraphDestroy(graph); }
};
using Plan = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyPlan>;

}  // namespace

void Graph::Destroy::operator()(CUgraphExec_st* exec) const noexcept { cudaGraphExecDestroy(exec); }

void Graph::launch(cudaStream_t stream) const {
  DR_STATE(exec_ != nullptr) << "CUDA: launch of an empty graph";
  check(cudaGraphLaunch(exec_.get(), stream), "launch of a graph");
}

Capture::Capture(cudaStream_t stream) : stream_(stream) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin of a capture");
}

Capture::~Capture() {
  if (!stream_) return;
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream_, &graph);
  cudaGetLastError();  // a capture that failed says so once more
  const Plan plan(graph);
}

Graph Capture::end() {
  DR_STATE(stream_ != nullptr) << "CUDA: a capture that has ended";
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(std::exchange(stream_, nullptr), &graph), "end of a capture");
  const Plan plan(graph);
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, graph, 0), "a graph");
  Graph done;
  done.exec_.reset(exec);
  return done;
}

}  // namespace dream_r::cuda
