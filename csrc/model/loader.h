#pragma once
// Takes weights out of a WeightSource and packs them tensor by tensor, so that the peak stays near
// the packed size.
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"
#include "model/quantization.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace dream_r {

class Loader {
 public:
  using Part = LinearPart;

  // Linears that have no quantised tensors are packed as `format`, by the threads of `stream`. All
  // weights end on the device of `home`.
  Loader(WeightSource& source, WeightFormat format, Stream& stream, Stream& home,
         Quantization quantization = {})
      : source_(source),
        format_(format),
        stream_(stream),
        home_(home),
        quantization_(quantization),
        memory_(std::make_shared<Memory>(home.device())) {}

  Tensor vector(const std::string& name, const Shape& shape);
  NormWeight norm(const std::string& name, std::int64_t n);
  // Rows of several matrices stacked; "<prefix><name>.weight" or its quantised tensors and, where
  // asked for, ".bias".
  LinearWeight stacked(const std::string& prefix, std::initializer_list<Part> parts, std::int64_t k,
                       bool bias = false);
  LinearWeight matrix(const std::string& name, std::int64_t n, std::int64_t k);
  LinearWeight exact(const std::string& name, std::int64_t n, std::int64_t k);  // f32 always
  LinearWeight biased(const std::string& name, std::int64_t n, std::int64_t k);
  // A patch convolution of the given kernel has no overlap: one product over the flattened patch.
  LinearWeight convolution(const std::string& name, const Shape& kernel);
  // `count` matrices [n, k] out of one tensor [count, n, k], or [count, k, n] when `transposed`.
  std::vector<LinearWeight> fused(const std::string& name, std::int64_t count, std::int64_t n,
                                  std::int64_t k, bool transposed);
  // Error naming the tensor, and `what` of it, when the linear `name` is a quantised one.
  void refuse_quantized(const std::string& name, const char* what) const;
  void ignore(const std::string& prefix) { source_.ignore(prefix); }
  bool has(const std::string& name) const { return source_.has(name); }
  Shape shape(const std::string& name) const { return source_.shape(name); }
  // Checkpoints spell the same tensors under a few roots; `probe` tells which one this is.
  std::string find_prefix(std::initializer_list<const char*> prefixes,
                          const std::string& probe) const;

 private:
  // A device gives memory out by whole pages of 2 MiB: weights that are not much more (128 experts
  // a layer) share chunks, which grow with the model. On the CPU each has memory of its own.
  // Weights own the chunks that they lie in.
  class Memory {
   public:
    explicit Memory(Device device)
        : small_(device, device.on_cuda() ? kFirst : 0, device.on_cuda() ? kMost : 0),
          large_(device, 0) {}
    Arena& of(std::size_t bytes) { return bytes <= kSmall ? small_ : large_; }

   private:
    static constexpr std::size_t kMiB = std::size_t{1} << 20;
    static constexpr std::size_t kSmall = 32 * kMiB, kFirst = 2 * kMiB, kMost = 256 * kMiB;
    Arena small_, large_;
  };

  LinearWeight pack(std::span<const Tensor> sources);
  Tensor host_vector(const std::string& name, const Shape& shape);
  Tensor place(const Tensor& t);
  LinearWeight place(const LinearWeight& w);
  LinearWeight products(const std::string& prefix, std::span<const Part> parts, std::int64_t k);

  WeightSource& source_;
  WeightFormat format_;
  Stream& stream_;
  Stream& home_;
  Quantization quantization_;
  std::shared_ptr<Memory> memory_;
};

}  // namespace dream_r
