#pragma once
// One object of config.json; every getter's Error names file and key.
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "model/json.h"

namespace dream_r {

class Section {
 public:
  using Names = std::initializer_list<std::string_view>;
  Section(const Json& json, std::string where);

  // nullptr when the key is missing or null.
  const Json* find(const char* key) const;
  const Json& need(const char* key) const;
  Section child(const char* key) const { return Section(need(key), where_ + ": " + key); }

  int count(const char* key, int least = 1) const { return as_count(key, need(key), least); }
  int count_or(const char* key, int otherwise) const;
  double positive(const char* key) const;
  std::vector<int> counts(const char* key) const;
  bool flag(const char* key, bool otherwise) const;
  std::string text(const char* key, const char* otherwise) const;
  // The one value that we compute with.
  void only(const char* key, const char* otherwise, Names allowed) const;
  // A key we neither read nor know to be without effect may change the computation. One that is
  // null, false, zero or empty is switched off.
  void no_other(Names read, Names harmless = {}) const;
  const std::vector<Json::Member>& members() const { return json_.members(); }
  const std::string& where() const { return where_; }

 private:
  int as_count(const char* key, const Json& v, int least) const;

  const Json& json_;
  std::string where_;
};

}  // namespace dream_r
