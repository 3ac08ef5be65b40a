// Models on a device against the same on the CPU: text, pictures, decoding by graphs.
#include <cmath>

#include "decoding.h"
#include "doctest.h"
#include "f16_checkpoint.h"
#include "small_model.h"

using namespace dream_r;
using test::check_close;
using test::Decoding;
using test::on_cpu;

namespace {

// One of each tower, all reading one picture of 4 x 6 patches.
ModelConfig with_tower(VisionKind kind) {
  ModelConfig c = test::small_model(2);
  c.vision.kind = kind;
  c.vision.depth = 2, c.vision.hidden = 32, c.vision.heads = 2, c.vision.ffn = 48;
  c.vision.out_hidden = 32, c.vision.patch = 4, c.vision.merge = 2, c.vision.temporal_patch = 2;
  c.vision.position_embeddings = 16;
  if (kind == VisionKind::qwen3) c.vision.deepstack_layers = {0};
  if (kind == VisionKind::qwen2_5) c.vision.window = 16, c.vision.full_layers = {1};
  if (kind == VisionKind::siglip) c.vision.image = 16, c.vision.pinpoints = {{16, 16}};
  return c;
}

}  // namespace

TEST_CASE("device: decoding by graphs gives the CPU's logits, in any number of rows") {
  if (!kHasCuda) return;
  for (const bool experts : {false, true}) {
    ModelConfig c = test::small_model(2);
    if (experts) c.text.moe = {.experts = 6, .per_token = 2, .ffn = 16, .dense_layers = {}};
    const auto here = random_model(c, {DType::f32, 1});
    const auto there = random_model(c, {DType::f32, 1, cuda_device()});
    CHECK(there->weight_bytes() == here->weight_bytes());
    for (const int rows : {1, 3}) {
      Graphs graphs;
      Decoding expected(*here, rows, nullptr), got(*there, rows, &graphs);
      for (int i = 0; i < 6; ++i) check_close(got.step(), expected.step());
      CHECK(graphs.captured() == 1);
    }
  }
}

TEST_CASE("device: a graph serves until the keys pass its bound, and scratch that moved ends it") {
  if (!kHasCuda) return;
  const auto model = random_model(test::small_model(2), {DType::bf16, 1, cuda_device()});
  Graphs graphs;
  Decoding with(*model, 1, &graphs), without(*model, 1, nullptr);
  for (int i = 0; i < 260; ++i) {
    const auto got = with.step(), expected = without.step();
    CHECK(got == expected);
    if (i == 255) CHECK(graphs.captured() == 1);
  }
  CHECK(graphs.captured() == 2);  // up to 256 keys, and beyond
}

TEST_CASE("device: a checkpoint of f16 decodes in f16 as on the CPU in f32") {
  if (!kHasCuda) return;
  for (const int dim : {16, 64}) {  // the plain kernel of attention, and the tensor cores'
    CAPTURE(dim);
    const test::TempFolder folder;
    test::write_f16_checkpoint(folder, {96, 2, 4, 2, dim, 128, 50}, 7);
    const auto here = load_model(folder.path(), {DType::f32, 1});
    const auto there = load_model(folder.path(), {DType::f16, 1, cuda_device()});
    CHECK(there->kv_shape().dtype == DType::f16);
    CHECK(there->weight_bytes() < 0.55 * here->weight_bytes());
    Graphs graphs;
    Decoding expected(*here, 3, nullptr), got(*there, 3, &graphs);
    // The weights are the same numbers: x, keys, values and the factors of attention are rounded,
    // each by 2^-11 of itself at most, in every layer and at the head.
    for (int i = 0; i < 40; ++i) check_close(got.step(), expected.step(), 0x1p-9f);
  }
}

TEST_CASE("device: a tower in f16 sees as on the CPU in f32") {
  if (!kHasCuda) return;
  const test::TempFolder folder;
  test::write_f16_checkpoint(folder, {96, 1, 4, 2, 16, 128, 50}, 7);
  const Grid grid{1, 4, 4};
  Tensor patches = Tensor::empty({16, 3 * 2 * test::kPatch * test::kPatch}, DType::f32);
  for (std::int64_t i = 0; i < patches.numel(); ++i)
    patches.f32()[i] = std::sin(0.37f * static_cast<float>(i));
  const auto features = [&](DType dtype, Device device) {
    Stream stream(device);
    const auto model = load_model(folder.path(), {dtype, 1, device});
    return on_cpu(stream, model->encode_images(stream, patches, std::span(&grid, 1)).embeds);
  };
  check_close(features(DType::f16, cuda_device()), features(DType::f32, {}), 0x1p-9f);
}

TEST_CASE("f16 is refused where the device is the CPU, in one line that says what to do") {
  const test::TempFolder folder;
  test::write_f16_checkpoint(folder, {32, 1, 2, 1, 16, 32, 20}, 1);
  CHECK(test::error_of([&] { load_model(folder.path(), {DType::f16, 1}); }) ==
        "dtype f16 is for CUDA devices: use bf16 or f32 on the CPU");
  load_model(folder.path(), {DType::bf16, 1});
}

TEST_CASE("device: every tower's features are the CPU's") {
  if (!kHasCuda) return;
  for (const VisionKind kind : {VisionKind::qwen3, VisionKind::qwen2_5, VisionKind::siglip}) {
    CAPTURE(static_cast<int>(kind));
    const ModelConfig c = with_tower(kind);
    const auto here = random_model(c, {DType::f32, 1});
    const auto there = random_model(c, {DType::f32, 1, cuda_device()});
    const bool tiles = kind == VisionKind::siglip;
    const Grid grid = tiles ? Grid{2, 16, 16} : Grid{1, 4, 6};
    const std::int64_t patches = tiles ? 2 * std::int64_t{c.vision.side()} * c.vision.side() : 24;
    const std::int64_t size = std::int64_t{c.vision.channels} * c.vision.patch * c.vision.patch *
                              (tiles ? 1 : c.vision.temporal_patch);
    Tensor input = Tensor::empty({patches, size}, DType::f32);
    for (std::int64_t i = 0; i < input.numel(); ++i)
      input.f32()[i] = std::sin(0.37f * static_cast<float>(i));
    Stream cpu, device(cuda_device());
    const ImageFeatures expected = here->encode_images(cpu, input, std::span(&grid, 1));
    const ImageFeatures got = there->encode_images(device, input, std::span(&grid, 1));
    CHECK(got.embeds.device() == cuda_device());
    check_close(on_cpu(device, got.embeds), on_cpu(cpu, expected.embeds));
    REQUIRE(got.deepstack.size() == expected.deepstack.size());
    for (std::size_t i = 0; i < got.deepstack.size(); ++i)
      check_close(on_cpu(device, got.deepstack[i]), on_cpu(cpu, expected.deepstack[i]));
  }
}
