// What the tests of whole command lines share: a server in this process, and a terminal that keeps what is written.

#ifndef VIOMMU_CLI_APP_FIXTURE_H_
#define VIOMMU_CLI_APP_FIXTURE_H_

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cli/app.h"
#include "cli/fake_fleet_service.h"
#include "cli/fake_operations_service.h"
#include "common/clock.h"

namespace viommu::cli {

// Keeps what is written, and tells when it is to be seen.
class Screen : public std::stringbuf {
 public:
  std::function<void()> on_flush;

 protected:
  int sync() override {
    if (on_flush) on_flush();
    return 0;
  }
};

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
      fake_.devices[name].set_smmu("hosts/a/smmus/smmu0");
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
    screen_.str("");
    Terminal terminal;
    terminal.in = &in_;
    std::ostream broken(nullptr);
    terminal.out = broken_out_ ? &broken : &out_;
    terminal.err = &err_;
    terminal.in_is_terminal = on_terminal_;
    terminal.out_is_terminal = on_terminal_;
    terminal.err_is_terminal = on_terminal_;
    terminal.clock = &RealClock();
    terminal.interrupted = &interrupted_;
    terminal.environment = [this](const std::string& name) -> std::optional<std::string> {
      if (const auto set = environment_.find(name); set != environment_.end()) return set->second;
      if (name == "VIOMMUCTL_CONFIG") return std::string(std::getenv("TEST_TMPDIR")) + "/contexts.yaml";
      return std::nullopt;
    };
    return RunViommuctl(words, terminal);
  }

  std::string out() const { return out_.str(); }
  std::string err() const { return screen_.str(); }
  nlohmann::ordered_json OutJson() const { return nlohmann::ordered_json::parse(out()); }

  FakeOperationsService operations_;
  FakeFleetService fake_{operations_};
  std::istringstream in_;
  std::ostringstream out_;
  Screen screen_;
  std::ostream err_{&screen_};
  bool on_terminal_ = false;
  bool broken_out_ = false;
  std::map<std::string, std::string> environment_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_APP_FIXTURE_H_
