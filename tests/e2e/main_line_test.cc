// The main job with real processes: record, apply, attach, invalidate, release.

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

// A translating stream table entry: V, Config = stage 1, two-level-free context table at a guest address, EATS = 1.
constexpr uint64_t kVsteWord0 = 0x1 | (5 << 1) | 0x80000000;
constexpr uint64_t kVsteWord1 = uint64_t{1} << 28;

class MainLineTest : public FleetFixture {};

TEST_F(MainLineTest, AVmBehindTwoSmmusFromRecordToRelease) {
  cluster_.StartServer();
  StartHost(kGrace);
  const auto devices = DevicesBySmmu(kGrace);
  ASSERT_GE(devices.size(), 2u);
  const std::string smmu_a = devices.begin()->first;
  const std::string smmu_b = std::next(devices.begin())->first;

  CreateStage2("vm-1", kGrace, "vm-1");
  for (const auto& [id, smmu] : {std::pair("a", smmu_a), std::pair("b", smmu_b)}) {
    auto request = ViommuRequest(id, smmu, "vm-1");
    request.set_wait(v1::WAIT_APPLIED);
    EXPECT_EQ(Ok(&Stub::CreateViommu, request).viommu().state(), v1::STATE_DORMANT)
        << "its kernel object needs a device";
  }
  const std::string device = devices.at(smmu_a)[0];
  const auto set = Ok(&Stub::SetVdevId, SetRequest("a", device, 0x10, v1::WAIT_APPLIED));
  EXPECT_EQ(set.vdevice().state(), v1::STATE_READY);
  EXPECT_EQ(set.vdevice().name(), "viommus/a/vdevices/16");
  Ok(&Stub::SetVdevId, SetRequest("b", devices.at(smmu_b)[0], 0x10, v1::WAIT_APPLIED));

  v1::GetViommuRequest get_viommu;
  std::set<uint32_t> vmids;
  for (const char* id : {"a", "b"}) {
    get_viommu.set_name(std::string("viommus/") + id);
    ASSERT_TRUE(Eventually(10, [&] { return Ok(&Stub::GetViommu, get_viommu).viommu().state() == v1::STATE_READY; }));
    EXPECT_GT(Ok(&Stub::GetViommu, get_viommu).viommu().vmid(), 0u);
  }
  // The agent's next sign of life tells what the host has in use.
  v1::GetHostRequest get_host;
  get_host.set_name(smmu_a.substr(0, smmu_a.find("/smmus/")));
  EXPECT_TRUE(Eventually(10, [&] {
    const v1::Host host = Ok(&Stub::GetHost, get_host).host();
    return std::any_of(host.smmus().begin(), host.smmus().end(), [&](const v1::Smmu& smmu) {
      return smmu.name() == smmu_a && smmu.host_vmids().used() == 1 && smmu.host_vmids().total() > 1;
    });
  }));

  v1::CreateNestedDomainRequest nested;
  nested.set_viommu("viommus/a");
  nested.set_nested_domain_id("guest");
  nested.mutable_nested_domain()->mutable_config()->mutable_translate()->set_word0(kVsteWord0);
  nested.mutable_nested_domain()->mutable_config()->mutable_translate()->set_word1(kVsteWord1);
  nested.set_wait(v1::WAIT_APPLIED);
  EXPECT_EQ(Ok(&Stub::CreateNestedDomain, nested).nested_domain().state(), v1::STATE_READY);
  v1::AttachDeviceRequest attach;
  attach.set_name("viommus/a/nestedDomains/guest");
  attach.set_device(device);
  attach.set_wait(v1::WAIT_APPLIED);
  const auto attached = Ok(&Stub::AttachDevice, attach).vdevice();
  EXPECT_EQ(attached.state(), v1::STATE_READY) << attached.ShortDebugString();
  EXPECT_EQ(attached.nested_domain(), "viommus/a/nestedDomains/guest");

  v1::InvalidateRequest invalidate;
  invalidate.set_target("viommus/a");
  invalidate.add_commands()->mutable_tlbi_nh_asid()->set_asid(7);
  invalidate.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(0x10);
  invalidate.add_commands()->mutable_tlbi_nsnh_all();
  auto* atc = invalidate.add_commands()->mutable_atc_inv();
  atc->set_vdev_id(0x10);
  atc->set_size(52);
  auto result = Ok(&Stub::Invalidate, invalidate).result();
  EXPECT_EQ(result.handled(), 4u) << result.ShortDebugString();
  EXPECT_FALSE(result.has_stop()) << result.ShortDebugString();

  // The same through the nested domain, whose viommu's VMID is meant.
  invalidate.set_target("viommus/a/nestedDomains/guest");
  result = Ok(&Stub::Invalidate, invalidate).result();
  EXPECT_EQ(result.handled(), 4u) << result.ShortDebugString();
  EXPECT_FALSE(result.has_stop()) << result.ShortDebugString();
  invalidate.set_target("viommus/a");

  // The guest renumbers its buses.
  v1::RebindVdevIdRequest rebind;
  rebind.set_name("viommus/a/vdevices/16");
  rebind.set_new_vdev_id(0x20);
  rebind.set_wait(v1::WAIT_APPLIED);
  const auto rebound = Ok(&Stub::RebindVdevId, rebind).vdevice();
  EXPECT_EQ(rebound.name(), "viommus/a/vdevices/32");
  EXPECT_EQ(rebound.uid(), set.vdevice().uid());
  EXPECT_EQ(rebound.state(), v1::STATE_READY);
  EXPECT_FALSE(rebound.has_previous_vdev_id());

  // Now the old vdev_id is not the VM's any more, and the new one is.
  invalidate.clear_commands();
  invalidate.add_commands()->mutable_tlbi_nh_all();
  invalidate.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(0x10);
  result = Ok(&Stub::Invalidate, invalidate).result();
  EXPECT_EQ(result.handled(), 0u) << "a group with a bad command is not issued at all: " << result.ShortDebugString();
  EXPECT_EQ(result.stop().reason(), "UNKNOWN_VDEV_ID") << result.ShortDebugString();
  invalidate.mutable_commands(1)->mutable_cfgi_cd_all()->set_vdev_id(0x20);
  EXPECT_EQ(Ok(&Stub::Invalidate, invalidate).result().handled(), 2u);

  // Everything goes, and the device is free again.
  v1::DeleteStage2DomainRequest remove;
  remove.set_name("stage2Domains/vm-1");
  remove.set_cascade(true);
  remove.set_wait(v1::WAIT_APPLIED);
  Ok(&Stub::DeleteStage2Domain, remove);
  v1::GetDeviceRequest get_device;
  get_device.set_name(device);
  EXPECT_EQ(Ok(&Stub::GetDevice, get_device).device().state(), v1::DEVICE_STATE_FREE);
  EXPECT_EQ(Ok(&Stub::ListVdevices, v1::ListVdevicesRequest()).vdevices_size(), 0);
  EXPECT_EQ(Ok(&Stub::ListViommus, v1::ListViommusRequest()).viommus_size(), 0);
}

TEST_F(MainLineTest, ABatchIsAllOrNothing) {
  cluster_.StartServer();
  StartHost(kGrace);
  const auto devices = DevicesBySmmu(kGrace);
  CreateStage2("vm-1", kGrace, "vm-1");
  auto viommu = ViommuRequest("a", devices.begin()->first, "vm-1");
  viommu.set_wait(v1::WAIT_APPLIED);
  Ok(&Stub::CreateViommu, viommu);
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/a");
  batch.set_wait(v1::WAIT_APPLIED);
  uint64_t vdev_id = 1;
  for (const std::string& device : devices.begin()->second) {
    auto* assignment = batch.add_assignments();
    assignment->set_device(device);
    assignment->set_vdev_id(vdev_id++);
  }
  auto broken = batch;
  broken.mutable_assignments(broken.assignments_size() - 1)->set_vdev_id(1);
  const int64_t before = Revision();
  EXPECT_EQ(ReasonOf(Error(&Stub::BatchSetVdevIds, broken)), v1::ERROR_REASON_VDEV_ID_TAKEN);
  EXPECT_EQ(Revision(), before);
  const auto response = Ok(&Stub::BatchSetVdevIds, batch);
  EXPECT_EQ(response.vdevices_size(), batch.assignments_size());
  for (const auto& vdevice : response.vdevices()) EXPECT_EQ(vdevice.state(), v1::STATE_READY);
}

TEST_F(MainLineTest, AHostThatBehavesLikeLinuxTakesOneStage2PerSmmu) {
  cluster_.StartServer();
  StartHost(kEdge);
  const auto devices = DevicesBySmmu(kEdge);
  const std::string smmu = devices.begin()->first;
  v1::CreateStage2DomainRequest request;
  request.set_stage2_domain_id("vm-1");
  request.mutable_stage2_domain()->set_host(std::string("hosts/") + kEdge);
  request.mutable_stage2_domain()->set_vm("vm-1");
  EXPECT_EQ(ReasonOf(Error(&Stub::CreateStage2Domain, request)), v1::ERROR_REASON_STAGE2_NOT_SHAREABLE);
  CreateStage2("vm-1", kEdge, "vm-1", smmu);
  Ok(&Stub::CreateViommu, ViommuRequest("a", smmu, "vm-1"));
  Ok(&Stub::SetVdevId, SetRequest("a", devices.begin()->second[0], 8, v1::WAIT_APPLIED));

  // And takes invalidations by viommu only.
  v1::CreateNestedDomainRequest nested;
  nested.set_viommu("viommus/a");
  nested.set_nested_domain_id("guest");
  nested.mutable_nested_domain()->mutable_config()->mutable_bypass();
  nested.set_wait(v1::WAIT_APPLIED);
  Ok(&Stub::CreateNestedDomain, nested);
  v1::InvalidateRequest invalidate;
  invalidate.add_commands()->mutable_tlbi_nh_all();
  invalidate.set_target("viommus/a/nestedDomains/guest");
  const absl::Status refused = Error(&Stub::Invalidate, invalidate);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_TARGET_NOT_SUPPORTED) << refused;
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(refused).metadata().at("viommu"), "viommus/a");
  invalidate.set_target("viommus/a");
  EXPECT_EQ(Ok(&Stub::Invalidate, invalidate).result().handled(), 1u);
}

TEST_F(MainLineTest, AssignmentsForAnAbsentHostAreAppliedWhenItComesBack) {
  cluster_.StartServer();
  StartHost(kAmpere);
  const auto devices = DevicesBySmmu(kAmpere);
  cluster_.agent(kAmpere).Kill();
  cluster_.WaitDisconnected(kAmpere);
  CreateStage2("vm-1", kAmpere, "vm-1");
  Ok(&Stub::CreateViommu, ViommuRequest("a", devices.begin()->first, "vm-1"));
  auto request = SetRequest("a", devices.begin()->second[0], 5, v1::WAIT_APPLIED);
  request.set_request_id("6f2b2f0e-6c30-4f0e-9a50-0d7ad5d0a111");
  const absl::Status late = Error(&Stub::SetVdevId, request, 1);
  EXPECT_EQ(ReasonOf(late), v1::ERROR_REASON_NOT_YET_APPLIED) << late;
  EXPECT_EQ(Vdevice("viommus/a/vdevices/5").state(), v1::STATE_PENDING) << "recorded all the same";

  StartHost(kAmpere);
  EXPECT_EQ(Ok(&Stub::SetVdevId, request).vdevice().state(), v1::STATE_READY) << "the retry waits for the same change";
}

}  // namespace
}  // namespace viommu::tests
