// CPN: rho = p+ / (p+ + p-) of the two keywords after the scoring suffix (method, section 2). A
// verdict needs the keywords' rows of lm_head alone: rho is the logistic of the difference of the
// two sides' logits, whatever the other tokens' are.
#include <algorithm>
#include <cmath>

#include "runtime/burst.h"

namespace dream_r {

namespace {

double log_sum_exp(std::span<const float> x) {
  double most = -INFINITY;
  for (float v : x) most = std::max<double>(most, v);
  if (!std::isfinite(most)) return std::isnan(most) ? NAN : most;
  double sum = 0;
  for (float v : x) sum += std::exp(v - most);
  return most + std::log(sum);
}

class Verify : public Burst {
 public:
  Verify(WorkPtr work, const BurstContext& context)
      : Burst(std::move(work), context),
        judge_(context.options.judge),
        suffix_(judge_ == Judge::cpn ? context.vocabulary.suffix : context.vocabulary.digit_suffix),
        mass_(judge_ == Judge::cpn && context.options.min_mass > 0),
        corrects_(context.options.method == Method::fpsr),
        tokens_(work_->feed) {
    for (const Judgement& j : work_->judged)
      tokens_.insert(tokens_.end(), j.tokens.begin(), j.tokens.end());
  }

  void plan(Pass& pass) override {
    const auto begin = written_;
    const auto size = static_cast<std::int32_t>(tokens_.size());
    const auto suffix = static_cast<std::int32_t>(suffix_.size());
    positions_.reserve(size + work_->judged.size() * suffix);  // spans point into it
    append_positions(begin, begin + size);
    BatchRow steps;
    steps.tokens = tokens_;
    steps.positions = positions_;
    steps.own = own();
    row_ = pass.add(steps);
    if (work_->spec->has_penalties())
      for (const Judgement& j : work_->judged)
        seen_.insert(seen_.end(), j.tokens.begin(), j.tokens.end());
    auto end = static_cast<std::int32_t>(work_->feed.size());
    std::size_t seen = work_->context.size();
    std::int32_t step = work_->step;
    for (const Judgement& j : work_->judged) {
      end += static_cast<std::int32_t>(j.tokens.size());
      if (work_->spec->has_penalties()) seen += j.tokens.size();
      answers_.push_back({pass.draw(row_, end - 1, draw(++step, 0, seen))});
      plan_suffix(pass, j, begin + end, answers_.back());
    }
    written_ += size;
  }

  void take(Pass& pass) override {
    auto begin = static_cast<std::int32_t>(work_->feed.size());
    std::vector<std::int32_t> chosen = work_->head;  // the target's first token of the step
    bool rejected = false;
    for (std::size_t i = 0; i < answers_.size(); ++i) {
      Judgement& j = work_->judged[i];
      const std::int32_t step = work_->step + static_cast<std::int32_t>(i);
      j.next_token = pass.drawn(answers_[i].next);
      judge(j, answers_[i], pass);
      if (corrects_ && !rejected && !says_yes(context_.options, *work_->spec, step, j)) {
        rejected = true;  // what was drafted after it is not the target's business any more
        j.own = agreed(j, step, begin, std::move(chosen), pass);
      }
      chosen = {j.next_token};
      begin += static_cast<std::int32_t>(j.tokens.size());
    }
    work_->written = written_;
    finished_ = true;
  }

 private:
  // The target's own first tokens of a rejected step whose first token is token `begin` of the row:
  // it would have read the same as long as it chooses the same, under its own random keys.
  std::vector<std::int32_t> agreed(const Judgement& j, std::int32_t step, std::int32_t begin,
                                   std::vector<std::int32_t> own, Pass& pass) const {
    constexpr std::size_t kAtOnce = 8;  // a whole vocabulary each, and most steps part early
    const bool counts = work_->spec->has_penalties();
    const std::size_t before =
        work_->context.size() + static_cast<std::size_t>(begin) - work_->feed.size();
    const auto agrees = [&] { return own.empty() || own.back() == j.tokens[own.size() - 1]; };
    while (own.size() < j.tokens.size() && agrees()) {
      const std::size_t at = own.size(), end = std::min(at + kAtOnce, j.tokens.size());
      std::vector<ops::SampleRow> how;
      for (std::size_t i = at; i < end; ++i)
        how.push_back(draw(step, static_cast<std::int32_t>(i), counts ? before + i : 0));
      const auto first = begin + static_cast<std::int32_t>(at) - 1;
      const auto drawn = pass.draw_late(row_, first, how);
      if (drawn.empty()) break;
      for (const std::int32_t token : drawn)
        if (agrees()) own.push_back(token);
    }
    return own;
  }

  // Where in the pass the answers to a judgement are.
  struct Answers {
    std::size_t next = 0;     // the target's token after the step
    std::size_t verdict = 0;  // the keywords' logits, or the digit drawn
    std::size_t log_sum = 0;
  };

  // The suffix follows the step whose cache ends at `end`, in blocks of its own: always discarded.
  void plan_suffix(Pass& pass, const Judgement& j, std::int32_t end, Answers& answers) {
    const auto at = positions_.size();
    append_positions(end, end + static_cast<std::int32_t>(suffix_.size()));
    BatchRow row;
    row.tokens = suffix_;
    row.positions = std::span(positions_).subspan(at);
    row.prefix = {work_->table.data(), end};
    row.own = {j.scratch_table.data(), 0};
    const std::int32_t index = pass.add(row);
    const auto last = static_cast<std::int32_t>(suffix_.size()) - 1;
    answers.verdict =
        judge_ == Judge::digit_greedy ? pass.draw(index, last, {}) : pass.keywords(index, last);
    if (mass_) answers.log_sum = pass.log_sum(index, last);
  }

  void judge(Judgement& j, const Answers& answers, const Pass& pass) const {
    if (judge_ == Judge::digit_greedy) {
      j.rho = digit(pass.drawn(answers.verdict));
      return;
    }
    const auto keywords = pass.keywords(answers.verdict);
    if (judge_ == Judge::cpn) {
      const auto n = context_.vocabulary.positive.size();
      const double yes = log_sum_exp(keywords.first(n)), no = log_sum_exp(keywords.subspan(n));
      j.positive = static_cast<float>(yes), j.negative = static_cast<float>(no);
      j.rho = static_cast<float>(1 / (1 + std::exp(no - yes)));
      if (mass_) {
        const double all = pass.log_sum(answers.log_sum);
        j.mass = static_cast<float>(std::exp(yes - all) + std::exp(no - all));
      }
    } else {
      j.rho = mean_digit(keywords);
    }
  }

  // The digit that the target writes; anything else counts as 0.
  float digit(std::int32_t token) const {
    const auto& digits = context_.vocabulary.digits;
    for (std::size_t d = 0; d < digits.size(); ++d)
      if (std::find(digits[d].begin(), digits[d].end(), token) != digits[d].end())
        return static_cast<float>(d);
    return 0;
  }

  // The expectation over the ten digits.
  float mean_digit(std::span<const float> keywords) const {
    const double all = log_sum_exp(keywords);
    double mean = 0;
    std::size_t i = 0;
    const auto& digits = context_.vocabulary.digits;
    for (std::size_t d = 0; d < digits.size(); ++d)
      for (std::size_t n = digits[d].size(); n > 0; --n)
        mean += static_cast<double>(d) * std::exp(keywords[i++] - all);
    return static_cast<float>(mean);
  }

  Judge judge_;
  const std::vector<std::int32_t>& suffix_;
  bool mass_;      // p+ + p- is asked for
  bool corrects_;  // what the target agrees with of a rejected step starts its own
  std::int32_t row_ = 0;
  std::vector<std::int32_t> tokens_;  // everything the row of steps reads
  std::vector<Answers> answers_;      // one a judgement
};

}  // namespace

bool says_yes(const EngineOptions& options, const RequestSpec& spec, std::int32_t step,
              const Judgement& j) {
  if (options.script) return accepts(*options.script, spec, step);
  if (!std::isfinite(j.rho) || (options.min_mass > 0 && !(j.mass >= options.min_mass)))
    return false;
  return options.judge == Judge::cpn ? j.rho > options.alpha : j.rho >= options.digit_threshold;
}

std::vector<std::int32_t> keyword_ids(const Vocabulary& v, Judge judge) {
  std::vector<std::int32_t> ids;
  if (judge == Judge::cpn) {
    ids = v.positive;
    ids.insert(ids.end(), v.negative.begin(), v.negative.end());
  } else {
    for (const auto& digit : v.digits) ids.insert(ids.end(), digit.begin(), digit.end());
  }
  return ids;
}

std::unique_ptr<Burst> make_verify(WorkPtr work, const BurstContext& context) {
  return std::make_unique<Verify>(std::move(work), context);
}

}  // namespace dream_r
