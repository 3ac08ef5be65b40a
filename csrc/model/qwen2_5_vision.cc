// The vision tower of Qwen2.5-VL: most of its layers attend inside windows of the picture alone, so
// the patches are put in the order of the windows once, and the merged tokens back at the end.
#include <algorithm>
#include <cmath>

#include "core/arena.h"
#include "model/layers.h"
#include "model/loader.h"
#include "model/qwen_patches.h"
#include "model/vision.h"
#include "ops/ops.h"

namespace dream_r {
namespace {

constexpr float kEps = 1e-6f;
constexpr std::int64_t kSlice = 1024;  // patches whose MLP runs at once: bounds the scratch

struct Block {
  Tensor norm1, norm2;  // f32 [hidden]
  LinearWeight qkv, proj, gate_up, down;
};
struct Weights {
  LinearWeight patch_embed;
  std::vector<Block> blocks;
  Tensor merger_norm;
  LinearWeight fc1, fc2;
};

Weights load_weights(Loader& load, const VisionConfig& c) {
  const std::string at = load.find_prefix({"model.visual.", "visual."}, "patch_embed.proj.weight");
  const std::int64_t h = c.hidden, wide = h * c.merge * c.merge;
  Weights w;
  w.patch_embed = load.convolution(at + "patch_embed.proj",
                                   {h, c.channels, c.temporal_patch, c.patch, c.patch});
  for (int i = 0; i < c.depth; ++i) {
    const std::string b = at + "blocks." + std::to_string(i) + ".";
    w.blocks.push_back(
        {load.vector(b + "norm1.weight", {h}), load.vector(b + "norm2.weight", {h}),
         load.biased(b + "attn.qkv", 3 * h, h), load.biased(b + "attn.proj", h, h),
         load.stacked(b + "mlp.", {{"gate_proj", c.ffn}, {"up_proj", c.ffn}}, h, true),
         load.biased(b + "mlp.down_proj", h, c.ffn)});
  }
  w.merger_norm = load.vector(at + "merger.ln_q.weight", {h});
  w.fc1 = load.biased(at + "merger.mlp.0", wide, wide);
  w.fc2 = load.biased(at + "merger.mlp.2", c.out_hidden, wide);
  return w;
}

// Tokens (merge x merge patches) of a picture in the order of its windows.
struct Windows {
  std::vector<std::int32_t> token;                  // the token at each place
  std::vector<std::int32_t> windows{0}, frames{0};  // cumulative patches
};

Windows make_windows(const Grid& grid, const VisionConfig& c) {
  const int high = grid[1] / c.merge, wide = grid[2] / c.merge, unit = c.merge * c.merge;
  const int side = c.window / c.merge / c.patch;  // tokens of a window's side
  Windows w;
  for (int t = 0; t < grid[0]; ++t) {
    for (int wy = 0; wy < high; wy += side)
      for (int wx = 0; wx < wide; wx += side) {
        for (int y = wy; y < std::min(wy + side, high); ++y)
          for (int x = wx; x < std::min(wx + side, wide); ++x)
            w.token.push_back((t * high + y) * wide + x);
        w.windows.push_back(static_cast<std::int32_t>(w.token.size()) * unit);
      }
    w.frames.push_back(w.windows.back());
  }
  return w;
}

// The tower over one picture.
class Tower {
 public:
  Tower(Stream& stream, Arena& arena, const Weights& weights, const VisionConfig& config,
        const Grid& grid)
      : s_(stream), arena_(arena), w_(weights), c_(config), windows_(make_windows(grid, config)) {
    n_ = windows_.windows.back();
    x_ = take(n_, c_.hidden), normed_ = take(n_, c_.hidden), delta_ = take(n_, c_.hidden);
    qkv_ = take(n_, 3 * std::int64_t{c_.hidden});
    gate_up_ = take(std::min(n_, kSlice), 2 * std::int64_t{c_.ffn});
    act_ = take(std::min(n_, kSlice), c_.ffn);
    Tensor order = Tensor::empty({static_cast<std::int64_t>(windows_.token.size())}, DType::i32);
    std::copy(windows_.token.begin(), windows_.token.end(), order.data<std::int32_t>());
    order_ = ops::copy_to(s_, order, s_.device());
    const int half = c_.hidden / c_.heads / 2;
    cos_ = take(n_, half), sin_ = take(n_, half);
    angles_ = copy_to(s_, patch_angles(grid, c_), s_.device());
    in_window_order(angles_.cos, cos_);
    in_window_order(angles_.sin, sin_);
  }

  void run(const Tensor& patches, Tensor out) {
    ops::linear(s_, patches, w_.patch_embed, delta_);
    in_window_order(delta_, x_);
    for (int i = 0; i < c_.depth; ++i) block(i);
    merge(out);
    s_.wait();  // order and angles are released
  }

 private:
  Tensor take(std::int64_t rows, std::int64_t columns) {
    return arena_.take({rows, columns}, DType::f32);
  }

  // A token's patches lie together: they move as one row.
  void in_window_order(const Tensor& from, Tensor to) {
    const std::int64_t unit = std::int64_t{c_.merge} * c_.merge;
    const Shape grouped{n_ / unit, from.dim(1) * unit};
    ops::gather_rows(s_, from.view(grouped), order_, to.view(grouped));
  }

  void block(int index) {
    const Block& b = w_.blocks[static_cast<std::size_t>(index)];
    const int dim = c_.hidden / c_.heads;
    const bool full = std::binary_search(c_.full_layers.begin(), c_.full_layers.end(), index);
    ops::rms_norm(s_, x_, b.norm1, kEps, normed_);
    ops::linear(s_, normed_, b.qkv, qkv_);
    ops::rotate_half(s_, qkv_, c_.heads, dim, cos_, sin_);
    ops::segment_attention(s_, qkv_, c_.heads, dim, full ? windows_.frames : windows_.windows,
                           ops::products_of(b.qkv), normed_);
    ops::linear(s_, normed_, b.proj, delta_);
    ops::add_rms_norm(s_, x_, delta_, b.norm2, kEps, normed_);
    for (std::int64_t at = 0; at < n_; at += kSlice) {
      const std::int64_t end = std::min(at + kSlice, n_);
      Tensor gate_up = gate_up_.rows(0, end - at), act = act_.rows(0, end - at);
      ops::linear(s_, normed_.rows(at, end), b.gate_up, gate_up);
      ops::silu_mul(s_, gate_up, act);
      ops::linear(s_, act, b.down, delta_.rows(at, end));
    }
    ops::add(s_, x_, delta_);
  }

  void merge(Tensor out) {
    const std::int64_t unit = std::int64_t{c_.merge} * c_.merge, tokens = n_ / unit;
    const Shape grouped{tokens, c_.hidden * unit};
    ops::rms_norm(s_, x_, w_.merger_norm, kEps, normed_);
    Tensor inner = delta_.view(grouped), merged = take(tokens, c_.out_hidden);
    ops::linear(s_, normed_.view(grouped), w_.fc1, inner);
    ops::gelu(s_, inner, ops::Gelu::exact);
    ops::linear(s_, inner, w_.fc2, merged);
    ops::scatter_rows(s_, merged, order_, out);
  }

  Stream& s_;
  Arena& arena_;
  const Weights& w_;
  const VisionConfig& c_;
  Windows windows_;
  std::int64_t n_ = 0;  // patches
  Tensor order_;        // i32 [tokens]
  PatchAngles angles_;
  Tensor x_, normed_, delta_, qkv_, gate_up_, act_, cos_, sin_;
};

class Qwen25Vision final : public VisionTower {
 public:
  Qwen25Vision(Weights weights, const VisionConfig& config)
      : weights_(std::move(weights)), config_(config) {}

  ImageFeatures encode(Stream& stream, const Tensor& patches,
                       std::span<const Grid> grids) const override {
    const std::vector<std::int64_t> counts = count_patches(patches, grids, config_);
    const std::int64_t unit = std::int64_t{config_.merge} * config_.merge;
    const Device device = stream.device();
    ImageFeatures out{
        Tensor::empty({patches.dim(0) / unit, config_.out_hidden}, DType::f32, device), {}};
    const Tensor input = ops::copy_to(stream, patches, device);
    Arena arena(device);
    std::int64_t at = 0;
    for (std::size_t i = 0; i < grids.size(); ++i) {
      const std::int64_t end = at + counts[i];
      arena.reset();
      Tower(stream, arena, weights_, config_, grids[i])
          .run(input.rows(at, end), out.embeds.rows(at / unit, end / unit));
      at = end;
    }
    return out;
  }

  std::size_t weight_bytes() const override {
    std::size_t n = bytes_of(weights_.patch_embed) + weights_.merger_norm.nbytes() +
                    bytes_of(weights_.fc1) + bytes_of(weights_.fc2);
    for (const Block& b : weights_.blocks)
      n += b.norm1.nbytes() + b.norm2.nbytes() + bytes_of(b.qkv) + bytes_of(b.proj) +
           bytes_of(b.gate_up) + bytes_of(b.down);
    return n;
  }

 private:
  Weights weights_;
  VisionConfig config_;
};

}  // namespace

std::unique_ptr<const VisionTower> load_qwen2_5_vision(Loader& load, const VisionConfig& config) {
  return std::make_unique<Qwen25Vision>(load_weights(load, config), config);
}

}  // namespace dream_r
