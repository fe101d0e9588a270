// One change that somebody asks the writer for.

#ifndef VIOMMU_SERVER_COMMIT_COMMAND_H_
#define VIOMMU_SERVER_COMMIT_COMMAND_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/fleet/draft.h"
#include "server/fleet/rules.h"
#include "server/store/store.h"

namespace viommu::server {

// Owned by whoever submits it; must live until Done was called. Judge, Response and Replay run on the writer's thread,
// Done there or on the answering thread: exactly once, after Judge or instead of it (a full store, a repeated request).
class Command {
 public:
  virtual ~Command() = default;

  // Whether the rules take it. On OK the draft holds its changes (maybe none); on an error the draft is thrown away.
  // Called at most once.
  virtual absl::Status Judge(const Context& context, Draft& draft) = 0;

  // `status`: OK when it is recorded as durably as asked, or was judged only. `revision`: of its change; when it
  // changed nothing, the one it was judged at.
  virtual void Done(absl::Status status, int64_t revision) = 0;

  // The answer to keep under the request id; called after a Judge that returned OK, when request_id is set.
  virtual std::string Response() const { return ""; }

  // Instead of Judge, when this request was carried out before: takes over the answer that was given then.
  virtual absl::Status Replay(std::string_view /*response*/) { return absl::OkStatus(); }

  // Whether the audit log shows what becomes of this host or device; other kinds are always shown. On the writer's
  // thread.
  virtual bool Names(std::string_view resource) const { return resource == target; }

  // Set before the command is submitted.
  size_t bytes = 0;  // of the message that it was made of, which waits with it
  Durability durability = Durability::kSynced;
  bool validate_only = false;
  std::string request_id;   // a UUID, or empty: cannot be repeated safely
  std::string fingerprint;  // of method and request; goes with request_id

  // For the audit log: what it is called in the API, empty when it is not audited; who asks, and from where; the
  // resource that it names.
  std::string method;
  std::string caller;
  std::string peer;
  std::string target;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_COMMAND_H_
