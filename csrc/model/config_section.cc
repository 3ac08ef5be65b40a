#include "model/config_section.h"

#include <algorithm>

#include "core/check.h"

namespace dream_r {
namespace {

using Type = Json::Type;

constexpr std::string_view kHarmless[] = {"model_type",
                                          "initializer_range",
                                          "use_cache",
                                          "dtype",
                                          "torch_dtype",
                                          "bos_token_id",
                                          "eos_token_id",
                                          "pad_token_id",
                                          "attention_dropout",
                                          "architectures",
                                          "transformers_version",
                                          "_name_or_path",
                                          "max_window_layers",
                                          "_attn_implementation",
                                          "attn_implementation",
                                          "_attn_implementation_autoset",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "return_dict",
                                          "use_return_dict",
                                          "id2label",
                                          "label2id",
                                          "chunk_size_feed_forward",
                                          "is_encoder_decoder",
                                          "problem_type",
                                          "use_bfloat16",
                                          "torchscript",
                                          "unsloth_fixed",
                                          "unsloth_version"};

bool off(const Json& v) {
  return v.is(Type::null) || (v.is(Type::boolean) && !v.boolean()) ||
         (v.number() && v.real() == 0) || (v.is(Type::array) && v.array().empty()) ||
         (v.is(Type::object) && v.members().empty()) || (v.is(Type::string) && v.string().empty());
}

template <class List>
bool holds(const List& list, std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

}  // namespace

Section::Section(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
  DR_CHECK(json.is(Type::object)) << where_ << ": an object wanted, not " << json.type_name();
}

const Json* Section::find(const char* key) const {
  const Json* v = json_.find(key);
  return v && !v->is(Type::null) ? v : nullptr;
}

const Json& Section::need(const char* key) const {
  const Json* v = find(key);
  DR_CHECK(v) << where_ << ": \"" << key << "\" is missing";
  return *v;
}

int Section::count_or(const char* key, int otherwise) const {
  const Json* v = find(key);
  return v ? as_count(key, *v, 1) : otherwise;
}

double Section::positive(const char* key) const {
  const Json& v = need(key);
  DR_CHECK(v.number() && v.real() > 0) << where_ << ": \"" << key << "\" must be above 0";
  return v.real();
}

std::vector<int> Section::counts(const char* key) const {
  const Json& v = need(key);
  DR_CHECK(v.is(Type::array)) << where_ << ": \"" << key << "\" must be a list";
  std::vector<int> out;
  for (const Json& i : v.array()) out.push_back(as_count(key, i, 0));
  return out;
}

bool Section::flag(const char* key, bool otherwise) const {
  const Json* v = find(key);
  if (!v) return otherwise;
  DR_CHECK(v->is(Type::boolean)) << where_ << ": \"" << key << "\" must be true or false";
  return v->boolean();
}

std::string Section::text(const char* key, const char* otherwise) const {
  const Json* v = find(key);
  if (!v) return otherwise;
  DR_CHECK(v->is(Type::string)) << where_ << ": \"" << key << "\" must be a string";
  return v->string();
}

void Section::only(const char* key, const char* otherwise, Names allowed) const {
  const std::string got = text(key, otherwise);
  DR_CHECK(holds(allowed, got)) << where_ << ": \"" << key << "\" is \"" << got << "\", only \""
                                << *allowed.begin() << "\" is supported";
}

void Section::no_other(Names read, Names harmless) const {
  for (const auto& [key, value] : json_.members())
    DR_CHECK(holds(read, key) || holds(harmless, key) || holds(kHarmless, key) || off(value))
        << where_ << ": \"" << key << "\" is not understood";
}

int Section::as_count(const char* key, const Json& v, int least) const {
  constexpr std::int64_t kMost = 1 << 30;
  DR_CHECK(v.is(Type::integer) && v.integer() >= least && v.integer() <= kMost)
      << where_ << ": \"" << key << "\" must be a whole number from " << least << " to " << kMost;
  return static_cast<int>(v.integer());
}

}  // namespace dream_r
