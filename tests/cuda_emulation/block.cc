#include "block.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "fiber.h"
#include "vector_types.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStack = std::size_t{256} << 10;
#else
constexpr std::size_t kStack = std::size_t{64} << 10;
#endif

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes, from_bytes;
};

struct Thread {
  std::unique_ptr<Fiber> fiber = std::make_unique<Fiber>(kStack);
  uint3 index{};
  // What it waits for: a warp operation (lanes that take part in `mask`) or, mask 0, the barrier.
  const char* name = nullptr;
  std::source_location at;
  std::uint32_t mask = 0;
  void* payload = nullptr;
  bool waited = false;                   // for the kernel in front
  std::deque<std::vector<Copy>> groups;  // cp.async, oldest first; the last one is open
};

// Stacks are kept: a kernel starts thousands of threads.
using Pool = std::vector<Thread>;
std::vector<std::unique_ptr<Pool>> idle_pools;

struct Warp {
  std::uint32_t ready = 0, at_barrier = 0, at_operation = 0, at_previous = 0, ended = 0;
};

bool descending() {
  const char* order = std::getenv("DREAM_R_EMULATION_ORDER");
  return order && std::strcmp(order, "descending") == 0;
}

// Exactly as long as asked for, so that AddressSanitizer sees an access past its end; without it, a
// line of known bytes does for writes.
class DynamicShared {
 public:
  explicit DynamicShared(std::size_t bytes) : bytes_(bytes) {
    if (posix_memalign(&data_, 1024, bytes + kTail) != 0) throw std::bad_alloc();
  }
  ~DynamicShared() { std::free(data_); }
  DynamicShared(const DynamicShared&) = delete;
  DynamicShared& operator=(const DynamicShared&) = delete;
  void* data() const { return data_; }
  void spoil() {  // 0xff: NaN as f32 and as bf16
    std::memset(data_, 0xff, bytes_);
    std::memset(tail(), 0xa5, kTail);
  }
  bool intact() const {
    return std::all_of(tail(), tail() + kTail, [](auto b) { return b == 0xa5; });
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t kTail = 0;
#else
  static constexpr std::size_t kTail = 64;
#endif
  unsigned char* tail() const { return static_cast<unsigned char*>(data_) + bytes_; }

  void* data_ = nullptr;
  std::size_t bytes_;
};

std::string place(const std::source_location& at) {
  const std::string file = at.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.line());
}

class Block {
 public:
  Block(const Kernel& kernel, uint3 index, DynamicShared& dynamic, Pool& threads, bool hold);

  // Until all have ended, something is wrong or, where they are held, none can go on without the
  // kernel in front.
  void run();
  void wait();
  void wait_for_previous();
  void release_barrier();
  bool pick();
  void leave();
  std::string stuck() const;

  Thread& me() { return threads[current]; }
  Warp& my_warp() { return warps[current / 32]; }
  std::uint32_t my_bit() const { return 1u << current % 32; }

  const Kernel& kernel;
  const uint3 index;
  DynamicShared& dynamic;
  Pool& threads;
  const std::size_t size;
  const bool down = descending();
  std::vector<Warp> warps{(size + 31) / 32};
  Fiber caller;
  std::size_t current = 0, at_barrier = 0, ended = 0;  // the last two: how many threads
  bool hold, waited = false;
  std::string error;
};

Block* block = nullptr;  // the one that runs

void thread_entry() {
  Fiber::begin();
  threadIdx = block->me().index;
  try {
    block->kernel.body();
  } catch (const std::exception& e) {
    if (block->error.empty()) block->error = e.what();
  }
  block->leave();
}

Block::Block(const Kernel& kernel, uint3 index, DynamicShared& dynamic, Pool& threads, bool hold)
    : kernel(kernel),
      index(index),
      dynamic(dynamic),
      threads(threads),
      size(std::size_t{kernel.block.x} * kernel.block.y * kernel.block.z),
      hold(hold) {
  while (threads.size() < size) threads.emplace_back();
  dynamic.spoil();
  const Dim& b = kernel.block;
  for (std::size_t i = 0; i < size; ++i) {
    Thread& t = threads[i];
    const auto at = static_cast<unsigned>(i);
    t.index = {at % b.x, at / b.x % b.y, at / b.x / b.y};
    t.groups.assign(1, {});
    t.waited = false;
    t.fiber->start(thread_entry);
    warps[i / 32].ready |= 1u << i % 32;
  }
}

void Block::run() {
  block = this;
  blockIdx = index;
  gridDim = {kernel.grid.x, kernel.grid.y, kernel.grid.z};
  blockDim = {kernel.block.x, kernel.block.y, kernel.block.z};
  if (pick())
    Fiber::switch_to(caller, *me().fiber);
  else if (ended < size)
    error = stuck();
  block = nullptr;
}

// Chooses the next thread that can run: of this warp first. False when there is none.
bool Block::pick() {
  for (std::size_t i = 0; i < warps.size(); ++i) {
    const std::size_t w = (current / 32 + (down ? warps.size() - i : i)) % warps.size();
    const std::uint32_t ready = warps[w].ready;
    if (!ready) continue;
    current = w * 32 + (down ? 31 - std::countl_zero(ready) : std::countr_zero(ready));
    return true;
  }
  return false;
}

// The running thread is no longer ready: another one goes on, or, where none can, the caller.
void Block::wait() {
  Fiber& from = *me().fiber;
  if (at_barrier == size) release_barrier();
  const bool found = error.empty() && pick();
  if (!found && error.empty() && !hold) error = stuck();
  if (found && me().fiber.get() == &from) return;
  Fiber::switch_to(from, found ? *me().fiber : caller);
}

void Block::wait_for_previous() {
  waited = me().waited = true;
  if (!hold) return;
  Thread& thread = me();
  my_warp().ready &= ~my_bit();
  my_warp().at_previous |= my_bit();
  wait();
  threadIdx = thread.index;
}

void Block::leave() {
  my_warp().ready &= ~my_bit();
  my_warp().ended |= my_bit();
  if (++ended == size || !error.empty()) Fiber::switch_to(*me().fiber, caller);
  wait();
  std::abort();  // a thread that has ended is never ready
}

void Block::release_barrier() {
  for (Warp& w : warps) w.ready = std::exchange(w.at_barrier, 0);
  at_barrier = 0;
}

std::string Block::stuck() const {
  std::ostringstream text;
  text << "the threads of block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z
       << ") wait for each other:";
  for (std::size_t w = 0; w < warps.size(); ++w) {
    const auto name = [&](const char* what, std::uint32_t lanes) {
      if (!lanes) return;
      const Thread& t = threads[w * 32 + std::countr_zero(lanes)];
      text << "\n  warp " << w << ", lanes 0x" << std::hex << lanes << std::dec << " " << what;
      if (lanes != warps[w].ended) text << " " << t.name << " at " << place(t.at);
    };
    name("in", warps[w].at_barrier);
    name("in", warps[w].at_operation);
    name("have ended", warps[w].ended);
  }
  return text.str();
}

}  // namespace

struct Grid::State {
  explicit State(const Kernel& k) : kernel(k), dynamic(k.dynamic_bytes) {
    if (idle_pools.empty()) idle_pools.push_back(std::make_unique<Pool>());
    threads = std::move(idle_pools.back());
    idle_pools.pop_back();
  }
  ~State() { idle_pools.push_back(std::move(threads)); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  std::size_t blocks() const { return std::size_t{kernel.grid.x} * kernel.grid.y * kernel.grid.z; }
  std::unique_ptr<Block> make(std::size_t i, bool hold) {
    const Dim& g = kernel.grid;
    const auto at = static_cast<unsigned>(descending() ? blocks() - 1 - i : i);
    const uint3 index{at % g.x, at / g.x % g.y, at / g.x / g.y};
    return std::make_unique<Block>(kernel, index, dynamic, *threads, hold);
  }

  const Kernel kernel;
  DynamicShared dynamic;
  std::unique_ptr<Pool> threads;
  std::unique_ptr<Block> first;  // once it has started
};

Grid::Grid(const Kernel& kernel) : state_(std::make_unique<State>(kernel)) {}
Grid::~Grid() = default;

void Grid::start() {
  if (!state_->kernel.early) return;
  state_->first = state_->make(0, true);
  state_->first->run();
}

std::string Grid::finish() {
  for (std::size_t i = 0; i < state_->blocks(); ++i) {
    auto one = i == 0 && state_->first ? std::move(state_->first) : state_->make(i, false);
    one->hold = false;
    for (Warp& w : one->warps) w.ready |= std::exchange(w.at_previous, 0);
    if (one->error.empty()) one->run();
    if (one->error.empty() && !state_->dynamic.intact())
      one->error = "a write past the end of dynamic shared memory";
    if (one->error.empty() && state_->kernel.early && !one->waited)
      one->error = "a kernel that may start early does not wait for the one in front of it";
    if (!one->error.empty()) return one->error;
  }
  return "";
}

void wait_for_previous_kernel() { block->wait_for_previous(); }

void let_next_kernel_start() {
  if (block->kernel.early && !block->me().waited)
    fault("let_next_kernel_start before wait_for_previous_kernel");
}

int lane() { return static_cast<int>(block->current % 32); }

void* dynamic_shared() { return block->dynamic.data(); }

void fault(const std::string& what) {
  std::ostringstream text;
  text << what << " (thread " << block->current << " of block (" << blockIdx.x << ", " << blockIdx.y
       << ", " << blockIdx.z << "))";
  throw std::runtime_error(text.str());
}

void sync_block(std::source_location at) {
  Warp& w = block->my_warp();
  Thread& me = block->me();
  me.name = "__syncthreads";
  me.at = at;
  // A warp must come to one and the same barrier; what differs in line is another one.
  for (std::uint32_t others = w.at_barrier; others; others &= others - 1) {
    const std::size_t other = block->current / 32 * 32 + std::countr_zero(others);
    if (block->threads[other].at.line() != at.line())
      fault("a warp's threads are at two barriers: " + place(block->threads[other].at) + " and " +
            place(at));
  }
  w.ready &= ~block->my_bit();
  w.at_barrier |= block->my_bit();
  ++block->at_barrier;
  block->wait();
  threadIdx = me.index;
}

void warp_operation(const char* name, std::uint32_t mask, void* payload, Combine combine,
                    std::source_location at) {
  Warp& w = block->my_warp();
  Thread& me = block->me();
  const std::size_t first = block->current / 32 * 32;
  if (!(mask & block->my_bit())) fault(std::string(name) + ": the mask leaves its caller out");
  if (first + 32 > block->size && mask >> (block->size - first))
    fault(std::string(name) + ": the mask names lanes that the block does not have");
  me.name = name, me.at = at, me.mask = mask, me.payload = payload;
  const auto together = [&](const Thread& t) {
    return (t.name == name || std::strcmp(t.name, name) == 0) && t.mask == mask &&
           t.at.line() == at.line();
  };
  w.at_operation |= block->my_bit();
  bool all = (w.at_operation & mask) == mask;
  for (std::uint32_t l = w.at_operation & mask; all && l; l &= l - 1)
    all = together(block->threads[first + std::countr_zero(l)]);
  if (all) {
    void* payloads[32] = {};
    for (std::uint32_t l = mask; l; l &= l - 1) {
      const int lane = std::countr_zero(l);
      payloads[lane] = block->threads[first + lane].payload;
    }
    if (combine) combine(payloads, mask);
    w.at_operation &= ~mask;
    w.ready |= mask;
    return;
  }
  w.ready &= ~block->my_bit();
  block->wait();
  threadIdx = me.index;
}

namespace {
void perform(const Copy& c) {
  std::memcpy(c.to, c.from, c.from_bytes);
  std::memset(static_cast<std::byte*>(c.to) + c.from_bytes, 0, c.bytes - c.from_bytes);
}
}  // namespace

void copy_later(void* to, const void* from, std::size_t bytes, std::size_t from_bytes) {
  const Copy c{to, from, bytes, from_bytes};
  if (block->down) return perform(c);
  block->me().groups.back().push_back(c);
}

void close_copy_group() { block->me().groups.emplace_back(); }

void wait_copy_groups(int still_open) {
  auto& groups = block->me().groups;
  // The last one is not closed: cp.async.wait_group does not wait for it.
  while (groups.size() > static_cast<std::size_t>(still_open) + 1) {
    for (const Copy& c : groups.front()) perform(c);
    groups.pop_front();
  }
}

}  // namespace cuda_emulation
