#include "server/sync/agent_sessions.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "common/log.h"
#include "common/timestamp.h"
#include "server/sync/difference.h"
#include "server/sync/host_commands.h"

namespace viommu::server {
namespace {

using std::chrono::milliseconds;

// What is left after Shutdown's deadline is broken off; that takes no more than this unless gRPC itself hangs.
constexpr milliseconds kBreakOffTime{1'000};

SessionCore::Limits LimitsFrom(const Sessions::Options& options) {
  SessionCore::Limits limits;
  limits.hello_timeout = options.min_lease;
  limits.close_grace = options.close_grace;
  limits.max_message_bytes = options.max_message_bytes;
  limits.max_results = options.max_results_in_flight;
  limits.max_calls = options.max_invalidate_calls;
  limits.max_call_bytes = options.max_invalidate_bytes;
  return limits;
}

absl::Status ShuttingDown() {
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN)
      .Message("the server is stopping; connect again when it is back");
}

absl::Status NotConnected(const std::string& host) {
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED)
      .Message("the agent of {} is not connected; try again once it is", host)
      .Meta("host", host)
      .RetryAfter(kReconnectDelay);
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

}  // namespace

AgentSessions::AgentSessions(CommitCore& core, Submit submit, const Clock& clock, const Options& options)
    : core_(core),
      submit_(std::move(submit)),
      clock_(clock),
      options_(options),
      limits_(LimitsFrom(options)),
      started_(clock.Monotonic()),
      slots_(options.max_concurrent_syncs),
      hello_memory_(options.max_hello_bytes),
      followed_(core.revision()) {}

AgentSessions::~AgentSessions() {
  if (!stopping_) Shutdown(milliseconds(0));
}

// --- Streams.

std::shared_ptr<AgentSession> AgentSessions::Open(AgentStream* stream, Peer peer) {
  std::shared_ptr<AgentSession> session;
  absl::Status refused;
  {
    MutexLock lock(sessions_mu_);
    if (stopping_) {
      refused = ShuttingDown();
    } else if (sessions_.size() >= options_.max_sessions) {
      refused =
          Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
              .Message("{} agents are connected, no more are taken; raise the limit or add a server", sessions_.size())
              .RetryAfter(options_.min_lease);
    }
    session = std::make_shared<AgentSession>(*this, ++last_id_, stream, std::move(peer));
    sessions_.emplace(session->id(), session);
  }
  if (refused.ok()) {
    session->Drive();
  } else {
    session->Close(refused);
  }
  return session;
}

absl::Status AgentSessions::CheckClaim(const v1::Hello& hello, const Connected* present) const {
  const std::string& host = hello.host().name();
  const auto taken = [&host](const std::string& since, const std::string& peer) {
    return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_HOST_ALREADY_CONNECTED)
        .Message(
            "another agent ({}) is connected for {} since {}; give this host another name, or stop the other agent",
            peer, host, since)
        .Meta("host", host)
        .Meta("since", since)
        .Meta("peer", peer);
  };
  if (present != nullptr) {
    if (present->agent_id == hello.agent_id()) return absl::OkStatus();
    if (present->session->LeaseRanOut(clock_.Monotonic())) return absl::OkStatus();
    return taken(FormatTime(present->session->since()), present->session->peer().address);
  }
  if (grace_over_) return absl::OkStatus();
  // The agent that was connected when the server stopped has the first claim until its time is over.
  const auto recorded = core_.Read([&](const Tables& tables, int64_t) { return tables.Find<v1::Host>(host); });
  if (recorded == nullptr || recorded->state() != v1::HOST_STATE_CONNECTED || recorded->agent_id().empty() ||
      recorded->agent_id() == hello.agent_id()) {
    return absl::OkStatus();
  }
  const auto left = std::chrono::duration_cast<milliseconds>(started_ + options_.start_grace - clock_.Monotonic());
  return taken(FormatTime(FromTimestamp(recorded->update_time())), "agent " + recorded->agent_id())
      .RetryAfter(std::max(left, options_.tick_interval));
}

absl::Status AgentSessions::Admit(const std::shared_ptr<AgentSession>& session, v1::Hello hello) {
  VIOMMU_RETURN_IF_ERROR(CheckHello(hello, session->peer(), core_.identity(), core_.starts(), core_.revision()));
  auto memory = hello_memory_.Take(hello.SpaceUsedLong());
  if (!memory.has_value()) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
        .Message("hellos of {} bytes are being worked off; connect again later", hello_memory_.bytes())
        .RetryAfter(kReconnectDelay);
  }
  const std::string host = hello.host().name();
  const std::string agent_id = hello.agent_id();
  Connected old;
  {
    WriterLock lock(hosts_mu_);
    if (stopping_) return ShuttingDown();
    const auto present = hosts_.find(host);
    VIOMMU_RETURN_IF_ERROR(CheckClaim(hello, present == hosts_.end() ? nullptr : &present->second));
    // Under the lock, so that the writer gets it after whatever is said about the session before it.
    auto command = std::make_unique<HelloCommand>(session, std::move(hello), *std::move(memory));
    VIOMMU_RETURN_IF_ERROR(submit_(command.get()));
    static_cast<void>(command.release());
    old = std::exchange(hosts_[host], Connected{session, agent_id});
    departures_.erase(host);
  }
  VIOMMU_LOG(kInfo, "agent said hello", {{"host", host}, {"peer", session->peer().address}, {"agent_id", agent_id}});
  if (old.session != nullptr) {
    const bool same = old.agent_id == agent_id;
    VIOMMU_LOG(kWarning, "agent session taken over",
               {{"host", host}, {"old_peer", old.session->peer().address}, {"peer", session->peer().address}});
    old.session->Close(same ? Error(absl::StatusCode::kAborted, v1::ERROR_REASON_HOST_ALREADY_CONNECTED)
                                  .Message("the same agent of {} has opened another stream from {}, which goes on",
                                           host, session->peer().address)
                            : Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_LEASE_EXPIRED)
                                  .Message("the lease ran out, and another agent of {} connected from {}", host,
                                           session->peer().address));
  }
  return absl::OkStatus();
}

void AgentSessions::Ended(const AgentSession& session, const std::string& host, const absl::Status& why) {
  VIOMMU_LOG(kInfo, "agent session ended",
             {{"host", host}, {"peer", session.peer().address}, {"reason", ReasonName(ReasonOf(why))}, {"why", why}});
  const v1::ErrorReason reason = ReasonOf(why);
  if (reason == v1::ERROR_REASON_STALE_EPOCH) {
    VIOMMU_LOG(kError, "this server is stale", {{"host", host}, {"why", why}});
  } else if (reason == v1::ERROR_REASON_STORE_OUT_OF_DATE) {
    VIOMMU_LOG(kError, "this server's store is an older copy", {{"host", host}, {"why", why}});
  }
  {
    MutexLock lock(sessions_mu_);
    ++ended_[reason];
  }
  WriterLock lock(hosts_mu_);
  const auto present = hosts_.find(host);
  if (present == hosts_.end() || present->second.session.get() != &session) return;
  hosts_.erase(present);
  if (stopping_) return;
  Depart(host, reason == v1::ERROR_REASON_UNSPECIFIED ? v1::ERROR_REASON_HOST_DISCONNECTED : reason,
         why.ok() ? "the agent ended its stream, or the connection broke" : Text(why));
}

void AgentSessions::Gone(const AgentSession& session) {
  MutexLock lock(sessions_mu_);
  sessions_.erase(session.id());
  if (sessions_.empty()) gone_.NotifyAll();
}

// --- Following the record.

void AgentSessions::OnCommit(const std::vector<ChangeSetPtr>& sets) {
  if (sets.empty()) return;
  std::vector<std::shared_ptr<AgentSession>> ready;
  {
    ReaderLock lock(hosts_mu_);
    for (const ChangeSetPtr& set : sets) {
      for (const Change& change : set->changes) {
        const Concern concern = ConcernOf(change, *set);
        if (concern == Concern::kNone) continue;
        const google::protobuf::Message& record = change.after != nullptr ? *change.after : *change.before;
        const auto host = hosts_.find(HostOf(change.kind, record));
        if (host == hosts_.end()) continue;  // its agent gets the difference when it connects
        const std::shared_ptr<AgentSession>& session = host->second.session;
        if (session->Changed(concern, {change.kind, change.name}, UidOf(change.kind, record), set->revision)) {
          ready.push_back(session);
        }
      }
    }
  }
  followed_.store(sets.back()->revision, std::memory_order_release);
  MakeReady(ready);
}

milliseconds AgentSessions::Lease() const {
  const int64_t hosts = core_.Read([](const Tables& tables, int64_t) { return tables.size(Kind::kHost); });
  return std::max(options_.min_lease, milliseconds(hosts * 3 * 1000 / options_.max_heartbeats_per_s));
}

Difference AgentSessions::DifferenceOf(const std::string& host, const SessionCore::HeldItems& held) const {
  const std::vector<HostRecord> records =
      core_.Read([&](const Tables& tables, int64_t) { return RecordsOfHost(tables, host); });
  return Compare(records, held);
}

std::vector<RecordPtr> AgentSessions::Fetch(const DesiredWork& work) const {
  return core_.Read([&](const Tables& tables, int64_t) { return FetchRecords(tables, work); });
}

absl::Status AgentSessions::JudgeResults(const std::shared_ptr<AgentSession>& session, const std::string& host,
                                         v1::Results& results) {
  auto command = std::make_unique<ResultsCommand>(session, host, std::move(results));
  if (absl::Status status = submit_(command.get()); !status.ok()) {
    results = command->TakeResults();
    return status;
  }
  static_cast<void>(command.release());
  return absl::OkStatus();
}

void AgentSessions::ReleaseSlot(const AgentSession& session) {
  std::optional<int64_t> next = slots_.Release(session.id());
  while (next.has_value()) {
    std::shared_ptr<AgentSession> granted;
    {
      MutexLock lock(sessions_mu_);
      if (const auto found = sessions_.find(*next); found != sessions_.end()) granted = found->second;
    }
    if (granted != nullptr) {
      if (granted->SlotGranted()) MakeReady({granted});
      return;
    }
    next = slots_.Release(*next);
  }
}

// --- Hosts without a session.

void AgentSessions::Depart(const std::string& host, v1::ErrorReason reason, std::string message) {
  departures_[host] = {++last_departure_, reason, std::move(message), false};
  SubmitDepartures();
}

void AgentSessions::SubmitDepartures() {
  for (auto& [host, departure] : departures_) {
    if (departure.submitted) continue;
    if (departures_in_flight_ >= kMaxDeparturesInFlight) return;
    auto command =
        std::make_unique<DisconnectCommand>(*this, host, departure.number, departure.reason, departure.message);
    if (!submit_(command.get()).ok()) return;  // the next tick tries again
    static_cast<void>(command.release());
    departure.submitted = true;
    ++departures_in_flight_;
  }
}

void AgentSessions::DepartureJudged(const std::string& host, int64_t departure, const absl::Status& status) {
  WriterLock lock(hosts_mu_);
  --departures_in_flight_;
  const auto found = departures_.find(host);
  if (found == departures_.end() || found->second.number != departure) return;
  if (absl::IsUnavailable(status)) {
    found->second.submitted = false;  // the store took nothing: the next tick tries again
    return;
  }
  departures_.erase(found);
}

void AgentSessions::GiveUpOnAbsent() {
  grace_over_ = true;
  std::vector<std::string> absent;
  core_.Read([&](const Tables& tables, int64_t) {
    tables.ScanRecords(Kind::kHost, "hosts/", "", [&](const RecordPtr& record) {
      const auto& host = static_cast<const v1::Host&>(*record);
      if (host.state() == v1::HOST_STATE_CONNECTED) absent.push_back(host.name());
      return true;
    });
  });
  WriterLock lock(hosts_mu_);
  for (const std::string& host : absent) {
    if (hosts_.contains(host) || departures_.contains(host)) continue;
    Depart(host, v1::ERROR_REASON_HOST_DISCONNECTED, "the agent did not come back after the server's start");
  }
}

// --- Calls.

std::shared_ptr<AgentSession> AgentSessions::SessionOf(const std::string& host) const {
  ReaderLock lock(hosts_mu_);
  const auto found = hosts_.find(host);
  return found == hosts_.end() ? nullptr : found->second.session;
}

void AgentSessions::Invalidate(const std::string& host, const std::string& target_uid,
                               const std::vector<v1::Command>& commands, std::chrono::system_clock::time_point deadline,
                               InvalidateCallback done) {
  const std::shared_ptr<AgentSession> session = SessionOf(host);
  if (session == nullptr) return done(NotConnected(host));
  session->Invalidate(target_uid, commands, deadline, std::move(done));
}

void AgentSessions::Inspect(const std::string& host, const v1::InspectCall& call,
                            std::chrono::system_clock::time_point deadline, InspectCallback done) {
  const std::shared_ptr<AgentSession> session = SessionOf(host);
  if (session == nullptr) return done(NotConnected(host));
  session->Inspect(call, deadline, std::move(done));
}

void AgentSessions::TearDown(const std::string& host, const std::vector<std::string>& uids) {
  const std::shared_ptr<AgentSession> session = SessionOf(host);
  if (session != nullptr && session->TearDown(uids)) MakeReady({session});
}

Sessions::Stats AgentSessions::stats() const {
  Stats stats;
  const int64_t now_at = followed();
  {
    ReaderLock lock(hosts_mu_);
    for (const auto& [host, connected] : hosts_) {
      const AgentSession::Progress progress = connected.session->progress(now_at);
      stats.connected += progress.welcomed ? 1 : 0;
      stats.synced += progress.synced ? 1 : 0;
      stats.pending_resources += static_cast<int64_t>(progress.pending);
      stats.max_lag_revisions = std::max(stats.max_lag_revisions, progress.lag_revisions);
    }
  }
  stats.syncs_active = static_cast<int64_t>(slots_.active());
  stats.syncs_waiting = static_cast<int64_t>(slots_.waiting());
  stats.hello_bytes = static_cast<int64_t>(hello_memory_.bytes());
  MutexLock lock(sessions_mu_);
  stats.streams = static_cast<int64_t>(sessions_.size());
  stats.ended = ended_;
  return stats;
}

std::optional<Sessions::Info> AgentSessions::Find(const std::string& host) const {
  ReaderLock lock(hosts_mu_);
  const auto found = hosts_.find(host);
  if (found == hosts_.end()) return std::nullopt;
  const AgentSession& session = *found->second.session;
  const AgentSession::Progress progress = session.progress(followed());
  if (!progress.welcomed) return std::nullopt;
  return Info{found->second.agent_id,
              session.peer().address,
              session.since(),
              progress.synced,
              static_cast<int64_t>(progress.pending),
              progress.lag_revisions};
}

std::vector<v1::SmmuUsage> AgentSessions::UsageOf(const std::string& host) const {
  const std::shared_ptr<AgentSession> session = SessionOf(host);
  return session == nullptr ? std::vector<v1::SmmuUsage>() : session->usage();
}

// --- Time and the thread.

std::vector<std::shared_ptr<AgentSession>> AgentSessions::AllSessions() const {
  MutexLock lock(sessions_mu_);
  std::vector<std::shared_ptr<AgentSession>> all;
  all.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) all.push_back(session);
  return all;
}

void AgentSessions::Tick() {
  const MonotonicTime now = clock_.Monotonic();
  std::vector<std::shared_ptr<AgentSession>> due;
  {
    MutexLock lock(sessions_mu_);
    for (const auto& [id, session] : sessions_) {
      if (session->next_due() <= now) due.push_back(session);
    }
  }
  for (const std::shared_ptr<AgentSession>& session : due) session->Tick(now);
  if (stopping_) return;
  if (!grace_over_ && now - started_ >= options_.start_grace) GiveUpOnAbsent();
  WriterLock lock(hosts_mu_);
  SubmitDepartures();
}

void AgentSessions::MakeReady(const std::vector<std::shared_ptr<AgentSession>>& sessions) {
  if (sessions.empty()) return;
  MutexLock lock(ready_mu_);
  ready_.insert(ready_.end(), sessions.begin(), sessions.end());
  work_.NotifyOne();
}

bool AgentSessions::RunReady() {
  std::vector<std::shared_ptr<AgentSession>> ready;
  {
    MutexLock lock(ready_mu_);
    ready.swap(ready_);
  }
  for (const std::shared_ptr<AgentSession>& session : ready) {
    session->ClearReady();  // first, so that what comes meanwhile makes it ready again
    session->Drive();
  }
  return !ready.empty();
}

void AgentSessions::Start() {
  thread_ = std::thread([this] { Run(); });
}

void AgentSessions::Run() {
  std::chrono::steady_clock::time_point next_tick = std::chrono::steady_clock::now();
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= next_tick) {
      Tick();
      next_tick = now + options_.tick_interval;
    }
    if (RunReady()) continue;
    MutexLock lock(ready_mu_);
    if (stop_thread_) return;
    if (!ready_.empty()) continue;
    work_.WaitFor(ready_mu_, next_tick - now);
  }
}

bool AgentSessions::WaitUntilGone(milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(sessions_mu_);
  while (!sessions_.empty()) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= milliseconds(0)) return false;
    gone_.WaitFor(sessions_mu_, left);
  }
  return true;
}

void AgentSessions::Shutdown(milliseconds deadline) {
  {
    // Whoever was admitted before is in the map now, whoever comes later sees the flag.
    WriterLock hosts_lock(hosts_mu_);
    MutexLock lock(sessions_mu_);
    stopping_ = true;
  }
  for (const std::shared_ptr<AgentSession>& session : AllSessions()) session->Close(ShuttingDown());
  if (!WaitUntilGone(deadline)) {
    for (const std::shared_ptr<AgentSession>& session : AllSessions()) session->Abort(ShuttingDown());
    if (!WaitUntilGone(kBreakOffTime)) VIOMMU_LOG(kWarning, "agent streams are left after the shutdown");
  }
  {
    MutexLock lock(ready_mu_);
    stop_thread_ = true;
    work_.NotifyOne();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace viommu::server
