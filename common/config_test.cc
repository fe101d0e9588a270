#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace viommu {
namespace {

using std::chrono::hours;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using testing::HasSubstr;

enum class Color { kRed, kGreen };

struct Options {
  std::string cluster = "main";
  Address listen = ParseAddress("127.0.0.1:7070").value();
  std::optional<Address> metrics;
  bool verbose = false;
  int32_t workers = 4;
  nanoseconds lease = seconds(10);
  uint64_t limit = 4 << 20;
  Color color = Color::kRed;
  std::vector<std::string> peers;
  std::map<std::string, std::string> labels;
};

class ConfigTest : public testing::Test {
 protected:
  void TearDown() override {
    for (const std::string& name : variables_) unsetenv(name.c_str());
  }
  void SetVariable(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    variables_.push_back(name);
  }
  std::string WriteFile(const std::string& text) {
    const std::string path =
        testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name() + ".yaml";
    std::ofstream(path) << text;
    return path;
  }
  // What Load() returns; -1 for "go on".
  int Load(const std::vector<std::string>& args) {
    config_ = std::make_unique<Config>(ConfigSpec{.program = "viommu-test", .summary = "A test.", .default_file = ""});
    options_ = Options();
    config_->String("cluster", &options_.cluster, "Name of the cluster");
    config_->Address("listen", &options_.listen, "Where to listen");
    config_->Address("metrics.listen", &options_.metrics, "Where to serve metrics");
    config_->Bool("verbose", &options_.verbose, "Say more");
    config_->Int("workers", &options_.workers, 1, 64, "Number of threads");
    config_->Duration("agents.lease", &options_.lease, seconds(1), hours(1), "How long an agent may be silent");
    config_->Bytes("agents.limit", &options_.limit, 1024, 1 << 30, "Largest message");
    config_->Enum("color", &options_.color, {{"red", Color::kRed}, {"green", Color::kGreen}}, "A color");
    config_->StringList("peers", &options_.peers, "Some peers");
    config_->StringMap("labels", &options_.labels, "Some labels");
    config_->Check([this] {
      return options_.cluster == "forbidden" ? absl::InvalidArgumentError("cluster: is forbidden with workers")
                                             : absl::OkStatus();
    });
    std::vector<const char*> argv = {"viommu-test"};
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const auto exit = config_->Load(static_cast<int>(argv.size()), argv.data());
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return exit.value_or(-1);
  }

  std::unique_ptr<Config> config_;
  Options options_;
  std::string out_;
  std::string err_;
  std::vector<std::string> variables_;
};

TEST_F(ConfigTest, DefaultsAreTheVariables) {
  EXPECT_EQ(Load({}), -1) << err_;
  EXPECT_EQ(options_.listen.ToString(), "127.0.0.1:7070");
  EXPECT_EQ(options_.lease, seconds(10));
  EXPECT_EQ(config_->SourceOf("listen"), "default");
}

TEST_F(ConfigTest, FileSetsEveryType) {
  const std::string file = WriteFile(R"(
cluster: "lab 1"
listen: "[::1]:1"
metrics: {listen: 127.0.0.1:9100}
verbose: true
workers: 8
agents:
  lease: 1m30s
  limit: 64KiB
color: green
peers: [a, b]
labels: {zone: z1, rack: "7"}
)");
  EXPECT_EQ(Load({"--config", file}), -1) << err_;
  EXPECT_EQ(options_.cluster, "lab 1");
  EXPECT_EQ(options_.listen.reach, AddressReach::kLoopback);
  EXPECT_EQ(options_.metrics.value().port, 9100);
  EXPECT_TRUE(options_.verbose);
  EXPECT_EQ(options_.workers, 8);
  EXPECT_EQ(options_.lease, seconds(90));
  EXPECT_EQ(options_.limit, 65536u);
  EXPECT_EQ(options_.color, Color::kGreen);
  EXPECT_THAT(options_.peers, testing::ElementsAre("a", "b"));
  EXPECT_EQ(options_.labels.at("rack"), "7");
  EXPECT_EQ(config_->SourceOf("agents.lease"), file + ":8");
}

TEST_F(ConfigTest, FlagsWinOverEnvironmentOverFile) {
  const std::string file = WriteFile("workers: 1\ncolor: green\ncluster: from-file\npeers: [f]\n");
  SetVariable("VIOMMU_TEST_WORKERS", "2");
  SetVariable("VIOMMU_TEST_CLUSTER", "from-env");
  SetVariable("VIOMMU_TEST_PEERS", "x,y");
  SetVariable("VIOMMU_TEST_CONFIG", file);
  EXPECT_EQ(Load({"--workers=3", "--verbose", "--labels", "a=1", "--labels", "b=2"}), -1) << err_;
  EXPECT_EQ(options_.workers, 3);
  EXPECT_EQ(options_.cluster, "from-env");
  EXPECT_EQ(options_.color, Color::kGreen);
  EXPECT_TRUE(options_.verbose);
  EXPECT_THAT(options_.peers, testing::ElementsAre("x", "y"));
  EXPECT_EQ(options_.labels.size(), 2u);
  EXPECT_EQ(config_->SourceOf("workers"), "--workers");
  EXPECT_EQ(config_->SourceOf("cluster"), "VIOMMU_TEST_CLUSTER");
  EXPECT_EQ(config_->SourceOf("color"), file + ":2");
}

TEST_F(ConfigTest, FlagCanTurnOff) {
  SetVariable("VIOMMU_TEST_VERBOSE", "true");
  EXPECT_EQ(Load({"--verbose=false"}), -1) << err_;
  EXPECT_FALSE(options_.verbose);
}

TEST_F(ConfigTest, ShowsAllErrorsOfAllSources) {
  const std::string file = WriteFile("lisen: x\nagents:\n  lease: 10\n  color: red\nverbose: yes\nworkers: [1, 2]\n");
  SetVariable("VIOMMU_TEST_COLOR", "blue");
  EXPECT_EQ(Load({"--config", file, "--workers", "65"}), kExitBadConfig);
  EXPECT_EQ(err_, file + ":1: lisen: no such option; did you mean \"listen\"?\n" +  //
                      file + ":4: agents.color: no such option\n" +                 //
                      file + ":3: agents.lease: \"10\" is not a duration; write it like 250ms, 10s or 1m30s\n" + file +
                      ":5: verbose: \"yes\" is neither true nor false\n" +   //
                      file + ":6: workers: takes one value, not a list\n" +  //
                      "VIOMMU_TEST_COLOR: color: \"blue\" is not one of red, green\n"
                      "--workers: workers: 65 is not between 1 and 64\n");
}

TEST_F(ConfigTest, RefusesMalformedFiles) {
  EXPECT_EQ(Load({"--config", "/nonexistent/x.yaml"}), kExitBadConfig);
  EXPECT_EQ(err_, "/nonexistent/x.yaml: cannot be read: No such file or directory\n");
  EXPECT_EQ(Load({"--config", testing::TempDir()}), kExitBadConfig);
  const std::string file = WriteFile("a: b\n  c: [\n");
  EXPECT_EQ(Load({"--config", file}), kExitBadConfig);
  EXPECT_THAT(err_, HasSubstr(file + ":2: is not YAML"));
  EXPECT_EQ(Load({"--config", WriteFile("- a\n")}), kExitBadConfig);
  EXPECT_THAT(err_, HasSubstr(":1: the file must be a mapping of options"));
  EXPECT_EQ(Load({"--config", WriteFile("workers: 1\nworkers: 2\n")}), kExitBadConfig);
  EXPECT_THAT(err_, HasSubstr(":2: workers: is given twice"));
  EXPECT_EQ(Load({"--config", WriteFile("workers:\n")}), kExitBadConfig);
  EXPECT_THAT(err_, HasSubstr(":1: workers: has no value"));
  EXPECT_EQ(Load({"--config", WriteFile("agents: 5\n")}), kExitBadConfig);
  EXPECT_THAT(err_, HasSubstr(":1: agents: is a section"));
  EXPECT_EQ(Load({"--config", WriteFile("agents:\n# lease: 1s\n")}), -1) << err_;
  EXPECT_EQ(Load({"--config", WriteFile("")}), -1) << err_;
}

TEST_F(ConfigTest, UnknownFlagsGetAHint) {
  EXPECT_EQ(Load({"--agent-lease=5s"}), kExitBadConfig);
  EXPECT_EQ(err_, "--agent-lease: no such option; did you mean \"--agents-lease\"?\n");
  EXPECT_EQ(Load({"stray"}), kExitBadConfig);
  EXPECT_EQ(Load({"--workers"}), kExitBadConfig);
  EXPECT_THAT(err_, HasSubstr("--workers"));
}

TEST_F(ConfigTest, PrintIsReadBackAndNamesSources) {
  SetVariable("VIOMMU_TEST_AGENTS_LEASE", "15s");
  EXPECT_EQ(Load({"--cluster=a: b # c", "--peers=p,q", "--peers=r", "--print-config"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("agents:\n  lease: 15s  # VIOMMU_TEST_AGENTS_LEASE\n  limit: 4MiB  # default\n"));
  unsetenv("VIOMMU_TEST_AGENTS_LEASE");
  const std::string file = WriteFile(out_);
  EXPECT_EQ(Load({"--config", file}), -1) << err_;
  EXPECT_EQ(options_.cluster, "a: b # c");
  EXPECT_EQ(options_.lease, seconds(15));
  EXPECT_THAT(options_.peers, testing::ElementsAre("p,q", "r"));
}

TEST_F(ConfigTest, CheckConfigExitsWithZeroOrOne) {
  EXPECT_EQ(Load({"--check-config"}), 0) << err_;
  EXPECT_EQ(Load({"--check-config", "--workers=0"}), 1);
  EXPECT_EQ(Load({"--check-config", "--wrkers=1"}), 1);
  EXPECT_EQ(Load({"--check-config", "--cluster=forbidden"}), 1);
  EXPECT_EQ(err_, "cluster: is forbidden with workers\n");
}

TEST_F(ConfigTest, VersionAndHelp) {
  EXPECT_EQ(Load({"--version"}), 0);
  EXPECT_THAT(out_, HasSubstr("viommu-test 0."));
  EXPECT_EQ(Load({"--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("--agents-lease DURATION=10s"));
  EXPECT_THAT(out_, HasSubstr("[VIOMMU_TEST_AGENTS_LEASE]"));
}

}  // namespace
}  // namespace viommu
