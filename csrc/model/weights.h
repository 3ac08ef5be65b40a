#pragma once
// The weights of a text decoder as the ops read them. Where they come from is a WeightSource: a
// checkpoint (load_model) or numbers made up in memory (random_model, for benchmarks).
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/linear_weight.h"

namespace dream_r {

class Loader;

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool has(const std::string& name) const = 0;
  // How an Error speaks of a tensor: where it stands, and its name.
  virtual std::string label(const std::string& name) const { return "tensor " + name; }
  // Error naming the tensor when it is missing or of another shape.
  virtual Tensor get(const std::string& name, const Shape& shape) = 0;
  // Whether only names, types and shapes are asked for: get() is called, nothing is read or packed.
  virtual bool headers_only() const { return false; }
  // Of a tensor that is there.
  virtual Shape shape(const std::string& name) const = 0;
  // Tensors whose names begin so do not enter the computation.
  virtual void ignore(const std::string& /*prefix*/) {}
  // The same of whole numbers: i32 or i64.
  virtual Tensor integers(const std::string& name, const Shape& shape, DType dtype) = 0;
  // A linear in the layout of the kernels, in a piece of `memory` on the stream's device, from a
  // source that has no tensors to pack; undefined from the others. group: of w4.
  virtual LinearWeight linear(Stream& /*stream*/, Arena& /*memory*/, WeightFormat /*format*/,
                              std::int64_t /*n*/, std::int64_t /*k*/, std::int64_t /*group*/) {
    return {};
  }
  // The tensor was packed: its source bytes are not read again.
  virtual void drop(const std::string& /*name*/) {}
};

struct NormWeight {
  Tensor w, b;  // f32
};

struct MoeWeights {
  LinearWeight router;                      // f32 always: a choice is not rounded
  std::vector<LinearWeight> gate_up, down;  // of every expert; none in a dense layer
};
struct TextLayer {
  Tensor input_norm, post_norm;  // f32
  Tensor q_norm, k_norm;         // f32, or undefined
  LinearWeight qkv, o;
  LinearWeight gate_up, down;  // or, where it has experts,
  MoeWeights moe;
};
struct TextWeights {
  LinearWeight embedding;  // [vocab, hidden]
  LinearWeight head;       // the same memory when tied
  Tensor norm;
  std::vector<TextLayer> layers;
};

TextWeights load_text(Loader& load, const TextConfig& config);

std::size_t bytes_of(const LinearWeight& w);
std::size_t bytes_of(const NormWeight& n);
std::size_t bytes_of(const TextWeights& w);

}  // namespace dream_r
