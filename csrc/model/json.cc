#include "model/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/check.h"

namespace dream_r {

namespace {
constexpr int kMaxDepth = 64;

void append_utf8(std::string& out, std::uint32_t c) {
  const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | (c >> 6));
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3f));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

bool digit(char c) { return c >= '0' && c <= '9'; }
}  // namespace

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json v = value(0);
    space();
    if (at_ != text_.size()) fail("something follows the value");
    return v;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    DR_FAIL(input) << where_ << ": bad JSON at byte " << at_ << ": " << what;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }
  bool take(char c) {
    space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Json value(int depth) {
    if (depth > kMaxDepth) fail("nested too deep");
    space();
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"': {
        Json v;
        v.type_ = Json::Type::string;
        v.string_ = string();
        return v;
      }
      case 't':
        return word("true", Json::Type::boolean, 1);
      case 'f':
        return word("false", Json::Type::boolean, 0);
      case 'n':
        return word("null", Json::Type::null, 0);
      default:
        return number();
    }
  }

  Json word(std::string_view literal, Json::Type type, std::int64_t as_integer) {
    if (text_.substr(at_, literal.size()) != literal) fail("unknown word");
    at_ += literal.size();
    Json v;
    v.type_ = type;
    v.integer_ = as_integer;
    return v;
  }

  Json array(int depth) {
    ++at_;
    Json v;
    v.type_ = Json::Type::array;
    if (take(']')) return v;
    do {
      v.array_.push_back(value(depth + 1));
    } while (take(','));
    if (!take(']')) fail("']' or ',' wanted");
    return v;
  }

  Json object(int depth) {
    ++at_;
    Json v;
    v.type_ = Json::Type::object;
    if (take('}')) return v;
    do {
      space();
      if (peek() != '"') fail("a key wanted");
      std::string key = string();
      if (!take(':')) fail("':' wanted");
      v.members_.emplace_back(std::move(key), value(depth + 1));
    } while (take(','));
    if (!take('}')) fail("'}' or ',' wanted");
    unique_keys(v);
    return v;
  }

  void unique_keys(const Json& v) const {
    std::vector<std::string_view> keys;
    keys.reserve(v.members_.size());
    for (const auto& m : v.members_) keys.push_back(m.first);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) DR_FAIL(input) << where_ << ": \"" << *twice << "\" is there twice";
  }

  Json number() {
    const std::size_t begin = at_;
    bool whole = true;
    if (peek() == '-') ++at_;
    if (!digit(peek())) fail("a value wanted");
    if (peek() == '0' && at_ + 1 < text_.size() && digit(text_[at_ + 1])) fail("leading zero");
    digits();
    if (peek() == '.') {
      whole = false;
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    return number_from(text_.data() + begin, text_.data() + at_, whole);
  }

  void digits() {
    if (!digit(peek())) fail("a digit wanted");
    while (digit(peek())) ++at_;
  }

  Json number_from(const char* begin, const char* end, bool whole) const {
    Json v;
    if (whole && std::from_chars(begin, end, v.integer_).ec == std::errc()) {
      v.type_ = Json::Type::integer;
      return v;
    }
    v.integer_ = 0;
    v.type_ = Json::Type::real;
    if (std::from_chars(begin, end, v.real_).ec != std::errc() || !std::isfinite(v.real_))
      fail("number out of range");
    return v;
  }

  std::string string() {
    ++at_;
    std::string out;
    while (true) {
      if (at_ >= text_.size()) fail("unfinished string");
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
      if (c == '\\') {
        escape(out);
      } else {
        out.push_back(c);
      }
    }
  }

  void escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kBytes = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (c == 'u') {
      ++at_;
      return unicode(out);
    }
    const std::size_t i = at_ < text_.size() ? kNames.find(c) : std::string_view::npos;
    if (i == std::string_view::npos) fail("unknown escape");
    ++at_;
    out.push_back(kBytes[i]);
  }

  void unicode(std::string& out) {
    std::uint32_t c = hex4();
    if (c >= 0xdc00 && c < 0xe000) fail("lone surrogate");
    if (c >= 0xd800 && c < 0xdc00) {
      if (text_.substr(at_, 2) != "\\u") fail("lone surrogate");
      at_ += 2;
      const std::uint32_t low = hex4();
      if (low < 0xdc00 || low >= 0xe000) fail("lone surrogate");
      c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, c);
  }

  std::uint32_t hex4() {
    std::uint32_t c = 0;
    const std::string_view four = text_.substr(at_, 4);
    const auto got = std::from_chars(four.data(), four.data() + four.size(), c, 16);
    if (four.size() != 4 || got.ec != std::errc() || got.ptr != four.data() + 4)
      fail("four hex digits wanted");
    at_ += 4;
    return c;
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) {
  return JsonParser(text, where).document();
}

const Json* Json::find(std::string_view key) const {
  for (const auto& m : members_)
    if (m.first == key) return &m.second;
  return nullptr;
}

const char* Json::type_name() const {
  constexpr const char* kNames[] = {"null",     "a boolean", "an integer", "a number",
                                    "a string", "a list",    "an object"};
  return kNames[static_cast<int>(type_)];
}

}  // namespace dream_r
