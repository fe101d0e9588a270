// The report of drift with real processes: record, journal and the emulated SMMU's object table.

#include <signal.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "agent/reconcile/journal.h"
#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class DriftTest : public FleetFixture {
 protected:
  void SetUp() override {
    cluster_.StartServer();
    StartHost(kAmpere);
  }

  void Do(const std::vector<std::string>& args) {
    const Finished done = cluster_.Ctl(args);
    ASSERT_EQ(done.status, 0) << args[0] << ": " << done.err << cluster_.Outputs();
  }
  // The report, whose exit code must be this.
  nlohmann::json Drift(int status, std::vector<std::string> more = {}, const std::string& host = kAmpere) {
    std::vector<std::string> args = {"drift", host, "-o", "json"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished done = cluster_.Ctl(args);
    EXPECT_EQ(done.status, status) << done.out << done.err << cluster_.Outputs();
    return nlohmann::json::parse(done.out, nullptr, /*allow_exceptions=*/false);
  }
  size_t Drifts(const nlohmann::json& report) { return report.value("drifts", nlohmann::json::array()).size(); }
};

// Nested domains of each kind, a device on the bare stage 2, one that is not made yet, two SMMUs: what the agent
// believes is what the emulated SMMUs' object tables say, field by field.
TEST_F(DriftTest, WhatIsAppliedIsThere) {
  const auto devices = DevicesBySmmu(kAmpere);
  ASSERT_GE(devices.size(), 2u);
  CreateStage2("vm-1", kAmpere, "vm-1");
  int viommus = 0;
  for (const auto& [smmu, of_it] : devices) {
    const std::string viommu = "v" + std::to_string(viommus++);
    Ok(&Stub::CreateViommu, ViommuRequest(viommu, smmu, "vm-1"));
    if (viommus > 2) break;  // the third one has no device: dormant
    for (size_t i = 0; i < of_it.size(); ++i) {
      Ok(&Stub::SetVdevId, SetRequest(viommu, of_it[i], 16 + i, v1::WAIT_APPLIED));
    }
    Do({"create", "nesteddomain", viommu + "/s1", "--translate", "--vste", "0x8000000b,0x10000000", "--wait=applied"});
    Do({"create", "nesteddomain", viommu + "/by", "--bypass", "--wait=applied"});
    if (smmu.find("v3.11") == std::string::npos) {
      Do({"attach", of_it[0], viommu + "/s1", "--wait=applied"});
      continue;
    }
    // Its devices are in one IOMMU group, which is attached as a whole.
    const Finished alone = cluster_.Ctl({"attach", of_it[0], viommu + "/s1", "--wait=applied"});
    EXPECT_EQ(alone.status, 7) << alone.out;
    EXPECT_NE(alone.err.find("IOMMU group"), std::string::npos) << alone.err;
    EXPECT_EQ(Drift(0, {"--all"})["drifts"].size(), 0u) << "it is as it was";
    Do({"attach", of_it[1], viommu + "/s1", "--wait=applied"});
    EXPECT_TRUE(
        Eventually(10, [&] { return Vdevice("viommus/" + viommu + "/vdevices/16").state() == v1::STATE_READY; }));
  }
  const auto report = Drift(0, {"--all"});
  EXPECT_EQ(Drifts(report), 0u) << report;
  EXPECT_EQ(report["strays"].size(), 0u) << report;
  EXPECT_TRUE(report.value("backendCanTell", false)) << report;
  EXPECT_GE(std::stoi(report.value("compared", "0")), 9) << report;
  const int64_t revision = Revision();
  Drift(0, {"--repair", "--yes"});
  EXPECT_EQ(Revision(), revision) << "a repair of what is right is no news";
}

// Somebody works on the host's objects behind the agent's back: the report says what, and a repair mends it.
TEST_F(DriftTest, WhatSomebodyElseHasDoneIsShownAndMended) {
  cluster_.SetAgentProgram("tests/harness/meddled-agent");
  StartHost(kEdge);
  const auto devices = DevicesBySmmu(kEdge);
  const auto& [smmu, of_it] = *devices.begin();
  CreateStage2("vm-1", kEdge, "vm-1", smmu);
  Ok(&Stub::CreateViommu, ViommuRequest("v", smmu, "vm-1"));
  Ok(&Stub::SetVdevId, SetRequest("v", of_it[0], 16, v1::WAIT_APPLIED));
  Do({"create", "nesteddomain", "v/by", "--bypass", "--wait=applied"});
  Do({"attach", of_it[0], "v/by", "--wait=applied"});
  Drift(0, {}, kEdge);

  cluster_.agent(kEdge).Signal(SIGUSR1);
  nlohmann::json report;
  ASSERT_TRUE(
      Eventually(20,
                 [&] {
                   report = nlohmann::json::parse(cluster_.Ctl({"drift", kEdge, "-o", "json"}).out, nullptr, false);
                   return report.value("strays", nlohmann::json::array()).size() == 1;
                 }))
      << report << cluster_.Outputs();
  report = Drift(1, {}, kEdge);
  ASSERT_EQ(Drifts(report), 2u) << report;
  std::map<std::string, std::string> fields;
  for (const auto& drift : report["drifts"]) fields[drift.value("name", "")] = drift["fields"][0].value("field", "");
  EXPECT_EQ(fields["viommus/v/nestedDomains/by"], "presence") << report;
  EXPECT_EQ(fields["viommus/v/vdevices/16"], "nested_domain") << report;

  Drift(0, {"--repair", "--yes"}, kEdge);
  EXPECT_TRUE(Eventually(20, [&] { return cluster_.Ctl({"drift", kEdge}).status == 0; })) << cluster_.Outputs();
  report = Drift(0, {"--all"}, kEdge);
  EXPECT_EQ(Drifts(report), 0u) << report;
  EXPECT_EQ(report["strays"].size(), 0u) << report;
}

// An agent's journal that says something else than the record at the generation that the record has: by a fault, or by
// hand. An agent that starts goes by it. The server sends what it holds once more, which the agent rightly takes for a
// repetition.
TEST_F(DriftTest, AJournalThatDiffersAtTheSameGenerationIsMended) {
  const auto devices = DevicesBySmmu(kAmpere);
  const auto& [smmu, of_it] = *devices.begin();
  CreateStage2("vm-1", kAmpere, "vm-1");
  Ok(&Stub::CreateViommu, ViommuRequest("v", smmu, "vm-1"));
  Ok(&Stub::SetVdevId, SetRequest("v", of_it[0], 16, v1::WAIT_APPLIED));
  Do({"create", "nesteddomain", "v/n", "--bypass", "--wait=applied"});
  Do({"attach", of_it[0], "v/n", "--wait=applied"});
  cluster_.agent(kAmpere).Kill();
  {
    auto journal = agent::Journal::Open(agent::PosixFileSystem(), cluster_.state_path(kAmpere), {});
    ASSERT_TRUE(journal.ok()) << journal.status();
    agent::journal::Record other;
    for (const auto& [uid, item] : (*journal)->state().items()) {
      v1::Resource resource = item.resource;
      if (resource.has_vdevice()) {
        resource.mutable_vdevice()->set_vdev_id(17);
      } else if (resource.has_nested_domain()) {
        resource.mutable_nested_domain()->mutable_config()->mutable_abort();
      } else {
        continue;
      }
      *other.mutable_intent()->add_items() = resource;
    }
    ASSERT_TRUE((*journal)->Append(other, agent::Journal::Sync::kYes).ok());
  }
  StartHost(kAmpere);
  nlohmann::json report;
  ASSERT_TRUE(
      Eventually(20,
                 [&] {
                   report = nlohmann::json::parse(cluster_.Ctl({"drift", kAmpere, "-o", "json"}).out, nullptr, false);
                   return Drifts(report) == 2 && report["drifts"][0]["fields"].size() == 1 &&
                          report["drifts"][1]["fields"].size() == 1;
                 }))
      << report << cluster_.Outputs();
  std::map<std::string, nlohmann::json> fields;
  for (const auto& drift : report["drifts"]) fields[drift.value("name", "")] = drift["fields"][0];
  EXPECT_EQ(fields["viommus/v/vdevices/16"].value("field", ""), "vdev_id") << report;
  EXPECT_EQ(fields["viommus/v/vdevices/16"].value("believed", ""), "17") << report;
  EXPECT_EQ(fields["viommus/v/nestedDomains/n"].value("field", ""), "config") << report;

  const int64_t revision = Revision();
  Drift(1, {"--repair", "--dry-run"});
  EXPECT_EQ(Revision(), revision);
  Drift(0, {"--repair", "--yes"});
  EXPECT_TRUE(Eventually(20,
                         [&] {
                           return cluster_.Ctl({"drift", kAmpere, "--all"}).out.empty();
                         }))
      << cluster_.Ctl({"drift", kAmpere, "--all"}).out << cluster_.Outputs();
  EXPECT_GT(Vdevice("viommus/v/vdevices/16").generation(), revision) << "which is what makes the agent look again";
  EXPECT_EQ(Vdevice("viommus/v/vdevices/16").state(), v1::STATE_READY);
  Drift(0, {"--all"});
}

TEST_F(DriftTest, AHostThatIsAwayCannotBeAsked) {
  cluster_.agent(kAmpere).Kill();
  cluster_.WaitDisconnected(kAmpere);
  const Finished refused = cluster_.Ctl({"drift", kAmpere, "--timeout", "2s"});
  EXPECT_EQ(refused.status, 1) << refused.err;
  EXPECT_NE(refused.err.find("HOST_DISCONNECTED"), std::string::npos) << refused.err;
  EXPECT_EQ(cluster_.Ctl({"drift", "nobody"}).status, 4);
}

// After kill -9 nothing of the old process is left; what the journal says is made anew, and nothing differs.
TEST_F(DriftTest, NothingIsLeftToExplainAfterARestart) {
  const auto devices = DevicesBySmmu(kAmpere);
  CreateStage2("vm-1", kAmpere, "vm-1");
  Ok(&Stub::CreateViommu, ViommuRequest("a", devices.begin()->first, "vm-1"));
  Ok(&Stub::SetVdevId, SetRequest("a", devices.begin()->second[0], 16, v1::WAIT_APPLIED));
  cluster_.agent(kAmpere).Kill();
  StartHost(kAmpere);
  EXPECT_TRUE(Eventually(20, [this] {
    return cluster_.Ctl({"drift", kAmpere, "--all"}).out.empty();
  })) << cluster_.Outputs();
  Drift(0);
}

}  // namespace
}  // namespace viommu::tests
