// Hosts that are emptied, lost and forgotten, as an operator does it: real processes and the command line.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class LostHostTest : public FleetFixture {
 protected:
  // One VM with one device on ampere-01, in effect.
  void SetUp() override {
    cluster_.StartServer();
    StartHost(kAmpere);
    const auto devices = DevicesBySmmu(kAmpere);
    device_ = devices.begin()->second[0];
    smmu_ = devices.begin()->first;
    MakeVm();
  }

  void MakeVm() {
    CreateStage2("vm-1", kAmpere, "vm-1");
    Ok(&Stub::CreateViommu, ViommuRequest("a", smmu_, "vm-1"));
    Ok(&Stub::SetVdevId, SetRequest("a", device_, 16, v1::WAIT_APPLIED));
  }

  // A command that goes well.
  std::string Do(const std::vector<std::string>& args) {
    const Finished done = cluster_.Ctl(args);
    EXPECT_EQ(done.status, 0) << args[0] << ": " << done.err << cluster_.Outputs();
    return done.out;
  }

  // The only audit entry of that method about ampere-01. It tells who asked, and what the vdevice was before.
  void ExpectAudited(const std::string& method, const std::string& caller) {
    const std::string said =
        Do({"audit", "--resource", std::string("hosts/") + kAmpere, "--method", method, "-o", "json"});
    const auto entries = nlohmann::json::parse(said)["items"];
    ASSERT_EQ(entries.size(), 1u) << said;
    const auto& entry = entries[0];
    EXPECT_EQ(entry["method"], method);
    EXPECT_EQ(entry["caller"].get<std::string>().substr(0, caller.size()), caller) << said;
    EXPECT_EQ(entry["target"], std::string("hosts/") + kAmpere);
    EXPECT_EQ(entry["code"], "OK");
    for (const auto& change : entry["changes"]) {
      if (change["name"] != "viommus/a/vdevices/16") continue;
      EXPECT_EQ(change.value(nlohmann::json::json_pointer("/before/vdevice/device"), ""), device_) << said;
      return;
    }
    ADD_FAILURE() << "nothing of the vdevice in " << said;
  }

  v1::DeviceState DeviceState() {
    v1::GetDeviceRequest request;
    request.set_name(device_);
    return Ok(&Stub::GetDevice, request).device().state();
  }

  std::string device_;
  std::string smmu_;
};

TEST_F(LostHostTest, ADrainedHostIsEmptiedAndForgotten) {
  Do({"drain", kAmpere, "--within", "1h", "--no-follow"});
  const Finished refused = cluster_.Ctl({"create", "stage2domain", "vm-2", "--host", kAmpere, "--vm", "vm-2"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("HOST_CORDONED"), std::string::npos) << refused.err;

  // The drain is in the record: it survives both ends.
  cluster_.server().Kill();
  cluster_.StartServer();
  cluster_.WaitConnected(kAmpere);

  Do({"delete", "stage2domain", "vm-1", "--cascade", "--yes"});
  const std::string followed = Do({"drain", kAmpere, "--resume"});
  EXPECT_NE(followed.find("empty: nothing is left"), std::string::npos) << followed;

  EXPECT_EQ(cluster_.Ctl({"forget", kAmpere, "--yes"}).status, 1) << "its agent is connected";
  cluster_.agent(kAmpere).Kill();
  cluster_.WaitDisconnected(kAmpere);
  Do({"forget", kAmpere, "--yes"});
  EXPECT_EQ(cluster_.Ctl({"get", "host", kAmpere}).status, 4);
}

TEST_F(LostHostTest, ADrainEvictsAtItsDeadline) {
  const std::string followed = Do({"drain", kAmpere, "--within", "1s", "--evict", "--yes"});
  EXPECT_NE(followed.find("empty: nothing is left"), std::string::npos) << followed;
  EXPECT_EQ(DeviceState(), v1::DEVICE_STATE_FREE);
  ExpectAudited("EvictHost", "server");
}

// Promise 1: what was evicted stays held until the host is back and has confirmed.
TEST_F(LostHostTest, AnEvictedHostThatComesBackConfirms) {
  cluster_.agent(kAmpere).Kill();
  cluster_.WaitDisconnected(kAmpere);
  Do({"evict", kAmpere, "--yes"});
  EXPECT_EQ(DeviceState(), v1::DEVICE_STATE_RELEASING);
  ExpectAudited("EvictHost", "unix");
  EXPECT_EQ(cluster_.Ctl({"forget", kAmpere, "--yes"}).status, 1) << "nobody has declared it dead";
  StartHost(kAmpere);
  EXPECT_TRUE(Eventually(20, [this] { return DeviceState() == v1::DEVICE_STATE_FREE; })) << cluster_.Outputs();
}

TEST_F(LostHostTest, AHostDeclaredDeadThatComesBackHoldsNothing) {
  cluster_.agent(kAmpere).Kill();
  cluster_.WaitDisconnected(kAmpere);
  Do({"forget", kAmpere, "--declare-dead", "--yes"});
  EXPECT_EQ(cluster_.Ctl({"get", "viommu", "a"}).status, 4);
  ExpectAudited("ForgetHost", "unix");

  // With its journal: it still believes in the VM, and is told otherwise before it is given a new one.
  StartHost(kAmpere);
  EXPECT_EQ(DeviceState(), v1::DEVICE_STATE_FREE);
  MakeVm();
  EXPECT_TRUE(Eventually(20, [this] { return Vdevice("viommus/a/vdevices/16").state() == v1::STATE_READY; }))
      << cluster_.Outputs();
}

TEST_F(LostHostTest, APlaceThatIsFoundIsTaken) {
  const std::string found = Do({"place", "1", "--host", kAmpere, "-o", "json"});
  EXPECT_EQ(found.find(device_), std::string::npos) << "it is taken: " << found;
  EXPECT_NE(found.find("\"smmu\""), std::string::npos) << found;
  const std::string same = Do({"compare", "viommus/a", smmu_});
  EXPECT_NE(same.find("fits"), std::string::npos) << same;
}

TEST_F(LostHostTest, AQuotaHolds) {
  Do({"create", "stage2domain", "vm-2", "--host", kAmpere, "--vm", "vm-2", "--label", "owner=acme"});
  Do({"set", "quota", "acme", "--max-viommus", "1"});
  Do({"create", "viommu", "b", "--smmu", smmu_, "--stage2domain", "vm-2"});
  const Finished refused = cluster_.Ctl({"create", "viommu", "c", "--smmu", smmu_, "--stage2domain", "vm-2"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("QUOTA_EXCEEDED"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace viommu::tests
