#pragma once
// Starts the kernel that a problem's plan names.
#include <algorithm>
#include <type_traits>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/linear_plan.cuh"
#include "ops/cuda/linear_thin.cuh"
#include "ops/cuda/linear_wide.cuh"

namespace dream_r::cuda {

template <class Format, class Source>
void run_thin(const Source& source, const LinearShape& s, unsigned slots, const float* x,
              const float* bias, float* out, cudaStream_t stream) {
  const int tiles = kWarps / s.slices;
  const dim3 grid((s.tiles() + tiles - 1) / tiles, slots);
  launch(linear_thin<Format, Source>,
         {grid, kWarps * 32, static_cast<std::size_t>(kThinBytes<Format>), stream}, source, s, x,
         bias, out);
}

template <class Format, int kColumnTiles, class Source>
void run_columns(const Source& source, const LinearShape& s, const WidePlan& plan,
                 const WideScratch& scratch, const float* bias, float* out, cudaStream_t stream) {
  const auto bytes = static_cast<std::size_t>(wide_bytes<Format, kColumnTiles>(s.group));
  launch(linear_wide<Format, kColumnTiles, Source>, {plan.grid, kWarps * 32, bytes, stream}, source,
         s, scratch, bias, out);
}

// Rounds x into scratch and returns where the wide kernel finds everything.
template <class Format>
WideScratch pack_x(const LinearShape& s, const WidePlan& plan, const float* x, void* scratch,
                   cudaStream_t stream) {
  constexpr int kThreads = 256;
  auto* at = static_cast<std::byte*>(scratch);
  const WideScratch to{reinterpret_cast<uint4*>(at), plan.x_rows,
                       reinterpret_cast<float*>(at + plan.x_bytes),
                       reinterpret_cast<unsigned*>(at + plan.x_bytes + plan.partial_bytes)};
  const std::int64_t pieces = std::int64_t{plan.x_rows} * s.chunks() * 4;
  const auto arrivals = static_cast<int>(plan.arrivals);
  const std::int64_t threads = std::max<std::int64_t>(pieces, arrivals);
  const dim3 grid(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
  launch(linear_pack<Format>, {grid, kThreads, 0, stream}, x, s, to, arrivals);
  return to;
}

template <class Format>
void run_linear(const LinearProblem& p, void* scratch, cudaStream_t stream) {
  const LinearShape s = shape_of(p);
  const OneWeight source{p.weight, s.rows};
  if (is_thin(s, false)) return run_thin<Format>(source, s, 1, p.x, p.bias, p.out, stream);
  const WidePlan plan = wide_plan(s, 0);
  const WideScratch w = pack_x<Format>(s, plan, p.x, scratch, stream);
  const auto run = [&](auto tiles) {
    run_columns<Format, tiles()>(source, s, plan, w, p.bias, p.out, stream);
  };
  switch (plan.columns) {
    case 8:
      return run(std::integral_constant<int, 1>());
    case 16:
      return run(std::integral_constant<int, 2>());
    case 32:
      return run(std::integral_constant<int, 4>());
    default:
      return run(std::integral_constant<int, 8>());
  }
}

template <class Format>
void run_grouped(const GroupedProblem& p, void* scratch, cudaStream_t stream) {
  const LinearShape s = shape_of(p);
  const Experts source = experts_of(p);
  const auto slots = static_cast<int>(std::min(p.rows, p.experts));
  if (is_thin(s, true)) return run_thin<Format>(source, s, slots, p.x, nullptr, p.out, stream);
  const WidePlan plan = wide_plan(s, slots);
  const WideScratch w = pack_x<Format>(s, plan, p.x, scratch, stream);
  run_columns<Format, 4>(source, s, plan, w, nullptr, p.out, stream);
}

}  // namespace dream_r::cuda
