#pragma once
#include <pybind11/pybind11.h>

namespace dream_r {

void bind_ops(pybind11::module_& m);       // single ops on numpy arrays, for tests and benchmarks
void bind_model(pybind11::module_& m);     // models and token-level sessions
void bind_engine(pybind11::module_& m);    // the runtime
void bind_simulate(pybind11::module_& m);  // the manager on a virtual clock

}  // namespace dream_r
