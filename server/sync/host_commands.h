// What the sessions ask the writer for. Each command is made with new and deletes itself once it is done.

#ifndef VIOMMU_SERVER_SYNC_HOST_COMMANDS_H_
#define VIOMMU_SERVER_SYNC_HOST_COMMANDS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "server/commit/command.h"
#include "server/fleet/rules.h"
#include "server/sync/agent_session.h"
#include "server/sync/agent_sessions.h"
#include "server/sync/hello_memory.h"

namespace viommu::server {

// None of them waits for the disk: whatever is lost with the power the agent says again when it connects to the next
// epoch of the server. Changes that callers were promised share the same log, so that they never survive without it.
class HostCommand : public Command {
 public:
  HostCommand() { durability = Durability::kBuffered; }

  void Done(absl::Status status, int64_t revision) final {
    Answer(status, revision);
    delete this;
  }

 protected:
  virtual void Answer(const absl::Status& status, int64_t revision) = 0;
};

class HelloCommand final : public HostCommand {
 public:
  HelloCommand(std::shared_ptr<AgentSession> session, v1::Hello hello, HelloMemory::Share memory)
      : session_(std::move(session)), hello_(std::move(hello)), memory_(std::move(memory)) {
    bytes = hello_.ByteSizeLong();
  }

  absl::Status Judge(const Context& context, Draft& draft) override { return JudgeHello(hello_, context, draft); }

 protected:
  void Answer(const absl::Status& status, int64_t revision) override {
    memory_.ShrinkTo(hello_.held().SpaceUsedExcludingSelfLong());  // the rest goes with this
    session_->HelloJudged(status, revision, std::move(*hello_.mutable_held()), std::move(memory_));
  }

 private:
  const std::shared_ptr<AgentSession> session_;
  v1::Hello hello_;
  HelloMemory::Share memory_;
};

class ResultsCommand final : public HostCommand {
 public:
  ResultsCommand(std::shared_ptr<AgentSession> session, std::string host, v1::Results results)
      : session_(std::move(session)), host_(std::move(host)), results_(std::move(results)) {
    bytes = results_.ByteSizeLong();
  }

  absl::Status Judge(const Context& context, Draft& draft) override {
    return viommu::server::JudgeResults(host_, results_, context, draft);
  }

  // Gives the results back, when the writer did not take the command.
  v1::Results TakeResults() { return std::move(results_); }

 protected:
  void Answer(const absl::Status& status, int64_t /*revision*/) override { session_->ResultsJudged(status); }

 private:
  const std::shared_ptr<AgentSession> session_;
  const std::string host_;
  v1::Results results_;
};

class DisconnectCommand final : public HostCommand {
 public:
  DisconnectCommand(AgentSessions& owner, std::string host, int64_t departure, v1::ErrorReason reason,
                    std::string message)
      : owner_(owner), host_(std::move(host)), departure_(departure), reason_(reason), message_(std::move(message)) {}

  absl::Status Judge(const Context& context, Draft& draft) override {
    return JudgeDisconnect(host_, reason_, message_, context, draft);
  }

 protected:
  void Answer(const absl::Status& status, int64_t /*revision*/) override {
    owner_.DepartureJudged(host_, departure_, status);
  }

 private:
  AgentSessions& owner_;
  const std::string host_;
  const int64_t departure_;
  const v1::ErrorReason reason_;
  const std::string message_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_HOST_COMMANDS_H_
