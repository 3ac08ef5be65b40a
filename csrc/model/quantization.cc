#include "model/quantization.h"

#include "core/check.h"

namespace dream_r {
namespace {

using Type = Json::Type;

void check_bits(const Section& s, const char* key) {
  const int bits = s.count(key);
  DR_CHECK(bits == 4) << s.where() << ": \"" << key << "\" is " << bits
                      << ", only 4 bits are supported";
}

int group_size(const Section& s) {
  const Json& v = s.need("group_size");
  const bool known =
      v.is(Type::integer) && (v.integer() == 32 || v.integer() == 64 || v.integer() == 128);
  DR_CHECK(known) << s.where() << ": \"group_size\" must be 32, 64 or 128";
  return static_cast<int>(v.integer());
}

// AutoAWQ writes "version", newer transformers "format" or both.
Quantization read_awq(const Section& s) {
  for (const char* key : {"version", "format"}) s.only(key, "gemm", {"gemm", "GEMM"});
  s.only("backend", "auto", {"auto", "autoawq", "auto_awq", "gemm"});
  check_bits(s, s.find("w_bit") ? "w_bit" : "bits");
  DR_CHECK(s.flag("zero_point", true))
      << s.where() << ": \"zero_point\" false is not supported, true is";
  DR_CHECK(!s.flag("desc_act", false)) << s.where() << ": \"desc_act\" true is not supported";
  const Quantization q{Quantization::Method::awq, group_size(s), false};
  s.no_other({"quant_method", "version", "format", "backend", "w_bit", "bits", "zero_point",
              "group_size", "modules_to_not_convert"},
             {"sym", "exllama_config", "modules_to_fuse", "do_fuse", "fuse_max_seq_len", "meta",
              "max_input_length", "cache_block_outputs"});
  return q;
}

// The "weights" of a group of compressed-tensors.
Quantization read_weights(const Section& s) {
  check_bits(s, "num_bits");
  s.only("type", "int", {"int"});
  s.only("strategy", "group", {"group"});
  // Ordering by "weight" ("static") changes the calibration only; "group" permutes the columns.
  const Json* order = s.find("actorder");
  if (order && !(order->is(Type::boolean) && !order->boolean()))
    s.only("actorder", "weight", {"weight", "static"});
  const Quantization q{Quantization::Method::pack_quantized, group_size(s),
                       s.flag("symmetric", true)};
  s.no_other({"num_bits", "type", "strategy", "actorder", "group_size", "symmetric"},
             {"observer", "observer_kwargs", "scale_dtype", "zp_dtype"});
  return q;
}

Quantization read_pack_quantized(const Section& s) {
  s.only("format", "pack-quantized", {"pack-quantized"});
  s.only("quantization_status", "compressed", {"compressed", "frozen"});
  const Section groups = s.child("config_groups");
  Quantization q;
  for (const auto& [name, value] : groups.members()) {
    const Section group = groups.child(name.c_str());
    group.only("format", "pack-quantized", {"pack-quantized"});
    const Quantization one = read_weights(group.child("weights"));
    DR_CHECK(q.method == Quantization::Method::none ||
             (one.group == q.group && one.symmetric == q.symmetric))
        << groups.where() << ": groups of different \"weights\" are not supported";
    q = one;
    group.no_other({"targets", "weights", "format"});
  }
  DR_CHECK(q.method != Quantization::Method::none) << groups.where() << ": no group";
  s.no_other({"quant_method", "format", "quantization_status", "config_groups", "ignore"},
             {"global_compression_ratio", "version"});
  return q;
}

}  // namespace

Quantization read_quantization(const Section& config) {
  const std::string method = config.text("quant_method", "");
  if (method == "awq") return read_awq(config);
  DR_CHECK(method == "compressed-tensors")
      << config.where() << ": \"quant_method\" is \"" << method
      << "\", only \"awq\" and \"compressed-tensors\" are supported";
  return read_pack_quantized(config);
}

}  // namespace dream_r
