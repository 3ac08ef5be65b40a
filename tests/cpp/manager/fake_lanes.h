#pragma once
// Lanes without models: a language model that is a hash of what it has read, and a cache whose
// cells hold tokens, so that a wrong block, a lost copy or two writers of one block are seen.
#include <map>
#include <set>

#include "core/check.h"
#include "kv/kv_store.h"
#include "reference.h"

namespace dream_r::test {

inline std::uint64_t mix(std::uint64_t h, std::uint64_t value) {
  h = (h ^ value) * 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
  return h ^ (h >> 32);
}
inline double unit(std::uint64_t h) { return static_cast<double>(h >> 11) * 0x1p-53; }

// A small generator with a state of one word, so that a seed replays a schedule.
struct Random {
  std::uint64_t state;
  std::uint64_t next() { return mix(state += 0x632be59bd9b4e019u, 0x5851f42d4c957f2du); }
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  bool chance(double p) { return unit(next()) < p; }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }
};

enum : std::int32_t {
  kNewline = 1,
  kBlankLine = 2,
  kSpace = 3,
  kStop = 4,
  kWord = 10,
  kWords = 30
};
enum : std::int32_t { kPositive = 50, kNegative = 51, kThinkEnd = 60, kEos = 61, kPad = 62 };
enum : std::int32_t { kVocab = 64 };

inline Vocabulary make_vocabulary() {
  Vocabulary v;
  v.classes.assign(kVocab, 0);
  namespace c = token_class;
  v.classes[kNewline] = c::starts_newline | c::ends_newline | c::white_space;
  v.classes[kBlankLine] = c::blank_line | c::starts_newline | c::ends_newline | c::white_space;
  v.classes[kSpace] = c::white_space;
  v.classes[kStop] = c::blank_line | c::ends_newline;
  v.eos = {kEos};
  v.think_end = kThinkEnd;
  v.forced_end = {kStop, kThinkEnd};
  v.suppressed = {kPad};
  v.suffix = {45, 46, 47};
  v.positive = {kPositive};
  v.negative = {kNegative};
  v.digit_suffix = {45, 48};
  for (std::int32_t d = 0; d < 10; ++d) v.digits.push_back({d + 50});
  return v;
}

// How the hash is turned into language.
struct Language {
  std::uint64_t seed = 0;
  double accept = 0.7;     // chance that a verdict is above any alpha < 1
  double boundary = 0.25;  // of a token: that it ends the step
  double alike = 0;        // that the draft chooses as the target does
  double think_end = 0.02, eos = 0.01, blank = 0.02, repeat = 0.02, nan = 0.02;

  std::uint64_t read(std::uint64_t h, const Tokens& tokens) const {
    for (auto t : tokens) h = mix(h, static_cast<std::uint64_t>(t) + 1);
    return h;
  }
  std::int32_t token(Role role, std::uint64_t context) const {
    const bool draft = role == Role::draft && unit(mix(context, seed + 11)) >= alike;
    const auto h = mix(context, seed * 2 + draft);
    double x = unit(h);
    const auto falls = [&](double p) { return (x -= p) < 0; };
    if (falls(think_end)) return kThinkEnd;
    if (falls(eos)) return kEos;
    if (falls(boundary)) return h % 3 ? kStop : kBlankLine;
    if (falls(0.1)) return kNewline;
    return kWord + static_cast<std::int32_t>(mix(h, 7) % kWords);
  }
  // Of a drafted step, what the target would have begun with: as far as it chooses the same, and
  // then its own token.
  Tokens agreed(const Tokens& step, std::uint64_t context) const {
    Tokens own;
    do own.push_back(token(Role::target, read(context, own)));
    while (own.back() == step[own.size() - 1] && own.size() < step.size());
    return own;
  }
  // The tokens of a decode after `prefix`, whose last step was `last`; of a draft of other tokens
  // each is `shift` above the target's.
  StepEnd write(const Work& w, const Vocabulary& v, std::uint64_t context, const Tokens& last,
                std::int32_t shift, Tokens& out) const;
  void judge(Judgement& j, std::uint64_t context) const {
    const auto h = mix(context, seed + 77);
    j.next_token = token(Role::target, context);
    j.mass = static_cast<float>(unit(mix(h, 2)));
    const double x = unit(h), y = unit(mix(h, 3));
    // Between 0.95 and 1 where it accepts (digits: 9.5 to 10), else below 0.6.
    j.rho = x < nan ? NAN : static_cast<float>(x < nan + accept ? 0.95 + 0.05 * y : 0.6 * y);
  }
};

inline StepEnd Language::write(const Work& w, const Vocabulary& v, std::uint64_t context,
                               const Tokens& last, std::int32_t shift, Tokens& out) const {
  out = w.head;
  Tokens script;  // a draft at times says the same again, or nothing
  if (w.role == Role::draft) {
    const double x = unit(mix(context, seed + 5));
    if (x < repeat)
      script = last;
    else if (x < repeat + blank)
      script = {kSpace + shift, kBlankLine + shift};
  }
  StepScanner scanner(v);
  for (std::size_t i = 0;; ++i) {
    const bool given = i < out.size();
    if (!given) {
      auto t = i < script.size() ? script[i] : token(w.role, read(context, out)) + shift;
      if (w.no_eos_first && i == 0 && t == kEos) t = kWord;
      out.push_back(t);
    }
    const auto t = out[i];
    if (w.answer ? v.is_eos(t) : scanner.push(t)) return w.answer ? StepEnd::eos : scanner.end();
    if (size(out) >= w.limit) return StepEnd::limit;
  }
}

// The bytes of one pool, a cell a token.
class FakeStore {
 public:
  explicit FakeStore(const BlockPool& pool)
      : pool_(pool), cells_(static_cast<std::size_t>(pool.total()) * KvStore::kBlock, -1) {}

  // The lane may write from now on: nobody else may write or rely on these blocks.
  void start(const Work& w) {
    const auto first = static_cast<std::size_t>(w.cached / KvStore::kBlock);
    for (std::size_t i = 0; i < w.table.size(); ++i)
      i < first ? read(w, w.table[i]) : write(w, w.table[i]);
    for (const auto& j : w.judged)
      for (auto b : j.scratch_table) write(w, b);
    for (auto p = w.cached; p < size(w.table) * KvStore::kBlock; ++p) cell(w, p) = -2;
  }
  void copy(const Work& w) {
    if (!w.copy) return;
    for (int i = 0; i < w.cached % KvStore::kBlock; ++i)
      cells_[at(w.copy->dst, i)] = cells_[at(w.copy->src, i)];
  }
  // What the work may read holds `prefix`.
  void check(const Work& w, const Tokens& prefix) {
    DR_STATE(w.cached <= size(prefix)) << "work " << w.id << " has more cache than text";
    for (std::int32_t p = 0; p < w.cached; ++p)
      DR_STATE(cell(w, p) == prefix[p]) << "work " << w.id << " reads " << cell(w, p) << " at " << p
                                        << " of " << w.cached << ", not " << prefix[p];
  }
  void put(const Work& w, const Tokens& tokens, std::int32_t from) {
    DR_STATE(from + size(tokens) <= size(w.table) * KvStore::kBlock)
        << "work " << w.id << " has no room";
    for (auto t : tokens) cell(w, from++) = t;
  }
  void finish(const Work& w) {
    std::erase_if(writers_, [&](const auto& e) { return e.second == w.id; });
    for (auto& [_, ids] : readers_) ids.erase(w.id);
  }

 private:
  static std::size_t at(std::int32_t block, int i) {
    return static_cast<std::size_t>(block) * KvStore::kBlock + i;
  }
  std::int64_t& cell(const Work& w, std::int32_t p) {
    return cells_.at(at(w.table.at(p / KvStore::kBlock), p % KvStore::kBlock));
  }
  void write(const Work& w, std::int32_t block) {
    DR_STATE(pool_.refs(block) == 1) << "work " << w.id << " writes block " << block << " with "
                                     << pool_.refs(block) << " references";
    const auto [it, fresh] = writers_.emplace(block, w.id);
    DR_STATE(fresh) << "works " << w.id << " and " << it->second << " write block " << block;
    DR_STATE(readers_[block].empty()) << "work " << w.id << " writes block " << block
                                      << " that work " << *readers_[block].begin() << " reads";
  }
  void read(const Work& w, std::int32_t block) {
    DR_STATE(pool_.refs(block) > 0) << "work " << w.id << " reads free block " << block;
    DR_STATE(!writers_.count(block)) << "work " << w.id << " reads block " << block << " that work "
                                     << writers_[block] << " writes";
    readers_[block].insert(w.id);
  }

  const BlockPool& pool_;
  std::vector<std::int64_t> cells_;
  std::map<std::int32_t, std::uint64_t> writers_;
  std::map<std::int32_t, std::set<std::uint64_t>> readers_;
};

}  // namespace dream_r::test
