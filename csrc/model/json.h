#pragma once
// A small strict JSON reader (RFC 8259) for config.json and safetensors headers. Duplicate keys,
// deep nesting and anything after the value are Errors that name `where` and the byte offset.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dream_r {

class Json {
 public:
  enum class Type : std::uint8_t { null, boolean, integer, real, string, array, object };
  using Member = std::pair<std::string, Json>;

  static Json parse(std::string_view text, const std::string& where);

  Type type() const { return type_; }
  bool is(Type t) const { return type_ == t; }
  bool number() const { return type_ == Type::integer || type_ == Type::real; }
  bool boolean() const { return integer_ != 0; }
  // Whole numbers that fit 64 bits; others are `real`.
  std::int64_t integer() const { return integer_; }
  double real() const { return type_ == Type::integer ? static_cast<double>(integer_) : real_; }
  const std::string& string() const { return string_; }
  const std::vector<Json>& array() const { return array_; }
  const std::vector<Member>& members() const { return members_; }
  // nullptr when this is no object or has no such key.
  const Json* find(std::string_view key) const;
  const char* type_name() const;

 private:
  friend class JsonParser;
  Type type_ = Type::null;
  std::int64_t integer_ = 0;
  double real_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::vector<Member> members_;
};

}  // namespace dream_r
