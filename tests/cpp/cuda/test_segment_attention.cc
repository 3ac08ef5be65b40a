// Attention inside segments on the tensor cores against attention in double, for all factors.
#include "attention_oracle.h"
#include "device_array.h"
#include "ops/cuda/attention.h"

using namespace dream_r;
using namespace dream_r::test;
using ops::Products;

namespace {

const std::vector<std::int32_t> kSegments = {0, 1, 18, 18, 20, 150};

std::vector<float> run(const std::vector<float>& qkv, int heads, int dim, Products products,
                       const std::vector<std::int32_t>& cu, int max_segment) {
  TestStream s;
  const int tokens = static_cast<int>(qkv.size()) / (3 * heads * dim);
  const DeviceArray<float> in(s, qkv), out(s, std::vector<float>(qkv.size() / 3, NAN));
  const DeviceArray<std::int32_t> segments(s, cu);
  const cuda::SegmentBatch b{
      in.data(),   out.data(), tokens, heads, dim, segments.data(), static_cast<int>(cu.size()) - 1,
      max_segment, products};
  const DeviceArray<std::byte> scratch(cuda::segment_scratch(b));
  cuda::segment_attention(b, scratch.data(), s);
  return out.host(s);
}

Expected expected(const std::vector<float>& qkv, int heads, int dim, DType type) {
  const std::size_t width = 3 * static_cast<std::size_t>(heads * dim);
  Expected e;
  for (std::size_t g = 1; g < kSegments.size(); ++g) {
    const int begin = kSegments[g - 1], end = kSegments[g];
    for (int t = begin; t < end; ++t)
      for (int head = 0; head < heads; ++head) {
        const auto at = [&](int part) {
          return [&, part](int j, int d) -> double {
            return kept(qkv[(begin + j) * width + (part * heads + head) * dim + d], type);
          };
        };
        attend(&qkv[t * width + head * dim], dim, end - begin, type, at(1), at(2), e);
      }
  }
  return e;
}

}  // namespace

TEST_CASE("segment attention in bf16, in f16 and as accurate as f32") {
  for (const int dim : {8, 32, 64, 72, 80, 96, 128})
    for (const auto& [products, type] : {std::pair{Products::bf16, DType::bf16},
                                         {Products::f16, DType::f16},
                                         {Products::f32, DType::f32}}) {
      CAPTURE(dim);
      CAPTURE(std::string(name_of(type)));
      const auto qkv = normals(150u * 3 * 2 * dim, dim);
      const auto got = run(qkv, 2, dim, products, kSegments, 130);
      check_close(got, expected(qkv, 2, dim, type), type);
    }
}

TEST_CASE("short segments take small tiles and give the same") {
  const std::vector<std::int32_t> windows = {0, 64, 100};
  const auto qkv = normals(100u * 3 * 2 * 80, 9);
  const auto small = run(qkv, 2, 80, Products::bf16, windows, 64);
  CHECK(small == run(qkv, 2, 80, Products::bf16, windows, 100));
}
