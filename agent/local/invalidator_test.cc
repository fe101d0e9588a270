#include "agent/local/invalidator.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "agent/reconcile/fake_backend.h"
#include "agent/smmuv3/spec/command.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

using Commands = google::protobuf::RepeatedPtrField<v1::Command>;

class InvalidatorTest : public testing::Test {
 protected:
  InvalidatorTest() {
    context_ = backend_.OpenContext().value();
    targets_.Declare("v-uid", "viommus/v");
    targets_.Declare("n-uid", "viommus/v/nestedDomains/n");
    targets_.Publish("v-uid", {.context = context_.get(), .id = 3, .kind = ItemKind::kViommu});
    targets_.Publish("n-uid", {.context = context_.get(), .id = 4, .kind = ItemKind::kNestedDomain});
  }
  Invalidator Make() {
    return Invalidator(targets_, backend_.capabilities,
                       {.on_done = [this](int, std::chrono::nanoseconds, v1::ErrorReason r) { done_.push_back(r); }});
  }
  static Commands Flushes(int count) {
    Commands commands;
    for (int i = 0; i < count; ++i) commands.Add()->mutable_tlbi_nh_all();
    return commands;
  }

  FakeBackend backend_;
  std::unique_ptr<Context> context_;
  Targets targets_;
  std::vector<v1::ErrorReason> done_;
};

TEST_F(InvalidatorTest, ReachesTheObjectByNameAndByUid) {
  std::vector<ObjectId> ids;
  backend_.on_invalidate = [&ids](ObjectId id, std::span<const smmuv3::RawCommand> commands) {
    ids.push_back(id);
    EXPECT_EQ(commands.size(), 2u);
    EXPECT_EQ(smmuv3::OpcodeByte(commands[0]), 0x10);
    return InvalidateResult{absl::OkStatus(), 2};
  };
  Invalidator invalidator = Make();
  for (const char* target : {"viommus/v", "v-uid", "viommus/v/nestedDomains/n", "n-uid"}) {
    const auto result = invalidator.Invalidate(target, Flushes(2));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->handled(), 2u);
    EXPECT_FALSE(result->has_stop());
  }
  EXPECT_EQ(ids, (std::vector<ObjectId>{3, 3, 4, 4}));
  EXPECT_EQ(done_, std::vector<v1::ErrorReason>(4, v1::ERROR_REASON_UNSPECIFIED));
}

TEST_F(InvalidatorTest, TellsWhereAndWhyItStopped) {
  backend_.on_invalidate = [](ObjectId, std::span<const smmuv3::RawCommand>) {
    return InvalidateResult{ErrnoStatus(EIO, "HWPT_INVALIDATE", "no"), 1};
  };
  Commands commands = Flushes(1);
  commands.Add()->mutable_cfgi_cd_all()->set_vdev_id(77);
  const auto result = Make().Invalidate("viommus/v", commands);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->handled(), 1u);
  EXPECT_EQ(result->stop().reason(), "UNKNOWN_VDEV_ID");
  EXPECT_EQ(result->stop().error_number(), EIO);
  EXPECT_EQ(done_, std::vector<v1::ErrorReason>{v1::ERROR_REASON_UNKNOWN_VDEV_ID});
}

TEST_F(InvalidatorTest, CountsOnlyWholeGroupsWhereTheCountIsNotExact) {
  backend_.capabilities.others = {{"exact_handled", false, ""}};
  Invalidator invalidator = Make();
  uint32_t handled = 0;
  int error_number = EIO;
  backend_.on_invalidate = [&](ObjectId, std::span<const smmuv3::RawCommand>) {
    return InvalidateResult{ErrnoStatus(error_number, "HWPT_INVALIDATE", "no"), handled};
  };
  const auto told = [&](uint32_t count) {
    handled = count;
    return invalidator.Invalidate("viommus/v", Flushes(200))->handled();
  };
  EXPECT_EQ(told(62), 0u);
  EXPECT_EQ(told(63), 63u);
  EXPECT_EQ(told(130), 126u);
  EXPECT_EQ(told(200), 0u) << "no memory: the count is as it was given";
  error_number = ETIMEDOUT;
  EXPECT_EQ(told(125), 63u) << "the last command of the group that timed out";
}

TEST_F(InvalidatorTest, RefusesBeforeTheBackendIsAsked) {
  backend_.on_invalidate = [](ObjectId, std::span<const smmuv3::RawCommand>) {
    ADD_FAILURE();
    return InvalidateResult{};
  };
  targets_.Declare("d-uid", "viommus/dormant");
  Invalidator invalidator = Make();
  EXPECT_EQ(ReasonOf(invalidator.Invalidate("viommus/v", Flushes(4097)).status()), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(ReasonOf(invalidator.Invalidate("viommus/x", Flushes(1)).status()), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  EXPECT_EQ(ReasonOf(invalidator.Invalidate("viommus/v/nestedDomains/x", Flushes(1)).status()),
            v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND);
  EXPECT_EQ(ReasonOf(invalidator.Invalidate("viommus/dormant", Flushes(1)).status()), v1::ERROR_REASON_NOT_REALIZED);
  EXPECT_EQ(invalidator.InvalidateOrStop("viommus/dormant", Flushes(1)).stop().reason(), "NOT_REALIZED");
  Commands empty_command;
  empty_command.Add();
  EXPECT_EQ(ReasonOf(invalidator.Invalidate("viommus/v", empty_command).status()), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(invalidator.Invalidate("viommus/v", {})->handled(), 0u);
}

TEST_F(InvalidatorTest, NestedDomainsOnlyWhereTheBackendTakesThem) {
  backend_.capabilities.invalidate_by_nested = false;
  const auto result = Make().Invalidate("viommus/v/nestedDomains/n", Flushes(1));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->handled(), 0u);
  EXPECT_EQ(result->stop().reason(), "TARGET_NOT_SUPPORTED");
  EXPECT_TRUE(Make().Invalidate("viommus/v", Flushes(1)).ok());
}

}  // namespace
}  // namespace viommu::agent
