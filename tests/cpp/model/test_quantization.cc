#include "model/quantization.h"

#include <string>

#include "doctest.h"
#include "files.h"
#include "fuzz.h"

using namespace dream_r;
using test::error_of;
using test::has;
using Method = Quantization::Method;

namespace {

const std::string kAwq = R"({"quant_method": "awq", "bits": 4, "group_size": 128,
  "zero_point": true, "version": "gemm", "modules_to_not_convert": ["visual"]})";

const std::string kPacked = R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
  "quantization_status": "compressed", "global_compression_ratio": 1.5, "kv_cache_scheme": null,
  "ignore": ["lm_head", "re:.*visual.*"], "sparsity_config": {}, "transform_config": {},
  "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": null,
    "output_activations": null, "format": "pack-quantized",
    "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group",
      "group_size": 32, "block_structure": null, "dynamic": false, "actorder": null,
      "observer": "minmax", "observer_kwargs": {}}}}, "version": "0.11.0"})";

Quantization read(const std::string& text) {
  const Json root = Json::parse(text, "config.json");
  return read_quantization(Section(root, "config.json"));
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

// The Error of one edit; one line that names the file.
std::string refused(const std::string& text, const std::string& from, const std::string& to) {
  const std::string error = error_of([&] { read(with(text, from, to)); });
  CHECK(has(error, "config.json"));
  CHECK_FALSE(has(error, "\n"));
  return error;
}

}  // namespace

TEST_CASE("quantization: the two methods") {
  const Quantization awq = read(kAwq);
  CHECK(awq.method == Method::awq);
  CHECK(awq.group == 128);
  CHECK(read(with(kAwq, "gemm", "GEMM")).group == 128);
  CHECK(read(with(kAwq, R"("version")", R"("format")")).group == 128);

  const Quantization packed = read(kPacked);
  CHECK(packed.method == Method::pack_quantized);
  CHECK(packed.group == 32);
  CHECK(packed.symmetric);
  CHECK_FALSE(read(with(kPacked, R"("symmetric": true)", R"("symmetric": false)")).symmetric);
  CHECK(read(with(kPacked, R"("actorder": null)", R"("actorder": "static")")).group == 32);
}

TEST_CASE("quantization: what is not supported is refused by key") {
  CHECK(has(refused(kAwq, R"("bits": 4)", R"("bits": 3)"), "\"bits\" is 3, only 4"));
  CHECK(has(refused(kAwq, "gemm", "gemv"), "\"version\" is \"gemv\", only \"gemm\""));
  CHECK(has(refused(kAwq, "gemm", "marlin"), "\"version\""));
  CHECK(has(refused(kAwq, "128", "-1"), "\"group_size\" must be 32, 64 or 128"));
  CHECK(has(refused(kAwq, "128", "16"), "\"group_size\""));
  CHECK(has(refused(kAwq, R"("zero_point": true)", R"("zero_point": false)"), "\"zero_point\""));
  CHECK(has(refused(kAwq, R"("zero_point")", R"("desc_act": true, "zero_point")"), "\"desc_act\""));
  CHECK(has(refused(kAwq, "\"awq\"", "\"gptq\""), "\"quant_method\" is \"gptq\""));
  CHECK(has(refused(kAwq, "\"awq\"", "\"fp8\""), "\"quant_method\" is \"fp8\""));
  CHECK(has(refused(kAwq, R"("bits")", R"("new_trick": 1, "bits")"), "\"new_trick\""));

  const auto packed = [](const std::string& from, const std::string& to) {
    return refused(kPacked, from, to);
  };
  CHECK(has(packed(R"("num_bits": 4)", R"("num_bits": 8)"), "weights: \"num_bits\" is 8, only 4"));
  CHECK(has(packed(R"("type": "int")", R"("type": "float")"), "\"type\" is \"float\""));
  CHECK(has(packed(R"("strategy": "group")", R"("strategy": "channel")"), "\"strategy\""));
  CHECK(has(packed(R"("actorder": null)", R"("actorder": "group")"), "\"actorder\""));
  CHECK(has(packed(R"("actorder": null)", R"("actorder": true)"), "\"actorder\""));
  CHECK(has(packed(R"("dynamic": false)", R"("dynamic": true)"), "\"dynamic\""));
  CHECK(has(packed("pack-quantized", "int-quantized"), "\"format\" is \"int-quantized\""));
  CHECK(has(packed(R"("format": "pack-quantized",
    "weights)",
                   R"("format": "float-quantized",
    "weights)"),
            "group_0: \"format\""));
  CHECK(has(packed(R"("input_activations": null)", R"("input_activations": {"num_bits": 8})"),
            "\"input_activations\""));
  CHECK(has(packed(R"("kv_cache_scheme": null)", R"("kv_cache_scheme": {"num_bits": 8})"),
            "\"kv_cache_scheme\""));
  CHECK(has(packed(R"("transform_config": {})", R"("transform_config": {"R1": 1})"),
            "\"transform_config\""));
  CHECK(has(packed(R"("sparsity_config": {})", R"("sparsity_config": {"format": "x"})"),
            "\"sparsity_config\""));
}

TEST_CASE("quantization: groups must agree") {
  const std::string group =
      R"("a": {"weights": {"num_bits": 4, "strategy": "group", "group_size": )";
  const auto groups = [&](const std::string& more) {
    return R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
               "config_groups": {)" +
           more + "}}";
  };
  CHECK(read(groups(group + "64}}")).group == 64);
  const std::string two = group + "64}}, " + with(group, "\"a\"", "\"b\"");
  CHECK(read(groups(two + "64}}")).group == 64);
  CHECK(has(error_of([&] { read(groups(two + "128}}")); }), "different"));
  CHECK(has(error_of([&] { read(groups("")); }), "no group"));
}

TEST_CASE("quantization: damaged configs end in a value or an Error") {
  test::Mutator mutate(11);
  int refused = 0, taken = 0;
  for (int round = 0; round < test::fuzz_rounds(3000); ++round) {
    const std::string text = mutate(round % 2 ? kAwq : kPacked);
    try {
      const Quantization q = read(text);
      REQUIRE((q.method == Method::awq || q.method == Method::pack_quantized));
      REQUIRE((q.group == 32 || q.group == 64 || q.group == 128));
      ++taken;
    } catch (const Error& e) {
      REQUIRE(has(e.what(), "config.json"));
      ++refused;
    }
  }
  CHECK(refused > 100);
  CHECK(taken > 100);
}
