// Models for tests: load a checkpoint, run token lists through one sequence or a whole batch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <numeric>

#include "model/model.h"
#include "model/positions.h"
#include "model/safetensors.h"
#include "ops/ops.h"

namespace py = pybind11;

namespace dream_r {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = std::vector<std::int32_t>;

py::array_t<float> to_numpy(const Tensor& t) {
  std::vector<py::ssize_t> shape;
  for (int i = 0; i < t.shape().rank(); ++i) shape.push_back(t.dim(i));
  py::array_t<float> out(shape);
  Stream stream(t.device());
  std::memcpy(out.mutable_data(), ops::copy_to(stream, t, {}).f32(), t.nbytes());
  return out;
}

Tensor from_numpy(const Floats& a) {
  std::vector<std::int64_t> shape(a.shape(), a.shape() + a.ndim());
  Tensor t = Tensor::empty(Shape(std::span<const std::int64_t>(shape)), DType::f32);
  std::memcpy(t.f32(), a.data(), t.nbytes());
  return t;
}

DType dtype_of(const std::string& name) {
  for (const DType t : {DType::f32, DType::bf16, DType::f16, DType::i16})
    if (name == name_of(t)) return t;
  DR_FAIL(input) << "dtype \"" << name << "\", f32, bf16, f16 or i16 wanted";
}

// One row of a batch as Python gives it; see BatchRow.
struct Row {
  Ints tokens;
  std::vector<Position> positions;
  Ints table;
  std::int32_t length = 0;
  Ints prefix_table;
  std::int32_t prefix_length = 0;
  std::shared_ptr<ImageFeatures> features;
  Ints feature_rows;
};

// A cache, a stream and an arena around a model, and one sequence in blocks 0, 1, 2, ...
class Session {
 public:
  Session(std::shared_ptr<Model> model, std::int32_t blocks, int threads)
      : model_(std::move(model)),
        stream_(Stream::on(model_->device(), threads, 0)),
        arena_(model_->device()),
        kv_(model_->kv_shape(), blocks, model_->device()),
        table_(static_cast<std::size_t>(blocks)) {
    std::iota(table_.begin(), table_.end(), 0);
  }

  std::shared_ptr<ImageFeatures> encode_images(const Floats& patches,
                                               const std::vector<Grid>& grid) {
    const Tensor input = from_numpy(patches);
    py::gil_scoped_release release;
    return std::make_shared<ImageFeatures>(model_->encode_images(stream_, input, grid));
  }

  // Logits [wanted, vocab] (or [wanted, keywords], all of a call of one kind).
  py::array_t<float> forward(const std::vector<Row>& rows,
                             const std::vector<std::pair<std::int32_t, std::int32_t>>& wanted,
                             const Ints& keywords) {
    Batch batch;
    for (const Row& r : rows)
      batch.rows.push_back({r.tokens,
                            r.positions,
                            {r.prefix_table.data(), r.prefix_length},
                            {r.table.data(), r.length},
                            r.features.get(),
                            r.feature_rows});
    for (const auto& [row, token] : wanted) batch.wanted.push_back({row, token, !keywords.empty()});
    check_tables(rows);
    Tensor logits;
    {
      py::gil_scoped_release release;
      const LinearWeight head = keywords.empty() ? LinearWeight() : model_->keyword_head(keywords);
      const ForwardResult result = model_->forward(stream_, arena_, kv_, batch, head);
      logits = ops::copy_to(stream_, keywords.empty() ? result.full : result.keywords, {});
    }
    py::array_t<float> out(
        {wanted.size(), static_cast<std::size_t>(wanted.empty() ? 0 : logits.dim(1))});
    if (!wanted.empty()) std::memcpy(out.mutable_data(), logits.f32(), logits.nbytes());
    return out;
  }

  // The next tokens of the session's own sequence; logits of each of them.
  py::array_t<float> append(const Ints& tokens, const std::vector<Position>& positions,
                            std::shared_ptr<ImageFeatures> features, const Ints& feature_rows) {
    Row row{tokens, positions, table_, length_, {}, 0, std::move(features), feature_rows};
    std::vector<std::pair<std::int32_t, std::int32_t>> wanted;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      wanted.emplace_back(0, static_cast<std::int32_t>(i));
    auto logits = forward({std::move(row)}, wanted, {});
    length_ += static_cast<std::int32_t>(tokens.size());
    return logits;
  }

  void truncate(std::int32_t length) {
    DR_CHECK(length >= 0 && length <= length_) << "truncate " << length_ << " tokens to " << length;
    length_ = length;
  }
  std::int32_t length() const { return length_; }
  std::size_t arena_bytes() const { return arena_.capacity(); }

 private:
  // forward() trusts the length of a table, Python lists are checked here.
  static void check_tables(const std::vector<Row>& rows) {
    const auto holds = [](const Ints& table, std::size_t tokens) {
      return table.size() * KvStore::kBlock >= tokens;
    };
    for (const Row& r : rows)
      DR_CHECK(r.length >= 0 && r.prefix_length >= 0 &&
               holds(r.table, static_cast<std::size_t>(r.length) + r.tokens.size()) &&
               holds(r.prefix_table, static_cast<std::size_t>(r.prefix_length)))
          << "a block table is too short for its tokens";
  }

  std::shared_ptr<const Model> model_;
  Stream stream_;
  Arena arena_;
  KvStore kv_;
  Ints table_;
  std::int32_t length_ = 0;
};

// Python sees no const: a Model has no method that changes it.
std::shared_ptr<Model> load(const std::string& folder, const std::string& dtype, int threads,
                            const std::string& device) {
  const LoadOptions options{dtype_of(dtype), threads, parse_device(device)};
  py::gil_scoped_release release;
  return std::const_pointer_cast<Model>(load_model(folder, options));
}

// name -> (dtype as the header spells it, shape, bytes)
py::dict read_index(const std::string& folder) {
  const Checkpoint checkpoint(folder);
  py::dict found;
  for (const std::string& name : checkpoint.names()) {
    const SafetensorsEntry& e = checkpoint.entry(name);
    found[py::str(name)] = py::make_tuple(e.dtype, py::tuple(py::cast(e.shape)), e.end - e.begin);
  }
  return found;
}

py::tuple positions(const Model& model, const Ints& ids, const std::vector<Grid>& grids) {
  const PromptPositions p = prompt_positions(ids, grids, model.config());
  return py::make_tuple(p.positions, p.delta, p.feature_rows);
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def_property_readonly("weight_bytes", &Model::weight_bytes)
      .def_property_readonly("vocab", [](const Model& l) { return l.config().text.vocab; })
      .def_property_readonly("layers", [](const Model& l) { return l.config().text.layers; })
      .def_property_readonly("max_positions",
                             [](const Model& l) { return l.config().text.max_positions; })
      .def_property_readonly(
          "kv_bytes_per_token",
          [](const Model& l) { return l.kv_shape().block_bytes() / KvStore::kBlock; })
      .def_property_readonly("device", [](const Model& l) { return l.device().str(); })
      .def("positions", &positions, py::arg("ids"), py::arg("grids"),
           "(positions [T, 3], delta, feature rows) of a prompt with images");
  m.def("load", &load, py::arg("folder"), py::arg("dtype") = "bf16", py::arg("threads") = 1,
        py::arg("device") = "cpu");
  m.def("check", [](const std::string& folder) { check_model(folder); }, py::arg("folder"));
  m.def("read_index", &read_index, py::arg("folder"));
  py::class_<ImageFeatures, std::shared_ptr<ImageFeatures>>(m, "ImageFeatures")
      .def_property_readonly("embeds", [](const ImageFeatures& f) { return to_numpy(f.embeds); })
      .def_property_readonly("deepstack", [](const ImageFeatures& f) {
        py::list levels;
        for (const Tensor& t : f.deepstack) levels.append(to_numpy(t));
        return levels;
      });
  py::class_<Row>(m, "Row").def(
      py::init([](Ints tokens, std::vector<Position> positions, Ints table, std::int32_t length,
                  Ints prefix_table, std::int32_t prefix_length,
                  std::shared_ptr<ImageFeatures> features, Ints feature_rows) {
        return Row{std::move(tokens),       std::move(positions),
                   std::move(table),        length,
                   std::move(prefix_table), prefix_length,
                   std::move(features),     std::move(feature_rows)};
      }),
      py::arg("tokens"), py::arg("positions"), py::arg("table"), py::arg("length") = 0,
      py::arg("prefix_table") = Ints{}, py::arg("prefix_length") = 0, py::arg("features") = nullptr,
      py::arg("feature_rows") = Ints{});
  py::class_<Session>(m, "Session")
      .def(py::init<std::shared_ptr<Model>, std::int32_t, int>(), py::arg("model"),
           py::arg("blocks"), py::arg("threads") = 1)
      .def("encode_images", &Session::encode_images, py::arg("patches"), py::arg("grid"))
      .def("forward", &Session::forward, py::arg("rows"), py::arg("wanted"),
           py::arg("keywords") = Ints{})
      .def("append", &Session::append, py::arg("tokens"), py::arg("positions"),
           py::arg("features") = nullptr, py::arg("feature_rows") = Ints{})
      .def("truncate", &Session::truncate, py::arg("length"))
      .def_property_readonly("length", &Session::length)
      .def_property_readonly("arena_bytes", &Session::arena_bytes);
}

}  // namespace dream_r
