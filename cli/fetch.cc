#include "cli/fetch.h"

#include <fmt/format.h>

#include <utility>

#include "cli/text.h"
#include "common/error.h"
#include "viommu/v1/fleet_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

using google::protobuf::Message;

absl::Status SmmuNotFound(const std::string& name) {
  return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND)
      .Message("there is no {}: its host has no such SMMU", name)
      .Resource("viommu.v1.Smmu", name);
}

template <typename Request, typename Response, typename Take>
absl::StatusOr<Fetched> Get(Session& session, const std::string& name, Take take) {
  Request request;
  request.set_name(name);
  VIOMMU_ASSIGN_OR_RETURN(Response response, session.Call<Response>(request));
  Fetched fetched;
  auto& resource = *take(response);
  fetched.resource.reset(resource.New());
  fetched.resource->GetReflection()->Swap(fetched.resource.get(), &resource);
  fetched.revision = response.revision();
  return fetched;
}

absl::StatusOr<Fetched> GetHost(Session& session, const std::string& name) {
  return Get<v1::GetHostRequest, v1::GetHostResponse>(session, name, [](auto& r) { return r.mutable_host(); });
}

absl::StatusOr<Fetched> GetSmmu(Session& session, const std::string& name) {
  const std::vector<std::string> segments = Split(name, '/');
  VIOMMU_ASSIGN_OR_RETURN(const Fetched host, GetHost(session, segments[0] + "/" + segments[1]));
  for (const v1::Smmu& smmu : As<v1::Host>(host).smmus()) {
    if (smmu.name() == name) return Fetched{std::make_unique<v1::Smmu>(smmu), host.revision};
  }
  return SmmuNotFound(name);
}

// The empty List request of a kind; an SMMU is listed through its host.
std::unique_ptr<Message> ListRequest(Kind kind) {
  switch (kind) {
    case Kind::kHost:
    case Kind::kSmmu:
      return std::make_unique<v1::ListHostsRequest>();
    case Kind::kDevice:
      return std::make_unique<v1::ListDevicesRequest>();
    case Kind::kStage2Domain:
      return std::make_unique<v1::ListStage2DomainsRequest>();
    case Kind::kViommu:
      return std::make_unique<v1::ListViommusRequest>();
    case Kind::kVdevice:
      return std::make_unique<v1::ListVdevicesRequest>();
    case Kind::kNestedDomain:
      return std::make_unique<v1::ListNestedDomainsRequest>();
    case Kind::kHwQueue:
      return std::make_unique<v1::ListHwQueuesRequest>();
    case Kind::kQuota:
      return std::make_unique<v1::ListQuotasRequest>();
  }
  return nullptr;
}

// Devices can be filtered by a host; hosts themselves cannot, so that the SMMUs of one host are read from it alone.
absl::StatusOr<Listing> ListSmmus(Session& session, const Filters& filters, size_t limit) {
  Filters others;
  others.labels = filters.labels;
  std::string host;
  for (const std::string& piece : filters.fields) {
    for (const std::string& part : Split(piece, ',')) {
      if (!part.starts_with("host=")) {
        others.fields.push_back(part);
        continue;
      }
      VIOMMU_ASSIGN_OR_RETURN(host, FullName(Kind::kHost, part.substr(std::string_view("host=").size())));
    }
  }
  Listing hosts;
  v1::ListHostsRequest request;
  VIOMMU_RETURN_IF_ERROR(ApplyFilters(others, request));
  if (host.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(hosts, ListAll(session, request, limit));
  } else {
    VIOMMU_ASSIGN_OR_RETURN(Fetched fetched, GetHost(session, host));
    hosts.items.push_back(std::move(fetched.resource));
    hosts.revision = fetched.revision;
  }
  Listing smmus;
  smmus.revision = hosts.revision;
  smmus.truncated = hosts.truncated;
  for (const auto& item : hosts.items) {
    for (const v1::Smmu& smmu : static_cast<const v1::Host&>(*item).smmus()) {
      if (smmus.items.size() == limit) {
        smmus.truncated = true;
        return smmus;
      }
      smmus.items.push_back(std::make_unique<v1::Smmu>(smmu));
    }
  }
  return smmus;
}

}  // namespace

absl::StatusOr<Fetched> FetchOne(Session& session, Kind kind, const std::string& name) {
  switch (kind) {
    case Kind::kHost:
      return GetHost(session, name);
    case Kind::kSmmu:
      return GetSmmu(session, name);
    case Kind::kDevice:
      return Get<v1::GetDeviceRequest, v1::GetDeviceResponse>(session, name,
                                                              [](auto& r) { return r.mutable_device(); });
    case Kind::kStage2Domain:
      return Get<v1::GetStage2DomainRequest, v1::GetStage2DomainResponse>(
          session, name, [](auto& r) { return r.mutable_stage2_domain(); });
    case Kind::kViommu:
      return Get<v1::GetViommuRequest, v1::GetViommuResponse>(session, name,
                                                              [](auto& r) { return r.mutable_viommu(); });
    case Kind::kVdevice:
      return Get<v1::GetVdeviceRequest, v1::GetVdeviceResponse>(session, name,
                                                                [](auto& r) { return r.mutable_vdevice(); });
    case Kind::kNestedDomain:
      return Get<v1::GetNestedDomainRequest, v1::GetNestedDomainResponse>(
          session, name, [](auto& r) { return r.mutable_nested_domain(); });
    case Kind::kHwQueue:
      return Get<v1::GetHwQueueRequest, v1::GetHwQueueResponse>(session, name,
                                                                [](auto& r) { return r.mutable_hw_queue(); });
    case Kind::kQuota:
      return Get<v1::GetQuotaRequest, v1::GetQuotaResponse>(session, name, [](auto& r) { return r.mutable_quota(); });
  }
  return absl::InternalError("no such kind");
}

absl::StatusOr<Listing> FetchList(Session& session, Kind kind, const Filters& filters, size_t limit) {
  if (kind == Kind::kSmmu) return ListSmmus(session, filters, limit);
  const std::unique_ptr<Message> request = ListRequest(kind);
  VIOMMU_RETURN_IF_ERROR(ApplyFilters(filters, *request));
  return ListAll(session, *request, limit);
}

std::vector<std::string> FilterKeysOf(Kind kind) {
  std::vector<std::string> keys = FilterKeys(*ListRequest(kind));
  if (kind == Kind::kSmmu) keys.insert(keys.begin(), "host");
  return keys;
}

}  // namespace viommu::cli
