#include "ops/fill.h"

#include <algorithm>
#include <cstring>

#include "ops/checks.h"
#include "ops/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/ops.h"

namespace dream_r::ops {
namespace {

constexpr std::int64_t kPanel = 16;

// Lines of a panel from one head to the next; 0 where there is none.
std::int64_t lines_of_group(const LinearWeight& w) { return w.group ? w.group / 8 + 1 : 0; }

void fill_panel(const std::uint32_t* table, std::uint64_t key, std::int64_t at, std::uint32_t* to,
                std::int64_t words) {
  for (std::int64_t i = 0; i < words; i += kFillRun)
    std::memcpy(to + i, table + fill_offset(key, at + i),
                static_cast<std::size_t>(std::min(kFillRun, words - i)) * sizeof(std::uint32_t));
}

}  // namespace

void fill_linear(Stream& s, const Tensor& table, std::uint64_t key, std::uint32_t head,
                 LinearWeight w) {
  const char* op = "fill_linear";
  DR_CHECK(w.defined()) << op << ": the weight is undefined";
  check_shape(op, "table", table, DType::i32, {kFillOffsets + kFillRun});
  check_device(op, s, table, w.packed);
  const auto* words = table.data<std::uint32_t>();
  auto* packed = w.packed.data<std::uint32_t>();
  const std::int64_t panels = w.packed.dim(0), size = w.steps() * kPanel;
  const std::int64_t lines = lines_of_group(w);
  if (on_cuda(s, [&](auto stream) {
        const bool half = size_of(w.packed.dtype()) == 2 && w.k % 2;
        cuda::fill_panels(words, key, head, {panels, w.steps(), lines, w.n, half}, packed, stream);
      }))
    return;
  s.parallel_for(panels, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      fill_panel(words, key, p * size, packed + p * size, size);
      for (std::int64_t line = 0; lines && line < w.steps(); line += lines)
        std::fill_n(packed + p * size + line * kPanel, kPanel, head);
    }
  });
  zero_padding(w);
}

}  // namespace dream_r::ops
