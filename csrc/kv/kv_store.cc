#include "kv/kv_store.h"

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <new>

namespace dream_r {
namespace {

// False when the product does not fit an int64 (tensor sizes are int64).
bool product(std::initializer_list<std::uint64_t> factors, std::uint64_t& out) {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  out = 1;
  for (const std::uint64_t f : factors) {
    if (__builtin_mul_overflow(out, f, &out) || out > kMax) return false;
  }
  return true;
}

std::uint64_t count(int n) { return static_cast<std::uint64_t>(n); }

}  // namespace

std::size_t KvShape::block_bytes() const {
  DR_CHECK(layers > 0 && heads > 0 && dim > 0)
      << "KV of " << layers << " layers, " << heads << " heads of " << dim;
  std::uint64_t bytes = 0;
  const bool fits = product({count(layers), count(heads), count(dim), 2, count(KvStore::kBlock),
                             static_cast<std::uint64_t>(size_of(dtype))},
                            bytes);
  DR_CHECK(fits) << "a KV block of " << layers << " layers, " << heads << " heads of " << dim
                 << " is too large";
  return static_cast<std::size_t>(bytes);
}

KvStore::KvStore(KvShape shape, std::int32_t blocks, Device device)
    : shape_(shape), blocks_(blocks) {
  DR_CHECK(blocks > 0) << "a KV store of " << blocks << " blocks";
  const std::size_t block = shape.block_bytes();
  std::uint64_t total = 0;
  const std::int64_t all = std::int64_t{blocks} + (device.on_cuda() ? 1 : 0);
  if (!product({block, static_cast<std::uint64_t>(all)}, total)) {
    DR_FAIL(memory) << "KV cache: " << blocks << " blocks of " << block
                    << " bytes are more than can be addressed";
  }
  // Untouched pages cost nothing yet: the memory is taken as blocks are first written.
  try {
    for (int layer = 0; layer < shape.layers; ++layer) {
      k_.push_back(Tensor::empty({all, shape.heads, shape.dim, kBlock}, shape.dtype, device));
      v_.push_back(Tensor::empty({all, shape.heads, kBlock, shape.dim}, shape.dtype, device));
    }
    return;
  } catch (const Error& e) {
    if (e.kind() != Error::Kind::memory) throw;
  } catch (const std::bad_alloc&) {
  }
  DR_FAIL(memory) << "KV cache: out of memory, " << total << " bytes asked for (" << all
                  << " blocks of " << block << ")";
}

}  // namespace dream_r
