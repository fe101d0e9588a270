// What bad input gets: a reason, and nothing changes.

#include <string>
#include <string_view>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class BadInputTest : public FleetFixture {
 protected:
  void SetUp() override {
    cluster_.StartServer();
    StartHost(kGrace);
    devices_ = DevicesBySmmu(kGrace);
    ASSERT_GE(devices_.size(), 2u);
    smmu_ = devices_.begin()->first;
    other_smmu_ = std::next(devices_.begin())->first;
    device_ = devices_[smmu_][0];
    CreateStage2("vm-1", kGrace, "vm-1");
    Ok(&Stub::CreateViommu, ViommuRequest("a", smmu_, "vm-1"));
    Ok(&Stub::SetVdevId, SetRequest("a", device_, 16, v1::WAIT_APPLIED));
    WaitSettled();
  }

  // Until nothing is on its way from a host that would change the revision by itself.
  void WaitSettled() {
    ASSERT_TRUE(Eventually(10, [this] {
      const auto viommus = Ok(&Stub::ListViommus, v1::ListViommusRequest());
      const auto stage2s = Ok(&Stub::ListStage2Domains, v1::ListStage2DomainsRequest());
      for (const auto& each : viommus.viommus()) {
        if (each.state() != v1::STATE_READY) return false;
      }
      for (const auto& each : stage2s.stage2_domains()) {
        if (each.state() != v1::STATE_READY) return false;
      }
      return true;
    }));
  }

  // The call is refused for that reason, its message speaks of `words`, and the record is as it was.
  template <typename Request, typename Response>
  void ExpectRefused(Cluster::Method<Request, Response> method, const Request& request, v1::ErrorReason reason,
                     std::vector<std::string> words = {}) {
    SCOPED_TRACE(request.ShortDebugString());
    const int64_t before = Revision();
    const absl::Status status = Error(method, request);
    EXPECT_EQ(ReasonName(ReasonOf(status)), ReasonName(reason)) << status;
    for (const std::string& word : words) {
      EXPECT_NE(status.message().find(word), std::string::npos) << "\"" << word << "\" is not in: " << status;
    }
    EXPECT_EQ(Revision(), before) << "something has changed";
  }

  std::map<std::string, std::vector<std::string>> devices_;
  std::string smmu_;
  std::string other_smmu_;
  std::string device_;
};

TEST_F(BadInputTest, UnknownThings) {
  ExpectRefused(&Stub::SetVdevId, SetRequest("a", "hosts/nowhere/devices/0000:01:00.0", 5),
                v1::ERROR_REASON_DEVICE_NOT_FOUND);
  ExpectRefused(&Stub::SetVdevId, SetRequest("none", device_, 5), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  ExpectRefused(&Stub::CreateViommu, ViommuRequest("b", "hosts/grace-01/smmus/none", "vm-1"),
                v1::ERROR_REASON_SMMU_NOT_FOUND);
  ExpectRefused(&Stub::CreateViommu, ViommuRequest("b", smmu_, "none"), v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND);
  v1::CreateStage2DomainRequest stage2;
  stage2.set_stage2_domain_id("vm-2");
  stage2.mutable_stage2_domain()->set_host("hosts/nowhere");
  stage2.mutable_stage2_domain()->set_vm("vm-2");
  ExpectRefused(&Stub::CreateStage2Domain, stage2, v1::ERROR_REASON_HOST_NOT_FOUND, {"hosts/nowhere"});
  stage2.mutable_stage2_domain()->set_host(std::string("hosts/") + kGrace);
  stage2.mutable_stage2_domain()->set_smmu("hosts/grace-01/smmus/none");
  ExpectRefused(&Stub::CreateStage2Domain, stage2, v1::ERROR_REASON_SMMU_NOT_FOUND, {"smmus/none"});
}

TEST_F(BadInputTest, DevicesAndVdevIds) {
  const std::string other = devices_[other_smmu_][0];
  ExpectRefused(&Stub::SetVdevId, SetRequest("a", other, 5), v1::ERROR_REASON_SMMU_MISMATCH, {smmu_, other_smmu_});
  ExpectRefused(&Stub::SetVdevId, SetRequest("a", device_, 5), v1::ERROR_REASON_DEVICE_TAKEN,
                {device_, "viommus/a/vdevices/16"});
  const std::string free = devices_[smmu_][1];
  ExpectRefused(&Stub::SetVdevId, SetRequest("a", free, 16), v1::ERROR_REASON_VDEV_ID_TAKEN);
  ExpectRefused(&Stub::SetVdevId, SetRequest("a", free, uint64_t{1} << 32), v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE);
  v1::RebindVdevIdRequest rebind;
  rebind.set_name("viommus/a/vdevices/16");
  rebind.set_new_vdev_id(uint64_t{1} << 32);
  ExpectRefused(&Stub::RebindVdevId, rebind, v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE, {"new_vdev_id"});
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/a");
  batch.add_assignments()->set_device(free);
  batch.mutable_assignments(0)->set_vdev_id(uint64_t{1} << 32);
  ExpectRefused(&Stub::BatchSetVdevIds, batch, v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE, {"assignments[0].vdev_id"});

  StartHost(kAmpere);
  v1::GetHostRequest get;
  get.set_name(std::string("hosts/") + kAmpere);
  const v1::Smmu narrow = Ok(&Stub::GetHost, get).host().smmus(0);
  ASSERT_LT(narrow.sid_bits(), 32u);
  CreateStage2("vm-2", kAmpere, "vm-2");
  Ok(&Stub::CreateViommu, ViommuRequest("narrow", narrow.name(), "vm-2"));
  const std::string behind = DevicesBySmmu(kAmpere)[narrow.name()][0];
  Ok(&Stub::SetVdevId, SetRequest("narrow", behind, 1, v1::WAIT_APPLIED));
  WaitSettled();
  ExpectRefused(&Stub::SetVdevId, SetRequest("narrow", behind, uint64_t{1} << narrow.sid_bits()),
                v1::ERROR_REASON_VDEV_ID_TOO_WIDE);
  rebind.set_name("viommus/narrow/vdevices/1");
  rebind.set_new_vdev_id(uint64_t{1} << narrow.sid_bits());
  ExpectRefused(&Stub::RebindVdevId, rebind, v1::ERROR_REASON_VDEV_ID_TOO_WIDE, {"new_vdev_id"});
  batch.set_viommu("viommus/narrow");
  batch.mutable_assignments(0)->set_device(behind);
  batch.mutable_assignments(0)->set_vdev_id(uint64_t{1} << narrow.sid_bits());
  ExpectRefused(&Stub::BatchSetVdevIds, batch, v1::ERROR_REASON_VDEV_ID_TOO_WIDE, {"assignments[0].vdev_id"});
}

TEST_F(BadInputTest, CordonedHost) {
  v1::CordonHostRequest cordon;
  cordon.set_name(std::string("hosts/") + kGrace);
  Ok(&Stub::CordonHost, cordon);
  ExpectRefused(&Stub::SetVdevId, SetRequest("a", devices_[smmu_][1], 5), v1::ERROR_REASON_HOST_CORDONED, {kGrace});
  ExpectRefused(&Stub::CreateViommu, ViommuRequest("b", smmu_, "vm-1"), v1::ERROR_REASON_HOST_CORDONED);
}

TEST_F(BadInputTest, VmidsExhausted) {
  StartHost(kEdge);
  const std::string smmu = DevicesBySmmu(kEdge).begin()->first;
  v1::CreateStage2DomainRequest request;
  request.mutable_stage2_domain()->set_host(std::string("hosts/") + kEdge);
  request.mutable_stage2_domain()->set_smmu(smmu);
  // 8-bit VMIDs; 0 is not given away.
  for (int i = 0; i < 255; ++i) {
    request.set_stage2_domain_id("e-" + std::to_string(i));
    request.mutable_stage2_domain()->set_vm("e-" + std::to_string(i));
    request.set_wait(i == 254 ? v1::WAIT_APPLIED : v1::WAIT_ACCEPTED);
    Ok(&Stub::CreateStage2Domain, request);
  }
  v1::ListStage2DomainsRequest list;
  list.set_host(std::string("hosts/") + kEdge);
  list.set_page_size(1000);
  ASSERT_TRUE(Eventually(20, [&] {
    const auto listed = Ok(&Stub::ListStage2Domains, list);
    for (const auto& each : listed.stage2_domains()) {
      if (each.state() == v1::STATE_PENDING) return false;
    }
    return true;
  }));
  request.set_stage2_domain_id("e-255");
  request.mutable_stage2_domain()->set_vm("e-255");
  ExpectRefused(&Stub::CreateStage2Domain, request, v1::ERROR_REASON_VMID_EXHAUSTED, {"255"});
}

TEST_F(BadInputTest, DeletingWithChildren) {
  v1::DeleteViommuRequest viommu;
  viommu.set_name("viommus/a");
  ExpectRefused(&Stub::DeleteViommu, viommu, v1::ERROR_REASON_HAS_CHILDREN);
  v1::DeleteStage2DomainRequest stage2;
  stage2.set_name("stage2Domains/vm-1");
  ExpectRefused(&Stub::DeleteStage2Domain, stage2, v1::ERROR_REASON_HAS_CHILDREN);
  v1::CreateNestedDomainRequest nested;
  nested.set_viommu("viommus/a");
  nested.set_nested_domain_id("n");
  nested.mutable_nested_domain()->mutable_config()->mutable_bypass();
  nested.set_wait(v1::WAIT_APPLIED);
  Ok(&Stub::CreateNestedDomain, nested);
  v1::AttachDeviceRequest attach;
  attach.set_name("viommus/a/nestedDomains/n");
  attach.set_device(device_);
  attach.set_wait(v1::WAIT_APPLIED);
  Ok(&Stub::AttachDevice, attach);
  v1::DeleteNestedDomainRequest remove;
  remove.set_name("viommus/a/nestedDomains/n");
  ExpectRefused(&Stub::DeleteNestedDomain, remove, v1::ERROR_REASON_HAS_CHILDREN, {"viommus/a/vdevices/16"});
}

TEST_F(BadInputTest, StaleEtagAndReusedRequestId) {
  v1::UnsetVdevIdRequest unset;
  unset.set_name("viommus/a/vdevices/16");
  unset.set_etag("stale");
  ExpectRefused(&Stub::UnsetVdevId, unset, v1::ERROR_REASON_ETAG_MISMATCH);

  auto first = SetRequest("a", devices_[smmu_][1], 5, v1::WAIT_APPLIED);
  first.set_request_id("6f2b2f0e-6c30-4f0e-9a50-0d7ad5d0a222");
  const auto answer = Ok(&Stub::SetVdevId, first);
  EXPECT_EQ(Ok(&Stub::SetVdevId, first).vdevice().uid(), answer.vdevice().uid());
  auto other = first;
  other.set_vdev_id(6);
  ExpectRefused(&Stub::SetVdevId, other, v1::ERROR_REASON_REQUEST_ID_REUSED);
  other.set_request_id("not a uuid");
  ExpectRefused(&Stub::SetVdevId, other, v1::ERROR_REASON_INVALID_FIELD, {"request_id"});
}

TEST_F(BadInputTest, MalformedVste) {
  struct Case {
    uint64_t word0;
    uint64_t word1;
  };
  const Case cases[] = {
      {1 | (1 << 1), 0},                      // Config 1, reserved
      {1 | (6 << 1), 0},                      // Config 6, stage 2
      {1 | (7 << 1), 0},                      // Config 7, both stages
      {1 | (5 << 1), uint64_t{2} << 28},      // EATS 2
      {1 | (5 << 1), uint64_t{3} << 28},      // EATS 3
      {1 | (5 << 1) | uint64_t{1} << 52, 0},  // outside of the mask of word 0
      {1 | (5 << 1), uint64_t{1} << 30},      // outside of the mask of word 1
  };
  for (const Case& each : cases) {
    v1::CreateNestedDomainRequest request;
    request.set_viommu("viommus/a");
    request.set_nested_domain_id("bad");
    auto* vste = request.mutable_nested_domain()->mutable_config()->mutable_translate();
    vste->set_word0(each.word0);
    vste->set_word1(each.word1);
    ExpectRefused(&Stub::CreateNestedDomain, request, v1::ERROR_REASON_VSTE_INVALID);
  }
}

TEST_F(BadInputTest, Invalidations) {
  v1::InvalidateRequest request;
  request.set_target("viommus/a");
  request.add_commands()->set_raw("too short");
  ExpectRefused(&Stub::Invalidate, request, v1::ERROR_REASON_INVALID_FIELD, {"commands[0]"});
  request.clear_commands();
  ExpectRefused(&Stub::Invalidate, request, v1::ERROR_REASON_INVALID_FIELD, {"commands"});
  for (int i = 0; i < 4097; ++i) request.add_commands()->mutable_tlbi_nh_all();
  ExpectRefused(&Stub::Invalidate, request, v1::ERROR_REASON_LIMIT_EXCEEDED);

  request.clear_commands();
  request.add_commands()->mutable_tlbi_nh_all();
  std::string sync(16, '\0');
  sync[0] = 0x46;
  request.add_commands()->set_raw(sync);
  const int64_t before = Revision();
  auto result = Ok(&Stub::Invalidate, request).result();
  EXPECT_EQ(result.handled(), 0u) << "a group with a bad command is not issued at all";
  EXPECT_EQ(result.stop().reason(), "OPCODE_FORBIDDEN");

  request.clear_commands();
  request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(99);
  result = Ok(&Stub::Invalidate, request).result();
  EXPECT_EQ(result.handled(), 0u);
  EXPECT_EQ(result.stop().reason(), "UNKNOWN_VDEV_ID");
  EXPECT_EQ(Revision(), before) << "something has changed";
}

TEST_F(BadInputTest, ListsAndMessages) {
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/a");
  for (int i = 0; i < 1025; ++i) batch.add_assignments()->set_device(device_);
  ExpectRefused(&Stub::BatchSetVdevIds, batch, v1::ERROR_REASON_LIMIT_EXCEEDED);

  v1::ListDevicesRequest list;
  list.set_page_size(2);
  list.set_host(std::string("hosts/") + kGrace);
  const auto page = Ok(&Stub::ListDevices, list);
  ASSERT_FALSE(page.next_page_token().empty());
  v1::ListDevicesRequest other = list;
  other.set_page_token(page.next_page_token());
  other.set_smmu(smmu_);
  ExpectRefused(&Stub::ListDevices, other, v1::ERROR_REASON_PAGE_TOKEN_INVALID);
  other = list;
  other.set_page_token("made up");
  ExpectRefused(&Stub::ListDevices, other, v1::ERROR_REASON_PAGE_TOKEN_INVALID);

  v1::SetVdevIdRequest huge = SetRequest("a", device_, 5);
  (*huge.mutable_labels())["x"] = std::string(size_t{8} << 20, 'x');
  ExpectRefused(&Stub::SetVdevId, huge, v1::ERROR_REASON_LIMIT_EXCEEDED);
  (*huge.mutable_labels())["x"] = std::string(size_t{20} << 20, 'x');
  const int64_t before = Revision();
  EXPECT_EQ(Error(&Stub::SetVdevId, huge).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Revision(), before);
}

TEST_F(BadInputTest, ASecondAgentAndAForeignAgent) {
  // Another state directory: another agent that claims the same host.
  const int64_t before = Revision();
  cluster_.LaunchAgent(kGrace, "deploy/inventory/grace.yaml", "intruder");
  ASSERT_TRUE(Eventually(15, [&] { return cluster_.AgentLogHas("intruder", "HOST_ALREADY_CONNECTED"); }))
      << cluster_.Outputs();
  EXPECT_EQ(Revision(), before);
  cluster_.LaunchAgent("other-01", "deploy/inventory/edge.yaml", "foreign", {"--cluster-id=another-cluster"});
  ASSERT_TRUE(Eventually(15, [&] { return cluster_.AgentLogHas("foreign", "CLUSTER_MISMATCH"); }))
      << cluster_.Outputs();
  EXPECT_EQ(Revision(), before);
  v1::GetHostRequest get;
  get.set_name("hosts/other-01");
  EXPECT_EQ(ReasonOf(Error(&Stub::GetHost, get)), v1::ERROR_REASON_HOST_NOT_FOUND);
}

}  // namespace
}  // namespace viommu::tests
