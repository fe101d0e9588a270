// Evicts hosts whose drain has come to its deadline, if that was asked for. The record says when and whether; so it is
// done after a restart of the server, too, and once.

#ifndef VIOMMU_SERVER_API_DRAIN_KEEPER_H_
#define VIOMMU_SERVER_API_DRAIN_KEEPER_H_

#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/commit/command.h"
#include "server/commit/core.h"

namespace viommu::server {

class DrainKeeper {
 public:
  // As Committer::Submit.
  using SubmitFunction = std::function<absl::Status(Command*)>;

  // `core` must outlive the keeper, and the keeper every command that it has submitted.
  DrainKeeper(const CommitCore& core, SubmitFunction submit) : core_(core), submit_(std::move(submit)) {}

  // To be called about once a second, on one thread: looks at every host, and submits what is due.
  void Tick(WallTime now);

 private:
  class Eviction;

  void Evicted(const std::string& host, const absl::Status& status);

  const CommitCore& core_;
  const SubmitFunction submit_;
  Mutex mu_;
  std::set<std::string> under_way_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_DRAIN_KEEPER_H_
