// Rules of emptying and forgetting hosts.

#include <google/protobuf/util/time_util.h>

#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "server/fleet/deletion.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

using google::protobuf::util::TimeUtil;

// Everything below a stage-2 domain, without asking its host.
void Forget(const v1::Stage2Domain& stage2, Draft& draft, v1::ForgetHostResponse& response) {
  for (const std::string& viommu : draft.Children(Relation::kStage2Viommus, stage2.name())) {
    for (const auto& vdevice : draft.Scan<v1::Vdevice>(VdevicePrefix(viommu))) {
      draft.Erase(Kind::kVdevice, vdevice->name());
      response.set_vdevices(response.vdevices() + 1);
    }
    for (const auto& nested : draft.Scan<v1::NestedDomain>(NestedDomainPrefix(viommu))) {
      draft.Erase(Kind::kNestedDomain, nested->name());
    }
    for (const auto& queue : draft.Scan<v1::HwQueue>(HwQueuePrefix(viommu))) {
      draft.Erase(Kind::kHwQueue, queue->name());
    }
    draft.Erase(Kind::kViommu, viommu);
    response.set_viommus(response.viommus() + 1);
  }
  draft.Erase(Kind::kStage2Domain, stage2.name());
  response.set_stage2_domains(response.stage2_domains() + 1);
}

}  // namespace

absl::StatusOr<v1::DrainHostResponse> Judge(const v1::DrainHostRequest& request, const Context& context, Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Host>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, request.etag()));
  if (request.has_timeout()) {
    const google::protobuf::Duration& timeout = request.timeout();
    constexpr int32_t kNanosInSecond = 1'000'000'000;
    if (timeout.seconds() < 0 || timeout.nanos() < 0 || timeout.nanos() >= kNanosInSecond ||
        timeout == TimeUtil::SecondsToDuration(0) || timeout.seconds() >= int64_t{kMaxDrainHours} * 3600) {
      return InvalidField("timeout", "must be above 0 and below {} hours", kMaxDrainHours);
    }
  } else if (request.evict()) {
    return InvalidField("evict",
                        "needs a timeout, after which what is left is deleted; to delete it now, evict the host");
  }
  v1::Host host = *present;
  host.set_cordoned(true);
  v1::Drain& drain = *host.mutable_drain();
  if (!drain.has_start_time()) *drain.mutable_start_time() = context.now;
  drain.clear_deadline();
  if (request.has_timeout()) *drain.mutable_deadline() = context.now + request.timeout();
  drain.set_evict(request.evict());
  DesireSettled(host, context);
  v1::DrainHostResponse response;
  *response.mutable_host() = host;
  draft.Put(std::move(host));
  return response;
}

absl::StatusOr<v1::AbortDrainResponse> Judge(const v1::AbortDrainRequest& request, const Context& context,
                                             Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Host>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, request.etag()));
  v1::AbortDrainResponse response;
  v1::Host& host = *response.mutable_host();
  host = *present;
  const bool uncordons = request.uncordon() && present->cordoned();
  if (!present->has_drain() && !uncordons) return response;
  host.clear_drain();
  if (uncordons) host.set_cordoned(false);
  DesireSettled(host, context);
  draft.Put(host);
  return response;
}

absl::StatusOr<v1::EvictHostResponse> Judge(const v1::EvictHostRequest& request, const Context& context, Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Host>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, request.etag()));
  for (const std::string& name : draft.Children(Relation::kHostStage2s, present->name())) {
    Release(*MustFind<v1::Stage2Domain>(draft, name), context, draft);
    // As it grows: a host may have more than one change may touch.
    VIOMMU_RETURN_IF_ERROR(CheckCascade(draft, present->name()));
  }
  v1::EvictHostResponse response;
  for (const Change& change : draft.Changes()) {
    if (change.kind != Kind::kDevice) response.set_deleted(response.deleted() + 1);
  }
  v1::Host& host = *response.mutable_host();
  host = *present;
  const bool ends_drain = host.has_drain() && !host.drain().has_evict_time();
  if (host.cordoned() && !ends_drain) return response;
  host.set_cordoned(true);
  if (ends_drain) *host.mutable_drain()->mutable_evict_time() = context.now;
  DesireSettled(host, context);
  draft.Put(host);
  return response;
}

absl::StatusOr<v1::ForgetHostResponse> Judge(const v1::ForgetHostRequest& request, const Context& /*context*/,
                                             Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto host, Get<v1::Host>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*host, request.etag()));
  if (host->state() == v1::HOST_STATE_CONNECTED) {
    return Refusal(v1::ERROR_REASON_HOST_CONNECTED, host->name(),
                   "the agent of {} is connected, so the host is not lost; drain it and stop its agent first",
                   host->name())
        .Meta("host", host->name());
  }
  v1::ForgetHostResponse response;
  const std::vector<std::string> stage2s = draft.Children(Relation::kHostStage2s, host->name());
  if (!stage2s.empty() && !request.declare_dead()) {
    return Refusal(
               v1::ERROR_REASON_HAS_CHILDREN, host->name(),
               "{} has {} stage-2 domain(s), {} the first: nobody knows whether their VMs still run. Evict the host "
               "and wait until it is back and has confirmed, or set declare_dead if it can never run again",
               host->name(), stage2s.size(), stage2s.front())
        .Meta("count", std::to_string(stage2s.size()))
        .Meta("host", host->name());
  }
  absl::flat_hash_set<std::string> vms;
  for (const std::string& name : stage2s) {
    const auto stage2 = MustFind<v1::Stage2Domain>(draft, name);
    vms.insert(stage2->vm());
    Forget(*stage2, draft, response);
    VIOMMU_RETURN_IF_ERROR(CheckCascade(draft, host->name()));
  }
  response.set_vms(static_cast<int64_t>(vms.size()));
  for (const auto& device : draft.Scan<v1::Device>(DevicePrefix(host->name()))) {
    draft.Erase(Kind::kDevice, device->name());
  }
  draft.Erase(Kind::kHost, host->name());
  *response.mutable_host() = *host;
  return response;
}

}  // namespace viommu::server
