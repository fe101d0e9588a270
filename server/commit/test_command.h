// A command made of a function, for tests.

#ifndef VIOMMU_SERVER_COMMIT_TEST_COMMAND_H_
#define VIOMMU_SERVER_COMMIT_TEST_COMMAND_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "server/commit/command.h"
#include "server/commit/core.h"

namespace viommu::server {

class TestCommand final : public Command {
 public:
  using Body = std::function<absl::Status(const Context&, Draft&)>;

  explicit TestCommand(Body body) : body_(std::move(body)) {}

  absl::Status Judge(const Context& context, Draft& draft) override {
    ++judged;
    return body_(context, draft);
  }
  void Done(absl::Status result, int64_t at) override {
    status = std::move(result);
    revision = at;
    done.store(true);
    done.notify_all();
  }
  std::string Response() const override { return response; }
  absl::Status Replay(std::string_view first) override {
    response = std::string(first);
    return absl::OkStatus();
  }

  // Runs it alone.
  absl::Status RunOn(CommitCore& core) {
    Command* self = this;
    CommitCore::Outcome outcome = core.Run({&self, 1})[0];
    Done(std::move(outcome.status), outcome.revision);
    return status;
  }

  int judged = 0;
  absl::Status status;
  int64_t revision = -1;
  std::string response;
  std::atomic<bool> done = false;

 private:
  const Body body_;
};

// Records host `name`, as new or with another boot id.
inline TestCommand::Body PutHost(const std::string& name, const std::string& boot_id = "") {
  return [name, boot_id](const Context& context, Draft& draft) {
    const auto present = draft.Find<v1::Host>(name);
    v1::Host host = present != nullptr ? *present : v1::Host();
    if (present == nullptr) {
      host.set_name(name);
      host.set_uid(context.new_uid());
      host.set_stage2_sharing(v1::STAGE2_SHARING_SHARED);
    }
    host.set_boot_id(boot_id);
    host.set_revision(context.revision);
    draft.Put(std::move(host));
    return absl::OkStatus();
  };
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_TEST_COMMAND_H_
