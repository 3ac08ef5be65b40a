#include "runtime/manager.h"

#include <algorithm>

namespace dream_r {

Manager::Manager(const EngineOptions& options, Vocabulary vocabulary, std::int32_t target_blocks,
                 std::int32_t draft_blocks, std::optional<DraftTokens> draft_tokens)
    : options_(options),
      vocabulary_(std::move(vocabulary)),
      draft_tokens_(std::move(draft_tokens)),
      policy_(make_policy(options)),
      has_draft_(draft_blocks > 0 && options.method != Method::ar),
      target_pool_(target_blocks),
      draft_pool_(std::max(draft_blocks, 1)),
      target_index_(target_pool_),
      draft_index_(draft_pool_) {}

Manager::~Manager() = default;

void Manager::check_fits(const RequestSpec& spec) const {
  DR_CHECK(!spec.target.ids.empty()) << "a request without a prompt";
  DR_CHECK(spec.thinking_budget >= 0 && spec.max_tokens >= 0)
      << "negative budgets: thinking " << spec.thinking_budget << ", answer " << spec.max_tokens;
  const auto need = Session::worst_case_blocks(spec, vocabulary_, Role::target);
  DR_CHECK(need <= target_pool_.total())
      << "the request may need " << need * KvStore::kBlock << " tokens of KV cache (prompt "
      << spec.target.ids.size() << ", thinking budget " << spec.thinking_budget << ", answer "
      << spec.max_tokens << ") and the cache holds " << target_pool_.total() * KvStore::kBlock
      << ": raise target_kv_tokens or lower the budgets";
}

void Manager::submit(RequestId id, std::shared_ptr<const RequestSpec> spec, Actions& out) {
  check_fits(*spec);
  DR_CHECK(!known(id)) << "request " << id << " is here already";
  out_ = &out;
  queue_.emplace_back(id, std::move(spec));
  admit();
  rescue();
}

bool Manager::known(RequestId id) const {
  return sessions_.count(id) > 0 ||
         std::any_of(queue_.begin(), queue_.end(), [&](const auto& q) { return q.first == id; });
}

// First come, first served. A request is let in when the worst case of all plain runs still fits,
// so speculation alone can be short of memory, never a request.
void Manager::admit() {
  while (!queue_.empty() && promised_.size() < static_cast<std::size_t>(options_.max_requests)) {
    auto& [id, spec] = queue_.front();
    const auto need = Session::worst_case_blocks(*spec, vocabulary_, Role::target);
    if (promised_blocks_ + need > target_pool_.total()) return;
    promised_.emplace(id, need);
    promised_blocks_ += need;
    SessionHost& host = *this;
    auto session = std::make_unique<Session>(id, spec, options_, vocabulary_,
                                             draft_tokens_ ? &*draft_tokens_ : nullptr, *policy_,
                                             has_draft_ && !spec->draft.ids.empty(), host);
    Session& s = *session;
    sessions_.emplace(id, std::move(session));
    queue_.pop_front();
    s.start();
    s.settle();
  }
}

void Manager::cancel(RequestId id, Actions& out) {
  out_ = &out;
  const auto queued = std::find_if(queue_.begin(), queue_.end(),
                                   [&](const auto& entry) { return entry.first == id; });
  if (queued != queue_.end()) {
    queue_.erase(queued);
    Output done;
    done.kind = Output::Kind::done;
    done.request = id;
    done.reason = FinishReason::cancelled;
    out.emit.push_back(std::move(done));
    return admit();  // it may have kept those behind it waiting
  }
  if (auto it = sessions_.find(id); it != sessions_.end()) {
    it->second->cancel();
    after(id);
  }
}

void Manager::done(const WorkPtr& work, Actions& out) {
  out_ = &out;
  const auto it = sessions_.find(work->request);
  DR_STATE(it != sessions_.end()) << "work " << work->id << " of an unknown request";
  --works_;
  it->second->done(*work);
  after(work->request);
}

void Manager::after(RequestId id) {
  if (const auto it = sessions_.find(id); it != sessions_.end()) it->second->settle();
  // Memory came back: whoever waited for it tries again.
  for (auto& [other, session] : sessions_)
    if (other != id && session->starved()) session->settle();
  sweep();
  admit();
  rescue();
}

// Nothing runs, so nothing will give memory back by itself: all speculation goes, and a request
// that still finds none cannot go on. Every round starts a work or ends a request.
void Manager::rescue() {
  while (works_ == 0) {
    const auto waiting = std::find_if(sessions_.begin(), sessions_.end(),
                                      [](const auto& entry) { return entry.second->starved(); });
    if (waiting == sessions_.end()) return;
    for (auto& [_, holder] : sessions_) holder->shed();
    Session& session = *waiting->second;
    session.settle();
    if (works_ == 0 && session.starved()) session.fail("the KV cache has no room for this request");
    sweep();
    admit();
  }
}

void Manager::sweep() {
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    const bool gone = it->second->phase() == Phase::done && it->second->idle();
    it = gone ? sessions_.erase(it) : std::next(it);
  }
}

bool Manager::make_room(Role role, std::int32_t blocks) { return index(role).evict(blocks) > 0; }

KvSequence Manager::match_prefix(Role role, const ModelPrompt& prompt) {
  if (!options_.prefix_cache) return KvSequence(pool(role));
  KvSequence kv = index(role).match(prompt.key());
  // The index may hold the whole prompt of the draft, which leaves its last token unread.
  const auto most = static_cast<std::int32_t>(prompt.ids.size()) - 1;
  if (kv.length() > most) kv.truncate(most);
  return kv;
}

void Manager::remember_prefix(Role role, const ModelPrompt& prompt, const KvSequence& kv) {
  if (!options_.prefix_cache) return;
  index(role).insert(prompt.key(), kv);
}

void Manager::start(WorkPtr work) {
  ++works_;
  out_->start.push_back(std::move(work));
}

void Manager::committed(RequestId request, const CommittedStep& step) {
  Output o;
  o.kind = Output::Kind::step;
  o.request = request;
  o.step = step;
  out_->emit.push_back(std::move(o));
}

void Manager::answered(RequestId request, const std::vector<std::int32_t>& tokens) {
  Output o;
  o.kind = Output::Kind::answer;
  o.request = request;
  o.tokens = tokens;
  out_->emit.push_back(std::move(o));
}

void Manager::finished(RequestId request, FinishReason reason, const std::string& error) {
  promised_blocks_ -= promised_.at(request);
  promised_.erase(request);
  Output o;
  o.kind = Output::Kind::done;
  o.request = request;
  o.reason = reason;
  o.error = error;
  o.metrics = sessions_.at(request)->metrics();
  out_->emit.push_back(std::move(o));
}

const Session* Manager::session(RequestId id) const {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second.get();
}

void Manager::check() const { target_pool_.check(), draft_pool_.check(); }

void Manager::drop_prefixes() { target_index_.clear(), draft_index_.clear(); }

}  // namespace dream_r
