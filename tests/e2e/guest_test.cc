// A VM with memory: what its device reads, before and after invalidations, and a command queue of its own.

#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class GuestTest : public FleetFixture {
 protected:
  std::string ram() const { return cluster_.dir() / "vm.ram"; }
  std::string handover() const { return cluster_.socket_path(kGrace) + ".fd"; }

  Finished Guest(std::vector<std::string> args) {
    args.insert(args.begin(), Runfile("tests/guest/viommu-guest"));
    return tests::Run(args);
  }
  void GuestDoes(std::vector<std::string> args) {
    const Finished done = Guest(std::move(args));
    ASSERT_EQ(done.status, 0) << done.err;
  }
  // Hands the memory over; it stays so as long as the process lives.
  void StartGuest() {
    const std::string output = cluster_.dir() / ("guest-" + std::to_string(++guests_) + ".log");
    guest_ = std::make_unique<Process>(std::vector<std::string>{Runfile("tests/guest/viommu-guest"), "run", ram(),
                                                                "--vm", "vm", "--socket", handover()},
                                       output);
    ASSERT_TRUE(Eventually(10, [&] { return guest_->output().find("handed") != std::string::npos; }))
        << guest_->output();
  }
  void CtlDoes(std::vector<std::string> args) {
    const Finished done = cluster_.Ctl(std::move(args));
    ASSERT_EQ(done.status, 0) << done.err << cluster_.Outputs();
  }
  // What `viommuctl debug dma` prints; its exit code goes to `status`.
  std::string Dma(const std::string& address, int* status = nullptr) {
    const Finished done = cluster_.Ctl(
        {"debug", "dma", "read", "grace-01/0009:01:00.1", address, "--socket", cluster_.socket_path(kGrace)});
    if (status != nullptr) {
      *status = done.status;
    } else {
      EXPECT_EQ(done.status, 0) << done.out << done.err;
    }
    return done.out;
  }

  // What `viommuctl local status` says of the VM's VMM: its state, and how often it was restarted.
  std::string Vmm() {
    const Finished done = cluster_.Ctl({"local", "status", "-o", "json", "--socket", cluster_.socket_path(kGrace)});
    const auto status = nlohmann::json::parse(done.out, nullptr, /*allow_exceptions=*/false);
    if (!status.contains("vmms") || status["vmms"].size() != 1) return done.out + done.err;
    const auto& vmm = status["vmms"][0];
    return vmm.value("state", "") + " " + vmm.value("restarts", "0");
  }

  // What `viommuctl local events v` says in JSON.
  nlohmann::json Events(const std::string& after = "0") {
    const Finished done = cluster_.Ctl(
        {"local", "events", "v", "--after", after, "-o", "json", "--socket", cluster_.socket_path(kGrace)});
    return nlohmann::json::parse(done.out, nullptr, /*allow_exceptions=*/false);
  }

  int guests_ = 0;
  std::unique_ptr<Process> guest_;
};

TEST_F(GuestTest, ADeviceReadsThroughItsOldMappingUntilTheInvalidation) {
  cluster_.StartServer();
  StartHost(kGrace);
  const Finished created = Guest({"create", ram()});
  ASSERT_EQ(created.status, 0) << created.err;
  const std::string vste = created.out.substr(0, created.out.find('\n'));
  StartGuest();
  CtlDoes({"create", "stage2domain", "vm", "--host", "grace-01", "--vm", "vm"});
  CtlDoes({"create", "viommu", "v", "--smmu", "grace-01/smmu3.0x0000000011000000", "--stage2domain", "vm"});
  CtlDoes({"set", "vdev-id", "v", "grace-01/0009:01:00.1", "0x10", "--wait=applied"});
  CtlDoes({"create", "nesteddomain", "v/n", "--translate", "--vste", vste, "--wait=applied"});
  CtlDoes({"attach", "grace-01/0009:01:00.1", "v/n", "--wait=applied"});

  GuestDoes({"put", ram(), "64", "old page"});
  GuestDoes({"put", ram(), "65", "new page"});
  GuestDoes({"map", ram(), "0x10000", "64"});
  EXPECT_NE(Dma("0x10000").find("|old page"), std::string::npos);
  GuestDoes({"map", ram(), "0x10000", "65"});
  EXPECT_NE(Dma("0x10000").find("|old page"), std::string::npos) << "nothing was invalidated";
  CtlDoes({"invalidate", "v", "tlbi-nh-va:asid=6,address=0x10000,leaf=true"});
  EXPECT_NE(Dma("0x10000").find("|old page"), std::string::npos) << "that was another address space";
  CtlDoes({"invalidate", "v", "tlbi-nh-va:asid=5,address=0x10000,leaf=true"});
  EXPECT_NE(Dma("0x10000").find("|new page"), std::string::npos);
  int status = 0;
  EXPECT_NE(Dma("0x20000", &status).find("F_TRANSLATION"), std::string::npos) << "not mapped";
  EXPECT_EQ(status, 1);
  // Its VM hears of that, and so does the operator.
  EXPECT_TRUE(Eventually(10, [&] { return Events().value("count", "") == "1"; })) << cluster_.Outputs();
  const auto told = Events();
  ASSERT_EQ(told["events"].size(), 1u) << told;
  EXPECT_EQ(told["events"][0].value("event", ""), "F_TRANSLATION") << told;
  EXPECT_EQ(told["events"][0].value("vdevId", 0), 0x10) << told;
  EXPECT_EQ(told["events"][0].value("address", ""), std::to_string(0x20000)) << told;
  EXPECT_TRUE(Events("1")["events"].empty());
  EXPECT_NE(cluster_.Outputs().find(
                R"("guest fault","vm":"vm","viommu":"viommus/v","vdev_id":"0x10","fault":"F_TRANSLATION")"),
            std::string::npos)
      << cluster_.Outputs();

  // With the VM its memory goes, and the device reaches nothing any more.
  guest_.reset();
  EXPECT_TRUE(Eventually(10, [&] {
    Dma("0x10000", &status);
    return status == 1;
  }));
  EXPECT_TRUE(Eventually(10, [&] { return Vmm() == "VMM_STATE_GONE 0"; })) << Vmm();
  StartGuest();
  EXPECT_EQ(Vmm(), "VMM_STATE_CONNECTED 1") << "another process";

  // An agent that comes back has the objects of its journal, and the memory when the VM hands it over again.
  cluster_.agent(kGrace).Kill();
  StartHost(kGrace);
  ASSERT_TRUE(Eventually(10, [&] {
    return cluster_.Ctl({"local", "status", "--socket", cluster_.socket_path(kGrace)}).status == 0;
  }));
  StartGuest();
  EXPECT_TRUE(Eventually(10, [&] { return Dma("0x10000", &status).find("|new page") != std::string::npos; }));
  EXPECT_EQ(Vmm(), "VMM_STATE_CONNECTED 0") << "the agent was restarted, not the VMM";
}

TEST_F(GuestTest, AQueueOfItsOwn) {
  cluster_.StartServer();
  StartHost(kGrace);
  CtlDoes({"create", "stage2domain", "vm", "--host", "grace-01", "--vm", "vm"});
  CtlDoes({"create", "viommu", "q", "--smmu", "grace-01/smmu3.0x0000000015000000", "--stage2domain", "vm", "--type",
           "tegra241-cmdqv"});
  CtlDoes({"create", "hwqueue", "q/0", "--iova", "0x60000000", "--length", "65536"});
  CtlDoes({"create", "hwqueue", "q/1", "--iova", "0x60010000", "--length", "4096"});
  CtlDoes({"set", "vdev-id", "q", "grace-01/0002:03:00.2", "0x10", "--wait=applied"});
  v1::GetHwQueueRequest get;
  get.set_name("viommus/q/hwQueues/1");
  ASSERT_TRUE(Eventually(10, [&] { return Ok(&Stub::GetHwQueue, get).hw_queue().state() == v1::STATE_READY; }))
      << cluster_.Outputs();
  CtlDoes({"drift", "grace-01"});

  // TLBI_NH_ASID with ASID 5; CFGI_CD_ALL, which such a queue does not carry.
  const Finished taken =
      Guest({"submit", "viommus/q/hwQueues/0", "--socket", handover(), "--repeat", "5000", "0x0005000000000011", "0"});
  EXPECT_EQ(taken.status, 0) << taken.err;
  const Finished refused = Guest({"submit", "viommus/q/hwQueues/1", "--socket", handover(), "0x0000001000000006", "0"});
  EXPECT_EQ(refused.status, 1) << refused.out;
  EXPECT_NE(refused.err.find("error 1"), std::string::npos) << refused.err;

  const Finished early = cluster_.Ctl({"delete", "hwqueue", "q/0", "--yes"});
  EXPECT_EQ(early.status, 1) << early.out;
  EXPECT_NE(early.err.find("HW_QUEUE_ORDER"), std::string::npos) << early.err;
  CtlDoes({"delete", "hwqueue", "q/1", "--yes", "--wait=applied"});
  CtlDoes({"delete", "stage2domain", "vm", "--cascade", "--yes", "--wait=applied"});
}

}  // namespace
}  // namespace viommu::tests
