#include "common/error.h"

#include <gtest/gtest.h>

#include "common/grpc_error.h"

namespace viommu {
namespace {

absl::Status Taken() {
  return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN)
      .Message("device {} belongs to {}", "hosts/a/devices/1", "viommus/v/vdevices/2")
      .Meta("holder", "viommus/v/vdevices/2")
      .Resource("viommu.v1.Device", "hosts/a/devices/1", "viommus/v/vdevices/2")
      .RetryAfter(std::chrono::milliseconds(1500));
}

TEST(ErrorTest, CarriesReasonAndDetails) {
  const absl::Status status = Taken();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_DEVICE_TAKEN);
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  EXPECT_EQ(info.reason(), "DEVICE_TAKEN");
  EXPECT_EQ(info.domain(), "viommu.v1");
  EXPECT_EQ(info.metadata().at("holder"), "viommus/v/vdevices/2");
  EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 1);
  EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(status).retry_delay().nanos(), 500'000'000);
}

TEST(ErrorTest, SurvivesTheWire) {
  const absl::Status status = Taken();
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
}

TEST(ErrorTest, InvalidFieldNamesTheField) {
  const absl::Status status = InvalidField("vdev_id", "must be below {}", 4096);
  EXPECT_EQ(status.message(), "vdev_id: must be below 4096");
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "vdev_id");
}

TEST(ErrorTest, EveryReasonHasItsName) {
  const auto* reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(reasons->value(i)->number());
    EXPECT_EQ(ReasonFromName(ReasonName(reason)), reason);
  }
  EXPECT_EQ(ReasonFromName("NO_SUCH_REASON"), v1::ERROR_REASON_UNSPECIFIED);
}

}  // namespace
}  // namespace viommu
