#include "graph.h"

#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace cuda_emulation {
namespace {

struct Node {
  Kernel kernel;               // where it has a body
  std::function<void()> copy;  // else
};

thread_local cudaGraph_t captured_here = nullptr;

}  // namespace
}  // namespace cuda_emulation

struct CUgraph_st {
  std::vector<cuda_emulation::Node> nodes;
  std::thread::id thread = std::this_thread::get_id();
  bool spoiled = false;
};
struct CUgraphExec_st {
  std::vector<cuda_emulation::Node> nodes;
};

namespace cuda_emulation {

cudaError_t spoil_capture(cudaGraph_t capture, const char* what) {
  capture->spoiled = true;
  return report(cudaErrorStreamCaptureUnsupported,
                std::string("not permitted while a stream is captured: ") + what);
}
cudaError_t forbid_in_capture(const char* what) {
  return captured_here ? spoil_capture(captured_here, what) : cudaSuccess;
}
void note(cudaGraph_t capture, const Kernel& kernel) { capture->nodes.push_back({kernel, {}}); }
void note(cudaGraph_t capture, std::function<void()> copy) {
  capture->nodes.push_back({{}, std::move(copy)});
}

namespace {

// An early kernel behind another one starts before that one runs, as far as it may: one that does
// not wait when it should reads what is not there yet, or writes what is still read.
std::string run(const std::vector<Node>& nodes) {
  std::unique_ptr<Grid> started;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].copy) {
      nodes[i].copy();
      continue;
    }
    const auto grid = started ? std::move(started) : std::make_unique<Grid>(nodes[i].kernel);
    if (i + 1 < nodes.size() && nodes[i + 1].kernel.early) {
      started = std::make_unique<Grid>(nodes[i + 1].kernel);
      started->start();
    }
    if (auto text = grid->finish(); !text.empty()) return text;
  }
  return "";
}

}  // namespace
}  // namespace cuda_emulation

using namespace cuda_emulation;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream) return report(cudaErrorStreamCaptureUnsupported, "a capture of the default stream");
  if (stream->capture) return report(cudaErrorIllegalState, "the stream is being captured already");
  if (captured_here)
    return report(cudaErrorIllegalState, "the emulator captures one stream a thread");
  captured_here = stream->capture = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!stream || !stream->capture)
    return report(cudaErrorIllegalState, "the stream is not being captured");
  if (stream->capture->thread != std::this_thread::get_id())
    return report(cudaErrorStreamCaptureWrongThread, "another thread captures the stream");
  std::unique_ptr<CUgraph_st> captured(std::exchange(stream->capture, nullptr));
  captured_here = nullptr;
  if (captured->spoiled)
    return report(cudaErrorStreamCaptureInvalidated, "the capture failed before its end");
  *graph = captured.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (!stream) return report(cudaErrorInvalidResourceHandle, "a graph on the default stream");
  if (stream->capture)
    return spoil_capture(stream->capture, "the emulator launches no graph in a graph");
  Open open;
  const auto text = run(exec->nodes);
  return text.empty() ? cudaSuccess : report(cudaErrorLaunchFailure, text);
}
