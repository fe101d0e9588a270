#include "server/api/drain_keeper.h"

#include <memory>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/mutation.h"
#include "common/timestamp.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

bool IsDue(const v1::Host& host, WallTime now) {
  const v1::Drain& drain = host.drain();
  return !Mutated(Mutation::kMissDeadline) && drain.evict() && drain.has_deadline() && !drain.has_evict_time() &&
         FromTimestamp(drain.deadline()) <= now;
}

}  // namespace

class DrainKeeper::Eviction final : public Command {
 public:
  Eviction(DrainKeeper& owner, std::string host, WallTime now) : owner_(owner), host_(std::move(host)), now_(now) {
    method = "EvictHost";
    caller = "server";
    target = host_;
  }

  absl::Status Judge(const Context& context, Draft& draft) override {
    // The drain may have been aborted, or its deadline moved, since this was submitted.
    const auto host = draft.Find<v1::Host>(host_);
    if (host == nullptr || !IsDue(*host, now_)) return absl::OkStatus();
    v1::EvictHostRequest request;
    request.set_name(host_);
    return server::Judge(request, context, draft).status();
  }

  void Done(absl::Status status, int64_t /*revision*/) override {
    owner_.Evicted(host_, status);
    delete this;
  }

 private:
  DrainKeeper& owner_;
  const std::string host_;
  const WallTime now_;
};

void DrainKeeper::Tick(WallTime now) {
  std::vector<std::string> due;
  core_.Read([&](const Tables& tables, int64_t) {
    tables.ScanRecords(Kind::kHost, "", "", [&](const RecordPtr& record) {
      const auto& host = static_cast<const v1::Host&>(*record);
      if (host.has_drain() && IsDue(host, now)) due.push_back(host.name());
      return true;
    });
  });
  for (const std::string& host : due) {
    {
      MutexLock lock(mu_);
      if (!under_way_.insert(host).second) continue;
    }
    auto eviction = std::make_unique<Eviction>(*this, host, now);
    if (const absl::Status taken = submit_(eviction.get()); !taken.ok()) {
      Evicted(host, taken);
      continue;
    }
    eviction.release();  // it is its own from here on
  }
}

void DrainKeeper::Evicted(const std::string& host, const absl::Status& status) {
  MutexLock lock(mu_);
  under_way_.erase(host);
  if (status.ok()) {
    VIOMMU_LOG(kInfo, "drain's deadline has come: host evicted", {{"host", host}});
  } else {
    VIOMMU_LOG(kError, "drain's deadline has come, and the host could not be evicted; tried again",
               {{"host", host}, {"reason", status}});
  }
}

}  // namespace viommu::server
