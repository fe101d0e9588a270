// The network between a host and the server goes away, in its two ways: connections break, or nothing arrives any more.

#include <memory>
#include <string>

#include "tests/e2e/fleet_fixture.h"
#include "tests/harness/cable.h"

namespace viommu::tests {
namespace {

class PartitionTest : public FleetFixture, public testing::WithParamInterface<Cable::State> {
 protected:
  // One VM with one device on ampere-01, in effect; the agent's connection goes through a cable.
  void SetUp() override {
    cluster_.StartServer({"--agents-lease=1s"});
    cable_ = std::make_unique<Cable>(cluster_.dir() / "cable.sock", cluster_.dir() / "server.sock");
    cluster_.RouteAgents("unix:" + (cluster_.dir() / "cable.sock"));
    cluster_.StartAgent(kAmpere, "deploy/inventory/ampere.yaml", {"--longest-retry=500ms"});
    cluster_.WaitConnected(kAmpere);
    const auto devices = DevicesBySmmu(kAmpere);
    smmu_ = devices.begin()->first;
    device_ = devices.begin()->second[0];
    CreateStage2("vm-1", kAmpere, "vm-1");
    Ok(&Stub::CreateViommu, ViommuRequest("a", smmu_, "vm-1"));
    Ok(&Stub::SetVdevId, SetRequest("a", device_, 16, v1::WAIT_APPLIED));
  }
  void TearDown() override { cable_.reset(); }

  // What an invalidation through the host's own socket gives.
  Finished LocalInvalidate() {
    return viommu::tests::Run({Runfile("cli/viommuctl"), "local", "invalidate", "viommus/a", "tlbi-nh-all", "--socket",
                               cluster_.socket_path(kAmpere)});
  }
  bool Gone(const std::string& name) {
    v1::GetVdeviceRequest request;
    request.set_name(name);
    v1::GetVdeviceResponse response;
    return Cluster::Call(cluster_.stub(), &Stub::GetVdevice, request, &response).error_code() ==
           grpc::StatusCode::NOT_FOUND;
  }

  std::string smmu_;
  std::string device_;
  std::unique_ptr<Cable> cable_;
};

// Both sides notice within a lease. The host works on; what is recorded meanwhile waits, what it holds stays held; and
// when the network is back, late bytes or none, both are as recorded.
TEST_P(PartitionTest, IsNoticedOutlivedAndMadeGood) {
  cable_->Set(GetParam());
  cluster_.WaitDisconnected(kAmpere);
  EXPECT_TRUE(Eventually(20, [this] {
    return cluster_.AgentLogHas(kAmpere, GetParam() == Cable::State::kSilent ? "LEASE_EXPIRED" : "session ended");
  })) << cluster_.Outputs();
  EXPECT_EQ(LocalInvalidate().status, 0) << "promise 10";

  v1::UnsetVdevIdRequest unset;
  unset.set_name("viommus/a/vdevices/16");
  Ok(&Stub::UnsetVdevId, unset);
  EXPECT_EQ(Vdevice("viommus/a/vdevices/16").state(), v1::STATE_DELETING);
  const absl::Status taken = Error(&Stub::SetVdevId, SetRequest("a", device_, 17));
  EXPECT_EQ(ReasonOf(taken), v1::ERROR_REASON_DEVICE_TAKEN) << "promise 1: the host has not confirmed";
  EXPECT_EQ(LocalInvalidate().status, 0);

  cable_->Set(Cable::State::kWhole);
  cluster_.WaitConnected(kAmpere);
  EXPECT_TRUE(Eventually(20, [this] { return Gone("viommus/a/vdevices/16"); })) << cluster_.Outputs();
  Ok(&Stub::SetVdevId, SetRequest("a", device_, 17, v1::WAIT_APPLIED), 20);
  const Finished drift = cluster_.Ctl({"drift", kAmpere});
  EXPECT_EQ(drift.status, 0) << drift.out << drift.err;
}

// Links that come and go faster than either side can get anything done.
TEST_P(PartitionTest, OverAndOverEndsInSyncAllTheSame) {
  for (uint64_t i = 0; i < 20; ++i) {
    const uint64_t passed = cable_->passed();
    Ok(&Stub::CreateViommu, ViommuRequest("v" + std::to_string(i), smmu_, "vm-1"));
    // In the middle of what the change has set in motion.
    EXPECT_TRUE(Eventually(20, [&] { return cable_->passed() > passed; })) << cluster_.Outputs();
    cable_->Set(GetParam());
    cable_->Set(Cable::State::kWhole);
  }
  EXPECT_TRUE(Eventually(30, [this] {
    const auto listed = Ok(&Stub::ListViommus, v1::ListViommusRequest());
    for (const auto& viommu : listed.viommus()) {
      if (viommu.state() != v1::STATE_READY && viommu.state() != v1::STATE_DORMANT) return false;
    }
    return cluster_.Ctl({"drift", kAmpere, "--all"}).out.empty();
  })) << cluster_.Outputs();
  EXPECT_EQ(Vdevice("viommus/a/vdevices/16").state(), v1::STATE_READY);
}

INSTANTIATE_TEST_SUITE_P(Network, PartitionTest, testing::Values(Cable::State::kSilent, Cable::State::kCut),
                         [](const auto& each) { return each.param == Cable::State::kSilent ? "Silent" : "Cut"; });

}  // namespace
}  // namespace viommu::tests
