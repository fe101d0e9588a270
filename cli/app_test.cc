// Whole command lines against a server in this process: what is sent, what is printed, what the process ends with.

#include "cli/app.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/client.h"
#include "cli/fake_fleet_service.h"
#include "cli/fetch.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/uuid.h"
#include "common/version.h"

namespace viommu::cli {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class AppTest : public testing::Test {
 protected:
  AppTest() {
    v1::Host& host = fake_.hosts["hosts/a"];
    host.set_name("hosts/a");
    host.set_state(v1::HOST_STATE_CONNECTED);
    host.add_smmus()->set_name("hosts/a/smmus/smmu0");
    v1::Viommu& viommu = fake_.viommus["viommus/v1"];
    viommu.set_name("viommus/v1");
    viommu.set_uid("uid-v1");
    viommu.set_etag("etag-v1");
    viommu.set_revision(29);
    viommu.set_state(v1::STATE_READY);
    viommu.set_vm("web-1");
    viommu.set_host("hosts/a");
    viommu.set_smmu("hosts/a/smmus/smmu0");
    (*viommu.mutable_labels())["tier"] = "gold";
    for (int i = 0; i < 7; ++i) {
      const std::string name = fmt::format("hosts/a/devices/0000:01:00.{}", i);
      fake_.devices[name].set_name(name);
    }
  }

  // Runs a command line against the fake and answers the exit code.
  int Run(std::vector<std::string> words) {
    words.insert(words.begin(), {"--server", fake_.address()});
    return RunBare(words);
  }

  int RunBare(const std::vector<std::string>& words) {
    in_.clear();
    out_.str("");
    err_.str("");
    Terminal terminal;
    terminal.in = &in_;
    terminal.out = &out_;
    terminal.err = &err_;
    terminal.in_is_terminal = on_terminal_;
    terminal.err_is_terminal = on_terminal_;
    terminal.clock = &RealClock();
    terminal.interrupted = &interrupted_;
    terminal.environment = [](const std::string& name) -> std::optional<std::string> {
      if (name == "VIOMMUCTL_CONFIG") return std::string(std::getenv("TEST_TMPDIR")) + "/contexts.yaml";
      return std::nullopt;
    };
    return RunViommuctl(words, terminal);
  }

  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }
  ordered_json OutJson() const { return ordered_json::parse(out()); }

  FakeFleetService fake_;
  std::istringstream in_;
  std::ostringstream out_;
  std::ostringstream err_;
  bool on_terminal_ = false;
  std::atomic<bool> interrupted_{false};
};

v1::WatchResponse Put(int64_t revision, const std::string& name, const std::string& uid = "") {
  v1::WatchResponse response;
  response.set_revision(revision);
  v1::Event* event = response.mutable_events()->add_events();
  event->set_type(v1::EVENT_TYPE_PUT);
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

TEST_F(AppTest, ChangesCarryAFreshRequestId) {
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "0x10"}), 0) << err();
  EXPECT_EQ(out(), "viommus/v1/vdevices/16 set for a/0000:01:00.0: PENDING (revision 42)\n");
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "0x10"}), 0);
  const auto requests = fake_.All<v1::SetVdevIdRequest>("SetVdevId");
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_TRUE(IsUuid(requests[0].request_id()));
  EXPECT_NE(requests[0].request_id(), requests[1].request_id());
  EXPECT_EQ(requests[0].viommu(), "viommus/v1");
  EXPECT_EQ(requests[0].device(), "hosts/a/devices/0000:01:00.0");
  EXPECT_EQ(requests[0].vdev_id(), 16U);
  EXPECT_EQ(requests[0].wait(), v1::WAIT_ACCEPTED);
  EXPECT_FALSE(requests[0].validate_only());
}

TEST_F(AppTest, FlagsOfChangesAreSent) {
  EXPECT_EQ(Run({"unset", "vdev-id", "v1/16", "--wait=applied", "--dry-run", "--request-id", "r-1", "--etag", "e-1"}),
            0)
      << err();
  const auto request = fake_.Last<v1::UnsetVdevIdRequest>("UnsetVdevId");
  EXPECT_EQ(request.name(), "viommus/v1/vdevices/16");
  EXPECT_EQ(request.wait(), v1::WAIT_APPLIED);
  EXPECT_TRUE(request.validate_only());
  EXPECT_EQ(request.request_id(), "r-1");
  EXPECT_EQ(request.etag(), "e-1");
  EXPECT_THAT(out(), HasSubstr("dry run"));
}

TEST_F(AppTest, UnavailableIsTriedAgainUnderTheSameRequestId) {
  fake_.FailNext("SetVdevId", absl::UnavailableError("busy"), kMaxTries - 1);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 0) << err();
  const auto requests = fake_.All<v1::SetVdevIdRequest>("SetVdevId");
  ASSERT_EQ(requests.size(), static_cast<size_t>(kMaxTries));
  for (const auto& request : requests) EXPECT_EQ(request.request_id(), requests[0].request_id());
}

TEST_F(AppTest, TriesAreBounded) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE).Message("the disk is full"),
                 kMaxTries + 5);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 3);
  EXPECT_EQ(fake_.Calls("SetVdevId"), kMaxTries);
  EXPECT_THAT(err(), HasSubstr("the disk is full (STORE_UNAVAILABLE)"));
}

TEST_F(AppTest, APauseBeyondTheDeadlineIsNotBegun) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_OVERLOADED)
                     .Message("full")
                     .RetryAfter(std::chrono::hours(1)),
                 5);
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 3);
  EXPECT_EQ(fake_.Calls("SetVdevId"), 1);
}

TEST_F(AppTest, RefusalsAreNotTriedAgain) {
  fake_.FailNext("SetVdevId",
                 Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN)
                     .Message("the device is held by viommus/x/vdevices/1")
                     .Resource("viommu.v1.Device", "hosts/a/devices/0000:01:00.0", "viommus/x/vdevices/1"));
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 1);
  EXPECT_EQ(fake_.Calls("SetVdevId"), 1);
  EXPECT_THAT(err(), HasSubstr("try: viommuctl unset vdev-id viommus/x/vdevices/1 --wait=applied"));
}

TEST_F(AppTest, ErrorsAreJsonWithJsonOutput) {
  EXPECT_EQ(Run({"get", "viommu", "v9", "-o", "json"}), 4);
  const auto error = ordered_json::parse(err());
  EXPECT_EQ(error["error"]["reason"], "VIOMMU_NOT_FOUND");
  EXPECT_EQ(error["error"]["exitCode"], 4);
  EXPECT_THAT(out(), IsEmpty());
}

TEST_F(AppTest, ConflictsAreExitCode6) {
  fake_.FailNext("CordonHost", Error(absl::StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH).Message("stale"));
  EXPECT_EQ(Run({"cordon", "a", "--etag", "old"}), 6);
  EXPECT_THAT(err(), HasSubstr("viommuctl describe hosts/a"));
}

TEST_F(AppTest, NotYetAppliedIsExitCode5) {
  fake_.FailNext(
      "SetVdevId",
      Error(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_NOT_YET_APPLIED).Message("recorded at revision 43"));
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16", "--wait=applied"}), 5);
}

TEST_F(AppTest, FailedOnItsHostIsExitCode7OnlyWhenWaitedFor) {
  fake_.state_of_changes = v1::STATE_FAILED;
  fake_.reason_of_changes.set_reason("BACKEND_FAILED");
  fake_.reason_of_changes.set_message("EBUSY from the kernel");
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16", "--wait=applied"}), 7);
  EXPECT_THAT(out(), HasSubstr("FAILED"));
  EXPECT_THAT(err(), HasSubstr("EBUSY from the kernel (BACKEND_FAILED)"));
  EXPECT_EQ(Run({"set", "vdev-id", "v1", "a/01:00.0", "16"}), 0);
}

TEST_F(AppTest, InterruptionIsExitCode130) {
  interrupted_ = true;
  fake_.FailNext("ListHosts", absl::UnavailableError("busy"));
  EXPECT_EQ(Run({"get", "hosts"}), 130);
}

TEST_F(AppTest, BatchFromArgumentsAndFromAFile) {
  EXPECT_EQ(Run({"set", "vdev-ids", "v1", "a/01:00.0=0x10", "a/01:00.1=17", "-o", "name"}), 0) << err();
  EXPECT_EQ(out(), "viommus/v1/vdevices/16\nviommus/v1/vdevices/17\n");
  in_.str("a/01:00.0=16 tier=gold\n# end\n");
  EXPECT_EQ(Run({"set", "vdev-ids", "v1", "--file", "-", "-l", "vm=web"}), 0) << err();
  const auto request = fake_.Last<v1::BatchSetVdevIdsRequest>("BatchSetVdevIds");
  ASSERT_EQ(request.assignments_size(), 1);
  EXPECT_EQ(request.assignments(0).labels().at("tier"), "gold");
  EXPECT_EQ(request.assignments(0).labels().at("vm"), "web");
}

TEST_F(AppTest, NestedDomainsOfAllKinds) {
  EXPECT_EQ(Run({"create", "nesteddomain", "v1/s1", "--translate", "--vste", "0x8000100b,0x2"}), 0) << err();
  auto request = fake_.Last<v1::CreateNestedDomainRequest>("CreateNestedDomain");
  EXPECT_EQ(request.viommu(), "viommus/v1");
  EXPECT_EQ(request.nested_domain_id(), "s1");
  EXPECT_EQ(request.nested_domain().config().translate().word0(), 0x8000100bU);
  EXPECT_EQ(Run({"create", "nesteddomain", "v1/off", "--abort"}), 0);
  request = fake_.Last<v1::CreateNestedDomainRequest>("CreateNestedDomain");
  EXPECT_TRUE(request.nested_domain().config().has_abort());
}

TEST_F(AppTest, LabelsAreChangedUnderTheEtagThatWasRead) {
  EXPECT_EQ(Run({"label", "viommu", "v1", "owner=me", "tier-"}), 0) << err();
  auto request = fake_.Last<v1::UpdateViommuLabelsRequest>("UpdateViommuLabels");
  EXPECT_EQ(request.labels().size(), 1U);
  EXPECT_EQ(request.labels().at("owner"), "me");
  EXPECT_EQ(request.etag(), "etag-v1");
  EXPECT_EQ(Run({"label", "viommu", "v1", "--replace", "x=y"}), 0);
  request = fake_.Last<v1::UpdateViommuLabelsRequest>("UpdateViommuLabels");
  EXPECT_EQ(request.labels().size(), 1U);
  EXPECT_EQ(request.etag(), "");
}

TEST_F(AppTest, DeleteWithoutATerminalNeedsYes) {
  EXPECT_EQ(Run({"delete", "viommu", "v1"}), 2);
  EXPECT_EQ(fake_.Calls("DeleteViommu"), 0);
  EXPECT_EQ(Run({"delete", "viommu", "v1", "--yes", "--cascade"}), 0) << err();
  EXPECT_TRUE(fake_.Last<v1::DeleteViommuRequest>("DeleteViommu").cascade());
}

TEST_F(AppTest, DeleteAsksOnATerminal) {
  on_terminal_ = true;
  in_.str("n\n");
  EXPECT_EQ(Run({"delete", "viommus/v1"}), 1);
  EXPECT_THAT(err(), HasSubstr("Delete viommus/v1? [y/N]"));
  EXPECT_EQ(fake_.Calls("DeleteViommu"), 0);
  in_.str("yes\n");
  EXPECT_EQ(Run({"delete", "viommus/v1"}), 0) << err();
  EXPECT_EQ(fake_.Calls("DeleteViommu"), 1);
}

TEST_F(AppTest, InvalidationsSayHowFarTheyGot) {
  fake_.invalidation.set_handled(2);
  EXPECT_EQ(Run({"invalidate", "v1", "tlbi-nh-all", "tlbi-nh-asid:asid=5"}), 0) << err();
  EXPECT_EQ(out(), "viommus/v1: 2 of 2 invalidations took effect\n");
  fake_.invalidation.set_handled(1);
  fake_.invalidation.mutable_stop()->set_reason("UNKNOWN_VDEV_ID");
  fake_.invalidation.mutable_stop()->set_message("the viommu has no vdev_id 7");
  EXPECT_EQ(Run({"invalidate", "v1", "tlbi-nh-all", "cfgi-cd-all:vdev_id=7"}), 1);
  EXPECT_THAT(err(), HasSubstr("stopped after 1 of 2: the viommu has no vdev_id 7 (UNKNOWN_VDEV_ID)"));
  EXPECT_THAT(err(), HasSubstr("viommuctl get vdevices --field viommu=viommus/v1"));
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
