#include "quant/w4.h"

#include <bit>
#include <cmath>

#include "quant/layouts.h"

namespace dream_r::quant {
namespace {

constexpr std::int64_t kPanel = 16;

void check_tensor(const W4Matrix& m, const char* what, const Tensor& t, const Shape& shape) {
  DR_CHECK(t.defined() && t.shape() == shape)
      << m.name << ": " << what << " " << t.shape().str() << ", " << shape.str() << " wanted";
}

void check_matrix(const W4Matrix& m) {
  DR_CHECK(m.n > 0 && m.k > 0) << m.name << ": empty matrix";
  check_group(m.name, m.k, m.group);
  const std::int64_t groups = m.k / m.group;
  if (m.layout == W4Layout::awq_gemm) {
    DR_CHECK(m.n % 8 == 0) << m.name << ": " << m.n << " outputs are no multiple of 8";
    check_tensor(m, "words", m.words, {m.k, m.n / 8});
    check_tensor(m, "scales", m.scales, {groups, m.n});
    check_tensor(m, "zeros", m.zeros, {groups, m.n / 8});
    return;
  }
  check_tensor(m, "words", m.words, {m.n, m.k / 8});
  check_tensor(m, "scales", m.scales, {m.n, groups});
  if (m.zeros.defined()) check_tensor(m, "zeros", m.zeros, {(m.n + 7) / 8, groups});
}

void check_scales(const W4Matrix& m) {
  for (std::int64_t i = 0; i < m.scales.numel(); ++i) {
    const float s = float_at(m.scales, i);
    DR_CHECK(std::isfinite(s)) << m.name << ": scale " << i << " is " << s;
    DR_CHECK((std::bit_cast<std::uint32_t>(s) & 15u) == 0)
        << m.name << ": scale " << i << " has more than 20 significant bits; fp16 or bf16 wanted";
  }
}

// Writes eight rows at a time, through the groups of sixteen such blocks before the next group: in
// the AWQ layout those share cache lines.
template <class Layout>
void pack_blocks(const Layout& from, std::int64_t block, std::int64_t end, std::int64_t first,
                 const LinearWeight& w) {
  constexpr std::int64_t kBlocks = 16;
  const std::int64_t lines = w.group / 8, steps = w.steps();
  std::uint32_t eight[8];
  const auto put = [&](std::int64_t row, std::int64_t count, std::int64_t step) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t to = first + row + i;
      const std::int64_t at = (to / kPanel * steps + step) * kPanel + to % kPanel;
      w.packed.data<std::uint32_t>()[at] = eight[i];
    }
  };
  for (; block < end; block += kBlocks)
    for (std::int64_t g = 0; g < w.k / w.group; ++g)
      for (std::int64_t b = block; b < std::min(block + kBlocks, end); ++b) {
        const std::int64_t row = 8 * b, count = std::min<std::int64_t>(8, from.m.n - row);
        from.heads(row, count, g, eight);
        put(row, count, g * (lines + 1));
        for (std::int64_t i = 0; i < lines; ++i) {
          from.words(row, count, g * lines + i, eight);
          put(row, count, g * (lines + 1) + 1 + i);
        }
      }
}

}  // namespace

void check_group(const std::string& name, std::int64_t k, std::int64_t group) {
  DR_CHECK(group == 32 || group == 64 || group == 128)
      << name << ": group size " << group << " is not supported, 32, 64 or 128 is";
  DR_CHECK(k % group == 0) << name << ": group size " << group << " does not divide " << k
                           << " inputs";
}

LinearWeight pack_w4(Stream& stream, std::span<const W4Matrix> sources) {
  DR_CHECK(!sources.empty()) << "pack_w4: no matrices";
  const std::int64_t k = sources[0].k, group = sources[0].group;
  std::int64_t n = 0;
  for (const W4Matrix& m : sources) {
    check_matrix(m);
    check_scales(m);
    DR_CHECK(m.k == k && m.group == group)
        << m.name << ": " << m.k << " inputs in groups of " << m.group << " do not stack on " << k
        << " in groups of " << group;
    n += m.n;
  }
  LinearWeight w = empty_linear(WeightFormat::w4, n, k, group);
  zero_padding(w);
  std::int64_t first = 0;
  for (const W4Matrix& m : sources) {
    stream.parallel_for((m.n + 7) / 8, 16, [&](auto begin, auto end) {
      if (m.layout == W4Layout::awq_gemm) {
        pack_blocks(AwqGemm{m}, begin, end, first, w);
      } else {
        pack_blocks(PackQuantized{m}, begin, end, first, w);
      }
    });
    first += m.n;
  }
  return w;
}

}  // namespace dream_r::quant
