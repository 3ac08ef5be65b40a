#pragma once
// A weight matrix W [n, k] as the linear kernels of every device read it: panels of 16 output rows.
//   f32   packed f32  [n/16][k][16]
//   bf16  packed bf16 [n/16][k/2][16][2]   (pairs along k, as VDPBF16PS and TDPBF16PS read them)
//   f16   packed f16, as bf16; the CPU packs it, only CUDA devices multiply it
//   w4    packed i32 [n/16][k/8 + k/group][16], W = (q - z) * s with q, z in 0..15: for every group
//         of k one line of 16 heads (the f32 bits of s, their low four replaced by z: s has at most
//         20 significant bits), then group/8 lines of 16 words, nibble j (bits 4j..4j+3) of a word
//         being element j of its row's next eight. Made by quant/w4.h.
//   i16   packed i32 [n/16][k/g * (g/2 + 1)][16], g = 64 where that divides k, else 32: for every g
//         of k g/2 lines of 16 words, two neighbours along k as whole numbers of at most 13.5 (g =
//         32: 14) bits, then a line of 16 f32 scales; W = number * scale. The CPU alone multiplies
//         it.
// n and k are padded with zeros to the multiples named (n to 16, k to 2, i16: k to 32); `n`, `k`
// are the true sizes.
#include <cstdint>
#include <span>

#include "core/arena.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace dream_r {

enum class WeightFormat : std::uint8_t { f32, bf16, w4, f16, i16 };
// A word is two neighbours along k.
constexpr bool in_pairs(WeightFormat f) {
  return f == WeightFormat::bf16 || f == WeightFormat::f16;
}

struct LinearWeight {
  WeightFormat format = WeightFormat::f32;
  std::int64_t n = 0;
  std::int64_t k = 0;
  // Elements of k that share a scale. w4: 32, 64 or 128, dividing k; i16: 64 or 32; else 0.
  std::int64_t group = 0;
  Tensor packed;
  Tensor bias;                     // f32 [n] or undefined
  std::int64_t selected_from = 0;  // rows of the matrix that select_rows read: sums keep its order

  bool defined() const { return packed.defined(); }
  std::size_t nbytes() const { return packed.nbytes(); }
  std::int64_t whole_n() const { return selected_from ? selected_from : n; }
  std::int64_t steps() const { return packed.dim(1); }  // of 64 bytes, in every panel
};

// A weight whose panels are still to be filled, in a piece of `memory` or, without, on the CPU in
// memory of its own; and (on the CPU) zeros where they hold no element of it: filling comes before
// or after, rows alone or whole panels.
LinearWeight empty_linear(WeightFormat format, std::int64_t n, std::int64_t k,
                          std::int64_t group = 0, Arena* memory = nullptr);
void zero_padding(LinearWeight& w);

// Rows of several matrices [n_i, k] stacked (QKV, gate+up), converted to `format` and packed.
// Sources are f32, bf16 or f16, row-major, on the CPU as the result is. Conversion rounds to
// nearest even, to f16 within its finite range (core/dtype.h), to i16 by the largest of each group
// (what is no finite number makes them NaN); a source that has the format keeps its bits.
LinearWeight pack_linear(Stream& stream, std::span<const Tensor> sources, WeightFormat format);

// The rows `ids` of `w` as a small weight of their own: the same products in the same order, so
// logits from it equal those of the whole matrix bit for bit (the verifier's two keyword rows).
LinearWeight select_rows(Stream& stream, const LinearWeight& w, std::span<const std::int32_t> ids);

// `w` on `device`: itself where it is there already, else a copy (ops::copy_to).
LinearWeight copy_to(Stream& stream, const LinearWeight& w, Device device);

}  // namespace dream_r
