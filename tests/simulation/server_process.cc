#include "tests/simulation/server_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "server/api/drift.h"

namespace viommu::simulation {

using server::Command;
using server::CommitCore;
using server::Context;
using server::Draft;
using server::RecordPtr;

// A caller's change on its way through the committer, as api/mutation.h does it.
class ServerProcess::Change final : public Command {
 public:
  Change(ServerProcess& server, std::shared_ptr<const Request> request, Reply reply)
      : server_(server), request_(std::move(request)), reply_(std::move(reply)) {
    request_id = request_->id;
    fingerprint = request_->fingerprint;
  }

  absl::Status Judge(const Context& context, Draft& draft) override {
    VIOMMU_ASSIGN_OR_RETURN(answer_, request_->judge(context, draft));
    return absl::OkStatus();
  }
  std::string Response() const override { return answer_.bytes; }
  absl::Status Replay(std::string_view response) override {
    std::optional<Answer> answer = request_->parse(response);
    if (!answer.has_value()) return absl::DataLossError("an answer that cannot be read");
    answer_ = *std::move(answer);
    return absl::OkStatus();
  }
  void Done(absl::Status status, int64_t revision) override {
    server_.checker_.Acknowledged(*server_.timeline_, request_->id, fingerprint, status, revision, answer_);
    if (status.ok() && request_->wait) {
      server_.Await(request_, std::move(answer_), 0, revision, std::move(reply_));
    } else {
      reply_(status, revision);
    }
    delete this;
  }

 private:
  ServerProcess& server_;
  const std::shared_ptr<const Request> request_;
  Reply reply_;
  Answer answer_;
};

// What a repair of drift records, as api/operations_drift.cc does it.
class ServerProcess::DriftRepair final : public Command {
 public:
  explicit DriftRepair(std::vector<server::Compared> anew) : anew_(std::move(anew)) {}
  absl::Status Judge(const Context& context, Draft& draft) override {
    server::DesireAnew(anew_, context, draft);
    return absl::OkStatus();
  }
  void Done(absl::Status, int64_t) override { delete this; }

 private:
  const std::vector<server::Compared> anew_;
};

std::unique_ptr<ServerProcess> ServerProcess::Start(Scheduler& scheduler, const Clock& clock, Checker& checker,
                                                    ServerDisk& disk, std::shared_ptr<Timeline> timeline,
                                                    const Options& options) {
  std::unique_ptr<ServerProcess> process(
      new ServerProcess(scheduler, clock, checker, disk, std::move(timeline), options));
  const absl::Status opened = process->Open();
  if (opened.ok()) return process;
  if (!absl::IsUnavailable(opened)) checker.Fail(fmt::format("the server does not start: {}", opened.ToString()));
  return nullptr;
}

ServerProcess::ServerProcess(Scheduler& scheduler, const Clock& clock, Checker& checker, ServerDisk& disk,
                             std::shared_ptr<Timeline> timeline, Options options)
    : scheduler_(scheduler),
      clock_(clock),
      checker_(checker),
      disk_(disk),
      timeline_(std::move(timeline)),
      options_(std::move(options)),
      life_(scheduler) {}

absl::Status ServerProcess::Open() {
  const int64_t left_at = disk_.revision();
  disk_.set_on_attempt(
      [this, left_at](int64_t revision, uint64_t) { checker_.Opening(*timeline_, left_at, revision); });
  CommitCore::Options options;
  options.cluster_id = "cluster";
  options.boot_id = options_.boot_id;
  options.change_log.max_bytes = 512 << 10;
  options.change_log.max_memory_sets = 64;
  options.max_batch_changes = 24;
  VIOMMU_ASSIGN_OR_RETURN(core_, CommitCore::Open(
                                     disk_, clock_, [this] { return scheduler_.random.Uuid(); }, options));
  scheduler_.Trace("server: start", timeline_->incarnation, core_->identity().epoch, core_->revision());
  checker_.Started(*timeline_, *core_, disk_, left_at);
  disk_.set_on_attempt([this](int64_t revision, uint64_t hash) { checker_.Attempted(*timeline_, revision, hash); });

  server::Sessions::Options sessions;
  sessions.min_lease = milliseconds(1000);
  sessions.start_grace = milliseconds(3000);
  sessions.max_concurrent_syncs = 1;
  sessions.max_message_bytes = 2048;  // several messages for one difference
  sessions.close_grace = milliseconds(500);
  waiters_.emplace(*core_);
  sessions_ = std::make_unique<server::AgentSessions>(
      *core_, [this](Command* command) { return Submit(command); }, clock_, sessions);
  core_->AddListener(this);
  core_->AddListener(sessions_.get());
  core_->AddListener(&*waiters_);
  drains_.emplace(*core_, [this](Command* command) { return Submit(command); });
  TickSessions();
  TickCore();
  TickDrains();
  return absl::OkStatus();
}

ServerProcess::~ServerProcess() {
  life_.End();
  for (const auto& [command, outcome] : answers_) delete command;
  for (Command* command : queue_) delete command;
  for (const auto& link : links_) link->ServerEnds(/*tells=*/false);
  sessions_.reset();
  disk_.set_on_attempt(nullptr);
}

void ServerProcess::Stop() {
  for (const auto& link : links_) link->ServerEnds(/*tells=*/true);
  sessions_->Shutdown(milliseconds(0));
  life_.End();
  // What was taken is still written and answered; nobody is there to hear of it in this world but the checker.
  while (!queue_.empty() && !crashed()) {
    std::vector<Command*> batch(queue_.begin(), queue_.end());
    std::vector<CommitCore::Outcome> outcomes = core_->Run(batch);
    if (crashed()) break;
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(outcomes.size()));
    for (size_t i = 0; i < outcomes.size(); ++i) answers_.emplace_back(batch[i], std::move(outcomes[i]));
  }
  if (!crashed()) static_cast<void>(core_->Close());
  scheduler_.Trace("server: stop", "", core_->revision());
}

void ServerProcess::Connect(const std::shared_ptr<Link>& link) {
  std::erase_if(links_, [](const auto& each) { return !each->open_at_server(); });
  links_.push_back(link);
  link->Accept(*sessions_);
  Drive();
}

void ServerProcess::Call(std::shared_ptr<const Request> request, Reply reply) {
  auto change = std::make_unique<Change>(*this, std::move(request), reply);
  if (const absl::Status status = Submit(change.get()); !status.ok()) return reply(status, 0);
  static_cast<void>(change.release());
}

void ServerProcess::RepairDrift(const std::string& host, DriftReply done) {
  v1::GetDriftRequest request;
  request.set_host(host);
  request.set_repair(true);
  request.set_page_size(static_cast<int32_t>(1 + scheduler_.random.Below(6)));
  RepairDriftFrom(request, 0, done);
}

void ServerProcess::RepairDriftFrom(const v1::GetDriftRequest& request, int64_t found, const DriftReply& done) {
  const absl::StatusOr<v1::InspectCall> call = server::AskForDrift(*core_, request);
  if (!call.ok()) return done(call.status());
  const auto answered = [this, request, call = *call, found, done](const absl::StatusOr<v1::InspectReply>& reply) {
    if (!reply.ok()) return done(reply.status());
    v1::GetDriftResponse page;
    absl::StatusOr<server::ToTell> to_tell = server::FillDrift(*core_, request, call, *reply, &page);
    if (!to_tell.ok()) return done(to_tell.status());
    sessions_->TearDown(request.host(), to_tell->unknown);
    auto repair = std::make_unique<DriftRepair>(std::move(to_tell->anew));
    if (const absl::Status status = Submit(repair.get()); !status.ok()) return done(status);
    static_cast<void>(repair.release());
    const int64_t more = std::count_if(page.drifts().begin(), page.drifts().end(),
                                       [](const v1::Drift& drift) { return !drift.expected(); });
    if (page.next_page_token().empty()) return done(found + more);
    v1::GetDriftRequest next = request;
    next.set_page_token(page.next_page_token());
    RepairDriftFrom(next, found + more, done);
  };
  sessions_->Inspect(
      request.host(), *call,
      std::chrono::time_point_cast<std::chrono::system_clock::duration>(clock_.Now() + milliseconds(2000)),
      // Not from within the session.
      [this, answered](absl::StatusOr<v1::InspectReply> reply) {
        life_.After(nanoseconds(0), [this, answered, reply] {
          answered(reply);
          Drive();
        });
      });
  Drive();
}

absl::Status ServerProcess::Submit(Command* command) {
  if (queue_.size() >= kMaxQueue) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED).Message("the queue is full");
  }
  queue_.push_back(command);
  if (!writing_) {
    writing_ = true;
    life_.After(scheduler_.random.Between(options_.least_sync, options_.most_sync), [this] { Write(); });
  }
  return absl::OkStatus();
}

void ServerProcess::Write() {
  writing_ = false;
  std::vector<Command*> batch(queue_.begin(), queue_.end());
  if (batch.empty()) return;
  std::vector<CommitCore::Outcome> outcomes = core_->Run(batch);
  if (crashed()) return;  // nobody hears of it
  scheduler_.Trace("server: batch", "", static_cast<int64_t>(outcomes.size()), core_->revision());
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(outcomes.size()));
  for (size_t i = 0; i < outcomes.size(); ++i) answers_.emplace_back(batch[i], std::move(outcomes[i]));
  // Answers are given on a thread of their own: a crash may come between any two of them.
  for (size_t i = 0; i < outcomes.size(); ++i) {
    life_.After(std::chrono::microseconds(10) * (i + 1), [this] {
      auto [command, outcome] = std::move(answers_.front());
      answers_.pop_front();
      command->Done(std::move(outcome.status), outcome.revision);
      Drive();
    });
  }
  if (!queue_.empty()) {
    writing_ = true;
    life_.After(scheduler_.random.Between(options_.least_sync, options_.most_sync), [this] { Write(); });
  }
  Drive();
}

void ServerProcess::Await(std::shared_ptr<const Request> request, Answer answer, size_t next, int64_t revision,
                          Reply reply) {
  if (next == answer.resources.size()) return reply(absl::OkStatus(), revision);
  const RecordPtr seen = answer.resources[next];
  const server::Kind kind = answer.kind;
  waiters_->Add(kind, seen,
                [this, request = std::move(request), answer = std::move(answer), next, reply = std::move(reply)](
                    const RecordPtr& /*resource*/, int64_t settled) mutable {
                  // Not from within: a callback must not add.
                  life_.After(nanoseconds(0), [this, request, answer, next, settled, reply] {
                    Await(request, answer, next + 1, settled, reply);
                  });
                });
}

void ServerProcess::OnCommit(const std::vector<server::ChangeSetPtr>& sets) {
  checker_.Published(*timeline_, *core_, sets);
}

void ServerProcess::Drive() {
  while (sessions_->RunReady()) {
  }
}

void ServerProcess::TickSessions() {
  life_.After(milliseconds(100), [this] {
    sessions_->Tick();
    Drive();
    TickSessions();
  });
}

void ServerProcess::TickCore() {
  life_.After(milliseconds(1000), [this] {
    core_->Tick();
    TickCore();
  });
}

void ServerProcess::TickDrains() {
  life_.After(milliseconds(250), [this] {
    drains_->Tick(clock_.Now());
    TickDrains();
  });
}

std::string ServerProcess::ConnectedAgent(const std::string& host) const {
  const auto found = sessions_->Find(host);
  return found.has_value() ? found->agent_id : "";
}

}  // namespace viommu::simulation
