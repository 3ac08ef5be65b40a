#include "runtime/text_lane.h"

#include "core/check.h"

namespace dream_r {

TextLane::TextLane(Translator translate, std::int32_t target_vocab, std::int32_t draft_vocab,
                   LaneClock& clock, HandBack hand_back)
    : translate_(std::move(translate)),
      target_vocab_(target_vocab),
      draft_vocab_(draft_vocab),
      clock_(clock),
      hand_back_(std::move(hand_back)) {}

TextLane::~TextLane() { stop(); }

void TextLane::start() {
  thread_ = std::thread([this] {
    while (auto work = inbox_.pop()) serve(*work);
  });
}

void TextLane::stop() {
  stopping_.store(true);
  inbox_.close();  // what waits is still served
  if (thread_.joinable()) thread_.join();
}

bool TextLane::step() {
  bool moved = false;
  while (auto work = inbox_.try_pop()) serve(*work), moved = true;
  return moved;
}

void TextLane::serve(const WorkPtr& work) {
  work->begin = clock_.now();
  work->cancelled = stopping_.load() || work->cancel.load(std::memory_order_relaxed);
  try {
    if (!work->cancelled) translate(*work);
  } catch (const std::exception& e) {
    work->error = e.what();
  }
  work->finish = clock_.now();
  hand_back_(work);
  clock_.part(LaneId::text);
}

void TextLane::translate(Work& work) const {
  const bool drafted = work.role == Role::draft;
  auto tokens = translate_(work.role, work.feed);
  const auto vocab = drafted ? target_vocab_ : draft_vocab_;
  for (std::int32_t id : tokens)
    DR_CHECK(0 <= id && id < vocab)
        << "a step of the " << (drafted ? "draft" : "target") << " was translated into token " << id
        << ", outside the other model's vocabulary of " << vocab;
  work.tokens = std::move(tokens);
}

}  // namespace dream_r
