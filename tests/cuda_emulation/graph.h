#pragma once
// Streams that are captured. Between the begin and the end of a capture nothing runs: kernels
// (their arguments copied), copies and fills become the graph's nodes, in their order. As on a GPU,
// what cannot be part of a graph is an error and spoils the capture that the thread has under way.
#include <functional>

#include "device.h"

namespace cuda_emulation {

// An error naming `what`; the capture will not succeed.
cudaError_t spoil_capture(cudaGraph_t capture, const char* what);
// That where the calling thread captures a stream, else success.
cudaError_t forbid_in_capture(const char* what);
void note(cudaGraph_t capture, const Kernel& kernel);
void note(cudaGraph_t capture, std::function<void()> copy);

}  // namespace cuda_emulation
