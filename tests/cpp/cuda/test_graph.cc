// Captured graphs: what a replay sees, what a capture refuses, and how the emulator shows a kernel
// that does not wait for the one in front of it.
#include "core/stream.h"
#include "device_array.h"

using namespace dream_r;
using namespace dream_r::test;
using dream_r::cuda::Capture;
using dream_r::cuda::Graph;
using dream_r::cuda::launch;

namespace {

__global__ void add_to(int amount, const int* x, int* out) {
  cuda::follow();
  out[threadIdx.x] = x[threadIdx.x] + amount;
}

// Half of the block meets at a barrier before it waits.
__global__ void add_seven(const int* x, int* out) {
  __shared__ int seven;
  if (threadIdx.x >= 32) {
    cuda::follow();
  } else {
    if (threadIdx.x == 0) seven = 7;
    __syncwarp();
    cuda::follow();
  }
  __syncthreads();
  out[threadIdx.x] = x[threadIdx.x] + seven;
}

__global__ void reads_too_early(const int* x, int* out) {
  const int v = x[threadIdx.x];
  cuda::follow();
  out[threadIdx.x] = v;
}

__global__ void writes_too_early(int* x) {
  x[threadIdx.x] = 0;
  cuda::follow();
}

__global__ void never_waits(int* out) { out[threadIdx.x] = 1; }

__global__ void hurries(int* out) {
  cuda::let_next_kernel_start();
  cuda::wait_for_previous_kernel();
  out[threadIdx.x] = 1;
}

template <class F>
Graph captured(cudaStream_t s, F&& f) {
  Capture capture(s);
  f();
  return capture.end();
}

void write(cudaStream_t s, const DeviceArray<int>& to, const std::vector<int>& v) {
  cuda::copy(to.data(), v.data(), v.size() * sizeof(int), s);
}

constexpr int kSize = 64;

}  // namespace

TEST_CASE("a replay reads what lies in device memory by then") {
  TestStream s;
  const DeviceArray<int> x(s, std::vector<int>(kSize, 1)), y(kSize), z(kSize), copied(kSize);
  int amount = 10;
  const Graph graph = captured(s, [&] {
    launch(add_to, {1, kSize, 0, s}, amount, x.data(), y.data());
    launch(add_seven, {1, kSize, 0, s}, y.data(), z.data());
    cuda::copy(copied.data(), z.data(), kSize * sizeof(int), s);
    cuda::check(cudaMemsetAsync(y.data(), 0, 4, s), "fill");
    amount = 1000;  // arguments were copied
  });
  REQUIRE(graph);
  CHECK(z.host(s)[5] == -1);  // nothing has run: memory as it was allocated
  graph.launch(s);
  CHECK(copied.host(s)[5] == 18);
  CHECK(y.host(s)[0] == 0);
  CHECK(y.host(s)[1] == 11);
  write(s, x, std::vector<int>(kSize, 100));
  CHECK(copied.host(s)[kSize - 1] == 18);
  graph.launch(s);
  CHECK(copied.host(s)[kSize - 1] == 117);
}

TEST_CASE("a stream is captured again, a graph outlives its capture and goes before others") {
  TestStream s;
  const DeviceArray<int> x(s, std::vector<int>(kSize, 1)), y(kSize);
  const auto adding = [&](int amount) {
    return captured(s, [&] { launch(add_to, {1, kSize, 0, s}, amount, x.data(), y.data()); });
  };
  Graph one = adding(1);
  const Graph two = adding(2);
  two.launch(s);
  CHECK(y.host(s)[0] == 3);
  one.launch(s);
  CHECK(y.host(s)[0] == 2);
  Graph moved = std::move(one);
  moved.launch(s);
  CHECK(contains(failure([&] { Graph().launch(s); }), "empty graph"));
  moved = Graph();
  captured(s, [] {}).launch(s);  // of nothing
}

TEST_CASE("a capture given up leaves the stream as it was") {
  TestStream s;
  const DeviceArray<int> x(s, std::vector<int>(kSize, 1)), y(kSize);
  CHECK_THROWS_AS(captured(s, [] { DR_FAIL(state) << "something else"; }), Error);
  launch(add_to, {1, kSize, 0, s}, 1, x.data(), y.data());
  CHECK(y.host(s)[0] == 2);
}

TEST_CASE("what cannot be captured is refused, and spoils the capture") {
  TestStream s;
  const DeviceArray<int> x(s, std::vector<int>(kSize, 1));
  const auto refuses = [&](const char* what, auto&& f) {
    Capture capture(s);
    const auto text = failure(f);
    CHECK(contains(text, "while a stream is captured"));
    CHECK(contains(text, what));
    CHECK(contains(failure([&] { capture.end(); }), "failed before its end"));
  };
  std::vector<int> host(kSize);
  std::byte* spare = cuda::allocate(64, 0);
  void* none = nullptr;
  refuses("cudaMalloc", [&] { cuda::check(cudaMalloc(&none, 1), ""); });
  refuses("cudaFree", [&] { cuda::check(cudaFree(spare), ""); });
  refuses("a wait", [&] { cuda::wait(s); });
  refuses("a wait for the device", [] { cuda::check(cudaDeviceSynchronize(), ""); });
  refuses("pageable", [&] { write(s, x, host); });
  refuses("pageable", [&] { cuda::copy(host.data(), x.data(), 4, s); });
  cuda::release(spare, 0);
  Capture first(s);
  CHECK(contains(failure([&] { Capture second(s); }), "being captured already"));
  first.end();
  CHECK(contains(failure([&] { first.end(); }), "has ended"));
}

TEST_CASE("pinned host memory is read and written by every replay") {
  TestStream s;
  const DeviceArray<int> x(kSize), y(kSize);
  void* memory = nullptr;
  cuda::check(cudaMallocHost(&memory, 2 * kSize * sizeof(int)), "pinned");
  auto* host = static_cast<int*>(memory);
  const Graph graph = captured(s, [&] {
    cuda::copy(x.data(), host, kSize * sizeof(int), s);
    launch(add_to, {1, kSize, 0, s}, 1, x.data(), y.data());
    cuda::copy(host + kSize, y.data(), kSize * sizeof(int), s);
  });
  for (const int value : {4, 9}) {
    std::fill_n(host, kSize, value);
    graph.launch(s);
    cuda::wait(s);
    CHECK(host[kSize] == value + 1);
    CHECK(host[2 * kSize - 1] == value + 1);
  }
  cuda::check(cudaFreeHost(memory), "pinned");
}

TEST_CASE("a kernel that does not wait for the one in front of it shows") {
  TestStream s;
  const DeviceArray<int> x(s, std::vector<int>(kSize, 1)), y(kSize), z(kSize);
  const auto replay = [&](auto&& second) {
    write(s, y, std::vector<int>(kSize, -5));
    captured(s, [&] {
      launch(add_to, {1, kSize, 0, s}, 1, x.data(), y.data());
      second();
    }).launch(s);
  };
  replay([&] { launch(add_to, {1, kSize, 0, s}, 1, y.data(), z.data()); });
  CHECK(z.host(s)[3] == 3);
  replay([&] { launch(reads_too_early, {1, kSize, 0, s}, y.data(), z.data()); });
  CHECK(z.host(s)[3] == -5);  // what was there before
  replay([&] { launch(writes_too_early, {1, kSize, 0, s}, x.data()); });
  CHECK(y.host(s)[3] == 1);  // what was read after
  CHECK(contains(failure([&] { launch(never_waits, {1, kSize, 0, s}, z.data()); }),
                 "does not wait for the one in front"));
  CHECK(contains(failure([&] { launch(hurries, {1, kSize, 0, s}, z.data()); }),
                 "before wait_for_previous_kernel"));
}

TEST_CASE("a stream tells when its scratch has moved, and a capture cannot grow it") {
  Stream s(cuda_device());
  CHECK(s.scratch_generation() == 0);
  s.scratch(1000);
  const auto first = s.scratch_generation();
  CHECK(first != 0);
  s.scratch(1000);
  CHECK(s.scratch_generation() == first);
  {
    Capture capture(s.cuda());
    s.scratch(500);
    CHECK_THROWS_AS(s.scratch(100000), Error);
  }
  CHECK(s.scratch_generation() == first);
  s.scratch(100000);
  CHECK(s.scratch_generation() != first);
}
