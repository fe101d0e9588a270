// Errors with a reason.
//
// Inside, every error is an absl::Status whose payloads are the messages of google.rpc (ErrorInfo always; BadRequest,
// PreconditionFailure, ResourceInfo, RetryInfo where they fit). common/grpc_error.h carries them over the wire and
// back.
//
//   return Error(absl::StatusCode::kAlreadyExists, ERROR_REASON_DEVICE_TAKEN)
//       .Message("device {} belongs to {}; unset that vdevice first", device, holder)
//       .Meta("device", device)
//       .Resource("viommu.v1.Device", device, holder);
//
// A message names the thing, the reason and the way out.

#ifndef VIOMMU_COMMON_ERROR_H_
#define VIOMMU_COMMON_ERROR_H_

#include <fmt/format.h>

#include <chrono>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/rpc/error_details.pb.h"
#include "viommu/v1/errors.pb.h"

namespace viommu {

// ErrorInfo.domain of all our errors.
inline constexpr std::string_view kErrorDomain = "viommu.v1";

// The type URL under which a google.rpc detail message is a payload of a status.
template <typename Detail>
std::string DetailUrl() {
  return "type.googleapis.com/" + std::string(Detail::descriptor()->full_name());
}

// "VDEV_ID_TAKEN" for ERROR_REASON_VDEV_ID_TAKEN.
std::string ReasonName(v1::ErrorReason reason);

// The reverse; UNSPECIFIED for words that are no reason.
v1::ErrorReason ReasonFromName(std::string_view name);

// Builds one error. Converts to absl::Status and absl::StatusOr<T>.
class Error {
 public:
  Error(absl::StatusCode code, v1::ErrorReason reason);

  template <typename... Args>
  Error&& Message(fmt::format_string<Args...> format, Args&&... args) && {
    message_ = fmt::format(format, std::forward<Args>(args)...);
    return std::move(*this);
  }
  // Adds to ErrorInfo.metadata.
  Error&& Meta(std::string_view key, std::string_view value) &&;
  // Adds a BadRequest violation; `field` is the path in the request.
  Error&& Field(std::string_view field, std::string_view description) &&;
  // Adds a PreconditionFailure violation.
  Error&& Precondition(std::string_view type, std::string_view subject, std::string_view description) &&;
  // Sets ResourceInfo.
  Error&& Resource(std::string_view type, std::string_view name, std::string_view owner = "") &&;
  // Sets RetryInfo.
  Error&& RetryAfter(std::chrono::milliseconds delay) &&;

  operator absl::Status() const;  // NOLINT: an Error is there to be returned
  template <typename T>
  operator absl::StatusOr<T>() const {  // NOLINT
    return absl::Status(*this);
  }

 private:
  absl::StatusCode code_;
  std::string message_;
  google::rpc::ErrorInfo info_;
  google::rpc::BadRequest bad_request_;
  google::rpc::PreconditionFailure precondition_;
  google::rpc::ResourceInfo resource_;
  google::rpc::RetryInfo retry_;
};

// INVALID_ARGUMENT with reason INVALID_FIELD for one field.
template <typename... Args>
absl::Status InvalidField(std::string_view field, fmt::format_string<Args...> format, Args&&... args) {
  const std::string what = fmt::format(format, std::forward<Args>(args)...);
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD)
      .Message("{}: {}", field, what)
      .Meta("field", field)
      .Field(field, what);
}

// The detail of that type, empty when the status has none.
template <typename Detail>
Detail DetailOf(const absl::Status& status) {
  Detail detail;
  if (const auto payload = status.GetPayload(DetailUrl<Detail>())) detail.ParseFromString(std::string(*payload));
  return detail;
}

// The reason of an error of ours; UNSPECIFIED when it has none.
v1::ErrorReason ReasonOf(const absl::Status& status);

}  // namespace viommu

// Returns from the enclosing function when `expr` is an error.
#define VIOMMU_RETURN_IF_ERROR(expr)                                \
  do {                                                              \
    if (absl::Status status_macro_ = (expr); !status_macro_.ok()) { \
      return status_macro_;                                         \
    }                                                               \
  } while (false)

// Declares or assigns `lhs` from a StatusOr, or returns its error.
#define VIOMMU_ASSIGN_OR_RETURN(lhs, expr) VIOMMU_ASSIGN_OR_RETURN_IMPL(VIOMMU_CONCAT(status_or_, __LINE__), lhs, expr)
#define VIOMMU_CONCAT_INNER(a, b) a##b
#define VIOMMU_CONCAT(a, b) VIOMMU_CONCAT_INNER(a, b)
#define VIOMMU_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return std::move(tmp).status();     \
  lhs = *std::move(tmp)

#endif  // VIOMMU_COMMON_ERROR_H_
