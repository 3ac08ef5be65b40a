// Single ops on numpy arrays (float32, C order; others are converted), for tests and benchmarks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <numeric>
#include <optional>

#include "ops/ops.h"
#include "python/bind.h"
#include "quant/w4.h"

namespace py = pybind11;

namespace dream_r {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ids = std::vector<std::int32_t>;
using Words = py::array_t<std::int32_t, py::array::c_style>;

// A view of the array's memory; the array outlives the call it is made for.
template <class Array>
Tensor view(const Array& a) {
  const std::vector<std::int64_t> shape(a.shape(), a.shape() + a.ndim());
  auto* memory = const_cast<typename Array::value_type*>(a.data());
  auto buffer = Buffer::borrow(memory, static_cast<std::size_t>(a.nbytes()), {});
  auto* data = buffer->data();
  const DType type = std::is_same_v<Array, Words> ? DType::i32 : DType::f32;
  return Tensor(std::move(buffer), data, type, Shape(std::span(shape)));
}

Tensor view(Ids& ids) {
  auto buffer = Buffer::borrow(ids.data(), ids.size() * sizeof(ids[0]), {});
  auto* data = buffer->data();
  return Tensor(std::move(buffer), data, DType::i32, {static_cast<std::int64_t>(ids.size())});
}

WeightFormat format_of(const std::string& name) {
  DR_CHECK(name == "f32" || name == "bf16") << "format \"" << name << "\", f32 or bf16 wanted";
  return name == "f32" ? WeightFormat::f32 : WeightFormat::bf16;
}

LinearWeight pack(Stream& s, const Floats& w, const std::string& format,
                  const std::optional<Floats>& bias) {
  const Tensor source = view(w);
  LinearWeight packed = pack_linear(s, std::span(&source, 1), format_of(format));
  if (bias) {
    DR_CHECK(bias->ndim() == 1 && bias->shape(0) == packed.n)
        << "pack_linear: bias of " << bias->size() << " elements for " << packed.n << " outputs";
    packed.bias = Tensor::empty({packed.n}, DType::f32);
    std::copy_n(bias->data(), packed.n, packed.bias.f32());
  }
  return packed;
}

LinearWeight pack_int4(Stream& s, const std::string& layout, const Words& words,
                       const Floats& scales, const std::optional<Words>& zeros, int group) {
  const bool awq = layout == "awq";
  DR_CHECK(awq || layout == "pack-quantized")
      << "pack_w4: layout \"" << layout << "\", awq or pack-quantized wanted";
  DR_CHECK(words.ndim() == 2) << "pack_w4: words of " << words.ndim() << " dimensions, 2 wanted";
  quant::W4Matrix m{"pack_w4",
                    quant::W4Layout::awq_gemm,
                    8 * words.shape(1),
                    words.shape(0),
                    group,
                    view(words),
                    view(scales),
                    {}};
  if (!awq) {
    m.layout = quant::W4Layout::pack_quantized;
    m.n = words.shape(0), m.k = 8 * words.shape(1);
  }
  if (zeros) m.zeros = view(*zeros);
  return quant::pack_w4(s, std::span(&m, 1));
}

// Into `out` where given (then nothing is allocated), else into a new array.
Floats linear(Stream& s, const Floats& x, const LinearWeight& w, std::optional<Floats> out) {
  DR_CHECK(x.ndim() == 2) << "linear: x has " << x.ndim() << " dimensions, 2 wanted";
  Floats y =
      out ? *out : Floats({static_cast<py::ssize_t>(x.shape(0)), static_cast<py::ssize_t>(w.n)});
  const Tensor in = view(x), to = view(y);
  py::gil_scoped_release release;
  ops::linear(s, in, w, to);
  return y;
}

// Causal attention of one sequence: writes its keys and values into a fresh cache, then attends.
Floats attention(Stream& s, const Floats& qkv, int q, int kv, int dim, const std::string& cache) {
  DR_CHECK(qkv.ndim() == 2) << "attention: qkv has " << qkv.ndim() << " dimensions, 2 wanted";
  const auto tokens = static_cast<std::int32_t>(qkv.shape(0));
  const std::int64_t blocks = (tokens + 15) / 16;
  const DType type = format_of(cache) == WeightFormat::f32 ? DType::f32 : DType::bf16;
  const ops::KvLayer layer{Tensor::empty({blocks, kv, dim, 16}, type),
                           Tensor::empty({blocks, kv, 16, dim}, type)};
  Ids table(static_cast<std::size_t>(blocks)), slots(static_cast<std::size_t>(tokens));
  std::iota(table.begin(), table.end(), 0);
  std::iota(slots.begin(), slots.end(), 0);
  Floats out({static_cast<py::ssize_t>(tokens), static_cast<py::ssize_t>(q * dim)});
  const ops::AttentionRow row{0, tokens, nullptr, 0, table.data(), 0};
  ops::kv_write(s, view(qkv), {q, kv, dim}, view(slots), layer);
  ops::attention(s, view(qkv), {q, kv, dim}, layer, std::span(&row, 1), view(out));
  return out;
}

std::int32_t sample(const Floats& logits, const ops::SamplingParams& params, const Ids& seen,
                    const Ids& suppressed, const ops::SampleKey& key) {
  std::vector<float> row(logits.data(), logits.data() + logits.size());
  return ops::sample(row, params, seen, suppressed, key);
}

void bind_sampling(py::module_& m) {
  m.def(
      "sample",
      [](const Floats& logits, float temperature, int top_k, float top_p, float min_p,
         float repetition_penalty, float presence_penalty, const Ids& seen, const Ids& suppressed,
         std::uint64_t seed, std::uint64_t request, std::uint32_t step, std::uint32_t author,
         std::uint32_t token) {
        return sample(logits,
                      {temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty},
                      seen, suppressed, {seed, request, step, author, token});
      },
      py::arg("logits"), py::kw_only(), py::arg("temperature") = 0.0f, py::arg("top_k") = 0,
      py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f, py::arg("repetition_penalty") = 1.0f,
      py::arg("presence_penalty") = 0.0f, py::arg("seen") = Ids{}, py::arg("suppressed") = Ids{},
      py::arg("seed") = 0, py::arg("request") = 0, py::arg("step") = 0, py::arg("author") = 0,
      py::arg("token") = 0);
  m.def(
      "uniform",
      [](std::uint64_t seed, std::uint64_t request, std::uint32_t step, std::uint32_t author,
         std::uint32_t token) { return ops::uniform({seed, request, step, author, token}); },
      py::arg("seed"), py::arg("request"), py::arg("step"), py::arg("author"), py::arg("token"));
}

}  // namespace

void bind_ops(py::module_& m) {
  py::class_<Stream>(m, "Stream")
      .def(py::init<int, int>(), py::arg("threads") = 1, py::arg("spin_us") = 50)
      .def_property_readonly("threads", &Stream::threads);
  py::class_<LinearWeight>(m, "LinearWeight", "A matrix [n, k] packed for linear()")
      .def_readonly("n", &LinearWeight::n)
      .def_readonly("k", &LinearWeight::k)
      .def_property_readonly("nbytes", &LinearWeight::nbytes)
      .def("select_rows", [](const LinearWeight& w, const Ids& ids) {
        Stream stream(w.packed.device());
        return select_rows(stream, w, ids);
      });
  m.def("pack_linear", &pack, py::arg("stream"), py::arg("weight"), py::arg("format") = "bf16",
        py::arg("bias") = py::none());
  m.def("pack_w4", &pack_int4, py::arg("stream"), py::arg("layout"), py::arg("words"),
        py::arg("scales"), py::arg("zeros") = py::none(), py::arg("group") = 128,
        "An INT4 matrix of AutoAWQ's gemm layout (\"awq\") or compressed-tensors' "
        "\"pack-quantized\"");
  m.def("linear", &linear, py::arg("stream"), py::arg("x"), py::arg("weight"),
        py::arg("out").noconvert() = py::none());
  m.def(
      "rms_norm",
      [](Stream& s, const Floats& x, const Floats& w, float eps) {
        Floats out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
        ops::rms_norm(s, view(x), view(w), eps, view(out));
        return out;
      },
      py::arg("stream"), py::arg("x"), py::arg("weight"), py::arg("eps") = 1e-6f);
  m.def("attention", &attention, py::arg("stream"), py::arg("qkv"), py::arg("q"), py::arg("kv"),
        py::arg("dim"), py::arg("cache") = "f32");
  m.def(
      "segment_attention",
      [](Stream& s, const Floats& qkv, int heads, int dim, const Ids& cu) {
        DR_CHECK(qkv.ndim() == 2) << "segment_attention: qkv has " << qkv.ndim() << " dimensions";
        Floats out({qkv.shape(0), static_cast<py::ssize_t>(heads * dim)});
        ops::segment_attention(s, view(qkv), heads, dim, cu, ops::Products::f32, view(out));
        return out;
      },
      py::arg("stream"), py::arg("qkv"), py::arg("heads"), py::arg("dim"), py::arg("cu"));
  bind_sampling(m);
}

}  // namespace dream_r
