#include "common/grpc_error.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"

namespace viommu {

google::rpc::Status ToWireStatus(const absl::Status& status) {
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(std::string(status.message()));
  status.ForEachPayload([&wire](absl::string_view url, const absl::Cord& payload) {
    auto* detail = wire.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
  return wire;
}

absl::Status FromWireStatus(const google::rpc::Status& wire) {
  absl::Status result(static_cast<absl::StatusCode>(wire.code()), wire.message());
  if (result.ok()) return result;
  for (const auto& detail : wire.details()) {
    if (absl::StartsWith(detail.type_url(), "type.googleapis.com/google.rpc.")) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return result;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status wire = ToWireStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      wire.details_size() > 0 ? wire.SerializeAsString() : "");
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status wire;
  // What does not parse is none of ours: code and message are all there is.
  if (!wire.ParseFromString(status.error_details())) wire.Clear();
  wire.set_code(static_cast<int>(status.error_code()));
  wire.set_message(status.error_message());
  return FromWireStatus(wire);
}

}  // namespace viommu
