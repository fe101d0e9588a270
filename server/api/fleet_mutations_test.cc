#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "server/api/test_service.h"

namespace viommu::server {
namespace {

using absl::StatusCode;
using testing::HasSubstr;
using testing::SizeIs;

class MutationTest : public FleetServiceTest {};

template <typename Request>
Request WithId(Request request, const std::string& id) {
  request.set_request_id(id);
  return request;
}

template <typename Request>
Request Applied(Request request) {
  request.set_wait(v1::WAIT_APPLIED);
  return request;
}

TEST_F(MutationTest, EveryMethodRecordsAndAnswersItsRevision) {
  const auto stage2 = Do(CreateStage2("s", kGrace));
  EXPECT_EQ(stage2.stage2_domain().name(), "stage2Domains/s");
  EXPECT_EQ(stage2.revision(), core_->revision());
  const auto viommu = Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  EXPECT_EQ(viommu.viommu().host(), kGrace);
  EXPECT_EQ(viommu.revision(), stage2.revision() + 1);
  const auto vdevice = Do(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  EXPECT_EQ(vdevice.vdevice().name(), "viommus/v/vdevices/8");
  EXPECT_EQ(Do(CreateNested("v", "n")).nested_domain().viommu(), "viommus/v");
  EXPECT_EQ(Do(AttachDevice("v", "n", DeviceOf(kGrace, 0))).vdevice().nested_domain(), "viommus/v/nestedDomains/n");
  EXPECT_EQ(Do(DetachDevice("v", 8)).vdevice().nested_domain(), "");
  EXPECT_EQ(Do(RebindVdevId("v", 8, 9)).vdevice().name(), "viommus/v/vdevices/9");

  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/v");
  batch.add_assignments()->set_device(DeviceOf(kGrace, 1));
  batch.mutable_assignments(0)->set_vdev_id(10);
  const auto vdevices = Do(batch);
  ASSERT_THAT(vdevices.vdevices(), SizeIs(1));
  EXPECT_EQ(vdevices.vdevices(0).name(), "viommus/v/vdevices/10");
  EXPECT_EQ(vdevices.revision(), core_->revision());

  Do(CreateViommu("q", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  const auto queue = Do(CreateHwQueue("q", 0));
  EXPECT_EQ(queue.hw_queue().name(), "viommus/q/hwQueues/0");
  EXPECT_EQ(queue.revision(), core_->revision());
  const auto no_queue = Do(DeleteHwQueue("q", 0));
  EXPECT_EQ(no_queue.hw_queue().state(), v1::STATE_DELETING);
  EXPECT_EQ(no_queue.revision(), queue.revision() + 1);

  v1::UpdateViommuLabelsRequest labels;
  labels.set_name("viommus/v");
  (*labels.mutable_labels())["tier"] = "gold";
  EXPECT_EQ(Do(labels).viommu().labels().at("tier"), "gold");
  EXPECT_EQ(Do(UnsetVdevId("v", 10)).vdevice().state(), v1::STATE_DELETING);
  EXPECT_EQ(Do(DeleteNested("v", "n")).nested_domain().name(), "viommus/v/nestedDomains/n");
  EXPECT_EQ(Do(DeleteViommu("v", true)).viommu().name(), "viommus/v");
  EXPECT_EQ(Do(DeleteStage2("s", true)).stage2_domain().name(), "stage2Domains/s");
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  EXPECT_TRUE(Do(cordon).host().cordoned());
  v1::UncordonHostRequest uncordon;
  uncordon.set_name(kGrace);
  EXPECT_FALSE(Do(uncordon).host().cordoned());
}

TEST_F(MutationTest, BadInputIsRefusedAndChangesNothing) {
  MakeViommu();
  Do(SetVdevId("v", DeviceOf(kGrace, 0), 8));
  Refused(CreateStage2("t", "hosts/nowhere"), StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
  Refused(CreateViommu("w", SmmuOf(kGrace, 7), "s"), StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND);
  Refused(SetVdevId("v", DeviceOf(kGrace, 9), 9), StatusCode::kNotFound, v1::ERROR_REASON_DEVICE_NOT_FOUND);
  Refused(SetVdevId("v", DeviceOf(kGrace, 2), 9), StatusCode::kFailedPrecondition, v1::ERROR_REASON_SMMU_MISMATCH);
  EXPECT_THAT(std::string(Refused(SetVdevId("v", DeviceOf(kGrace, 0), 9), StatusCode::kAlreadyExists,
                                  v1::ERROR_REASON_DEVICE_TAKEN)
                              .message()),
              HasSubstr("viommus/v/vdevices/8"));
  Refused(SetVdevId("v", DeviceOf(kGrace, 1), 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  Refused(SetVdevId("v", DeviceOf(kGrace, 1), uint64_t{1} << 32), StatusCode::kInvalidArgument,
          v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE);
  EXPECT_EQ(ReasonOf(Call(SetVdevId("v", DeviceOf(kGrace, 1), 1U << 24)).status()), v1::ERROR_REASON_VDEV_ID_TOO_WIDE);
  Refused(DeleteViommu("v"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  auto stale = UnsetVdevId("v", 8);
  stale.set_etag("stale");
  Refused(stale, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  auto vste = CreateNested("v", "n");
  vste.mutable_nested_domain()->mutable_config()->mutable_translate()->set_word0(~uint64_t{0});
  Refused(vste, StatusCode::kInvalidArgument, v1::ERROR_REASON_VSTE_INVALID);
  Refused(WithId(DeleteViommu("v", true), "not-a-uuid"), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  auto wait = DeleteViommu("v", true);
  wait.set_wait(static_cast<v1::Wait>(9));
  Refused(wait, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);

  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Do(cordon);
  Refused(SetVdevId("v", DeviceOf(kGrace, 1), 9), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CORDONED);
}

TEST_F(MutationTest, VmidsRunOut) {
  absl::Status refused;
  int created = 0;
  for (int i = 0; i < 8 && refused.ok(); ++i) {
    const std::string id = "x" + std::to_string(i);
    refused.Update(Call(CreateStage2(id, kSmall, SmmuOf(kSmall, 0), "vm" + std::to_string(i))).status());
    if (refused.ok()) refused.Update(Call(CreateViommu(id, SmmuOf(kSmall, 0), id)).status());
    if (refused.ok()) ++created;
  }
  EXPECT_EQ(created, 3);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_VMID_EXHAUSTED) << refused;
}

TEST_F(MutationTest, OverlongListsAndMessagesAreRefused) {
  MakeViommu();
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/v");
  for (int i = 0; i <= kMaxBatchVdevIds; ++i) batch.add_assignments()->set_vdev_id(static_cast<uint64_t>(i));
  Refused(batch, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
  auto longer = CreateStage2("t", kGrace);
  longer.mutable_stage2_domain()->set_vm(std::string(5 << 20, 'x'));
  Refused(longer, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
}

TEST_F(MutationTest, ARepeatedRequestIsCarriedOutOnce) {
  MakeViommu();
  const auto request = WithId(SetVdevId("v", DeviceOf(kGrace, 0), 8), NewUuid());
  const auto first = Do(request);
  Answer(first.vdevice(), v1::OUTCOME_APPLIED);
  const int64_t revision = core_->revision();
  EXPECT_EQ(Do(request).SerializeAsString(), first.SerializeAsString()) << "the first answer, not the present state";
  EXPECT_EQ(core_->revision(), revision);
  // Another request under the same id is not.
  Refused(WithId(SetVdevId("v", DeviceOf(kGrace, 0), 9), request.request_id()), StatusCode::kInvalidArgument,
          v1::ERROR_REASON_REQUEST_ID_REUSED);
  Refused(WithId(UnsetVdevId("v", 8), request.request_id()), StatusCode::kInvalidArgument,
          v1::ERROR_REASON_REQUEST_ID_REUSED);
}

TEST_F(MutationTest, ConcurrentDuplicatesAreCarriedOutOnce) {
  MakeViommu();
  const auto request = WithId(SetVdevId("v", DeviceOf(kGrace, 0), 8), NewUuid());
  const int64_t revision = core_->revision();
  std::vector<std::thread> callers;
  std::vector<std::string> answers(16);
  for (std::string& answer : answers) {
    callers.emplace_back([&] { answer = Do(request).SerializeAsString(); });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(core_->revision(), revision + 1);
  EXPECT_THAT(answers, testing::Each(answers[0]));
}

TEST_F(MutationTest, ValidateOnlyAnswersAndChangesNothing) {
  MakeViommu();
  auto request = SetVdevId("v", DeviceOf(kGrace, 0), 8);
  request.set_validate_only(true);
  request.set_wait(v1::WAIT_APPLIED);
  const int64_t revision = core_->revision();
  EXPECT_EQ(Do(request).vdevice().name(), "viommus/v/vdevices/8");
  EXPECT_EQ(core_->revision(), revision);
  EXPECT_EQ(Recorded<v1::Vdevice>("viommus/v/vdevices/8"), nullptr);
}

TEST_F(MutationTest, AppliedAnswersWithWhatTheHostSaid) {
  MakeViommu();
  absl::StatusOr<v1::SetVdevIdResponse> answer;
  std::thread caller([&] { answer = Call(Applied(SetVdevId("v", DeviceOf(kGrace, 0), 8))); });
  while (waiters_->count() == 0) std::this_thread::yield();
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/8"), v1::OUTCOME_FAILED);
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->vdevice().state(), v1::STATE_FAILED);
  EXPECT_EQ(answer->vdevice().state_reason().reason(), "BACKEND_FAILED");
  EXPECT_EQ(answer->revision(), core_->revision());
  EXPECT_EQ(waits_->count(), 0);

  // A deletion: when it is gone.
  absl::StatusOr<v1::UnsetVdevIdResponse> gone;
  std::thread unset([&] { gone = Call(Applied(UnsetVdevId("v", 8))); });
  while (waiters_->count() == 0) std::this_thread::yield();
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/8"), v1::OUTCOME_RELEASED);
  unset.join();
  ASSERT_TRUE(gone.ok()) << gone.status();
  EXPECT_EQ(Recorded<v1::Vdevice>("viommus/v/vdevices/8"), nullptr);
}

TEST_F(MutationTest, ABatchWaitsForAllOfItsDevices) {
  MakeViommu();
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/v");
  for (int i = 0; i < 2; ++i) {
    auto* assignment = batch.add_assignments();
    assignment->set_device(DeviceOf(kGrace, i));
    assignment->set_vdev_id(static_cast<uint64_t>(8 + i));
  }
  absl::StatusOr<v1::BatchSetVdevIdsResponse> answer;
  std::atomic<bool> answered = false;
  std::thread caller([&] {
    answer = Call(Applied(batch));
    answered = true;
  });
  while (waiters_->count() == 0) std::this_thread::yield();
  // In another order than asked for.
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/9"), v1::OUTCOME_APPLIED);
  EXPECT_FALSE(answered);
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/8"), v1::OUTCOME_APPLIED);
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->vdevices(0).name(), "viommus/v/vdevices/8");
  EXPECT_EQ(answer->vdevices(0).state(), v1::STATE_READY);
  EXPECT_EQ(answer->vdevices(1).state(), v1::STATE_READY);
}

TEST_F(MutationTest, WhatWaitsIsCounted) {
  MakeViommu();
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/v");
  auto* assignment = batch.add_assignments();
  assignment->set_device(DeviceOf(kGrace, 0));
  assignment->set_vdev_id(8);
  for (int i = 0; i < 64; ++i) (*assignment->mutable_labels())[std::to_string(i)] = std::string(255, 'x');
  absl::StatusOr<v1::BatchSetVdevIdsResponse> answer;
  std::thread caller([&] { answer = Call(Applied(batch)); });
  while (waiters_->count() == 0) std::this_thread::yield();
  // The request, the answer and what is waited for: each has the labels.
  EXPECT_GT(waits_->bytes(), 3U * 64 * 255);
  const int64_t rest = waits_->Reserve(kMaxTestWaitBytes - waits_->bytes());
  const absl::Status& refused = Refused(Applied(SetVdevId("v", DeviceOf(kGrace, 1), 9)), StatusCode::kResourceExhausted,
                                        v1::ERROR_REASON_OVERLOADED);
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(refused).retry_delay().seconds(), 0);
  Do(SetVdevId("v", DeviceOf(kGrace, 1), 9));  // what does not wait is taken
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/8"), v1::OUTCOME_APPLIED);
  caller.join();
  EXPECT_TRUE(answer.ok()) << answer.status();
  waits_->Release(rest);
  EXPECT_EQ(waits_->bytes(), 0U);
}

TEST_F(MutationTest, TheDeadlineComesFirst) {
  MakeViommu();
  const auto request = Applied(WithId(SetVdevId("v", DeviceOf(kGrace, 0), 8), NewUuid()));
  const absl::Status status = Call(request, std::chrono::milliseconds(500)).status();
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  // Ours, with its reason, and not that of the caller's own clock.
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_YET_APPLIED) << status;
  EXPECT_EQ(MetaOf(status, "revision"), std::to_string(core_->revision()));
  EXPECT_EQ(MetaOf(status, "host"), kGrace);
  EXPECT_EQ(waiters_->count(), 0) << "nothing is left behind";
  const auto recorded = Recorded<v1::Vdevice>("viommus/v/vdevices/8");
  ASSERT_NE(recorded, nullptr);
  // The same request waits again.
  Answer(*recorded, v1::OUTCOME_APPLIED);
  EXPECT_EQ(Do(request).vdevice().state(), v1::STATE_READY);
}

TEST_F(MutationTest, ACallerThatGoesAwayIsForgotten) {
  MakeViommu();
  grpc::ClientContext context;
  v1::SetVdevIdResponse response;
  grpc::Status status;
  std::thread caller(
      [&] { status = stub_->SetVdevId(&context, Applied(SetVdevId("v", DeviceOf(kGrace, 0), 8)), &response); });
  while (waiters_->count() == 0) std::this_thread::yield();
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  while (waiters_->count() != 0 || waits_->count() != 0) std::this_thread::yield();
  EXPECT_NE(Recorded<v1::Vdevice>("viommus/v/vdevices/8"), nullptr) << "the change stands";
}

TEST_F(MutationTest, TooManyWaitsAreRefusedBeforeAnythingIsRecorded) {
  MakeViommu();
  std::vector<int64_t> places;
  while (const int64_t place = waits_->Reserve(1)) places.push_back(place);
  EXPECT_THAT(places, SizeIs(8));
  Refused(Applied(SetVdevId("v", DeviceOf(kGrace, 0), 8)), StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED);
  for (const int64_t place : places) waits_->Release(place);
  // A refused call gives its place back.
  Refused(Applied(SetVdevId("v", DeviceOf(kGrace, 9), 8)), StatusCode::kNotFound, v1::ERROR_REASON_DEVICE_NOT_FOUND);
  EXPECT_EQ(waits_->count(), 0);
}

TEST_F(MutationTest, WaitingCallsEndWithTheServer) {
  MakeViommu();
  absl::Status status;
  std::thread caller([&] { status = Call(Applied(SetVdevId("v", DeviceOf(kGrace, 0), 8))).status(); });
  while (waiters_->count() == 0) std::this_thread::yield();
  waits_->EndAll();
  caller.join();
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_SHUTTING_DOWN) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("recorded at revision"));
}

TEST_F(MutationTest, AFailingStoreChangesNothing) {
  MakeViommu();
  store_.FailCommits(absl::ResourceExhaustedError("no space left on device"));
  Refused(SetVdevId("v", DeviceOf(kGrace, 0), 8), StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE);
  EXPECT_EQ(Recorded<v1::Vdevice>("viommus/v/vdevices/8"), nullptr);
  EXPECT_FALSE(Do(v1::GetServerStatusRequest()).writable());
}

}  // namespace
}  // namespace viommu::server
