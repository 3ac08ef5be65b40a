// _core.simulate(...): what speed-up to expect, from the manager itself on a virtual clock.
#include <string>

#include "core/check.h"
#include "python/bind.h"
#include "runtime/simulate.h"

namespace py = pybind11;

namespace dream_r {

namespace {

template <class T>
T one_of(const char* what, const std::string& name,
         std::initializer_list<std::pair<const char*, T>> values) {
  for (const auto& [key, value] : values)
    if (name == key) return value;
  DR_FAIL(input) << what << " \"" << name << "\" is unknown";
}

void set_options(SimulateOptions& o, const std::string& method, const std::string& race,
                 const std::string& mode, const std::string& devices) {
  o.engine.method = one_of<Method>(
      "method", method,
      {{"ar", Method::ar}, {"specreason", Method::specreason}, {"fpsr", Method::fpsr}});
  o.engine.race = one_of<Race>("race", race, {{"first", Race::first}, {"verdict", Race::verdict}});
  o.engine.mode = one_of<ModeChoice>("mode", mode,
                                     {{"automatic", ModeChoice::automatic},
                                      {"auto", ModeChoice::automatic},
                                      {"hedged", ModeChoice::hedged},
                                      {"sequential", ModeChoice::sequential},
                                      {"off", ModeChoice::off}});
  o.devices = one_of<Devices>("devices", devices,
                              {{"separate", Devices::separate},
                               {"in_turn", Devices::in_turn},
                               {"beside", Devices::beside}});
}

py::dict as_dict(const SimulateResult& r) {
  py::dict d;
  d["speed_up"] = r.speed_up(), d["per_step"] = r.per_step();
  d["total"] = r.total, d["reasoning"] = r.reasoning, d["alone"] = r.alone;
  d["steps"] = r.steps, d["accepted"] = r.accepted, d["rejected"] = r.rejected;
  d["target_steps"] = r.target_steps, d["drafted"] = r.drafted, d["verified"] = r.verified;
  d["ahead_drafted"] = r.ahead_drafted, d["ahead_verified"] = r.ahead_verified;
  d["wasted_draft_tokens"] = r.wasted_draft_tokens;
  d["wasted_target_tokens"] = r.wasted_target_tokens;
  d["draft_busy"] = r.draft_busy, d["verify_busy"] = r.verify_busy, d["own_busy"] = r.own_busy;
  d["overlap"] = r.overlap;
  return d;
}

}  // namespace

void bind_simulate(py::module_& m) {
  const SimulateOptions base;
  m.def(
      "simulate",
      [](const std::string& method, int window, const std::string& race, const std::string& mode,
         const std::string& devices, double p, double d, double v, double own, double verify_more,
         double prefill, double answer, double spread, double cancel_delay, double relative_draft,
         double relative_target, std::int32_t steps, std::int32_t step_tokens, std::uint64_t seed) {
        SimulateOptions o;
        set_options(o, method, race, mode, devices);
        o.engine.window = window;
        o.acceptance = p, o.draft = d, o.verify = v, o.own = own, o.verify_more = verify_more;
        o.prefill = prefill, o.answer = answer, o.spread = spread, o.cancel_delay = cancel_delay;
        o.relative_draft = relative_draft, o.relative_target = relative_target;
        o.steps = steps, o.step_tokens = step_tokens, o.seed = seed;
        SimulateResult r;
        {
          py::gil_scoped_release release;
          r = simulate(o);
        }
        return as_dict(r);
      },
      py::arg("method") = "fpsr", py::arg("window") = base.engine.window, py::arg("race") = "first",
      py::arg("mode") = "automatic", py::arg("devices") = "separate",
      py::arg("p") = base.acceptance, py::arg("d") = base.draft, py::arg("v") = base.verify,
      py::arg("own") = base.own, py::arg("verify_more") = base.verify_more,
      py::arg("prefill") = base.prefill, py::arg("answer") = base.answer,
      py::arg("spread") = base.spread, py::arg("cancel_delay") = base.cancel_delay,
      py::arg("relative_draft") = base.relative_draft,
      py::arg("relative_target") = base.relative_target, py::arg("steps") = base.steps,
      py::arg("step_tokens") = base.step_tokens, py::arg("seed") = base.seed,
      "Time of one request on a virtual clock, in units of one step of the target (own=1): the\n"
      "acceptance p, the time d of a drafted step and v of a verify pass give the speed-up.\n"
      "devices: separate, in_turn (one saturated device) or beside (relative speeds).");
}

}  // namespace dream_r
