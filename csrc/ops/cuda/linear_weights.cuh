#pragma once
// Weights as operand A of mma.m16n8k16, straight from the panels of LinearWeight: no layout of its
// own for the GPU. Lane (g, t) = (lane / 4, lane % 4) takes the rows 4g .. 4g + 3 of a tile of 32
// (a 16-byte piece of a panel's line is four rows) and the elements 8t .. 8t + 7 of every chunk of
// k, which the tensor cores see as two steps of four: any order of k does, as long as x has it too.
//   bf16, f16  a line is a pair of k: lines 16c + 4t + i of chunk c, i < 4, are the lane's pairs
//         (2i, 2i + 1)
//   w4    a line is eight of k: line 4c + t after the heads is the lane's; its nibbles j and j + 4,
//         16 bits apart, come out of a word together, so the pairs are (i, i + 4)
// Rows come as (4g, 4g + 1) and (4g + 2, 4g + 3): two products of 16 rows, `half` 0 and 1.
//
// A stage is four 16-byte pieces a lane: one chunk of bf16 or f16, a unit (four chunks) of w4.
// Pieces go through shared memory by cp.async, every lane reading back its own: a queue that is
// deeper than registers allow.
#include <cstdint>

#include "ops/cuda/element.cuh"
#include "ops/cuda/linear_shape.cuh"
#include "ops/cuda/ptx.cuh"

namespace dream_r::cuda {

constexpr int kStagePieces = 4;                      // of a lane
constexpr int kStageBytes = kStagePieces * 32 * 16;  // of a warp

struct Lane {
  int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
};

// sum[half][tile] += a[half] * x's eight columns `tile`, for one chunk. a: two steps of four
// registers; x(tile): the lane's eight elements of its column g. All of type T.
template <class T, int kColumnTiles, class X>
__device__ inline void multiply(float (&sum)[2][kColumnTiles][4], const std::uint32_t (&a)[2][2][4],
                                X&& x) {
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile) {
    const uint4 b = x(tile);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Element<T>::multiply(sum[half][tile], a[half][0], {b.x, b.y});
      Element<T>::multiply(sum[half][tile], a[half][1], {b.z, b.w});
    }
  }
}

template <int kColumnTiles>
__device__ inline void clear(float (&sum)[2][kColumnTiles][4]) {
#pragma unroll
  for (int i = 0; i < 8 * kColumnTiles; ++i) (&sum[0][0][0])[i] = 0.0f;
}

// ---- bf16, f16
// -----------------------------------------------------------------------------------
template <class T>
struct PairFormat {
  static constexpr int kStageChunks = 1;
  static constexpr int kHeadPieces = 0;  // of a warp and stage, at most
  __host__ __device__ static constexpr int head_pieces(int) { return 0; }

  // The lane's eight elements of x as operand B.
  __device__ static uint4 pack(float4 a, float4 b) {
    using E = Element<T>;
    return {E::pair(a.x, a.y), E::pair(a.z, a.w), E::pair(b.x, b.y), E::pair(b.z, b.w)};
  }

  class Reader {
   public:
    // A panel that is not there stands for the last one: its rows are past n, and never stored.
    __device__ Reader(const void* packed, int tile, const LinearShape& s, Lane lane)
        : packed_(static_cast<const uint4*>(packed)), lines_((s.k + 1) / 2), line_(4 * lane.t) {
      const int panel = min(2 * tile + lane.g / 4, s.panels() - 1);
      base_ = panel * lines_ * 4 + lane.g % 4;
    }
    // Asks for the stage's pieces; lines past k come as zeros.
    __device__ void fetch(int stage, uint4* pieces, uint4*) const {
#pragma unroll
      for (int i = 0; i < kStagePieces; ++i) {
        const int line = 16 * stage + line_ + i;
        const bool there = line < lines_;
        cp_async_16(pieces + i * 32, packed_ + base_ + (there ? 4 * line : 0), there ? 16 : 0);
      }
    }

   private:
    const uint4* packed_;
    int lines_, line_, base_;
  };

  template <int kColumnTiles>
  class Sum {
   public:
    float total[2][kColumnTiles][4];

    __device__ explicit Sum(const LinearShape&) {}
    __device__ void begin() { clear(total); }
    // pieces: the lane's, in shared memory. x(chunk of the stage, tile).
    template <class X>
    __device__ void add(int, const uint4* pieces, const uint4*, Lane, X&& x) {
      const uint4 p = pieces[0], q = pieces[32], r = pieces[64], s = pieces[96];
      const std::uint32_t a[2][2][4] = {{{p.x, p.y, q.x, q.y}, {r.x, r.y, s.x, s.y}},
                                        {{p.z, p.w, q.z, q.w}, {r.z, r.w, s.z, s.w}}};
      multiply<T>(total, a, [&](int tile) { return x(0, tile); });
    }
  };
};

// ---- w4
// ------------------------------------------------------------------------------------------ q - z
// is a bf16 exactly (128 + q has bits 0x4300 | q), so products of a group add up unscaled and s
// multiplies the group's f32 sum: the weights are not rounded, x alone is.
struct W4Format {
  static constexpr int kStageChunks = kUnitChunks;
  static constexpr int kHeadPieces = 4 * 8;
  // A group has 1 << shift chunks.
  __device__ static int shift_of(int group) { return group == 128 ? 2 : group == 64 ? 1 : 0; }
  // Groups of a stage, a head of two panels each.
  __host__ __device__ static constexpr int head_pieces(int group) {
    return kUnitChunks * kChunk / group * 8;
  }

  __device__ static uint4 pack(float4 a, float4 b) {
    using E = Element<__nv_bfloat16>;
    return {E::pair(a.x, b.x), E::pair(a.y, b.y), E::pair(a.z, b.z), E::pair(a.w, b.w)};
  }

  __device__ static std::uint32_t bits_of(__nv_bfloat162 pair) {
    std::uint32_t bits;
    memcpy(&bits, &pair, sizeof(bits));
    return bits;
  }
  __device__ static __nv_bfloat162 pair_of(std::uint32_t bits) {
    __nv_bfloat162 pair;
    memcpy(&pair, &bits, sizeof(pair));
    return pair;
  }

  class Reader {
   public:
    __device__ Reader(const void* packed, int tile, const LinearShape& s, Lane lane)
        : chunks_(s.chunks()), shift_(shift_of(s.group)) {
      const int panel = min(2 * tile + lane.g / 4, s.panels() - 1);
      at_ = static_cast<const uint4*>(packed) +
            (panel * (s.k / 8 + s.k / s.group) * 4 + lane.g % 4 + 4 * lane.t);
    }
    // What is past k is left alone; Sum does not read it.
    __device__ void fetch(int stage, uint4* pieces, uint4* heads) const {
      const Lane lane;
      const int left = min(kUnitChunks, chunks_ - stage * kUnitChunks);
      const uint4* const from = at_ + stage * 4 * (16 + (kUnitChunks >> shift_));
      // The lanes of one g share their rows: lane t takes the head of the stage's group t.
      const int first = lane.t << shift_;
      if (first < left) cp_async_16(heads + lane.t * 8 + lane.g, from + 16 * first);
#pragma unroll
      for (int i = 0; i < kStagePieces; ++i)
        if (i < left) cp_async_16(pieces + i * 32, from + (16 * i + 4 * (i >> shift_) + 4));
    }

   private:
    const uint4* at_;  // the lane's quad of rows in line t
    int chunks_, shift_;
  };

  template <int kColumnTiles>
  class Sum {
   public:
    float total[2][kColumnTiles][4];

    __device__ explicit Sum(const LinearShape& s)
        : group_chunks_(1 << shift_of(s.group)), chunks_(s.chunks()) {}
    __device__ void begin() { clear(total); }
    // Loops and not unrolled: registers decide how many blocks a processor holds, and those hide
    // the latencies. For the same reason the heads are read twice.
    template <class X>
    __device__ void add(int stage, const uint4* pieces, const uint4* heads, Lane lane, X&& x) {
      const int end = min(kUnitChunks, chunks_ - stage * kUnitChunks);
      heads += lane.g;
#pragma unroll 1
      for (int i = 0; i < end; heads += 8) {
        clear(group_);
        const uint4 head = *heads;
        const std::uint32_t zero[4] = {zero_of(head.x), zero_of(head.y), zero_of(head.z),
                                       zero_of(head.w)};
#pragma unroll 1
        for (const int group_end = i + group_chunks_; i < group_end; ++i)
          add_chunk(pieces[i * 32], zero, [&](int tile) { return x(i, tile); });
        scale(*heads);
      }
    }

   private:
    template <class X>
    __device__ void add_chunk(uint4 q, const std::uint32_t (&z)[4], X&& x) {
      const std::uint32_t a[2][2][4] = {
          {{weight(q.x, 0, z[0]), weight(q.y, 0, z[1]), weight(q.x, 1, z[0]), weight(q.y, 1, z[1])},
           {weight(q.x, 2, z[0]), weight(q.y, 2, z[1]), weight(q.x, 3, z[0]),
            weight(q.y, 3, z[1])}},
          {{weight(q.z, 0, z[2]), weight(q.w, 0, z[3]), weight(q.z, 1, z[2]), weight(q.w, 1, z[3])},
           {weight(q.z, 2, z[2]), weight(q.w, 2, z[3]), weight(q.z, 3, z[2]),
            weight(q.w, 3, z[3])}}};
      multiply<__nv_bfloat16>(group_, a, x);
    }
    // The group is done: its sums count by the scales of the lane's four rows.
    __device__ void scale(uint4 head) {
      const float s[4] = {scale_of(head.x), scale_of(head.y), scale_of(head.z), scale_of(head.w)};
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int tile = 0; tile < kColumnTiles; ++tile)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            total[half][tile][i] =
                __fmaf_rn(s[2 * half + i / 2], group_[half][tile][i], total[half][tile][i]);
    }
    __device__ static float scale_of(std::uint32_t head) { return __uint_as_float(head & ~15u); }
    // 128 + z twice, as bf16.
    __device__ static std::uint32_t zero_of(std::uint32_t head) {
      return 0x43004300u | (head & 15u) * 0x00010001u;
    }
    // q - z of a word's elements `pair` and `pair` + 4.
    __device__ static std::uint32_t weight(std::uint32_t word, int pair, std::uint32_t zero) {
      const std::uint32_t q = (word >> 4 * pair & 0x000f000fu) | 0x43004300u;
      return bits_of(__hsub2(pair_of(q), pair_of(zero)));
    }

    float group_[2][kColumnTiles][4];
    int group_chunks_, chunks_;
  };
};

}  // namespace dream_r::cuda
