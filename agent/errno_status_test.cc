#include "agent/errno_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace viommu::agent {
namespace {

TEST(ErrnoStatusTest, CarriesErrnoCodeAndWords) {
  const absl::Status status = ErrnoStatus(EEXIST, "VDEVICE_ALLOC", "device 3 is in vDEVICE 7");
  EXPECT_EQ(StatusErrno(status), EEXIST);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(), "VDEVICE_ALLOC: EEXIST: device 3 is in vDEVICE 7");
}

TEST(ErrnoStatusTest, ErrnoSurvivesCopies) {
  const absl::Status first = ErrnoStatus(EBUSY, "DESTROY", "in use");
  const absl::Status second = first;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(StatusErrno(second), EBUSY);
}

TEST(ErrnoStatusTest, StatusesWithoutErrnoGiveZero) {
  EXPECT_EQ(StatusErrno(absl::OkStatus()), 0);
  EXPECT_EQ(StatusErrno(absl::InternalError("boom")), 0);
}

TEST(ErrnoStatusTest, UnknownNumberIsKept) {
  const absl::Status status = ErrnoStatus(4242, "OP", "odd");
  EXPECT_EQ(StatusErrno(status), 4242);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_STREQ(ErrnoName(4242), "E?");
}

}  // namespace
}  // namespace viommu::agent
