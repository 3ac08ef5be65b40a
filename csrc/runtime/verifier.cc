// CPN: rho = p+ / (p+ + p-) of the two keywords after the scoring suffix (method, section 2). A
// verdict needs the keywords' rows of lm_head alone: rho is the logistic of the difference of the
// two sides' logits, whatever the other tokens' are.
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
        whole_row_(judge_ == Judge::digit_greedy || context.options.min_mass > 0),
        corrects_(context.options.method == Method::fpsr),
        tokens_(work_->feed) {
    for (const Judgement& j : work_->judged)
      tokens_.insert(tokens_.end(), j.tokens.begin(), j.tokens.end());
  }

  void plan(Batch& batch) override {
    first_row_ = static_cast<std::int32_t>(batch.rows.size());
    const auto begin = written_;
    const auto size = static_cast<std::int32_t>(tokens_.size());
    const auto suffix = static_cast<std::int32_t>(suffix_.size());
    positions_.reserve(size + work_->judged.size() * suffix);  // spans point into it
    append_positions(begin, begin + size);
    BatchRow steps;
    steps.tokens = tokens_;
    steps.positions = positions_;
    steps.own = own();
    batch.rows.push_back(steps);
    auto end = static_cast<std::int32_t>(work_->feed.size());
    for (const Judgement& j : work_->judged) {
      end += static_cast<std::int32_t>(j.tokens.size());
      batch.wanted.push_back({first_row_, end - 1, false});
      plan_suffix(batch, j, begin + end);
    }
    written_ += size;
  }

  void take(std::span<const std::span<float>> logits, const LateLogits& late) override {
    std::size_t next = 0;
    std::int32_t step = work_->step;
    auto begin = static_cast<std::int32_t>(work_->feed.size());
    std::vector<std::int32_t> chosen = work_->head;  // the target's first token of the step
    bool rejected = false;
    for (Judgement& j : work_->judged) {
      const auto before = seen_.size();
      if (work_->spec->has_penalties()) seen_.insert(seen_.end(), j.tokens.begin(), j.tokens.end());
      j.next_token = sample(logits[next++], ++step, 0);
      const auto keywords = logits[next++];
      judge(j, keywords, whole_row_ ? logits[next++] : std::span<float>());
      if (corrects_ && !rejected && !says_yes(context_.options, j)) {
        rejected = true;  // what was drafted after it is not the target's business any more
        seen_.resize(before);
        j.own = agreed(j, step - 1, begin, std::move(chosen), late);
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
                                   std::vector<std::int32_t> own, const LateLogits& late) {
    const bool known = !own.empty();  // the first token, from the pass before
    std::vector<LogitsWanted> wanted;
    const auto size = static_cast<std::int32_t>(j.tokens.size());
    for (std::int32_t i = known ? 1 : 0; i < size; ++i)
      wanted.push_back({first_row_, begin + i - 1, false});
    std::size_t next = 0;
    const auto logits = late(wanted);
    while (next < logits.size() && (own.empty() || own.back() == j.tokens[own.size() - 1])) {
      if (work_->spec->has_penalties() && !own.empty()) seen_.push_back(own.back());
      own.push_back(sample(logits[next++], step, static_cast<std::int32_t>(own.size())));
    }
    return own;
  }

  // The suffix follows the step whose cache ends at `end`, in blocks of its own: always discarded.
  void plan_suffix(Batch& batch, const Judgement& j, std::int32_t end) {
    const auto at = positions_.size();
    append_positions(end, end + static_cast<std::int32_t>(suffix_.size()));
    BatchRow row;
    row.tokens = suffix_;
    row.positions = std::span(positions_).subspan(at);
    row.prefix = {work_->table.data(), end};
    row.own = {j.scratch_table.data(), 0};
    const auto index = static_cast<std::int32_t>(batch.rows.size());
    const auto last = static_cast<std::int32_t>(suffix_.size()) - 1;
    batch.rows.push_back(row);
    batch.wanted.push_back({index, last, true});
    if (whole_row_) batch.wanted.push_back({index, last, false});
  }

  void judge(Judgement& j, std::span<const float> keywords, std::span<const float> whole) {
    if (judge_ == Judge::cpn) {
      const auto n = context_.vocabulary.positive.size();
      const double yes = log_sum_exp(keywords.first(n)), no = log_sum_exp(keywords.subspan(n));
      j.positive = static_cast<float>(yes), j.negative = static_cast<float>(no);
      j.rho = static_cast<float>(1 / (1 + std::exp(no - yes)));
      if (!whole.empty()) {
        const double all = log_sum_exp(whole);
        j.mass = static_cast<float>(std::exp(yes - all) + std::exp(no - all));
      }
    } else {
      j.rho = judge_ == Judge::digit_greedy ? greedy_digit(whole) : mean_digit(keywords);
    }
  }

  // The digit that the target would write; anything else counts as 0.
  float greedy_digit(std::span<const float> logits) const {
    std::size_t best = 0;
    for (std::size_t i = 1; i < logits.size(); ++i)
      if (logits[i] > logits[best]) best = i;
    const auto& digits = context_.vocabulary.digits;
    for (std::size_t d = 0; d < digits.size(); ++d)
      for (std::int32_t id : digits[d])
        if (static_cast<std::size_t>(id) == best) return static_cast<float>(d);
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
  bool whole_row_;
  bool corrects_;  // what the target agrees with of a rejected step starts its own
  std::int32_t first_row_ = 0;
  std::vector<std::int32_t> tokens_;  // everything the row of steps reads
};

}  // namespace

bool says_yes(const EngineOptions& options, const Judgement& j) {
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
