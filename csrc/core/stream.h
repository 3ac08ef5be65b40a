#pragma once
// A Stream is where ops run. On the CPU it is a team of threads: the caller is member 0 and works
// too, the others poll for a while, offering their core to whoever needs it, and then sleep. An op
// has finished when it returns. A Stream of one thread is the inline mode: everything on the
// caller, in order. On a CUDA device it is a stream of that device: ops are issued in order and
// return at once, wait() waits for them. A Stream belongs to one lane; calls on one Stream from two
// threads at once are a programming error.
#include <cstdint>
#include <functional>
#include <memory>

#include "core/cuda.h"
#include "core/device.h"

namespace dream_r {

class Stream {
 public:
  // How long an idle member polls before it sleeps: a lane waits for its next work about as long,
  // and an op that has to wake its members first costs more than it saves.
  static constexpr int kSpinMicroseconds = 1000;

  // `threads` >= 1, the caller included.
  explicit Stream(int threads = 1, int spin_us = kSpinMicroseconds);
  // A CUDA stream where `device` is one, of `priority` (larger goes first, 0 is the lowest), else
  // one thread. Error where the device cannot be used.
  explicit Stream(Device device, int priority = 0);
  // The first on the CPU, the second elsewhere.
  static Stream on(Device device, int threads, int priority) {
    return device.on_cuda() ? Stream(device, priority) : Stream(threads);
  }
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  // Returns when all that was issued has been done. An Error is that of any op issued before.
  void wait();
  // The CUDA stream, whose device becomes the calling thread's. Only where device() is on CUDA.
  cudaStream_t cuda();
  // Device memory for the op that is being issued, of at least `bytes`, 256-byte aligned: valid
  // until the next op asks for some. Growing it waits for the stream.
  std::byte* scratch(std::size_t bytes);
  // Changes with the address of that memory, which a captured graph holds.
  std::uint64_t scratch_generation() const;

  int threads() const;
  // Members that take part from the next op on, 1..threads(). Any thread may call it, at any time:
  // the split of an op never changes its result, so a lane can yield cores in the middle of a
  // forward.
  void limit(int active);
  int active() const;
  // No op comes soon: members that poll for one sleep at once. Any thread may call it, at any time.
  void rest();

  // fn(begin, end) over disjoint ranges that cover [0, n), multiples of `multiple` long (but the
  // last). `grain`: items that are worth a member's coming; less than two grains run on the caller
  // alone, and no range but the last is shorter than a quarter of one. The split never changes a
  // result: an output element is computed wholly inside one range.
  template <class F>
  void parallel_for(std::int64_t n, std::int64_t grain, F&& fn, std::int64_t multiple = 1) {
    if (active() == 1 || n < 2 * grain) {
      if (n > 0) fn(std::int64_t{0}, n);
      return;
    }
    run(n, grain, multiple, [&fn](std::int64_t b, std::int64_t e) { fn(b, e); });
  }

 private:
  struct Team;
  struct OnCuda;
  void run(std::int64_t n, std::int64_t grain, std::int64_t multiple,
           const std::function<void(std::int64_t, std::int64_t)>& fn);
  std::unique_ptr<Team> team_;
  Device device_;
  std::unique_ptr<OnCuda> cuda_;
};

}  // namespace dream_r
