// viommuctl against a real server and agent: the tour of the README as it stands there, the commands around it, and
// what an operator is told when something is refused.

#include <signal.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

constexpr char kSmmuA[] = "grace-01/smmu3.0x0000000011000000";
constexpr char kSmmuB[] = "grace-01/smmu3.0x0000000012000000";
constexpr char kDeviceA[] = "grace-01/0009:01:00.1";

std::vector<std::string> Words(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The command lines of the README's tour, without "viommuctl".
std::vector<std::string> Tour() {
  std::istringstream readme(ReadFile(Runfile("README.md")));
  std::vector<std::string> commands;
  bool in_tour = false;
  for (std::string line; std::getline(readme, line);) {
    if (line.starts_with("## ")) in_tour = line == "## Five minutes";
    const std::string start = "    viommuctl ";
    if (in_tour && line.starts_with(start)) commands.push_back(line.substr(start.size()));
  }
  return commands;
}

class CliTest : public FleetFixture {
 protected:
  void SetUp() override {
    cluster_.StartServer();
    StartHost(kGrace);
  }

  // Runs a command line that must end with `status`.
  Finished Ctl(const std::string& line, int status = 0) {
    Finished finished = cluster_.Ctl(Words(line));
    EXPECT_EQ(finished.status, status) << "viommuctl " << line << "\n" << finished.out << finished.err;
    return finished;
  }
  // The same, whose output must have `expected` in it.
  void Says(const std::string& line, const std::string& expected) {
    const Finished finished = Ctl(line);
    EXPECT_TRUE(Has(finished.out, expected)) << "viommuctl " << line << "\n" << finished.out << finished.err;
  }
  // One that is refused: with this reason, this in the error, this to try.
  void Refused(const std::string& line, const std::string& reason, const std::string& error,
               const std::string& to_try) {
    const Finished finished = Ctl(line, 1);
    EXPECT_TRUE(Has(finished.err, "error: ")) << finished.err;
    EXPECT_TRUE(Has(finished.err, "(" + reason + ")")) << finished.err;
    EXPECT_TRUE(Has(finished.err, error)) << finished.err;
    EXPECT_TRUE(Has(finished.err, "  try: " + to_try)) << finished.err;
    EXPECT_EQ(finished.out, "");
  }
  std::string Socket() const { return " --socket " + cluster_.socket_path(kGrace); }

  void MakeVm() {
    Ctl("create stage2domain vm1 --host grace-01 --vm vm1");
    Ctl(std::string("create viommu vm1-a --stage2domain vm1 --smmu ") + kSmmuA);
    Ctl(std::string("create viommu vm1-b --stage2domain vm1 --smmu ") + kSmmuB);
    Ctl(std::string("set vdev-id vm1-a ") + kDeviceA + " 0x10 --wait=applied");
  }
};

TEST_F(CliTest, TheTourOfTheReadme) {
  const std::map<std::string, std::string> expected = {
      {"get hosts", "hosts/grace-01  CONNECTED"},
      {"get devices", "hosts/grace-01/devices/0009:01:00.1  FREE"},
      {"describe host", "CONNECTED: its agent's session is up"},
      {"create stage2domain", "stage2Domains/vm1 created"},
      {"create viommu", "viommus/vm1-a created"},
      {"set vdev-id", "viommus/vm1-a/vdevices/16 set for grace-01/0009:01:00.1: READY"},
      {"create nesteddomain", "viommus/vm1-a/nestedDomains/stage1 created: READY"},
      {"attach", "viommus/vm1-a/vdevices/16 attached to vm1-a/stage1: READY"},
      {"invalidate", "viommus/vm1-a: 2 of 2 invalidations took effect"},
      {"watch", "viommus/vm1-a/vdevices/16"},
      {"delete stage2domain", "stage2Domains/vm1 deleted"},
  };
  std::map<std::string, std::string> left = expected;
  for (std::string line : Tour()) {
    if (line == "watch") line += " --existing";  // it would go on for ever
    const Finished finished = Ctl(line);
    for (const auto& [command, words] : expected) {
      if (!line.starts_with(command)) continue;
      EXPECT_TRUE(Has(finished.out, words)) << "viommuctl " << line << "\n" << finished.out;
      left.erase(command);
    }
  }
  EXPECT_TRUE(left.empty()) << "the tour of the README leaves out " << left.begin()->first;
  EXPECT_EQ(Ctl("get devices --field host=grace-01 --field free=false -o name").out, "");
}

TEST_F(CliTest, CommandsAroundTheTour) {
  MakeVm();
  Says("rebind vdev-id vm1-a/0x10 0x20 --wait=applied", "viommus/vm1-a/vdevices/32");
  Says("get vdevices --field vm=vm1", "viommus/vm1-a/vdevices/32  READY");
  Ctl("create nesteddomain vm1-a/off --abort --wait=applied");
  Says(std::string("attach ") + kDeviceA + " vm1-a/off --wait=applied", "attached to vm1-a/off: READY");
  Says("detach vm1-a/0x20 --wait=applied", "attached to the stage 2 alone: READY");
  Says("delete nesteddomain vm1-a/off --yes --wait=applied", "viommus/vm1-a/nestedDomains/off deleted");
  Says("label viommu vm1-a tier=gold", "viommus/vm1-a labelled");
  Says("get viommus -l tier=gold -o name", "viommus/vm1-a\n");

  Says("cordon grace-01", "hosts/grace-01 cordoned");
  Refused("set vdev-id vm1-a grace-01/0009:01:00.2 0x11", "HOST_CORDONED", "grace-01",
          "viommuctl uncordon hosts/grace-01");
  Says("uncordon grace-01", "hosts/grace-01 uncordoned");

  Says("local status" + Socket(), "SYNCED with " + cluster_.server_address());
  Says("local objects" + Socket(), "viommus/vm1-a/vdevices/32  APPLIED");
  Says("local invalidate vm1-a cfgi-cd-all:vdev_id=0x20" + Socket(), "1 of 1 invalidations took effect");
  const Finished stopped = Ctl("local invalidate vm1-a cfgi-cd-all:vdev_id=0x10" + Socket(), 1);
  EXPECT_TRUE(Has(stopped.out, "0 of 1 invalidations took effect")) << stopped.out;
  EXPECT_TRUE(Has(stopped.err, "(UNKNOWN_VDEV_ID)")) << stopped.err;

  Says("unset vdev-id vm1-a/0x20 --wait=applied", "viommus/vm1-a/vdevices/32");
  Says(std::string("get device ") + kDeviceA, "FREE");
  Says("status", "1 of 1 connected");
  Says("version", "server: ");
}

TEST_F(CliTest, RefusalsSayWhatIsInTheWayAndWhatToTry) {
  MakeVm();
  const int64_t before = Revision();
  Refused(std::string("set vdev-id vm1-a ") + kDeviceA + " 0x20", "DEVICE_TAKEN", "viommus/vm1-a/vdevices/16",
          "viommuctl unset vdev-id viommus/vm1-a/vdevices/16 --wait=applied");
  Refused("set vdev-id vm1-b grace-01/0009:01:00.2 0x11", "SMMU_MISMATCH", "hosts/grace-01/devices/0009:01:00.2",
          "viommuctl get devices --field host=hosts/grace-01 -o wide");
  Refused("delete viommu vm1-a --yes", "HAS_CHILDREN", "viommus/vm1-a", "viommuctl describe viommus/vm1-a");
  Refused("delete stage2domain vm1 --yes", "HAS_CHILDREN", "stage2Domains/vm1", "viommuctl describe stage2Domains/vm1");
  EXPECT_EQ(Revision(), before);
  EXPECT_EQ(Ctl("get viommu nobody", 4).out, "");
  EXPECT_TRUE(Has(Ctl("cordon grace-01 --etag stale", 6).err, "(ETAG_MISMATCH)"));
}

TEST_F(CliTest, WhoIsAwayIsNamed) {
  const Finished agent = Ctl("local status --socket " + cluster_.socket_path("nobody"), 3);
  EXPECT_TRUE(Has(agent.err, "cannot reach the agent at ")) << agent.err;
  cluster_.server().Kill();
  const Finished server = Ctl("cordon grace-01", 3);
  EXPECT_TRUE(Has(server.err, "cannot reach the server at ")) << server.err;
  EXPECT_TRUE(Has(server.err, "--request-id ")) << server.err;
}

// The host is away, so what is recorded stays unconfirmed: the wait ends when its time is over, or by Ctrl-C.
TEST_F(CliTest, AWaitThatEndsUnansweredIsToldFromTheRest) {
  MakeVm();
  cluster_.agent(kGrace).Kill();
  cluster_.WaitDisconnected(kGrace);
  const Finished late = Ctl("set vdev-id vm1-a grace-01/0009:01:00.2 0x11 --wait=applied --timeout 1s", 5);
  EXPECT_TRUE(Has(late.err, "(NOT_YET_APPLIED)")) << late.err;
  EXPECT_TRUE(Has(late.err, "--request-id ")) << late.err;
  EXPECT_EQ(Vdevice("viommus/vm1-a/vdevices/17").state(), v1::STATE_PENDING);

  Process waiting({Runfile("cli/viommuctl"), "--server=" + cluster_.server_address(), "unset", "vdev-id", "vm1-a/0x11",
                   "--wait=applied", "--timeout=5m"},
                  cluster_.dir() / "waiting.out");
  ASSERT_TRUE(Eventually(10, [&] { return Vdevice("viommus/vm1-a/vdevices/17").state() == v1::STATE_DELETING; }));
  EXPECT_TRUE(waiting.running()) << waiting.output();
  waiting.Signal(SIGINT);
  EXPECT_EQ(waiting.WaitFor(10), 130) << waiting.output();
}

TEST_F(CliTest, OutputThatCannotBeWrittenIsAnError) {
  const std::string line = Runfile("cli/viommuctl") + " --server=" + cluster_.server_address() + " get hosts -o json";
  const Finished finished = viommu::tests::Run({"/bin/sh", "-c", line + " >/dev/full"});
  EXPECT_EQ(finished.status, 1) << finished.err;
  EXPECT_TRUE(Has(finished.err, "the output could not be written")) << finished.err;
}

}  // namespace
}  // namespace viommu::tests
