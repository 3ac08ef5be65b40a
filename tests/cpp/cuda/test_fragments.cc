// mma, ldmatrix and cp.async of the emulated device against the PTX ISA's tables, written out here
// the way the ISA writes them (row and column of element i of a lane), not as the emulator does.
#include <cstdlib>
#include <random>

#include "device_array.h"
#include "kept.h"
#include "ops/cuda/element.cuh"
#include "ops/cuda/ptx.cuh"

using namespace dream_r;
using namespace dream_r::test;
using dream_r::cuda::launch;

namespace {

struct Place {
  int row, column;
};
// "Matrix fragments for mma.m16n8k16 with floating point type": groupID = lane >> 2,
// threadID_in_group = lane % 4.
Place place_a(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  const int row = (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
  const int column = i < 4 ? thread * 2 + (i & 1) : thread * 2 + (i & 1) + 8;
  return {row, column};
}
Place place_b(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i < 2 ? thread * 2 + (i & 1) : thread * 2 + (i & 1) + 8, group};
}
Place place_c(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}

template <class T>
__global__ void one_mma(const std::uint32_t* a, const std::uint32_t* b, float* c) {
  cuda::follow();

  std::uint32_t ra[4], rb[2];
  float d[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[threadIdx.x * 4 + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[threadIdx.x * 2 + i];
  for (int i = 0; i < 4; ++i) d[i] = c[threadIdx.x * 4 + i];
  cuda::Element<T>::multiply(d, ra, rb);
  for (int i = 0; i < 4; ++i) c[threadIdx.x * 4 + i] = d[i];
}

// Four 8x8 matrices, row r of matrix m at 8 * (8 * m + r); all four loads one after another.
__global__ void loads(const std::uint16_t* in, std::uint32_t* out) {
  cuda::follow();

  __shared__ __align__(16) std::uint16_t tile[256];
  for (int i = 0; i < 8; ++i) tile[threadIdx.x * 8 + i] = in[threadIdx.x * 8 + i];
  __syncwarp();
  const void* row = tile + threadIdx.x * 8;
  std::uint32_t four[4], two[2];
  std::uint32_t* to = out + threadIdx.x * 12;
  cuda::ldmatrix_x4(four, row);
  for (int i = 0; i < 4; ++i) to[i] = four[i];
  cuda::ldmatrix_x4_trans(four, row);
  for (int i = 0; i < 4; ++i) to[4 + i] = four[i];
  cuda::ldmatrix_x2(two, row);
  for (int i = 0; i < 2; ++i) to[8 + i] = two[i];
  cuda::ldmatrix_x2_trans(two, row);
  for (int i = 0; i < 2; ++i) to[10 + i] = two[i];
}

__global__ void copies(const int4* in, int4* out) {
  cuda::follow();

  __shared__ int4 tile[3];
  if (threadIdx.x != 0) return;
  for (int4& t : tile) t = {-1, -1, -1, -1};
  cuda::cp_async_16(&tile[0], &in[0]);
  cuda::cp_async_commit();
  cuda::cp_async_16(&tile[1], &in[1], 8);
  cuda::cp_async_commit();
  cuda::cp_async_16(&tile[2], &in[2]);
  cuda::cp_async_wait<1>();
  out[0] = tile[0], out[1] = tile[1];
  cuda::cp_async_wait<0>();
  out[2] = tile[1], out[3] = tile[2];  // the third was never committed
}

__global__ void crooked(const int* in, int* out) {
  cuda::follow();

  out[0] = static_cast<int>(cuda::load_once(in + 1).x);
}

}  // namespace

namespace {

template <class T>
void check_mma(DType type) {
  TestStream s;
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  float a[16][16], b[16][8], c[16][8];
  const auto draw = [&] { return kept(normal(engine), type); };
  for (auto& row : a)
    for (auto& v : row) v = draw();
  for (auto& row : b)
    for (auto& v : row) v = draw();
  for (auto& row : c)
    for (auto& v : row) v = normal(engine);
  const auto bits = [&](float v) -> std::uint32_t {
    return type == DType::f16 ? f16(v).bits : bf16(v).bits;
  };
  std::vector<std::uint32_t> fa(32 * 4), fb(32 * 2);
  std::vector<float> fc(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i)
      fa[lane * 4 + i / 2] |= bits(a[place_a(lane, i).row][place_a(lane, i).column]) << i % 2 * 16;
    for (int i = 0; i < 4; ++i)
      fb[lane * 2 + i / 2] |= bits(b[place_b(lane, i).row][place_b(lane, i).column]) << i % 2 * 16;
    for (int i = 0; i < 4; ++i) fc[lane * 4 + i] = c[place_c(lane, i).row][place_c(lane, i).column];
  }
  DeviceArray<std::uint32_t> da(s, fa), db(s, fb);
  DeviceArray<float> dc(s, fc);
  launch(one_mma<T>, {1, 32, 0, s}, da.data(), db.data(), dc.data());
  const auto got = dc.host(s);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const auto [row, column] = place_c(lane, i);
      double want = c[row][column];
      for (int k = 0; k < 16; ++k) want += static_cast<double>(a[row][k]) * b[k][column];
      CHECK(got[lane * 4 + i] == doctest::Approx(want).epsilon(1e-6));
    }
}

}  // namespace

TEST_CASE("mma.m16n8k16 multiplies the matrices its fragments stand for") {
  check_mma<__nv_bfloat16>(DType::bf16);
  check_mma<__half>(DType::f16);
}

TEST_CASE("elements are rounded as on the CPU, f16 into its range") {
  const float values[] = {0.1f, -3.14159f, 1e-7f, 65519.0f, -65520.0f, 1e30f, -INFINITY, 1e-30f};
  for (const float v : values) {
    const std::uint32_t pair = cuda::Element<__half>::pair(v, 1.0f);
    CHECK(pair == (f16(v).bits | 0x3c000000u));
    CHECK(cuda::Element<__half>::widen(cuda::Element<__half>::narrow(v)) == kept(v, DType::f16));
    CHECK(cuda::Element<__half>::widen_pair(pair).x == kept(v, DType::f16));
    CHECK(cuda::Element<__half>::widen_pair(pair).y == 1.0f);
    CHECK(cuda::Element<__nv_bfloat16>::widen_pair(cuda::Element<__nv_bfloat16>::pair(1.0f, v)).y ==
          kept(v, DType::bf16));
  }
  CHECK(std::isnan(cuda::Element<__half>::widen(cuda::Element<__half>::narrow(NAN))));
}

TEST_CASE("ldmatrix hands each lane two neighbours of a row, transposed of a column") {
  TestStream s;
  std::vector<std::uint16_t> in(256);
  for (int i = 0; i < 256; ++i) in[i] = static_cast<std::uint16_t>(i * 259 + 7);
  DeviceArray<std::uint16_t> din(s, in);
  DeviceArray<std::uint32_t> out(32 * 12);
  launch(loads, {1, 32, 0, s}, din.data(), out.data());
  const auto got = out.host(s);
  const auto element = [&](int matrix, int row, int column) {
    return static_cast<std::uint32_t>(in[matrix * 64 + row * 8 + column]);
  };
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < 4; ++m) {
      const int row = lane / 4, column = lane % 4 * 2;
      const auto plain = element(m, row, column) | element(m, row, column + 1) << 16;
      const auto turned = element(m, column, row) | element(m, column + 1, row) << 16;
      CHECK(got[lane * 12 + m] == plain);
      CHECK(got[lane * 12 + 4 + m] == turned);
      if (m < 2) CHECK(got[lane * 12 + 8 + m] == plain);
      if (m < 2) CHECK(got[lane * 12 + 10 + m] == turned);
    }
}

TEST_CASE("cp.async is there after the wait for its group; before, as the emulation's order says") {
  const bool at_once = std::getenv("DREAM_R_EMULATION_ORDER") != nullptr;
  TestStream s;
  DeviceArray<int4> in(s, {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 9, 9, 9}}), out(4);
  launch(copies, {1, 32, 0, s}, in.data(), out.data());
  const auto got = out.host(s);
  CHECK(got[0].w == 4);
  CHECK(got[1].x == (at_once ? 5 : -1));
  CHECK(got[2].y == 6);
  CHECK(got[2].z == 0);
  CHECK(got[3].x == (at_once ? 9 : -1));
}

TEST_CASE("an address that is not aligned is told") {
  TestStream s;
  DeviceArray<int> in(8), out(1);
  CHECK(contains(failure([&] { launch(crooked, {1, 1, 0, s}, in.data(), out.data()); }),
                 "16-byte aligned (thread 0 of block (0, 0, 0))"));
}
