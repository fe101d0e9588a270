#include "common/error.h"

#include "absl/strings/cord.h"

namespace viommu {
namespace {

constexpr std::string_view kReasonPrefix = "ERROR_REASON_";

template <typename Detail>
void AddPayload(absl::Status& status, const Detail& detail) {
  status.SetPayload(DetailUrl<Detail>(), absl::Cord(detail.SerializeAsString()));
}

}  // namespace

std::string ReasonName(v1::ErrorReason reason) {
  const std::string& name = v1::ErrorReason_Name(reason);
  return name.size() > kReasonPrefix.size() ? name.substr(kReasonPrefix.size()) : name;
}

v1::ErrorReason ReasonFromName(std::string_view name) {
  v1::ErrorReason reason;
  if (!v1::ErrorReason_Parse(std::string(kReasonPrefix) + std::string(name), &reason)) {
    return v1::ERROR_REASON_UNSPECIFIED;
  }
  return reason;
}

Error::Error(absl::StatusCode code, v1::ErrorReason reason) : code_(code) {
  info_.set_reason(ReasonName(reason));
  info_.set_domain(std::string(kErrorDomain));
}

Error&& Error::Meta(std::string_view key, std::string_view value) && {
  (*info_.mutable_metadata())[std::string(key)] = std::string(value);
  return std::move(*this);
}

Error&& Error::Field(std::string_view field, std::string_view description) && {
  auto* violation = bad_request_.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(std::string(description));
  return std::move(*this);
}

Error&& Error::Precondition(std::string_view type, std::string_view subject, std::string_view description) && {
  auto* violation = precondition_.add_violations();
  violation->set_type(std::string(type));
  violation->set_subject(std::string(subject));
  violation->set_description(std::string(description));
  return std::move(*this);
}

Error&& Error::Resource(std::string_view type, std::string_view name, std::string_view owner) && {
  resource_.set_resource_type(std::string(type));
  resource_.set_resource_name(std::string(name));
  resource_.set_owner(std::string(owner));
  return std::move(*this);
}

Error&& Error::RetryAfter(std::chrono::milliseconds delay) && {
  retry_.mutable_retry_delay()->set_seconds(delay.count() / 1000);
  retry_.mutable_retry_delay()->set_nanos(static_cast<int>(delay.count() % 1000) * 1'000'000);
  return std::move(*this);
}

Error::operator absl::Status() const {
  absl::Status status(code_, message_);
  AddPayload(status, info_);
  if (bad_request_.field_violations_size() > 0) AddPayload(status, bad_request_);
  if (precondition_.violations_size() > 0) AddPayload(status, precondition_);
  if (!resource_.resource_name().empty()) AddPayload(status, resource_);
  if (retry_.has_retry_delay()) AddPayload(status, retry_);
  return status;
}

v1::ErrorReason ReasonOf(const absl::Status& status) {
  return ReasonFromName(DetailOf<google::rpc::ErrorInfo>(status).reason());
}

}  // namespace viommu
