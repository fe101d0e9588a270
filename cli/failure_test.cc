// Errors: exit codes, what is said, and a next step for every reason there is.

#include "cli/failure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/hints.h"
#include "cli/text.h"
#include "common/error.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

absl::Status DeviceTaken() {
  return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN)
      .Message("device hosts/a/devices/0000:01:00.0 is held by viommus/x/vdevices/16")
      .Resource("viommu.v1.Device", "hosts/a/devices/0000:01:00.0", "viommus/x/vdevices/16");
}

TEST(Hints, EveryReasonHasANextStep) {
  const auto* reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(reasons->value(i)->number());
    const auto hints = HintsFor(reason, {});
    if (reason == v1::ERROR_REASON_UNSPECIFIED) {
      EXPECT_TRUE(hints.empty());
      continue;
    }
    EXPECT_FALSE(hints.empty()) << reasons->value(i)->name();
    for (const std::string& hint : hints) {
      EXPECT_THAT(hint, Not(HasSubstr("{"))) << reasons->value(i)->name();
      EXPECT_THAT(hint, Not(HasSubstr("|"))) << reasons->value(i)->name();
    }
  }
}

TEST(Hints, ConcreteNamesAreDerived) {
  Facts facts{{"device", "hosts/a/devices/0000:01:00.0"}, {"name", "viommus/v1/vdevices/16"}};
  DeriveFacts(facts);
  EXPECT_EQ(facts["host"], "hosts/a");
  EXPECT_EQ(facts["viommu"], "viommus/v1");
  EXPECT_EQ(facts["resource"], "viommus/v1/vdevices/16");
  EXPECT_EQ(HintsFor(v1::ERROR_REASON_HOST_CORDONED, facts)[0], "viommuctl uncordon hosts/a");
}

TEST(Hints, TheHoldersViommuIsNotTheCallers) {
  Facts facts{{"owner", "viommus/other/vdevices/16"}};
  DeriveFacts(facts);
  EXPECT_EQ(facts.count("viommu"), 0U);
}

TEST(Hints, ANestedDomainIsEmptiedByDetaching) {
  EXPECT_THAT(HintsFor(v1::ERROR_REASON_HAS_CHILDREN, {{"resource", "viommus/v1"}})[1], HasSubstr("--cascade"));
  for (const auto& hint : HintsFor(v1::ERROR_REASON_HAS_CHILDREN, {{"resource", "viommus/v1/nestedDomains/n"}})) {
    EXPECT_THAT(hint, Not(HasSubstr("--cascade")));
  }
  const auto of_a_host = HintsFor(v1::ERROR_REASON_HAS_CHILDREN, {{"resource", "hosts/a"}});
  ASSERT_EQ(of_a_host.size(), 2U);
  EXPECT_THAT(of_a_host[0], HasSubstr("viommuctl evict hosts/a")) << "a host cannot be deleted";
  EXPECT_THAT(of_a_host[1], HasSubstr("viommuctl forget hosts/a --declare-dead"));
}

TEST(Failure, SaysReasonHolderAndNextStep) {
  EXPECT_EQ(DescribeFailure(DeviceTaken(), {}, false),
            "error: device hosts/a/devices/0000:01:00.0 is held by viommus/x/vdevices/16 (DEVICE_TAKEN)\n"
            "  try: viommuctl unset vdev-id viommus/x/vdevices/16 --wait=applied\n");
}

TEST(Failure, NamesAHolderThatTheMessageLeavesOut) {
  const absl::Status status = Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN)
                                  .Message("taken")
                                  .Resource("viommu.v1.Device", "hosts/a/devices/x", "viommus/x/vdevices/16");
  EXPECT_THAT(DescribeFailure(status, {}, false), HasSubstr("  held by: viommus/x/vdevices/16\n"));
}

TEST(Failure, NamesFieldsAndPreconditions) {
  const absl::Status field = Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD)
                                 .Message("bad request")
                                 .Field("viommu_id", "must begin with a letter");
  EXPECT_THAT(DescribeFailure(field, {{"command", "create viommu"}}, false),
              testing::AllOf(HasSubstr("  viommu_id: must begin with a letter\n"),
                             HasSubstr("try: viommuctl create viommu --help")));
  const absl::Status children = Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN)
                                    .Message("viommus/v1 is not empty")
                                    .Precondition("HAS_CHILDREN", "viommus/v1", "it has 3 vdevices");
  EXPECT_THAT(DescribeFailure(children, {}, false), testing::AllOf(HasSubstr("  viommus/v1: it has 3 vdevices\n"),
                                                                   HasSubstr("viommuctl delete viommus/v1 --cascade")));
}

TEST(Failure, OfANewerServerKeepsItsReason) {
  absl::Status status = absl::FailedPreconditionError("odd");
  google::rpc::ErrorInfo info;
  info.set_reason("BRAND_NEW");
  status.SetPayload(DetailUrl<google::rpc::ErrorInfo>(), absl::Cord(info.SerializeAsString()));
  EXPECT_EQ(DescribeFailure(status, {}, false), "error: odd (BRAND_NEW)\n");
}

TEST(Failure, ForPrograms) {
  const auto document = FailureToJson(DeviceTaken(), {});
  EXPECT_EQ(document["error"]["code"], "ALREADY_EXISTS");
  EXPECT_EQ(document["error"]["reason"], "DEVICE_TAKEN");
  EXPECT_EQ(document["error"]["resource"]["owner"], "viommus/x/vdevices/16");
  EXPECT_EQ(document["error"]["exitCode"], 1);
  EXPECT_EQ(document["error"]["try"].size(), 1U);
}

TEST(Failure, ALostAnswerTellsTheRequestId) {
  EXPECT_THAT(DescribeFailure(absl::DeadlineExceededError("no answer"), {{"request_id", "abc"}}, false),
              HasSubstr("--request-id abc"));
  EXPECT_THAT(DescribeFailure(InterruptedError("interrupted"), {{"request_id", "abc"}}, false),
              HasSubstr("--request-id abc"));
  EXPECT_THAT(DescribeFailure(absl::UnavailableError("connection reset"), {{"request_id", "abc"}}, false),
              HasSubstr("the same with --request-id abc: it is carried out only once"));
  EXPECT_THAT(DescribeFailure(absl::UnavailableError("connection reset"), {}, false), Not(HasSubstr("--request-id")))
      << "of a call that changes nothing";
  const absl::Status stopping =
      Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN).Message("recorded, and stopping");
  EXPECT_THAT(DescribeFailure(stopping, {{"request_id", "abc"}}, false), HasSubstr("--request-id abc once the server"));
  const absl::Status not_yet =
      Error(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_NOT_YET_APPLIED).Message("recorded");
  EXPECT_THAT(DescribeFailure(not_yet, {{"request_id", "abc"}}, false), HasSubstr("--request-id abc"));
}

TEST(Failure, AnAgentThatIsAwayIsNoServer) {
  const std::string said =
      DescribeFailure(absl::UnavailableError("cannot reach the agent"), {{"peer", "agent"}}, false);
  EXPECT_THAT(said, HasSubstr("systemctl status viommu-agent"));
  EXPECT_THAT(said, Not(HasSubstr("server")));
}

TEST(ExitCodes, FollowTheTable) {
  const auto of = [](absl::StatusCode code, v1::ErrorReason reason) {
    return ExitCodeOf(Error(code, reason).Message("x"));
  };
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), ExitCode::kOk);
  EXPECT_EQ(ExitCodeOf(UsageError("x")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(InterruptedError("x")), ExitCode::kInterrupted);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("x")), ExitCode::kUnreachable);
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("x")), ExitCode::kNotYet);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("x")), ExitCode::kRefused);
  EXPECT_EQ(ExitCodeOf(DeviceTaken()), ExitCode::kRefused);
  EXPECT_EQ(of(absl::StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND), ExitCode::kNotFound);
  EXPECT_EQ(of(absl::StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH), ExitCode::kConflict);
  EXPECT_EQ(of(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_REQUEST_ID_REUSED), ExitCode::kConflict);
  EXPECT_EQ(of(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_NOT_YET_APPLIED), ExitCode::kNotYet);
  EXPECT_EQ(of(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE), ExitCode::kUnreachable);
  EXPECT_EQ(of(absl::StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED), ExitCode::kRefused);
  v1::StateReason reason;
  reason.set_reason("BACKEND_FAILED");
  reason.set_message("EBUSY");
  const absl::Status failed = FailedOnHost("viommus/v1", reason);
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kFailedOnHost);
  EXPECT_THAT(DescribeFailure(failed, {}, false),
              testing::AllOf(HasSubstr("FAILED on its host: EBUSY (BACKEND_FAILED)"),
                             HasSubstr("viommuctl describe viommus/v1")));
}

TEST(Facts, ComeFromTheRequest) {
  v1::CreateViommuRequest request;
  request.set_request_id("r");
  request.mutable_viommu()->set_smmu("hosts/a/smmus/s");
  Facts facts;
  AddRequestFacts(request, facts);
  EXPECT_EQ(facts["smmu"], "hosts/a/smmus/s");
  EXPECT_EQ(facts["request_id"], "r");
}

}  // namespace
}  // namespace viommu::cli
