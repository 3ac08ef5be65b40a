#pragma once
// Where memory lies and ops run: the CPU, or one of the CUDA devices.
#include <cstdint>
#include <string>

namespace dream_r {

enum class DeviceKind : std::uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  constexpr bool on_cuda() const { return kind == DeviceKind::cuda; }
  constexpr bool operator==(const Device&) const = default;
  std::string str() const;  // "cpu", "cuda:1"
};

constexpr Device cuda_device(int index = 0) { return {DeviceKind::cuda, index}; }

// "cpu", "cuda" (the first) or "cuda:<index>". Error (input) for anything else; whether there is
// such a device shows when it is first used.
Device parse_device(const std::string& name);

// Whether this build has the CUDA kernels: the one place that asks the macro.
#if defined(DREAM_R_HAS_CUDA)
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

}  // namespace dream_r
