#pragma once
// Many producers, one consumer, unbounded. pop() blocks until there is an item or the channel is
// closed and empty; then it returns nothing.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace dream_r {

template <class T>
class Channel {
 public:
  // False when the channel is closed: the item is dropped.
  bool push(T item) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return false;
      items_.push_back(std::move(item));
      size_.store(items_.size(), std::memory_order_release);
    }
    ready_.notify_one();
    return true;
  }

  std::optional<T> try_pop() {
    if (empty()) return std::nullopt;
    std::lock_guard lock(mutex_);
    return take();
  }

  std::optional<T> pop() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return !items_.empty() || closed_; });
    return take();
  }

  // Costs no lock: for polling before pop().
  bool empty() const { return size_.load(std::memory_order_acquire) == 0; }

  void close() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
  }

 private:
  std::optional<T> take() {
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    size_.store(items_.size(), std::memory_order_release);
    return item;
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<T> items_;
  std::atomic<std::size_t> size_{0};
  bool closed_ = false;
};

}  // namespace dream_r
