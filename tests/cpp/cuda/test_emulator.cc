// What the emulated device must notice, and what it must not change.
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>

#include "device_array.h"
#include "ops/cuda/kernels.h"

using namespace dream_r;
using namespace dream_r::test;
using dream_r::cuda::launch;

namespace {

__global__ void reverse_block(const int* x, int* out) {
  cuda::follow();

  __shared__ int tile[128];
  tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

__global__ void half_a_barrier() {
  cuda::follow();

  if (threadIdx.x < 40) __syncthreads();
}

__global__ void two_barriers() {
  cuda::follow();

  if (threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void lonely_shuffle(int* out) {
  cuda::follow();

  if (threadIdx.x != 3) out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}

__global__ void shuffles(int* out) {
  cuda::follow();

  const int lane = static_cast<int>(threadIdx.x) % 32;
  int* to = out + threadIdx.x;
  to[0] = __shfl_xor_sync(0xffffffffu, lane, 5);
  to[64] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
  to[128] = __shfl_up_sync(0xffffffffu, lane, 3, 8);
  to[192] = __shfl_sync(0xffffffffu, lane, 9, 8);
  to[256] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
  to[320] = __reduce_max_sync(0xffffffffu, lane * 7 % 32);
  // The two halves of a warp go different ways, each with its own mask.
  if (lane < 16)
    to[384] = __shfl_sync(0x0000ffffu, lane, 2);
  else
    to[384] = __shfl_sync(0xffff0000u, lane, 20);
}

__global__ void fill_dynamic(int count, int* out) {
  cuda::follow();

  DR_DYNAMIC_SHARED(int, tile);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    tile[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) out[0] = tile[count - 1];
}

__global__ void count_blocks(unsigned* counter, int* out) {
  cuda::follow();

  if (atomicAdd(counter, 1u) == gridDim.x - 1) out[0] = static_cast<int>(blockIdx.x);
}

struct Two {
  int a;
  double b;
};
__global__ void by_value(Two two, int* out) {
  cuda::follow();
  out[threadIdx.x] = two.a + static_cast<int>(two.b);
}

// Whether the host could read the byte there: the kernel refuses where a plain read would crash.
bool readable(const void* byte) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const auto written = syscall(SYS_write, ends[1], byte, 1);
  close(ends[0]), close(ends[1]);
  return written == 1;
}

}  // namespace

TEST_CASE("a block's threads meet at a barrier") {
  TestStream s;
  std::vector<int> x(3 * 128);
  for (int i = 0; i < 3 * 128; ++i) x[i] = i;
  DeviceArray<int> in(s, x), out(x.size());
  launch(reverse_block, {3, 128, 0, s}, in.data(), out.data());
  const auto got = out.host(s);
  for (int i = 0; i < 3 * 128; ++i) CHECK(got[i] == i / 128 * 128 + 127 - i % 128);
}

TEST_CASE("threads that wait for each other for ever are named") {
  TestStream s;
  DeviceArray<int> out(64);
  const auto half = failure([&] { launch(half_a_barrier, {1, 64, 0, s}); });
  CHECK(contains(half, "wait for each other"));
  CHECK(contains(half, "warp 1, lanes 0xff in __syncthreads at test_emulator.cc:"));
  CHECK(contains(half, "warp 1, lanes 0xffffff00 have ended"));
  CHECK(contains(failure([&] { launch(two_barriers, {1, 64, 0, s}); }), "at two barriers"));
  const auto lonely = failure([&] { launch(lonely_shuffle, {1, 32, 0, s}, out.data()); });
  CHECK(contains(lonely, "lanes 0xfffffff7 in __shfl_sync"));
  launch(by_value, {1, 64, 0, s}, Two{2, 3.0}, out.data());  // and the device lives on
  CHECK(out.host(s)[63] == 5);
}

TEST_CASE("warp operations exchange as CUDA defines") {
  TestStream s;
  DeviceArray<int> out(64 * 7);
  launch(shuffles, {1, 64, 0, s}, out.data());
  const auto got = out.host(s);
  for (int i = 0; i < 64; ++i) {
    const int lane = i % 32;
    CHECK(got[i] == (lane ^ 5));
    CHECK(got[64 + i] == (lane % 8 < 5 ? lane + 3 : lane));
    CHECK(got[128 + i] == (lane % 8 >= 3 ? lane - 3 : lane));
    CHECK(got[192 + i] == lane / 8 * 8 + 1);
    CHECK(static_cast<unsigned>(got[256 + i]) == 0x49249249u);
    CHECK(got[320 + i] == 31);
    CHECK(got[384 + i] == (lane < 16 ? 2 : 20));
  }
}

TEST_CASE("dynamic shared memory is as large as asked for") {
  TestStream s;
  DeviceArray<int> out(1);
  constexpr int kCount = 20000;  // more than a kernel gets without asking
  launch(fill_dynamic, {1, 64, kCount * sizeof(int), s}, kCount, out.data());
  CHECK(out.host(s)[0] == kCount - 1);
  CHECK(contains(failure([&] { launch(fill_dynamic, {1, 64, 240 * 1024, s}, 4, out.data()); }),
                 "more shared memory"));
#if !defined(__SANITIZE_ADDRESS__)  // which ends the process
  CHECK(contains(failure([&] { launch(fill_dynamic, {1, 64, 400, s}, 101, out.data()); }),
                 "past the end of dynamic shared memory"));
#endif
}

TEST_CASE("launches say what they cannot do") {
  TestStream s;
  DeviceArray<int> out(64);
  int on_the_host[64];
  const auto fails = [](auto&& f) { return failure(f); };
  CHECK(contains(fails([&] { launch(by_value, {1, 64, 0, s}, Two{}, on_the_host); }),
                 "pointer argument 0 is not in the memory of device 0"));
  CHECK(contains(fails([&] { launch(by_value, {1, 64}, Two{}, out.data()); }), "default stream"));
  CHECK(contains(fails([&] { launch(by_value, {0, 64, 0, s}, Two{}, out.data()); }), "range"));
  CHECK(contains(fails([&] { launch(by_value, {1, 2000, 0, s}, Two{}, out.data()); }), "range"));
  CHECK(cudaMemcpyAsync(on_the_host, out.data(), 4, cudaMemcpyHostToDevice, s) != cudaSuccess);
  CHECK(cudaFree(on_the_host) != cudaSuccess);
}

TEST_CASE("device memory is closed to the host, whether in use or freed") {
  TestStream s;
  constexpr int kCount = 10000;  // several pages
  auto first = std::make_unique<DeviceArray<int>>(kCount),
       second = std::make_unique<DeviceArray<int>>(kCount);
  DeviceArray<int> last(s, {7, 8});
  const int* const all[] = {first->data(), first->data() + kCount - 1, second->data(),
                            second->data() + kCount - 1, last.data()};
  const auto closed = [&] {
    for (const int* at : all) CHECK(!readable(at));
    CHECK(last.host(s) == std::vector<int>{7, 8});  // which opens it, and closes it again
    for (const int* at : all) CHECK(!readable(at));
  };
  closed();
  second.reset();
  closed();
  first.reset();
  closed();
  const int here = 0;
  CHECK(readable(&here));
}

TEST_CASE("a counter over blocks sees every block once") {
  TestStream s;
  DeviceArray<unsigned> counter(s, {0});
  DeviceArray<int> out(s, {-1});
  launch(count_blocks, {5, 1, 0, s}, counter.data(), out.data());
  CHECK(counter.host(s)[0] == 5);
  CHECK(out.host(s)[0] >= 0);
}

TEST_CASE("rms_norm on the emulated device") {
  TestStream s;
  for (const int h : {5, 64, 1028}) {
    std::vector<float> x(3 * h), w(h);
    for (int i = 0; i < 3 * h; ++i) x[i] = static_cast<float>((i * 37 % 101) - 50) / 20.0f;
    for (int i = 0; i < h; ++i) w[i] = 1.0f + static_cast<float>(i % 7);
    DeviceArray<float> dx(s, x), dw(s, w), out(x.size());
    cuda::rms_norm(dx.data(), dw.data(), 1e-6f, 3, h, out.data(), s);
    const auto got = out.host(s);
    for (int t = 0; t < 3; ++t) {
      double squares = 0;
      for (int i = 0; i < h; ++i) squares += static_cast<double>(x[t * h + i]) * x[t * h + i];
      const double scale = 1.0 / std::sqrt(squares / h + 1e-6);
      for (int i = 0; i < h; ++i)
        CHECK(got[t * h + i] == doctest::Approx(x[t * h + i] * scale * w[i]).epsilon(1e-6));
    }
  }
}
