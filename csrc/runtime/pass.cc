#include "runtime/pass.h"

namespace dream_r {

namespace {

std::size_t append(std::vector<LogitsWanted>& to, LogitsWanted what) {
  to.push_back(what);
  return to.size() - 1;
}

}  // namespace

void Pass::clear() {
  batch_.rows.clear();
  batch_.wanted.clear();
  draws_.clear(), sums_.clear(), words_.clear(), how_.clear();
}

std::int32_t Pass::add(const BatchRow& row) {
  batch_.rows.push_back(row);
  return static_cast<std::int32_t>(batch_.rows.size()) - 1;
}

std::size_t Pass::draw(std::int32_t row, std::int32_t token, const ops::SampleRow& how) {
  how_.push_back(how);
  return append(draws_, {row, token, false});
}

std::size_t Pass::log_sum(std::int32_t row, std::int32_t token) {
  return append(sums_, {row, token, false});
}

std::size_t Pass::keywords(std::int32_t row, std::int32_t token) {
  return append(words_, {row, token, true});
}

void Pass::run() {
  for (const auto* some : {&draws_, &sums_, &words_})
    batch_.wanted.insert(batch_.wanted.end(), some->begin(), some->end());
  result_ = model_.forward(stream_, arena_, kv_, batch_, head_, graphs_);
  read();
  stream_.wait();
}

void Pass::read() {
  const auto draws = static_cast<std::int64_t>(draws_.size());
  const auto sums = static_cast<std::int64_t>(sums_.size());
  if (sums > 0) {  // before the draws, which write into their logits
    Tensor there = arena_.take({sums}, DType::f32);
    ops::log_sum_exp(stream_, result_.full.rows(draws, draws + sums), there);
    const Tensor here = ops::copy_to(stream_, there, {});
    log_sums_.assign(here.f32(), here.f32() + sums);
  }
  tokens_.resize(draws_.size());
  if (draws > 0) ops::sample_rows(stream_, result_.full.rows(0, draws), how_, tokens_);
  if (!words_.empty()) word_logits_ = ops::copy_to(stream_, result_.keywords, {});
}

std::vector<std::int32_t> Pass::draw_late(std::int32_t row, std::int32_t begin,
                                          std::span<const ops::SampleRow> how) {
  std::vector<LogitsWanted> wanted;
  for (std::size_t i = 0; i < how.size(); ++i)
    wanted.push_back({row, begin + static_cast<std::int32_t>(i), false});
  const Arena::Mark mark = arena_.mark();
  const Tensor logits = model_.late_logits(stream_, arena_, kv_, result_, wanted);
  if (!logits.defined()) return {};
  std::vector<std::int32_t> tokens(how.size());
  ops::sample_rows(stream_, logits, how, tokens);
  arena_.rewind(mark);
  return tokens;
}

std::span<const float> Pass::keywords(std::size_t i) const {
  const std::int64_t n = word_logits_.dim(1);
  return {word_logits_.f32() + static_cast<std::int64_t>(i) * n, static_cast<std::size_t>(n)};
}

}  // namespace dream_r
