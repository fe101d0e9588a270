// The kernel's drivers of PCI functions, and what the agent changes in that and takes back.

#include "agent/smmuv3/iommufd/sysfs.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/bindings.h"

namespace viommu::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kFunction[] = "0000:01:00.0";

// Reacts to writes as the kernel does, for one function.
class FakeSysfs final : public Sysfs {
 public:
  explicit FakeSysfs(const fs::path& root) : Sysfs(root.string()), root_(root) {
    fs::create_directories(folder());
    SetOverride("(null)");
  }

  bool vfio_takes_it = true;
  std::map<std::string, int> errors;   // by the end of the path
  std::function<void()> before_write;  // may be none

  void SetDriver(const std::string& driver) const {
    fs::remove(folder() / "driver");
    if (!driver.empty()) fs::create_symlink("../../drivers/" + driver, folder() / "driver");
  }
  void SetOverride(const std::string& name) const { std::ofstream(folder() / "driver_override") << name << "\n"; }
  std::string Override() const {
    std::string name;
    std::getline(std::ifstream(folder() / "driver_override"), name);
    return name;
  }
  std::string Driver() const { return Find(kFunction).driver; }

 protected:
  absl::Status Write(const std::string& path, const std::string& text) const override {
    const std::string command = path.substr(path.rfind('/') + 1);
    if (const auto error = errors.find(command); error != errors.end()) {
      return ErrnoStatus(error->second, "write", path);
    }
    if (before_write) before_write();
    if (command == "driver_override") {
      SetOverride(text == "\n" ? "(null)" : text);
      return absl::OkStatus();
    }
    EXPECT_EQ(text, kFunction);
    if (command == "unbind") SetDriver("");
    if (command == "drivers_probe" && Override() == "vfio-pci" && vfio_takes_it) SetDriver("vfio-pci");
    if (command == "bind") {
      EXPECT_NE(Override(), "vfio-pci") << "another driver would be refused";
      SetDriver(fs::path(path).parent_path().filename().string());
    }
    return absl::OkStatus();
  }

 private:
  fs::path folder() const { return root_ / "sys/bus/pci/devices" / kFunction; }

  const fs::path root_;
};

class SysfsTest : public testing::Test {
 protected:
  ~SysfsTest() override { fs::remove_all(root_); }

  const fs::path root_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
  FakeSysfs sysfs_{root_};
};

TEST_F(SysfsTest, GivesAFunctionToVfio) {
  sysfs_.SetDriver("nvme");
  EXPECT_TRUE(sysfs_.BindToVfio(kFunction).ok());
  EXPECT_EQ(sysfs_.Driver(), "vfio-pci");
}

TEST_F(SysfsTest, AFunctionThatVfioDoesNotTakeKeepsItsDriver) {
  sysfs_.vfio_takes_it = false;
  sysfs_.SetDriver("nvme");
  EXPECT_EQ(StatusErrno(sysfs_.BindToVfio(kFunction)), ENODEV);
  EXPECT_EQ(sysfs_.Driver(), "nvme");
  EXPECT_EQ(sysfs_.Override(), "(null)");
}

TEST_F(SysfsTest, AndItsOverride) {
  sysfs_.vfio_takes_it = false;
  sysfs_.SetOverride("mlx5_core");
  EXPECT_EQ(StatusErrno(sysfs_.BindToVfio(kFunction)), ENODEV);
  EXPECT_EQ(sysfs_.Driver(), "");
  EXPECT_EQ(sysfs_.Override(), "mlx5_core");
}

TEST_F(SysfsTest, AFailureHalfWayTakesTheOverrideBack) {
  sysfs_.SetDriver("nvme");
  sysfs_.errors["unbind"] = EBUSY;
  EXPECT_EQ(StatusErrno(sysfs_.BindToVfio(kFunction)), EBUSY);
  EXPECT_EQ(sysfs_.Driver(), "nvme");
  EXPECT_EQ(sysfs_.Override(), "(null)");
}

TEST_F(SysfsTest, GivesBackWhatItHasTaken) {
  for (const auto& [driver, name] : std::map<std::string, std::string>{{"nvme", ""}, {"mlx5", "mlx5"}, {"", "none"}}) {
    SCOPED_TRACE(driver);
    sysfs_.SetDriver(driver);
    sysfs_.SetOverride(name.empty() ? "(null)" : name);
    const FormerDriver former = sysfs_.DriverOf(kFunction);
    ASSERT_TRUE(sysfs_.BindToVfio(kFunction).ok());
    ASSERT_TRUE(sysfs_.UnbindFromVfio(former).ok());
    EXPECT_EQ(sysfs_.Driver(), driver);
    EXPECT_EQ(sysfs_.DriverOf(kFunction).driver_override, name);
  }
}

TEST_F(SysfsTest, LeavesAloneWhatVfioHasNoMore) {
  sysfs_.SetDriver("nvme");
  sysfs_.SetOverride("nvme");
  EXPECT_TRUE(sysfs_.UnbindFromVfio({.address = kFunction, .driver = "other", .driver_override = ""}).ok());
  EXPECT_EQ(sysfs_.Driver(), "nvme");
  EXPECT_EQ(sysfs_.Override(), "nvme");
}

class BindingsTest : public SysfsTest {
 protected:
  Bindings Agent(const std::string& boot = "boot") { return {&sysfs_, root_.string(), boot}; }
  void GiveBack(Bindings bindings, bool stays = false) {
    bindings.GiveBack([stays](const std::string&) { return stays; },
                      [this](const std::string& what, const absl::Status&) { failures_.push_back(what); });
  }

  std::vector<std::string> failures_;
};

TEST_F(BindingsTest, TheNextAgentGivesBackWhatAKilledOneTook) {
  sysfs_.SetDriver("nvme");
  sysfs_.SetOverride("nvme");
  ASSERT_TRUE(Agent().Take(kFunction).ok());
  Bindings next = Agent();
  ASSERT_TRUE(next.Take(kFunction).ok());
  EXPECT_EQ(sysfs_.Driver(), "vfio-pci");
  GiveBack(next);
  EXPECT_EQ(sysfs_.Driver(), "nvme");
  EXPECT_EQ(sysfs_.Override(), "nvme");
  // And that is that: what somebody else gives to vfio-pci stays there.
  sysfs_.SetDriver("vfio-pci");
  GiveBack(Agent());
  EXPECT_EQ(sysfs_.Driver(), "vfio-pci");
}

// An agent that is killed between the two has not changed what nobody knows of.
TEST_F(BindingsTest, IsWrittenDownBeforeAnythingHappens) {
  sysfs_.SetDriver("nvme");
  std::string recorded;
  sysfs_.before_write = [&] {
    if (recorded.empty()) std::getline(std::ifstream(root_ / "bindings") >> std::ws, recorded, '\0');
  };
  ASSERT_TRUE(Agent().Take(kFunction).ok());
  EXPECT_EQ(recorded, std::string("boot\n") + kFunction + "\tnvme\t\n");
}

TEST_F(BindingsTest, WhatCannotBeWrittenDownIsNotTaken) {
  sysfs_.SetDriver("nvme");
  fs::create_directories(root_ / "bindings.new");
  EXPECT_FALSE(Agent().Take(kFunction).ok());
  EXPECT_EQ(sysfs_.Driver(), "nvme");
}

TEST_F(BindingsTest, WhatVfioHadBeforeStaysThere) {
  sysfs_.SetDriver("vfio-pci");
  Bindings agent = Agent();
  ASSERT_TRUE(agent.Take(kFunction).ok());
  GiveBack(agent);
  EXPECT_EQ(sysfs_.Driver(), "vfio-pci");
}

TEST_F(BindingsTest, OfAnotherBootIsNotBelieved) {
  sysfs_.SetDriver("nvme");
  ASSERT_TRUE(Agent("last").Take(kFunction).ok());
  GiveBack(Agent("this"));
  EXPECT_EQ(sysfs_.Driver(), "vfio-pci");
}

TEST_F(BindingsTest, WhatStaysOrFailsIsTheNextAgentsToGiveBack) {
  sysfs_.SetDriver("nvme");
  ASSERT_TRUE(Agent().Take(kFunction).ok());
  GiveBack(Agent(), /*stays=*/true);
  EXPECT_EQ(sysfs_.Driver(), "vfio-pci");
  EXPECT_TRUE(failures_.empty());
  sysfs_.errors["unbind"] = EBUSY;
  GiveBack(Agent());
  EXPECT_EQ(failures_, std::vector<std::string>{kFunction});
  sysfs_.errors.clear();
  GiveBack(Agent());
  EXPECT_EQ(sysfs_.Driver(), "nvme");
}

TEST_F(SysfsTest, SaysWhatItCouldNotGiveBack) {
  sysfs_.vfio_takes_it = false;
  sysfs_.SetDriver("nvme");
  sysfs_.errors["bind"] = EIO;
  const absl::Status status = sysfs_.BindToVfio(kFunction);
  EXPECT_EQ(StatusErrno(status), ENODEV);
  EXPECT_NE(status.message().find("could not be given back to nvme"), std::string::npos) << status;
}

}  // namespace
}  // namespace viommu::agent
