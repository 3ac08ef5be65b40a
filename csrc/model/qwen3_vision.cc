// The vision tower of Qwen3-VL: patches -> features that stand for image tokens, and DeepStack
// features of some of its layers for the first text layers.
#include <algorithm>
#include <cmath>

#include "core/arena.h"
#include "model/loader.h"
#include "model/qwen_patches.h"
#include "model/vision.h"
#include "ops/ops.h"

namespace dream_r {
namespace {

struct VisionBlock {
  NormWeight norm1, norm2;
  LinearWeight qkv, proj, fc1, fc2;
};
struct VisionMerger {
  NormWeight norm;
  LinearWeight fc1, fc2;
};
struct VisionWeights {
  LinearWeight patch_embed;
  Tensor positions;  // f32 [position_embeddings, hidden]
  std::vector<VisionBlock> blocks;
  VisionMerger merger;
  std::vector<VisionMerger> deepstack;
};

// Where the patches of an image lie.
struct PatchGeometry {
  Tensor index, weight;  // i32, f32 [N, 4]: bilinear taps into the square of position embeddings
  PatchAngles angles;
  std::vector<std::int32_t> segments;  // cumulative patches of the frames, from 0
};

constexpr float kEps = 1e-6f;
constexpr std::int64_t kSlice = 1024;  // patches whose MLP runs at once: bounds the scratch

// Linear interpolation along one axis, corners aligned, in f32 as transformers computes it.
struct Taps {
  std::int32_t at[2];
  float weight[2];
};
Taps axis_taps(int i, int size, int side) {
  const float source = static_cast<float>(i) * static_cast<float>(side - 1) /
                       static_cast<float>(std::max(size - 1, 1));
  const float floor = std::floor(source);
  const float part = source - floor;
  const int low = std::clamp(static_cast<int>(floor), 0, side - 1);
  return {{low, std::min(low + 1, side - 1)},
          {1.0f - part, std::max(1.0f - std::fabs(part - 1.0f), 0.0f)}};
}

// The tower over one image.
class Tower {
 public:
  Tower(Stream& stream, Arena& arena, const VisionWeights& weights, const VisionConfig& config,
        std::int64_t patches)
      : s_(stream), arena_(arena), w_(weights), c_(config), n_(patches) {
    x_ = take(n_, c_.hidden), normed_ = take(n_, c_.hidden), delta_ = take(n_, c_.hidden);
    qkv_ = take(n_, 3 * std::int64_t{c_.hidden});
    inner_ = take(std::min(n_, kSlice), c_.ffn);
    wide_ = std::int64_t{c_.hidden} * c_.merge * c_.merge;
  }

  void embed(const Tensor& patches, const PatchGeometry& g) {
    ops::linear(s_, patches, w_.patch_embed, x_);
    ops::bilinear_rows(s_, w_.positions, g.index, g.weight, delta_);
    ops::add(s_, x_, delta_);
  }

  void block(const VisionBlock& b, const PatchGeometry& g) {
    const int dim = c_.hidden / c_.heads;
    ops::layer_norm(s_, x_, b.norm1.w, b.norm1.b, kEps, normed_);
    ops::linear(s_, normed_, b.qkv, qkv_);
    ops::rotate_half(s_, qkv_, c_.heads, dim, g.angles.cos, g.angles.sin);
    ops::segment_attention(s_, qkv_, c_.heads, dim, g.segments, ops::products_of(b.qkv), normed_);
    ops::linear(s_, normed_, b.proj, delta_);
    ops::add(s_, x_, delta_);
    ops::layer_norm(s_, x_, b.norm2.w, b.norm2.b, kEps, normed_);
    for (std::int64_t at = 0; at < n_; at += kSlice) {
      const std::int64_t end = std::min(at + kSlice, n_);
      Tensor inner = inner_.rows(0, end - at);
      ops::linear(s_, normed_.rows(at, end), b.fc1, inner);
      ops::gelu(s_, inner, ops::Gelu::tanh);
      ops::linear(s_, inner, b.fc2, delta_.rows(at, end));
    }
    ops::add(s_, x_, delta_);
  }

  // Groups of merge x merge patches become one token. DeepStack mergers norm the group as one row,
  // the last one norms each patch.
  void merge(const VisionMerger& m, bool norm_group, Tensor out) {
    const std::int64_t groups = out.dim(0);
    const Shape grouped{groups, wide_};
    if (norm_group)
      ops::layer_norm(s_, x_.view(grouped), m.norm.w, m.norm.b, kEps, normed_.view(grouped));
    else
      ops::layer_norm(s_, x_, m.norm.w, m.norm.b, kEps, normed_);
    Tensor inner = delta_.view(grouped);
    ops::linear(s_, normed_.view(grouped), m.fc1, inner);
    ops::gelu(s_, inner, ops::Gelu::exact);
    ops::linear(s_, inner, m.fc2, out);
  }

 private:
  Tensor take(std::int64_t rows, std::int64_t columns) {
    return arena_.take({rows, columns}, DType::f32);
  }

  Stream& s_;
  Arena& arena_;
  const VisionWeights& w_;
  const VisionConfig& c_;
  std::int64_t n_;
  std::int64_t wide_ = 0;
  Tensor x_, normed_, delta_, qkv_, inner_;
};

PatchGeometry patch_geometry(const Grid& grid, const VisionConfig& c) {
  const int side = static_cast<int>(std::lround(std::sqrt(c.position_embeddings)));
  const std::int64_t frame = std::int64_t{grid[1]} * grid[2], n = frame * grid[0];
  PatchGeometry g{Tensor::empty({n, 4}, DType::i32),
                  Tensor::empty({n, 4}, DType::f32),
                  patch_angles(grid, c),
                  {0}};
  for (int t = 0; t < grid[0]; ++t) {
    for_patches(grid, c.merge, [&](std::int64_t i, int y, int x) {
      const std::int64_t row = frame * t + i;
      const Taps ty = axis_taps(y, grid[1], side), tx = axis_taps(x, grid[2], side);
      for (int k = 0; k < 4; ++k) {
        g.index.data<std::int32_t>()[row * 4 + k] = ty.at[k / 2] * side + tx.at[k % 2];
        g.weight.f32()[row * 4 + k] = ty.weight[k / 2] * tx.weight[k % 2];
      }
    });
    g.segments.push_back(static_cast<std::int32_t>(frame * (t + 1)));
  }
  return g;
}

PatchGeometry copy_to(Stream& s, const PatchGeometry& g, Device device) {
  return {ops::copy_to(s, g.index, device), ops::copy_to(s, g.weight, device),
          copy_to(s, g.angles, device), g.segments};
}

VisionMerger load_merger(Loader& load, const std::string& at, const VisionConfig& c, bool merged) {
  const std::int64_t wide = std::int64_t{c.hidden} * c.merge * c.merge;
  return {load.norm(at + "norm", merged ? wide : c.hidden),
          load.biased(at + "linear_fc1", wide, wide),
          load.biased(at + "linear_fc2", c.out_hidden, wide)};
}

VisionWeights load_weights(Loader& load, const VisionConfig& c) {
  const std::string at = load.find_prefix({"model.visual.", "visual."}, "pos_embed.weight");
  const std::int64_t h = c.hidden;
  VisionWeights w;
  const std::string patch = at + "patch_embed.proj";
  w.patch_embed = load.convolution(patch, {h, c.channels, c.temporal_patch, c.patch, c.patch});
  w.patch_embed.bias = load.vector(patch + ".bias", {h});
  w.positions = load.vector(at + "pos_embed.weight", {c.position_embeddings, h});
  for (int i = 0; i < c.depth; ++i) {
    const std::string b = at + "blocks." + std::to_string(i) + ".";
    w.blocks.push_back({load.norm(b + "norm1", h), load.norm(b + "norm2", h),
                        load.biased(b + "attn.qkv", 3 * h, h), load.biased(b + "attn.proj", h, h),
                        load.biased(b + "mlp.linear_fc1", c.ffn, h),
                        load.biased(b + "mlp.linear_fc2", h, c.ffn)});
  }
  w.merger = load_merger(load, at + "merger.", c, false);
  for (std::size_t i = 0; i < c.deepstack_layers.size(); ++i)
    w.deepstack.push_back(
        load_merger(load, at + "deepstack_merger_list." + std::to_string(i) + ".", c, true));
  return w;
}

std::size_t bytes_of(const VisionMerger& m) {
  return bytes_of(m.norm) + bytes_of(m.fc1) + bytes_of(m.fc2);
}

class Qwen3Vision final : public VisionTower {
 public:
  Qwen3Vision(VisionWeights weights, const VisionConfig& config)
      : weights_(std::move(weights)), config_(config) {}

  ImageFeatures encode(Stream& stream, const Tensor& patches,
                       std::span<const Grid> grids) const override;

  std::size_t weight_bytes() const override {
    std::size_t n =
        bytes_of(weights_.patch_embed) + weights_.positions.nbytes() + bytes_of(weights_.merger);
    for (const VisionBlock& b : weights_.blocks)
      n += bytes_of(b.norm1) + bytes_of(b.norm2) + bytes_of(b.qkv) + bytes_of(b.proj) +
           bytes_of(b.fc1) + bytes_of(b.fc2);
    for (const VisionMerger& m : weights_.deepstack) n += bytes_of(m);
    return n;
  }

 private:
  VisionWeights weights_;
  VisionConfig config_;
};

ImageFeatures Qwen3Vision::encode(Stream& stream, const Tensor& patches,
                                  std::span<const Grid> grids) const {
  const std::vector<std::int64_t> counts = count_patches(patches, grids, config_);
  const std::int64_t unit = std::int64_t{config_.merge} * config_.merge;
  const Shape shape{patches.dim(0) / unit, config_.out_hidden};
  const Device device = stream.device();
  ImageFeatures out{Tensor::empty(shape, DType::f32, device), {}};
  for (std::size_t i = 0; i < weights_.deepstack.size(); ++i)
    out.deepstack.push_back(Tensor::empty(shape, DType::f32, device));
  const Tensor input = ops::copy_to(stream, patches, device);
  Arena arena(device);
  std::int64_t at = 0;
  for (std::size_t i = 0; i < grids.size(); ++i) {
    const std::int64_t end = at + counts[i];
    const auto part = [&](const Tensor& t) { return t.rows(at / unit, end / unit); };
    arena.reset();
    const PatchGeometry geometry = copy_to(stream, patch_geometry(grids[i], config_), device);
    Tower tower(stream, arena, weights_, config_, counts[i]);
    tower.embed(input.rows(at, end), geometry);
    std::size_t level = 0;
    for (int layer = 0; layer < config_.depth; ++layer) {
      tower.block(weights_.blocks[static_cast<std::size_t>(layer)], geometry);
      if (level < weights_.deepstack.size() && config_.deepstack_layers[level] == layer) {
        tower.merge(weights_.deepstack[level], true, part(out.deepstack[level]));
        ++level;
      }
    }
    tower.merge(weights_.merger, false, part(out.embeds));
    stream.wait();  // the geometry is released
    at = end;
  }
  return out;
}

}  // namespace

std::unique_ptr<const VisionTower> load_qwen3_vision(Loader& load, const VisionConfig& config) {
  return std::make_unique<Qwen3Vision>(load_weights(load, config), config);
}

}  // namespace dream_r
