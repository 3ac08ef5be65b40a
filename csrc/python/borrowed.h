#pragma once
// Arrays of the caller's that a request reads, and that any thread of the engine may be the last to
// let go of. Such a thread must not wait for the interpreter: what it lets go of lies here until a
// caller comes, who holds it.
#include <pybind11/numpy.h>

#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace dream_r {

class Borrowed {
 public:
  // Keeps `array` for as long as there is a copy of what is returned. With the GIL.
  std::shared_ptr<void> lend(pybind11::array array) {
    Arrays one;
    one.push_back(std::move(array));
    void* const address = &one.front();
    return {address, [list = list_, one = std::move(one)](void*) mutable {
              std::lock_guard lock(list->mutex);
              list->returned.splice(list->returned.end(), one);  // allocates nothing
            }};
  }
  // Lets go of what has come back. With the GIL.
  void collect() {
    Arrays returned;
    std::lock_guard lock(list_->mutex);
    returned.swap(list_->returned);
  }

 private:
  using Arrays = std::list<pybind11::array>;
  struct List {
    std::mutex mutex;
    Arrays returned;
  };
  std::shared_ptr<List> list_ = std::make_shared<List>();
};

}  // namespace dream_r
