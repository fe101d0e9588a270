// Whole command lines against a server in this process: what is sent, what is printed, what the process ends with.

#include "cli/app.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/app_fixture.h"
#include "cli/client.h"
#include "cli/fetch.h"
#include "common/error.h"
#include "common/version.h"

namespace viommu::cli {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

v1::WatchResponse Put(int64_t revision, const std::string& name, const std::string& uid = "") {
  v1::WatchResponse response;
  response.set_revision(revision);
  v1::Event* event = response.mutable_events()->add_events();
  event->set_type(v1::EVENT_TYPE_PUT);
  event->set_revision(revision);
  event->mutable_resource()->mutable_viommu()->set_name(name);
  event->mutable_resource()->mutable_viommu()->set_uid(uid);
  event->mutable_resource()->mutable_viommu()->set_state(v1::STATE_READY);
  return response;
}

TEST_F(AppTest, HelpIsOnStdoutAndNothingIsSent) {
  EXPECT_EQ(RunBare({}), 0);
  EXPECT_THAT(out(), HasSubstr("Exit codes:"));
  EXPECT_EQ(RunBare({"help", "set", "vdev-id"}), 0);
  EXPECT_THAT(out(), HasSubstr("Usage: viommuctl set vdev-id VIOMMU DEVICE VDEV_ID"));
  EXPECT_THAT(err(), IsEmpty());
}

TEST_F(AppTest, WrongCommandLinesAreExitCode2) {
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"gett"},
           {"set"},
           {"get"},
           {"get", "hosts", "--nope"},
           {"get", "hosts", "-o", "xml"},
           {"get", "hosts", "--timeout", "soon"},
           {"get", "hosts", "--dry-run"},
           {"get", "hosts", "--limit", "0"},
           {"get", "vdevices", "--field", "cordoned=true"},
           {"describe", "viommus"},
           {"create", "viommu", "v2"},
           {"create", "nesteddomain", "v1/n"},
           {"create", "nesteddomain", "v1/n", "--abort", "--bypass"},
           {"create", "nesteddomain", "v1/n", "--translate"},
           {"create", "nesteddomain", "v1/n", "--bypass", "--vste", "1,2"},
           {"create", "viommu", "v2", "--smmu", "a/smmu0", "--stage2domain", "s", "--etag", "x"},
           {"set", "vdev-id", "v1", "a/01:00.0", "sixteen"},
           {"set", "vdev-ids", "v1"},
           {"set", "vdev-ids", "v1", "a/01:00.0=1", "--file", "f"},
           {"delete", "vdevice", "v1/16", "--yes"},
           {"delete", "host", "a", "--yes"},
           {"delete", "viommus", "--yes"},
           {"delete", "nesteddomain", "v1/n", "--cascade", "--yes"},
           {"invalidate", "v1", "tlbi-everything"},
           {"watch", "smmus"},
           {"watch", "--from", "now"},
           {"completion", "tcsh"},
           {"get", "hosts", "--context", "nowhere"}}) {
    EXPECT_EQ(Run(words), 2) << testing::PrintToString(words) << err();
    EXPECT_THAT(err(), HasSubstr("error: ")) << testing::PrintToString(words);
    EXPECT_THAT(out(), IsEmpty());
  }
}

TEST_F(AppTest, GlobalFlagsMayStandAnywhere) {
  EXPECT_EQ(RunBare({"get", "hosts", "-o", "name", "--server", fake_.address()}), 0) << err();
  EXPECT_EQ(out(), "hosts/a\n");
  EXPECT_EQ(RunBare({"-o=name", "get", "--server=" + fake_.address(), "hosts"}), 0) << err();
  EXPECT_EQ(out(), "hosts/a\n");
}

TEST_F(AppTest, ListsReadAllPages) {
  EXPECT_EQ(Run({"get", "devices", "-o", "json"}), 0);
  EXPECT_EQ(OutJson()["items"].size(), 7U);
  EXPECT_EQ(OutJson()["revision"], 42);
  EXPECT_FALSE(OutJson().contains("truncated"));
}

TEST_F(AppTest, PagesAreReadUpToTheLimitAndWhatIsLeftOutIsSaid) {
  EXPECT_EQ(Run({"get", "devices", "-o", "json", "--limit", "3"}), 0);
  EXPECT_EQ(OutJson()["items"].size(), 3U);
  EXPECT_EQ(OutJson()["truncated"], true);
  EXPECT_THAT(err(), HasSubstr("only the first 3"));
  EXPECT_EQ(Run({"get", "devices", "-o", "name", "--limit", "7"}), 0);
  EXPECT_THAT(err(), IsEmpty());
}

TEST_F(AppTest, ManyPages) {
  for (int i = 0; i < 1100; ++i) {
    const std::string name = fmt::format("hosts/h{:04}", i);
    fake_.hosts[name].set_name(name);
  }
  EXPECT_EQ(Run({"get", "hosts", "-o", "json"}), 0);
  EXPECT_EQ(OutJson()["items"].size(), 1101U);
  EXPECT_EQ(fake_.Calls("ListHosts"), 3);
  EXPECT_EQ(fake_.Last<v1::ListHostsRequest>("ListHosts").page_token(), "1000");
}

TEST_F(AppTest, FiltersAreSent) {
  EXPECT_EQ(Run({"get", "devices", "--field", "host=a,free=true", "-l", "rack=7"}), 0);
  const auto request = fake_.Last<v1::ListDevicesRequest>("ListDevices");
  EXPECT_EQ(request.host(), "hosts/a");
  EXPECT_TRUE(request.free());
  EXPECT_EQ(request.labels().at("rack"), "7");
}

TEST_F(AppTest, OneResourceInEachFormat) {
  EXPECT_EQ(Run({"get", "viommu", "v1"}), 0);
  EXPECT_THAT(out(), HasSubstr("viommus/v1  READY  web-1  a/smmu0"));
  EXPECT_EQ(Run({"get", "viommus/v1", "-o", "json"}), 0);
  EXPECT_EQ(OutJson()["name"], "viommus/v1");
  EXPECT_EQ(Run({"get", "viommus/v1", "-o", "yaml"}), 0);
  EXPECT_THAT(out(), HasSubstr("name: viommus/v1\n"));
  EXPECT_EQ(Run({"get", "smmus", "-o", "name"}), 0);
  EXPECT_EQ(out(), "hosts/a/smmus/smmu0\n");
  EXPECT_EQ(Run({"get", "smmu", "a/smmu0", "-o", "name"}), 0);
  EXPECT_EQ(Run({"get", "smmu", "a/smmu1"}), 4);
}

TEST_F(AppTest, WhatIsNotThereIsExitCode4) {
  EXPECT_EQ(Run({"get", "viommu", "v9"}), 4);
  EXPECT_THAT(err(), testing::AllOf(HasSubstr("there is no viommus/v9 (VIOMMU_NOT_FOUND)"),
                                    HasSubstr("try: viommuctl get viommus")));
}

TEST_F(AppTest, AServerThatIsNotThereIsExitCode3) {
  EXPECT_EQ(RunBare({"get", "hosts", "--server", "unix:/nonexistent/viommu.sock"}), 3);
  EXPECT_THAT(err(), HasSubstr("cannot reach the server"));
}

TEST_F(AppTest, PlainTextToElsewhereNeedsToBeAskedFor) {
  EXPECT_EQ(RunBare({"get", "hosts", "--server", "server.example:7070"}), 2);
  EXPECT_THAT(err(), HasSubstr("--insecure"));
}

TEST_F(AppTest, AnAgentThatIsNotThereIsNotTheServer) {
  EXPECT_EQ(RunBare({"local", "status", "--socket", "/nonexistent/agent.sock"}), 3);
  EXPECT_THAT(err(), HasSubstr("cannot reach the agent at unix:/nonexistent/agent.sock"));
  EXPECT_THAT(err(), Not(HasSubstr("server")));
}

TEST_F(AppTest, OutputThatCannotBeWrittenIsAnError) {
  broken_out_ = true;
  EXPECT_EQ(Run({"get", "hosts", "-o", "json"}), 1);
  EXPECT_THAT(err(), HasSubstr("the output could not be written"));
  EXPECT_EQ(Run({"get", "viommu", "v9"}), 4) << "what went wrong before counts";
  EXPECT_EQ(RunBare({"--help"}), 1);
}

TEST_F(AppTest, ColourIsForTerminalsThatCan) {
  const std::string green = "\033[32mREADY";
  on_terminal_ = true;
  EXPECT_EQ(Run({"get", "viommu", "v1"}), 0);
  EXPECT_THAT(out(), HasSubstr(green));
  EXPECT_EQ(Run({"get", "viommu", "v9"}), 4);
  EXPECT_THAT(err(), HasSubstr("\033[31merror: "));
  for (const auto& [variable, value] : {std::pair("NO_COLOR", "1"), std::pair("TERM", "dumb")}) {
    environment_ = {{variable, value}};
    EXPECT_EQ(Run({"get", "viommu", "v1"}), 0);
    EXPECT_THAT(out(), Not(HasSubstr("\033"))) << variable;
    EXPECT_EQ(Run({"get", "viommu", "v9"}), 4);
    EXPECT_THAT(err(), Not(HasSubstr("\033["))) << variable;
  }
  environment_ = {{"NO_COLOR", ""}, {"TERM", "xterm"}};
  EXPECT_EQ(Run({"get", "viommu", "v1"}), 0);
  EXPECT_THAT(out(), HasSubstr(green)) << "an empty NO_COLOR asks for nothing";
  environment_.clear();
  on_terminal_ = false;
  EXPECT_EQ(Run({"get", "viommu", "v1"}), 0);
  EXPECT_THAT(out(), Not(HasSubstr("\033")));
}

TEST_F(AppTest, ErrorsAreJsonWithJsonOutput) {
  EXPECT_EQ(Run({"get", "viommu", "v9", "-o", "json"}), 4);
  const auto error = ordered_json::parse(err());
  EXPECT_EQ(error["error"]["reason"], "VIOMMU_NOT_FOUND");
  EXPECT_EQ(error["error"]["exitCode"], 4);
  EXPECT_THAT(out(), IsEmpty());
}

TEST_F(AppTest, InterruptionIsExitCode130) {
  interrupted_ = true;
  fake_.FailNext("ListHosts", absl::UnavailableError("busy"));
  EXPECT_EQ(Run({"get", "hosts"}), 130);
}

TEST_F(AppTest, AWatchGoesOnWhereItBroke) {
  fake_.AddWatch({{Put(11, "viommus/a"), Put(12, "viommus/b")}, absl::UnavailableError("gone")});
  fake_.AddWatch({{Put(13, "viommus/c")}, absl::OkStatus()});
  EXPECT_EQ(Run({"watch", "viommus", "--from", "10", "--count", "3", "-o", "name"}), 0) << err();
  EXPECT_EQ(out(), "viommus/a\nviommus/b\nviommus/c\n");
  const auto requests = fake_.All<v1::WatchRequest>("Watch");
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].start_revision(), 10);
  EXPECT_EQ(requests[1].start_revision(), 12);
  EXPECT_EQ(requests[1].kinds(0), v1::RESOURCE_KIND_VIOMMU);
}

TEST_F(AppTest, AWatchIsFilteredByTheServer) {
  EXPECT_NE(Run({"watch", "vdevices", "--field", "host=a,vm=web-1", "-l", "tier=gold,rack=7"}), 0);
  const auto request = fake_.Last<v1::WatchRequest>("Watch");
  EXPECT_EQ(request.host(), "hosts/a");
  EXPECT_EQ(request.vm(), "web-1");
  EXPECT_EQ(request.labels().size(), 2U);
  EXPECT_EQ(request.labels().at("tier"), "gold");
  EXPECT_EQ(request.labels().at("rack"), "7");
  EXPECT_TRUE(request.progress());
}

TEST_F(AppTest, AWatchOfAServerThatIsNotThereIsSoonGivenUp) {
  fake_.FailNext("Watch", absl::UnavailableError("starting"), 100);
  EXPECT_EQ(Run({"watch"}), 3);
  EXPECT_EQ(fake_.Calls("Watch"), 3);
}

TEST_F(AppTest, ACompactedRevisionEndsAWatchWithTheOldestOneLeft) {
  fake_.AddWatch({{},
                  Error(absl::StatusCode::kOutOfRange, v1::ERROR_REASON_REVISION_COMPACTED)
                      .Message("revision 10 was compacted away")
                      .Meta("oldest_revision", "500")});
  EXPECT_EQ(Run({"watch", "--from", "10"}), 1);
  EXPECT_THAT(err(), testing::AllOf(HasSubstr("(REVISION_COMPACTED)"), HasSubstr("viommuctl watch --from 500")));
}

TEST_F(AppTest, WatchForPrograms) {
  v1::WatchResponse sync;
  sync.set_revision(20);
  sync.mutable_sync_mark();
  fake_.AddWatch({{sync}, absl::OkStatus()});
  EXPECT_EQ(Run({"watch", "--existing", "-o", "json"}), 0) << err();
  EXPECT_EQ(out(), "{\"type\":\"SYNC\",\"revision\":20}\n");
}

TEST_F(AppTest, DescribeTellsTheStory) {
  fake_.status.set_revision(30);
  fake_.status.set_oldest_revision(5);
  fake_.AddWatch(
      {{Put(28, "viommus/other", "uid-other"), Put(29, "viommus/v1", "uid-v1"), Put(30, "viommus/v1", "uid-v1")},
       absl::OkStatus()});
  EXPECT_EQ(Run({"describe", "viommu", "v1"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("viommu viommus/v1\n"));
  EXPECT_THAT(out(), HasSubstr("VM web-1"));
  EXPECT_THAT(out(), HasSubstr("hosts/a is CONNECTED"));
  EXPECT_THAT(out(), HasSubstr("Recent changes"));
  EXPECT_THAT(out(), HasSubstr("      29"));
  EXPECT_THAT(out(), Not(HasSubstr("      28")));
  EXPECT_THAT(out(), Not(HasSubstr("      30")));
  EXPECT_EQ(fake_.Last<v1::WatchRequest>("Watch").start_revision(), 5);
  EXPECT_EQ(Run({"describe", "viommu", "v1", "-o", "json", "--no-history"}), 0);
  EXPECT_EQ(OutJson()["resource"]["name"], "viommus/v1");
  EXPECT_EQ(OutJson()["host"]["name"], "hosts/a");
}

TEST_F(AppTest, DescribeTellsEveryKindsStory) {
  v1::Smmu& smmu = *fake_.hosts["hosts/a"].mutable_smmus(0);
  smmu.mutable_vmids()->set_used(3);
  smmu.mutable_vmids()->set_total(255);
  smmu.set_sid_bits(20);
  v1::Stage2Domain& stage2 = fake_.stage2_domains["stage2Domains/s"];
  stage2.set_name("stage2Domains/s");
  stage2.set_vm("web-1");
  stage2.set_host("hosts/a");
  v1::Vdevice& vdevice = fake_.vdevices["viommus/v1/vdevices/16"];
  vdevice.set_name("viommus/v1/vdevices/16");
  vdevice.set_vm("web-1");
  vdevice.set_viommu("viommus/v1");
  vdevice.set_host("hosts/a");
  vdevice.set_device("hosts/a/devices/0000:01:00.0");
  vdevice.set_vdev_id(16);
  vdevice.set_previous_vdev_id(17);
  v1::HwQueue& queue = fake_.hw_queues["viommus/v1/hwQueues/1"];
  queue.set_name("viommus/v1/hwQueues/1");
  queue.set_vm("web-1");
  queue.set_viommu("viommus/v1");
  queue.set_host("hosts/a");
  queue.set_index(1);
  queue.set_nesting_parent_iova(0x10000);
  queue.set_length_bytes(4096);
  struct Case {
    std::vector<std::string> words;
    std::vector<std::string> says;
  };
  for (const Case& each : {
           Case{{"smmu", "a/smmu0"},
                {"smmu hosts/a/smmus/smmu0\n", "3 of 255 in use", "20 bits", "Viommus\n", "viommus/v1  READY",
                 "Devices\n", "hosts/a/devices/0000:01:00.6"}},
           Case{
               {"stage2domain", "s"},
               {"stage2domain stage2Domains/s\n", "VM web-1", "viommus on all SMMUs of its host", "viommus/v1  READY"}},
           Case{{"vdevice", "v1/16"},
                {"vdevice viommus/v1/vdevices/16\n", "VM web-1, through viommus/v1", "0x10 (16)",
                 "from 0x11 (17), which stays taken", "hosts/a/devices/0000:01:00.0", "to the stage 2 alone"}},
           Case{{"hwqueue", "v1/1"},
                {"hwqueue viommus/v1/hwQueues/1\n", "VM web-1, through viommus/v1", "1 in the interface of its viommu",
                 "4096 bytes at guest-physical 0x10000: 256 commands"}},
       }) {
    EXPECT_EQ(Run({"describe", each.words[0], each.words[1], "--no-history"}), 0) << err();
    for (const std::string& part : each.says) EXPECT_THAT(out(), HasSubstr(part));
    EXPECT_THAT(out(), HasSubstr("hosts/a is CONNECTED"));
  }
}

TEST_F(AppTest, AWordThatIsNoCommandIsToldWhichThereAre) {
  EXPECT_EQ(Run({"label", "host", "a", "x=y"}), 2);
  EXPECT_THAT(err(), HasSubstr("there is no command \"label host\"; there is label viommu\n"));
  EXPECT_EQ(Run({"create", "s2", "x"}), 2);
  EXPECT_THAT(err(), HasSubstr("; there is create stage2domain, viommu, nesteddomain, hwqueue\n"));
  EXPECT_EQ(Run({"gte", "hosts"}), 2);
  EXPECT_THAT(err(), HasSubstr("there is no command \"gte\"; did you mean \"get\"?\n"));
}

TEST_F(AppTest, DescribeTellsOfADrain) {
  v1::Host& host = fake_.hosts["hosts/a"];
  host.set_cordoned(true);
  host.mutable_drain();
  EXPECT_EQ(Run({"describe", "host", "a", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("  drain    under way, without a deadline\n"));
  host.mutable_drain()->mutable_deadline()->set_seconds(1'700'000'000);
  EXPECT_EQ(Run({"describe", "host", "a", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("under way, until 2023-11-14T22:13:20"));
  host.mutable_drain()->set_evict(true);
  EXPECT_EQ(Run({"describe", "host", "a", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("; what is left then is deleted"));
}

TEST_F(AppTest, DescribeSaysWhyItFailedAndWhatToTry) {
  v1::Viommu& viommu = fake_.viommus["viommus/v1"];
  viommu.set_state(v1::STATE_FAILED);
  viommu.mutable_state_reason()->set_reason("BACKEND_FAILED");
  viommu.mutable_state_reason()->set_message("the kernel said EBUSY");
  viommu.mutable_state_reason()->set_error_number(16);
  EXPECT_EQ(Run({"describe", "viommu", "v1", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("the kernel said EBUSY (BACKEND_FAILED), errno 16\n"));
  EXPECT_THAT(out(), HasSubstr("Try\n  on the host: viommuctl local objects\n"));
  EXPECT_THAT(out(), Not(HasSubstr("viommuctl describe viommus/v1"))) << "that is what was just done";
  viommu.set_state(v1::STATE_PENDING);
  EXPECT_EQ(Run({"describe", "viommu", "v1", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), Not(HasSubstr("Try\n")));
}

TEST_F(AppTest, DescribeTellsWhatEachChangeChanged) {
  fake_.status.set_revision(30);
  v1::WatchResponse pending = Put(27, "viommus/v1", "uid-v1");
  v1::Viommu& first = *pending.mutable_events()->mutable_events(0)->mutable_resource()->mutable_viommu();
  first.set_state(v1::STATE_PENDING);
  first.set_generation(27);
  v1::WatchResponse ready = Put(28, "viommus/v1", "uid-v1");
  v1::Viommu& second = *ready.mutable_events()->mutable_events(0)->mutable_resource()->mutable_viommu();
  second.set_generation(27);
  second.set_observed_generation(27);
  v1::WatchResponse labelled = ready;
  labelled.set_revision(29);
  v1::Event& event = *labelled.mutable_events()->mutable_events(0);
  event.set_revision(29);
  event.mutable_resource()->mutable_viommu()->set_generation(29);
  (*event.mutable_resource()->mutable_viommu()->mutable_labels())["tier"] = "gold";
  fake_.AddWatch({{pending, ready, labelled}, absl::OkStatus()});
  EXPECT_EQ(Run({"describe", "viommu", "v1", "-o", "json"}), 0) << err();
  const auto changes = OutJson()["changes"];
  ASSERT_EQ(changes.size(), 3U);
  EXPECT_EQ(changes[0]["what"], "PENDING");
  EXPECT_EQ(changes[1]["what"], "state: PENDING -> READY, the host confirmed generation 27");
  EXPECT_EQ(changes[2]["what"], "labels: (0 entries) -> (1 entries), generation 29");
}

TEST_F(AppTest, DescribingSeveralIsOneDocument) {
  EXPECT_EQ(Run({"describe", "devices", "a/01:00.0", "a/01:00.1", "-o", "json", "--no-history"}), 0) << err();
  ASSERT_EQ(OutJson()["items"].size(), 2U);
  EXPECT_EQ(OutJson()["items"][1]["resource"]["name"], "hosts/a/devices/0000:01:00.1");
}

TEST_F(AppTest, DescribeSaysWhenItLeavesSomethingOut) {
  v1::NestedDomain& domain = fake_.nested_domains["viommus/v1/nestedDomains/s1"];
  domain.set_name("viommus/v1/nestedDomains/s1");
  domain.set_viommu("viommus/v1");
  domain.set_host("hosts/a");
  for (int i = 0; i < 51; ++i) {
    v1::Vdevice& vdevice = fake_.vdevices[fmt::format("viommus/v1/vdevices/{}", i)];
    vdevice.set_name(fmt::format("viommus/v1/vdevices/{}", i));
    if (i < 50) vdevice.set_nested_domain(domain.name());
  }
  EXPECT_EQ(Run({"describe", "nesteddomain", "v1/s1", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), Not(HasSubstr("more:"))) << "one is attached to something else";
  fake_.vdevices["viommus/v1/vdevices/50"].set_nested_domain(domain.name());
  EXPECT_EQ(Run({"describe", "nesteddomain", "v1/s1", "--no-history"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("more: viommuctl get vdevices --field viommu=viommus/v1"));
  EXPECT_EQ(Run({"describe", "nesteddomain", "v1/s1", "--no-history", "-o", "json"}), 0) << err();
  EXPECT_EQ(OutJson()["truncated"], true);
}

TEST_F(AppTest, StatusSumsUpTheFleet) {
  fake_.hosts["hosts/b"].set_name("hosts/b");
  fake_.hosts["hosts/b"].set_state(v1::HOST_STATE_DISCONNECTED);
  fake_.status.set_writable(true);
  EXPECT_EQ(Run({"status"}), 0);
  EXPECT_THAT(out(), HasSubstr("1 of 2 connected; 1 away: b"));
  EXPECT_EQ(Run({"status", "-o", "json"}), 0);
  EXPECT_EQ(OutJson()["fleet"]["connectedHosts"], 1);
}

TEST_F(AppTest, ContextsFromTheCommandLine) {
  EXPECT_EQ(RunBare({"config", "set", "lab", "--server", fake_.address(), "--wait", "applied"}), 0) << err();
  EXPECT_EQ(RunBare({"get", "hosts", "-o", "name"}), 0) << err();
  EXPECT_EQ(out(), "hosts/a\n");
  EXPECT_EQ(RunBare({"config", "current", "-o", "name"}), 0);
  EXPECT_EQ(out(), "lab\n");
  EXPECT_EQ(RunBare({"config", "remove", "lab"}), 0);
  EXPECT_EQ(RunBare({"config", "use", "lab"}), 2);
}

TEST_F(AppTest, ACurrentContextThatIsNotThereStandsInNobodysWayButTheServers) {
  const std::string path = std::string(std::getenv("TEST_TMPDIR")) + "/dangling.yaml";
  std::ofstream(path) << "current-context: gone\ncontexts:\n  - name: lab\n    server: " << fake_.address() << "\n";
  EXPECT_EQ(RunBare({"get", "hosts", "--config", path}), 2);
  EXPECT_THAT(err(), HasSubstr("current-context is gone"));
  EXPECT_EQ(RunBare({"completion", "bash", "--config", path}), 0) << err();
  EXPECT_EQ(RunBare({"version", "--client", "--config", path}), 0) << err();
  EXPECT_EQ(RunBare({"config", "list", "--config", path}), 0) << err();
  EXPECT_EQ(RunBare({"config", "use", "lab", "--config", path}), 0) << err();
  EXPECT_EQ(RunBare({"get", "hosts", "-o", "name", "--config", path}), 0) << err();
}

TEST_F(AppTest, VersionsOfBothEnds) {
  EXPECT_EQ(Run({"version"}), 0);
  EXPECT_EQ(out(), fmt::format("client: {}\nserver: 0.0.1\n", Version()));
  EXPECT_EQ(RunBare({"version", "--client", "-o", "json"}), 0);
}

TEST_F(AppTest, CompletionReadsNamesFromTheServer) {
  EXPECT_EQ(RunBare({"__complete", "--server", fake_.address(), "describe", "host", ""}), 0);
  EXPECT_EQ(out(), "a\n");
}

}  // namespace
}  // namespace viommu::cli
