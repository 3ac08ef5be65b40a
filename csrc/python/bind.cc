// The extension module dream_r._core.
#include "python/bind.h"

#include <pybind11/stl.h>

#include <thread>

#include "core/check.h"
#include "core/cuda.h"
#include "core/device.h"
#include "ops/ops.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, m) {
  using dream_r::Error;
  // The one Error type becomes the Python exception a caller would expect, with the same text.
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      switch (e.kind()) {
        case Error::Kind::input:
          return py::set_error(PyExc_ValueError, e.what());
        case Error::Kind::state:
          return py::set_error(PyExc_RuntimeError, e.what());
        case Error::Kind::memory:
          return py::set_error(PyExc_MemoryError, e.what());
      }
    }
  });
  m.def("cpu_isa", &dream_r::cpu_isa, "Kernels that the CPU dispatch picked");
  m.def("cpu_isas", &dream_r::cpu_isas, "Kernels that this machine runs, best last");
  m.def("fastest_dtype", [](const std::string& device) {
    return dream_r::name_of(dream_r::fastest_dtype(dream_r::parse_device(device)));
  });
  m.def("build_info", [] {
    py::dict d;
    d["version"] = DREAM_R_VERSION;
    d["compiler"] = __VERSION__;
    d["cores"] = std::thread::hardware_concurrency();
    d["cuda"] = dream_r::kHasCuda;
    return d;
  });
  m.def("require_device", [](const std::string& name) {
    const dream_r::Device device = dream_r::parse_device(name);
    if (device.on_cuda()) dream_r::cuda::require_device(device.index);
  });
  m.def("cuda_devices", [] {
    std::vector<std::tuple<std::string, std::size_t, std::string>> all;
    for (const auto& d : dream_r::cuda::devices())
      all.emplace_back(d.name, d.bytes, std::to_string(d.major) + "." + std::to_string(d.minor));
    return all;
  });
  m.def("cuda_unusable", &dream_r::cuda::unusable);
  m.def("cuda_free_bytes", &dream_r::cuda::free_bytes, py::arg("index"));
  auto ops = m.def_submodule("ops", "Single ops on numpy arrays");
  dream_r::bind_ops(ops);
  auto model = m.def_submodule("model", "Models and token-level sessions");
  dream_r::bind_model(model);
  dream_r::bind_engine(m);
  dream_r::bind_simulate(m);
}
