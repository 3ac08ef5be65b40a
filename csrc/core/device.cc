#include "core/device.h"

#include <charconv>

#include "core/check.h"

namespace dream_r {

std::string Device::str() const {
  return on_cuda() ? "cuda:" + std::to_string(index) : std::string("cpu");
}

Device parse_device(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "cuda") return cuda_device();
  int index = -1;
  if (name.starts_with("cuda:")) {
    const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), index);
    if (error != std::errc{} || end != name.data() + name.size()) index = -1;
  }
  DR_CHECK(index >= 0) << "device \"" << name << "\" is neither cpu, cuda nor cuda:<index>";
  return cuda_device(index);
}

}  // namespace dream_r
