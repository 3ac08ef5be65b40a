#pragma once
// Damaged copies of good input, from a fixed seed. DREAM_R_FUZZ=n asks for n rounds.
#include <cstdlib>
#include <random>
#include <string>

namespace test {

inline int fuzz_rounds(int usual) {
  const char* wanted = std::getenv("DREAM_R_FUZZ");
  return wanted && *wanted ? std::atoi(wanted) : usual;
}

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  std::size_t below(std::size_t n) { return random_() % n; }

  // One to four bytes or values replaced, taken out or put in.
  std::string operator()(std::string text) {
    for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
      edit(text, below(text.size()));
      if (text.empty()) text.push_back('x');
    }
    return text;
  }

 private:
  void edit(std::string& text, std::size_t at) {
    static const std::string kBytes =
        "{}[]\",:0123456789.-eE\\u \x01\xff"
        "abF";
    static const char* const kValues[] = {"null", "true", "false", "-1",    "0",
                                          "3",    "8",    "1e99",  "4.0",   "\"\"",
                                          "{}",   "[]",   "[[]]",  "\"x\"", "9223372036854775807"};
    const char c = kBytes[below(kBytes.size())];
    switch (below(5)) {
      case 0:
        text[at] = c;
        break;
      case 1:
        text[at] = static_cast<char>(random_());
        break;
      case 2:
        text.erase(at, 1 + below(3));
        break;
      case 3:
        text.insert(at, 1, c);
        break;
      case 4:
        replace_value(text, at, kValues[below(std::size(kValues))]);
        break;
    }
  }

  // The value after the next colon, up to a comma or bracket.
  static void replace_value(std::string& text, std::size_t at, const char* value) {
    const std::size_t colon = text.find(':', at);
    if (colon == std::string::npos) return;
    const std::size_t end = text.find_first_of(",}]", colon);
    text.replace(colon + 1, end == std::string::npos ? end : end - colon - 1, value);
  }

  std::mt19937 random_;
};

}  // namespace test
