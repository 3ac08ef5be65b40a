#pragma once
// The bytes behind one BlockPool: per layer K [blocks, kv, dim, 16] and V [blocks, kv, 16, dim], as
// ops::KvLayer describes. The lane that runs a model writes it; block ids come from the manager.
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace dream_r {

struct KvShape {
  int layers = 0;
  int heads = 0;  // key/value heads
  int dim = 0;    // elements of a head
  DType dtype = DType::f32;
  std::size_t block_bytes() const;  // one block over all layers, K and V
};

class KvStore {
 public:
  static constexpr int kBlock = 16;  // tokens of a block
  // Error (memory) with the bytes asked for when they cannot be had.
  KvStore(KvShape shape, std::int32_t blocks, Device device = {});
  Device device() const { return k_[0].device(); }
  const KvShape& shape() const { return shape_; }
  std::int32_t blocks() const { return blocks_; }
  // On a CUDA device there is one block more than blocks(), which belongs to nobody: rows that are
  // there for the sake of their number write to it.
  std::int32_t spare() const { return blocks_; }
  const Tensor& k(int layer) const { return k_[layer]; }
  const Tensor& v(int layer) const { return v_[layer]; }

 private:
  KvShape shape_;
  std::int32_t blocks_;
  std::vector<Tensor> k_, v_;
};

}  // namespace dream_r
