#include "server/api/lookup.h"

#include <string>

#include "common/error.h"
#include "server/api/limits.h"
#include "server/fleet/names.h"

namespace viommu::server {
namespace {

constexpr size_t kMaxQuotedBytes = 256;  // of a caller's mistake in our answer

struct KindWords {
  std::string_view pattern;
  std::string_view type;
  std::string_view noun;
  std::string_view way_out;
  v1::ErrorReason not_found;
};

KindWords Words(Kind kind) {
  switch (kind) {
    case Kind::kHost:
      return {"hosts/{host}", "viommu.v1.Host", "host",
              "ListHosts shows those there are; a host appears when its agent first says hello",
              v1::ERROR_REASON_HOST_NOT_FOUND};
    case Kind::kDevice:
      return {"hosts/{host}/devices/{device}", "viommu.v1.Device", "device", "ListDevices shows those there are",
              v1::ERROR_REASON_DEVICE_NOT_FOUND};
    case Kind::kStage2Domain:
      return {"stage2Domains/{stage2_domain}", "viommu.v1.Stage2Domain", "stage-2 domain",
              "ListStage2Domains shows those there are", v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND};
    case Kind::kViommu:
      return {"viommus/{viommu}", "viommu.v1.Viommu", "viommu", "ListViommus shows those there are",
              v1::ERROR_REASON_VIOMMU_NOT_FOUND};
    case Kind::kVdevice:
      return {"viommus/{viommu}/vdevices/{vdev_id}", "viommu.v1.Vdevice", "vdevice",
              "ListVdevices shows those there are", v1::ERROR_REASON_VDEVICE_NOT_FOUND};
    case Kind::kNestedDomain:
      return {"viommus/{viommu}/nestedDomains/{nested_domain}", "viommu.v1.NestedDomain", "nested domain",
              "ListNestedDomains shows those there are", v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND};
    case Kind::kHwQueue:
      return {"viommus/{viommu}/hwQueues/{index}", "viommu.v1.HwQueue", "hardware queue",
              "ListHwQueues shows those there are", v1::ERROR_REASON_HW_QUEUE_NOT_FOUND};
    case Kind::kQuota:
      return {"quotas/{owner}", "viommu.v1.Quota", "quota", "ListQuotas shows those there are",
              v1::ERROR_REASON_QUOTA_NOT_FOUND};
  }
  return {};
}

absl::Status BadName(std::string_view field, std::string_view pattern, std::string_view name) {
  if (name.empty()) return InvalidField(field, "must be set, in the form {}", pattern);
  return InvalidField(field, "\"{}\" does not have the form {}", name.substr(0, kMaxQuotedBytes), pattern);
}

}  // namespace

absl::Status CheckName(std::string_view field, Kind kind, std::string_view name) {
  return KindOfName(name) == kind ? absl::OkStatus() : BadName(field, Words(kind).pattern, name);
}

absl::Status CheckSmmuName(std::string_view field, std::string_view name) {
  return IsSmmuName(name) ? absl::OkStatus() : BadName(field, "hosts/{host}/smmus/{smmu}", name);
}

absl::Status TooMany(std::string_view field, int limit) {
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
      .Message("{}: at most {} are allowed", field, limit)
      .Meta("field", field)
      .Meta("limit", std::to_string(limit))
      .Field(field, "too many");
}

absl::Status CheckRequestSize(const google::protobuf::Message& request) {
  const size_t bytes = request.ByteSizeLong();
  if (bytes <= static_cast<size_t>(kMaxRequestBytes)) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
      .Message("the request has {} bytes, and at most {} are taken; split it", bytes, kMaxRequestBytes)
      .Meta("limit", std::to_string(kMaxRequestBytes));
}

absl::Status NotFound(Kind kind, std::string_view name) {
  const KindWords words = Words(kind);
  return Error(absl::StatusCode::kNotFound, words.not_found)
      .Message("there is no {} {}; {}", words.noun, name, words.way_out)
      .Meta("name", name)
      .Resource(words.type, name);
}

}  // namespace viommu::server
