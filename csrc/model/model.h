#pragma once
// A loaded checkpoint: immutable, shared by lanes, forward is re-entrant (all scratch is the
// caller's).
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/stream.h"
#include "kv/kv_store.h"
#include "model/batch.h"
#include "model/config.h"
#include "ops/linear_weight.h"

namespace dream_r {

class Graphs;

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  // New tokens of many sequences in one pass: writes their KV, returns the logits wanted.
  // `keywords` is the small head made by keyword_head(); undefined when none is wanted.
  // `graphs` (of this stream, arena, model and cache; may be null) keeps decode forwards of a CUDA
  // device for the next of their kind.
  virtual ForwardResult forward(Stream& stream, Arena& arena, KvStore& kv, const Batch& batch,
                                const LinearWeight& keywords, Graphs* graphs = nullptr) const = 0;
  // Logits over the whole vocabulary of tokens of that last forward which nobody had wanted, row by
  // row as the forward would have given them; undefined where they can no longer be had. The
  // tables that its batch pointed to, and their blocks, are still as they were.
  virtual Tensor late_logits(Stream& stream, Arena& arena, KvStore& kv, const ForwardResult& result,
                             std::span<const LogitsWanted> wanted) const = 0;
  // The vision tower. patches: f32 [N, channels * temporal * patch * patch] as the image processor
  // orders them, on any device; grid: per image (t, h, w) in patches.
  virtual ImageFeatures encode_images(Stream& stream, const Tensor& patches,
                                      std::span<const std::array<std::int32_t, 3>> grid) const = 0;
  // Rows `ids` of the output head (ops::select_rows).
  virtual LinearWeight keyword_head(std::span<const std::int32_t> ids) const = 0;
  virtual std::size_t weight_bytes() const = 0;
  // Of a cache for this model; its dtype is that of the weights.
  virtual KvShape kv_shape() const = 0;
  // Where its weights lie, and so its streams, arenas and caches.
  virtual Device device() const = 0;
};

struct LoadOptions {
  // Of linear weights and KV: bf16, f32, on CUDA f16, on the CPU i16 (then KV is bf16).
  DType dtype = DType::bf16;
  int threads = 1;  // for packing at load
  Device device{};  // of the weights
};
// Reads config.json and the safetensors of `folder`. Error (one line, naming file and tensor) for
// anything missing, damaged or not understood.
std::shared_ptr<const Model> load_model(const std::filesystem::path& folder,
                                        const LoadOptions& options);
// The same Error as load_model's, from config.json and the headers of the weights alone.
void check_model(const std::filesystem::path& folder);

}  // namespace dream_r
