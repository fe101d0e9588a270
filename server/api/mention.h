// Calls that change nothing of the record, and that the audit log tells of all the same.

#ifndef VIOMMU_SERVER_API_MENTION_H_
#define VIOMMU_SERVER_API_MENTION_H_

#include <grpcpp/server_context.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "common/credentials.h"
#include "server/api/caller.h"
#include "server/api/fleet_service.h"
#include "server/commit/command.h"

namespace viommu::server {

// One entry of the audit log, said when its call is over. Made while the call's context is there.
class Mention final {
 public:
  // `method` as in the API.
  Mention(std::string_view method, const grpc::ServerContextBase& context) : entry_(std::make_unique<Entry>()) {
    entry_->method = method;
    entry_->peer = context.peer();
    entry_->caller = CallerName(PeerOf(context), entry_->peer);
  }

  // Hands the entry to the writer, once. Should its queue be full, the entry is lost: the call has happened.
  void Say(Committer& committer, std::string target, absl::Status status) {
    entry_->target = std::move(target);
    entry_->status = std::move(status);
    if (committer.Submit(entry_.get()).ok()) static_cast<void>(entry_.release());
  }

 private:
  struct Entry final : Command {
    absl::Status Judge(const Context&, Draft&) override { return status; }
    void Done(absl::Status, int64_t) override { delete this; }

    absl::Status status;
  };

  std::unique_ptr<Entry> entry_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_MENTION_H_
