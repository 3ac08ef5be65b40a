#include "model/picture_tiles.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"

namespace dream_r {
namespace {

// The resolution that keeps most of the picture's pixels, of those the one with the least left
// over.
std::array<int, 2> best_resolution(std::int64_t height, std::int64_t width, const VisionConfig& c) {
  std::array<int, 2> best{};
  std::int64_t most = -1, least_waste = std::numeric_limits<std::int64_t>::max();
  for (const auto& [h, w] : c.pinpoints) {
    const double scale = std::min(static_cast<double>(w) / static_cast<double>(width),
                                  static_cast<double>(h) / static_cast<double>(height));
    const auto wide = static_cast<std::int64_t>(static_cast<double>(width) * scale);
    const auto high = static_cast<std::int64_t>(static_cast<double>(height) * scale);
    const std::int64_t kept = std::min(wide * high, width * height);
    const std::int64_t waste = std::int64_t{w} * h - kept;
    if (kept > most || (kept == most && waste < least_waste)) {
      most = kept, least_waste = waste;
      best = {h, w};
    }
  }
  return best;
}

// The features of all tiles laid side by side, less the padding: rows [top, top + high) and columns
// [left, left + wide) of `across` tiles a row; shrunk to out_high x out_wide.
struct Layout {
  int across, top, left, high, wide, out_high, out_wide;
};

// floor(x) where x is a whole number but for the rounding of a division.
int whole(double x) { return static_cast<int>(std::round(x * 1e7) / 1e7); }

Layout lay_out(const Grid& grid, const VisionConfig& c) {
  const double height = grid[1], width = grid[2];
  const auto [fit_h, fit_w] = best_resolution(grid[1], grid[2], c);
  Layout l{fit_w / c.image, 0, 0, fit_h / c.image * c.side(), fit_w / c.image * c.side(), 0, 0};
  if (width / height > static_cast<double>(l.wide) / l.high) {
    l.top = (l.high - whole(height * (l.wide / width))) / 2;
    l.high -= 2 * l.top;
  } else {
    l.left = (l.wide - whole(width * (l.high / height))) / 2;
    l.wide -= 2 * l.left;
  }
  const double ratio = std::sqrt(static_cast<double>(l.high) * l.wide /
                                 (static_cast<double>(c.max_tiles) * c.side() * c.side()));
  // Python's x // ratio, which is not floor(x / ratio) where that division rounds up.
  const auto shrunk = [ratio](int x) {
    return ratio > 1.1 ? static_cast<int>(std::round((x - std::fmod(x, ratio)) / ratio)) : x;
  };
  l.out_high = shrunk(l.high), l.out_wide = shrunk(l.wide);
  return l;
}

void check(const Grid& grid, const VisionConfig& c) {
  constexpr std::int32_t kMost = 1 << 20;
  DR_CHECK(grid[1] > 0 && grid[2] > 0 && grid[1] <= kMost && grid[2] <= kMost)
      << "a picture of " << grid[1] << " x " << grid[2] << " pixels";
  const auto [h, w] = best_resolution(grid[1], grid[2], c);
  const int tiles = 1 + h / c.image * (w / c.image);
  DR_CHECK(grid[0] == tiles) << "a picture of " << grid[1] << " x " << grid[2] << " pixels has "
                             << tiles << " tiles, not " << grid[0];
}

// Linear interpolation along one axis, pixel centres aligned, as torch's interpolate.
struct Taps {
  std::int32_t at[2];
  float weight[2];
};
Taps taps(int i, int size, int source) {
  const float scale = static_cast<float>(source) / static_cast<float>(size);
  const float at = std::max((static_cast<float>(i) + 0.5f) * scale - 0.5f, 0.0f);
  const int low = std::min(static_cast<int>(at), source - 1);
  const float part = at - static_cast<float>(low);
  return {{low, std::min(low + 1, source - 1)}, {1.0f - part, part}};
}

}  // namespace

std::int64_t tile_tokens(const Grid& grid, const VisionConfig& c) {
  check(grid, c);
  const Layout l = lay_out(grid, c);
  return std::int64_t{c.side()} * c.side() + std::int64_t{l.out_high} * (l.out_wide + 1);
}

TileTaps tile_taps(const Grid& grid, const VisionConfig& c) {
  const std::int64_t n = tile_tokens(grid, c);
  const int side = c.side(), tile = side * side;
  const Layout l = lay_out(grid, c);
  TileTaps out{Tensor::empty({n, 4}, DType::i32), Tensor::empty({n, 4}, DType::f32)};
  auto* index = out.index.data<std::int32_t>();
  float* weight = out.weight.f32();
  const auto put = [&](std::int32_t row) {
    for (int k = 0; k < 4; ++k) *index++ = row, *weight++ = k == 0 ? 1.0f : 0.0f;
  };
  const auto row_of = [&](int y, int x) {
    return tile * (1 + y / side * l.across + x / side) + y % side * side + x % side;
  };
  for (int i = 0; i < tile; ++i) put(i);
  for (int y = 0; y < l.out_high; ++y) {
    const Taps ty = taps(y, l.out_high, l.high);
    for (int x = 0; x < l.out_wide; ++x) {
      const Taps tx = taps(x, l.out_wide, l.wide);
      for (int k = 0; k < 4; ++k) {
        *index++ = row_of(l.top + ty.at[k / 2], l.left + tx.at[k % 2]);
        *weight++ = ty.weight[k / 2] * tx.weight[k % 2];
      }
    }
    put(tile * grid[0]);
  }
  return out;
}

}  // namespace dream_r
