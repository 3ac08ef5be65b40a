#include "core/stream.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"

namespace dream_r {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Polls until value != old or `spin_us` have passed, then sleeps on the value. After about 2 us the
// processor is offered to others between polls: where two members share one core, the one that has
// work must not wait for the other's patience.
std::uint32_t await_change(const std::atomic<std::uint32_t>& value, std::uint32_t old,
                           int spin_us) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (bool polite = false;;) {
    for (int i = 0; i < (polite ? 4 : 32); ++i) {
      const auto now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      relax();
    }
    const auto waited = Clock::now() - start;
    if (waited >= std::chrono::microseconds(spin_us)) break;
    polite = waited >= std::chrono::microseconds(2);
    if (polite) std::this_thread::yield();
  }
  for (;;) {
    value.wait(old, std::memory_order_acquire);
    const auto now = value.load(std::memory_order_acquire);
    if (now != old) return now;
  }
}

}  // namespace

// One job at a time, cut into one part for each member. A part is offered through its member's
// `turn` (odd = offered, even = taken) and taken by whoever exchanges it first: the member, or the
// caller once its own part is done, so a member that sleeps or has lost its core holds nobody up.
// The job's fields are read only by those who took a part, and the caller waits for all of these:
// they need no lock.
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
    for (std::size_t i = 1; i < members.size(); ++i) offer(members[i]);
    for (std::size_t i = 1; i < members.size(); ++i) members[i].thread.join();
  }

  // Sequentially consistent, so that notify_one cannot miss a member that is about to sleep.
  static void offer(Member& m) {
    m.turn.store(m.turn.load(std::memory_order_relaxed) + 1);
    m.turn.notify_one();
  }

  // True for exactly one of the threads that try to take the part offered as `turn`.
  static bool take(Member& m, std::uint32_t turn) {
    return m.turn.compare_exchange_strong(turn, turn + 1, std::memory_order_acq_rel);
  }

  void work(int index) {
    Member& me = members[index];
    std::uint32_t seen = 0;
    for (;;) {
      seen = await_change(me.turn, seen, spin_us);
      if (seen % 2 == 0 || !take(me, seen)) continue;
      ++seen;
      if (stop.load(std::memory_order_relaxed)) return;
      run_part(index);
      if (pending.fetch_sub(1) == 1) pending.notify_one();
    }
  }

  void run_part(int index) noexcept {
    try {
      (*fn)(index* chunk, std::min(n, (index + 1) * chunk));
    } catch (...) {
      members[index].error = std::current_exception();
    }
  }

  // The caller: what no member has begun, then the wait for what they have.
  void finish(int parts) {
    for (int i = 1; i < parts; ++i) {
      const auto turn = members[i].turn.load(std::memory_order_relaxed);
      if (turn % 2 == 0 || !take(members[i], turn)) continue;
      run_part(i);
      pending.fetch_sub(1, std::memory_order_relaxed);
    }
    for (auto left = pending.load(std::memory_order_acquire); left != 0;)
      left = await_change(pending, left, spin_us);
  }

  const int spin_us;
  std::atomic<int> active;  // read once a job; anyone may change it between jobs
  std::vector<Member> members;
  std::atomic<bool> stop{false};
  const std::function<void(std::int64_t, std::int64_t)>* fn = nullptr;
  std::int64_t n = 0, chunk = 0;
  alignas(64) std::atomic<std::uint32_t> pending{0};  // parts that are not done
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

void Stream::run(std::int64_t n, std::int64_t grain,
                 const std::function<void(std::int64_t, std::int64_t)>& fn) {
  Team& team = *team_;
  // Every part but the last has at least `grain` items; parallel_for has seen that n > grain.
  const std::int64_t most = std::min<std::int64_t>(active(), n / grain);
  const std::int64_t even = (n + most - 1) / most;
  team.chunk = (even + grain - 1) / grain * grain;
  const auto parts = static_cast<int>((n + team.chunk - 1) / team.chunk);
  team.n = n;
  team.fn = &fn;
  team.pending.store(static_cast<std::uint32_t>(parts - 1), std::memory_order_relaxed);
  for (int i = 1; i < parts; ++i) Team::offer(team.members[i]);
  team.run_part(0);
  team.finish(parts);
  std::exception_ptr first;
  for (int i = 0; i < parts; ++i) {
    auto error = std::exchange(team.members[i].error, nullptr);
    if (!first) first = std::move(error);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace dream_r
