#pragma once
// DR_CHECK(cond) << "what, with the values": throws dream_r::Error when cond is false.
#include <sstream>
#include <stdexcept>
#include <string>

namespace dream_r {

// The one error type. `input` is the caller's fault (Python ValueError), `state` is ours or the
// machine's (Python RuntimeError), `memory` is an exhausted pool or heap (Python MemoryError).
class Error : public std::runtime_error {
 public:
  enum class Kind { input, state, memory };
  Error(Kind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  Kind kind() const noexcept { return kind_; }

 private:
  Kind kind_;
};

namespace detail {
class Thrower {
 public:
  explicit Thrower(Error::Kind kind) : kind_(kind) {}
  [[noreturn]] ~Thrower() noexcept(false) { throw Error(kind_, text_.str()); }
  template <class T>
  Thrower& operator<<(const T& value) {
    text_ << value;
    return *this;
  }

 private:
  Error::Kind kind_;
  std::ostringstream text_;
};
}  // namespace detail

}  // namespace dream_r

#define DR_FAIL(kind) ::dream_r::detail::Thrower(::dream_r::Error::Kind::kind)
#define DR_CHECK(cond)   \
  if (cond) [[likely]] { \
  } else                 \
    DR_FAIL(input)
#define DR_STATE(cond)   \
  if (cond) [[likely]] { \
  } else                 \
    DR_FAIL(state)
