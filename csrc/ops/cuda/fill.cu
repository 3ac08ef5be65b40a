// Made-up weights written where they are to lie. A block writes one run of a panel: its words are
// neighbours in the table too, which the second-level cache holds, so the time is that of the
// stores.
#include "ops/fill.h"

#include "ops/cuda/kernels.h"
#include "ops/cuda/launch.cuh"

namespace dream_r::cuda {
namespace {

constexpr int kThreads = 256, kPanel = 16;
constexpr int kRun = static_cast<int>(ops::kFillRun);

__global__ void fill_kernel(const std::uint32_t* table, std::uint64_t key, std::uint32_t head,
                            FillPanels panels, std::uint32_t* packed) {
  follow();
  const int words = static_cast<int>(panels.steps) * kPanel, lines = static_cast<int>(panels.lines);
  const int first = blockIdx.y * kRun;
  const std::int64_t at = std::int64_t{blockIdx.x} * words;
  const std::uint32_t* const run = table + ops::fill_offset(key, at + first);
  for (int i = first + threadIdx.x; i < words && i < first + kRun; i += kThreads) {
    const int line = i / kPanel;
    std::uint32_t word = lines && line % lines == 0 ? head : run[i - first];
    if (panels.half && line == panels.steps - 1) word &= 0xffffu;
    if (std::int64_t{blockIdx.x} * kPanel + i % kPanel >= panels.rows) word = 0;
    packed[at + i] = word;
  }
}

}  // namespace

void fill_panels(const std::uint32_t* table, std::uint64_t key, std::uint32_t head,
                 const FillPanels& panels, std::uint32_t* packed, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(panels.panels),
                  static_cast<unsigned>((panels.steps * kPanel + kRun - 1) / kRun));
  launch(fill_kernel, {grid, kThreads, 0, stream}, table, key, head, panels, packed);
}

}  // namespace dream_r::cuda
