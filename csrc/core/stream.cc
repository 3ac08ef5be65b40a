#include "core/stream.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/cores.h"
#include "core/spin.h"

namespace dream_r {
namespace {

// The smallest chunk of a job is this share of its grain: members then finish at about one time.
constexpr std::int64_t kTail = 4;

// Polls until value != old, `resting` holds or `spin_us` have passed, then sleeps on the value.
std::uint32_t await_change(const std::atomic<std::uint32_t>& value, std::uint32_t old,
                           const std::atomic<bool>& resting, int spin_us) {
  std::uint32_t now = old;
  const auto changed = [&] { return (now = value.load(std::memory_order_acquire)) != old; };
  spin_until([&] { return changed() || resting.load(std::memory_order_relaxed); }, spin_us);
  while (!changed()) value.wait(old, std::memory_order_acquire);
  return now;
}

}  // namespace

// One job at a time, cut into chunks that whoever is free takes next: a member that has lost its
// core, or wakes late, holds nobody up. Each member is invited through its `turn` (odd = invited,
// even = taken); the invitation is taken by whoever exchanges it first: the member, or the caller
// when no chunk is left. The job's fields are read only by those who took one, and the caller waits
// for all of these: they need no lock.
struct Stream::Team {
  struct alignas(64) Member {
    std::atomic<std::uint32_t> turn{0};
    std::exception_ptr error;
    std::thread thread;
  };

  Team(int threads, int spin) : spin_us(spin), active(threads), members(threads) {
    for (int i = 1; i < threads; ++i) members[i].thread = std::thread([this, i] { work(i); });
  }

  ~Team() {
    stop.store(true, std::memory_order_relaxed);
    for (std::size_t i = 1; i < members.size(); ++i) invite(members[i]);
    for (std::size_t i = 1; i < members.size(); ++i) members[i].thread.join();
  }

  // Sequentially consistent, so that notify_one cannot miss a member that is about to sleep.
  static void invite(Member& m) {
    m.turn.store(m.turn.load(std::memory_order_relaxed) + 1);
    m.turn.notify_one();
  }

  // True for exactly one of the threads that try to take the invitation `turn`.
  static bool take(Member& m, std::uint32_t turn) {
    return m.turn.compare_exchange_strong(turn, turn + 1, std::memory_order_acq_rel);
  }

  void work(int index) {
    Member& me = members[index];
    std::uint32_t seen = 0;
    for (;;) {
      seen = await_change(me.turn, seen, resting, spin_us);
      if (seen % 2 == 0 || !take(me, seen)) continue;
      ++seen;
      if (stop.load(std::memory_order_relaxed)) return;
      if (this_core() == caller_core) leave_core(caller_core);
      run_chunks(index);
      if (pending.fetch_sub(1) == 1) pending.notify_one();
    }
  }

  // The next chunk, half of an even share of what is left: large ones first, so that few are
  // taken, small ones last. Empty (begin == n) when nothing is left.
  std::pair<std::int64_t, std::int64_t> take_chunk() {
    auto at = next.load(std::memory_order_relaxed);
    for (;;) {
      const std::int64_t share = std::max(smallest, (n - at) / (2 * sharers));
      const auto end = std::min(n, at + (share + multiple - 1) / multiple * multiple);
      if (next.compare_exchange_weak(at, end, std::memory_order_relaxed)) return {at, end};
    }
  }

  void run_chunks(int index) noexcept {
    try {
      for (auto [at, end] = take_chunk(); at < n; std::tie(at, end) = take_chunk()) (*fn)(at, end);
    } catch (...) {
      members[index].error = std::current_exception();
    }
  }

  // The caller, when no chunk is left: nobody else need come, and those who did are waited for.
  void finish(int invited) {
    for (int i = 1; i <= invited; ++i) {
      const auto turn = members[i].turn.load(std::memory_order_relaxed);
      if (turn % 2 == 1 && take(members[i], turn)) pending.fetch_sub(1, std::memory_order_relaxed);
    }
    for (auto left = pending.load(std::memory_order_acquire); left != 0;)
      left = await_change(pending, left, resting, spin_us);
  }

  const int spin_us;
  std::atomic<int> active;  // a job reads it as it begins; anyone may change it at any time
  std::vector<Member> members;
  std::atomic<bool> stop{false}, resting{false};
  const std::function<void(std::int64_t, std::int64_t)>* fn = nullptr;
  int caller_core = -1;
  std::int64_t n = 0, smallest = 1, multiple = 1, sharers = 1;
  alignas(64) std::atomic<std::int64_t> next{0};      // the first item nobody has taken
  alignas(64) std::atomic<std::uint32_t> pending{0};  // invited members that are not done
};

Stream::Stream(int threads, int spin_us) {
  DR_CHECK(threads >= 1) << "stream: " << threads << " threads";
  if (threads > 1) team_ = std::make_unique<Team>(threads, spin_us);
}

// The scratch only grows, so that after the first pass of a shape nothing is allocated.
struct Stream::OnCuda {
  OnCuda(int index, int priority) : index(index), stream(cuda::make_stream(index, priority)) {}
  ~OnCuda() {
    cuda::release(scratch, index);
    cuda::release_stream(stream, index);
  }
  OnCuda(const OnCuda&) = delete;
  OnCuda& operator=(const OnCuda&) = delete;

  const int index;
  const cudaStream_t stream;
  std::byte* scratch = nullptr;
  std::size_t bytes = 0;
  std::uint64_t generation = 0;
};

Stream::Stream(Device device, int priority) : device_(device) {
  if (!device.on_cuda()) return;
  cuda::require_device(device.index);
  cuda_ = std::make_unique<OnCuda>(device.index, priority);
}

Stream::~Stream() = default;

cudaStream_t Stream::cuda() {
  DR_STATE(cuda_ != nullptr) << "stream: not on a CUDA device";
  cuda::use_device(cuda_->index);
  return cuda_->stream;
}

void Stream::wait() {
  if (cuda_) cuda::wait(cuda());
}

std::byte* Stream::scratch(std::size_t bytes) {
  const cudaStream_t stream = cuda();
  if (bytes > cuda_->bytes) {
    cuda::wait(stream);
    ++cuda_->generation;
    cuda::release(std::exchange(cuda_->scratch, nullptr), cuda_->index);
    bytes = std::max(bytes, 2 * std::exchange(cuda_->bytes, 0));
    cuda_->scratch = cuda::allocate(bytes, cuda_->index);
    cuda_->bytes = bytes;
  }
  return cuda_->scratch;
}

std::uint64_t Stream::scratch_generation() const { return cuda_ ? cuda_->generation : 0; }

int Stream::threads() const { return team_ ? static_cast<int>(team_->members.size()) : 1; }

int Stream::active() const { return team_ ? team_->active.load(std::memory_order_relaxed) : 1; }

void Stream::limit(int active) {
  DR_CHECK(active >= 1 && active <= threads())
      << "stream: limit of " << active << " members, " << threads() << " exist";
  if (team_) team_->active.store(active, std::memory_order_relaxed);
}

void Stream::rest() {
  if (team_) team_->resting.store(true, std::memory_order_relaxed);
}

void Stream::run(std::int64_t n, std::int64_t grain, std::int64_t multiple,
                 const std::function<void(std::int64_t, std::int64_t)>& fn) {
  Team& team = *team_;
  team.sharers = std::min<std::int64_t>(active(), n / grain);  // parallel_for: n >= 2 grain
  team.smallest = std::max<std::int64_t>(1, grain / kTail);
  team.multiple = multiple;
  const int invited = static_cast<int>(team.sharers) - 1;
  team.n = n;
  team.fn = &fn;
  team.caller_core = this_core();
  team.resting.store(false, std::memory_order_relaxed);
  team.next.store(0, std::memory_order_relaxed);
  team.pending.store(static_cast<std::uint32_t>(invited), std::memory_order_relaxed);
  for (int i = 1; i <= invited; ++i) Team::invite(team.members[i]);
  team.run_chunks(0);
  team.finish(invited);
  std::exception_ptr first;
  for (int i = 0; i <= invited; ++i) {
    auto error = std::exchange(team.members[i].error, nullptr);
    if (!first) first = std::move(error);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace dream_r
