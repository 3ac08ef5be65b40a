// R-4B's vision: a SigLIP tower over every tile of a picture, an MLP into the text's space, and the
// tiles' features laid out as tokens (picture_tiles.h).
#include "core/arena.h"
#include "model/loader.h"
#include "model/picture_tiles.h"
#include "model/vision.h"
#include "ops/ops.h"

namespace dream_r {
namespace {

struct Block {
  NormWeight norm1, norm2;
  LinearWeight qkv, proj, fc1, fc2;
};
struct Weights {
  LinearWeight patch_embed;
  Tensor positions;  // f32 [side * side, hidden]
  std::vector<Block> blocks;
  NormWeight norm;
  LinearWeight fc1, fc2;
  Tensor newline;  // f32 [out_hidden]
};

Weights load_weights(Loader& load, const VisionConfig& c) {
  const std::string at =
      load.find_prefix({"model.vision_tower.vision_model.", "vision_tower.vision_model.",
                        "model.vision_tower.", "vision_tower."},
                       "embeddings.patch_embedding.weight");
  const std::int64_t h = c.hidden;
  const std::string patch = at + "embeddings.patch_embedding";
  Weights w;
  w.patch_embed = load.convolution(patch, {h, c.channels, c.patch, c.patch});
  w.patch_embed.bias = load.vector(patch + ".bias", {h});
  w.positions = load.vector(at + "embeddings.position_embedding.weight", {c.side() * c.side(), h});
  for (int i = 0; i < c.depth; ++i) {
    const std::string b = at + "encoder.layers." + std::to_string(i) + ".";
    w.blocks.push_back(
        {load.norm(b + "layer_norm1", h), load.norm(b + "layer_norm2", h),
         load.stacked(b + "self_attn.", {{"q_proj", h}, {"k_proj", h}, {"v_proj", h}}, h, true),
         load.biased(b + "self_attn.out_proj", h, h), load.biased(b + "mlp.fc1", c.ffn, h),
         load.biased(b + "mlp.fc2", h, c.ffn)});
  }
  // Behind the layer that the features are taken from.
  for (const char* unused : {"post_layernorm.", "head.", "encoder.layers."})
    load.ignore(at + unused);
  const std::string root = load.find_prefix({"model.", ""}, "image_newline");
  const std::string projector = root + "multi_modal_projector.";
  w.norm = load.norm(projector + "pre_norm", h);
  w.fc1 = load.biased(projector + "linear_1", c.out_hidden, h);
  w.fc2 = load.biased(projector + "linear_2", c.out_hidden, c.out_hidden);
  w.newline = load.vector(root + "image_newline", {c.out_hidden});
  return w;
}

// The tower over one tile at a time, and the projector behind it.
class Tower {
 public:
  Tower(Stream& stream, Arena& arena, const Weights& weights, const VisionConfig& config)
      : s_(stream), w_(weights), c_(config), n_(std::int64_t{config.side()} * config.side()) {
    const auto take = [&](std::int64_t columns) { return arena.take({n_, columns}, DType::f32); };
    x_ = take(c_.hidden), normed_ = take(c_.hidden), delta_ = take(c_.hidden);
    qkv_ = take(3 * std::int64_t{c_.hidden});
    inner_ = take(c_.ffn), projected_ = take(c_.out_hidden);
  }

  void run(const Tensor& patches, Tensor out) {
    ops::linear(s_, patches, w_.patch_embed, x_);
    ops::add(s_, x_, w_.positions);
    for (const Block& b : w_.blocks) block(b);
    constexpr float kProjectorEps = 1e-6f;
    ops::layer_norm(s_, x_, w_.norm.w, w_.norm.b, kProjectorEps, normed_);
    ops::linear(s_, normed_, w_.fc1, projected_);
    ops::gelu(s_, projected_, ops::Gelu::exact);
    ops::linear(s_, projected_, w_.fc2, out);
  }

 private:
  void block(const Block& b) {
    const std::int32_t all[] = {0, static_cast<std::int32_t>(n_)};
    ops::layer_norm(s_, x_, b.norm1.w, b.norm1.b, c_.eps, normed_);
    ops::linear(s_, normed_, b.qkv, qkv_);
    ops::segment_attention(s_, qkv_, c_.heads, c_.hidden / c_.heads, all, ops::products_of(b.qkv),
                           normed_);
    ops::linear(s_, normed_, b.proj, delta_);
    ops::add(s_, x_, delta_);
    ops::layer_norm(s_, x_, b.norm2.w, b.norm2.b, c_.eps, normed_);
    ops::linear(s_, normed_, b.fc1, inner_);
    ops::gelu(s_, inner_, ops::Gelu::tanh);
    ops::linear(s_, inner_, b.fc2, delta_);
    ops::add(s_, x_, delta_);
  }

  Stream& s_;
  const Weights& w_;
  const VisionConfig& c_;
  std::int64_t n_;  // patches of a tile
  Tensor x_, normed_, delta_, qkv_, inner_, projected_;
};

class SiglipVision final : public VisionTower {
 public:
  SiglipVision(Weights weights, const VisionConfig& config)
      : weights_(std::move(weights)), config_(config) {}

  ImageFeatures encode(Stream& stream, const Tensor& patches,
                       std::span<const Grid> grids) const override {
    const std::int64_t tile = std::int64_t{config_.side()} * config_.side();
    const std::int64_t width = config_.out_hidden;
    std::int64_t tokens = 0, tiles = 0;
    for (const Grid& grid : grids) tokens += tile_tokens(grid, config_), tiles += grid[0];
    check(patches, tiles * tile);
    const Device device = stream.device();
    ImageFeatures out{Tensor::empty({tokens, width}, DType::f32, device), {}};
    const Tensor input = ops::copy_to(stream, patches, device);
    Arena arena(device);
    Tower tower(stream, arena, weights_, config_);
    std::int64_t from = 0, to = 0;  // rows of patches, of tokens
    for (const Grid& grid : grids) {
      const std::int64_t rows = grid[0] * tile;
      Tensor table = Tensor::empty({rows + 1, width}, DType::f32, device);
      for (std::int64_t at = 0; at < rows; at += tile)
        tower.run(input.rows(from + at, from + at + tile), table.rows(at, at + tile));
      ops::copy(stream, weights_.newline.view({1, width}), table.rows(rows, rows + 1));
      const TileTaps taps = tile_taps(grid, config_);
      const std::int64_t n = taps.index.dim(0);
      const Tensor index = ops::copy_to(stream, taps.index, device);
      const Tensor weight = ops::copy_to(stream, taps.weight, device);
      ops::bilinear_rows(stream, table, index, weight, out.embeds.rows(to, to + n));
      stream.wait();  // what this picture took is released
      from += rows, to += n;
    }
    return out;
  }

  std::size_t weight_bytes() const override {
    const Weights& w = weights_;
    std::size_t n = bytes_of(w.patch_embed) + w.positions.nbytes() + bytes_of(w.norm) +
                    bytes_of(w.fc1) + bytes_of(w.fc2) + w.newline.nbytes();
    for (const Block& b : w.blocks)
      n += bytes_of(b.norm1) + bytes_of(b.norm2) + bytes_of(b.qkv) + bytes_of(b.proj) +
           bytes_of(b.fc1) + bytes_of(b.fc2);
    return n;
  }

 private:
  void check(const Tensor& patches, std::int64_t rows) const {
    const std::int64_t size = std::int64_t{config_.channels} * config_.patch * config_.patch;
    DR_CHECK(patches.dtype() == DType::f32 && patches.shape() == Shape({rows, size}))
        << "patches " << name_of(patches.dtype()) << patches.shape().str()
        << ", the grids want f32[" << rows << ", " << size << "]";
  }

  Weights weights_;
  VisionConfig config_;
};

}  // namespace

std::unique_ptr<const VisionTower> load_siglip_vision(Loader& load, const VisionConfig& config) {
  return std::make_unique<SiglipVision>(load_weights(load, config), config);
}

}  // namespace dream_r
