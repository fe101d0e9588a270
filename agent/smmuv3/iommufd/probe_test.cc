// What is said of a host whose kernel refuses something.

#include "agent/smmuv3/iommufd/probe.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "agent/smmuv3/iommufd/fake_kernel.h"
#include "agent/smmuv3/iommufd/host.h"
#include "agent/smmuv3/iommufd/uapi.h"

namespace viommu::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kDevice[] = "0000:01:00.0";
constexpr char kDeviceItem[] = "0000:01:00.0 behind smmu3.0x9050000";

// A host with one function behind an SMMU; every call works, unless `errors_` says otherwise.
class ProbeTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::create_directories(folder());
    fs::create_symlink("../../iommu/smmu3.0x9050000", folder() / "iommu");
    fs::create_symlink("../../kernel/iommu_groups/17", folder() / "iommu_group");
    SetDriver("vfio-pci");
    fs::create_directories(folder() / "vfio-dev/vfio3");
    kernel_.root_path = root_.string();
    kernel_.on_ioctl = [this](int, unsigned long request, void* argument) { return Answer(request, argument); };
    host_ = std::make_unique<IommufdHost>(&kernel_);
  }
  void TearDown() override {
    EXPECT_TRUE(kernel_.open_files.empty()) << "a file was left open";
    fs::remove_all(root_);
  }

  fs::path folder() const { return root_ / "sys/bus/pci/devices" / kDevice; }
  void SetDriver(const std::string& driver) {
    fs::remove(folder() / "driver");
    fs::create_symlink("../../drivers/" + driver, folder() / "driver");
  }

  // Id 0 is none, as in the kernel.
  int Answer(unsigned long request, void* argument) {
    if (const auto error = errors_.find(request); error != errors_.end()) return -error->second;
    const auto make = [this](uint32_t on, uint32_t& id) {
      if (on == 0) return -ENOENT;
      id = ++id_;
      return 0;
    };
    switch (request) {
      case uapi::kVfioBindIommufd:
        return make(1, static_cast<uapi::VfioBindIommufd*>(argument)->out_devid);
      case uapi::kIoasAlloc:
        return make(1, static_cast<uapi::IoasAlloc*>(argument)->out_ioas_id);
      case uapi::kHwptAlloc: {
        auto& call = *static_cast<uapi::HwptAlloc*>(argument);
        return make(call.pt_id, call.out_hwpt_id);
      }
      case uapi::kViommuAlloc: {
        auto& call = *static_cast<uapi::ViommuAlloc*>(argument);
        return make(call.hwpt_id, call.out_viommu_id);
      }
      case uapi::kVdeviceAlloc: {
        auto& call = *static_cast<uapi::VdeviceAlloc*>(argument);
        return make(call.viommu_id, call.out_vdevice_id);
      }
      case uapi::kHwptInvalidate:
        return static_cast<uapi::HwptInvalidate*>(argument)->hwpt_id == 0 ? -ENOENT : 0;
      case uapi::kGetHwInfo: {
        auto& call = *static_cast<uapi::GetHwInfo*>(argument);
        if (call.flags != 0) return hw_queues_ ? 0 : -EOPNOTSUPP;
        call.data_type = uapi::kHwInfoArmSmmuv3;
        call.out_max_pasid_log2 = 20;
        return 0;
      }
      case uapi::kVeventqAlloc:
        static_cast<uapi::VeventqAlloc*>(argument)->out_veventq_fd = kernel_.NewFile();
        return 0;
      case uapi::kFaultQueueAlloc: {
        auto& call = *static_cast<uapi::FaultQueueAlloc*>(argument);
        call.out_fault_fd = kernel_.NewFile();
        return make(1, call.out_fault_id);
      }
      default:
        return 0;
    }
  }

  // The item of that name; its reason is "missing" when there is none.
  Capability Item(const std::string& name) {
    const HostCheck check = CheckHost(*host_);
    const auto item =
        std::find_if(check.items.begin(), check.items.end(), [&](const Capability& c) { return c.name == name; });
    return item == check.items.end() ? Capability{name, false, "missing"} : *item;
  }
  void ExpectNo(const std::string& name, const std::string& reason) {
    const Capability item = Item(name);
    EXPECT_FALSE(item.available) << name;
    EXPECT_NE(item.reason.find(reason), std::string::npos) << item.reason;
  }

  fs::path root_;
  FakeKernel kernel_;
  std::map<unsigned long, int> errors_;
  bool hw_queues_ = true;
  uint32_t id_ = 0;
  std::unique_ptr<IommufdHost> host_;
};

TEST_F(ProbeTest, EverythingIsThere) {
  const HostCheck check = CheckHost(*host_);
  EXPECT_TRUE(check.can_serve);
  EXPECT_EQ(Item(kDeviceItem).reason, "IOMMU group 17");
  for (const char* name : {"/dev/iommu", kDeviceItem, "  ioas", "  map_ioas", "  stage2", "  viommu", "  vdevice",
                           "  nested", "  invalidate", "  veventq", "  fault_queue", "  hw_queue", "  ats"}) {
    EXPECT_TRUE(Item(name).available) << name << ": " << Item(name).reason;
  }
  EXPECT_EQ(Item("  pasid").reason, "20 bits");
  ExpectNo("  stream_ids", "not in firmware's IORT");
}

// Each call that is refused is the ability that it is asked for, with the kernel's own word.
TEST_F(ProbeTest, WhatIsRefusedIsAnAbilityThatIsMissing) {
  struct Row {
    unsigned long request;
    int error;
    const char* ability;
    const char* reason;
    bool can_serve;
  };
  const Row rows[] = {
      {uapi::kIoasAlloc, ENOMEM, "  ioas", "IOAS_ALLOC: ENOMEM", false},
      {uapi::kIoasMapFile, ENOMEM, "  map_ioas", "IOAS_MAP_FILE: ENOMEM", true},
      {uapi::kHwptAlloc, EOPNOTSUPP, "  stage2", "HWPT_ALLOC: EOPNOTSUPP", false},
      {uapi::kHwptAlloc, EOPNOTSUPP, "  nested", "HWPT_ALLOC: EOPNOTSUPP", false},
      {uapi::kViommuAlloc, EOPNOTSUPP, "  viommu", "CANWBS", false},
      {uapi::kViommuAlloc, ENOTTY, "  viommu", "VIOMMU_ALLOC: ENOTTY", false},
      {uapi::kVdeviceAlloc, EOPNOTSUPP, "  vdevice", "VDEVICE_ALLOC: EOPNOTSUPP", false},
      {uapi::kHwptInvalidate, EOPNOTSUPP, "  invalidate", "HWPT_INVALIDATE: EOPNOTSUPP", false},
      {uapi::kVeventqAlloc, ENOTTY, "  veventq", "VEVENTQ_ALLOC: ENOTTY", true},
      {uapi::kFaultQueueAlloc, ENOTTY, "  fault_queue", "FAULT_QUEUE_ALLOC: ENOTTY", true},
      {uapi::kVfioAttachPt, EOPNOTSUPP, "  fault_queue", "CONFIG_ARM_SMMU_V3_SVA", true},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.reason);
    errors_ = {{row.request, row.error}};
    ExpectNo(row.ability, row.reason);
    EXPECT_EQ(CheckHost(*host_).can_serve, row.can_serve);
  }
}

// A kernel that does not have the call, and an SMMU that does not have the queues.
TEST_F(ProbeTest, HardwareQueues) {
  hw_queues_ = false;
  errors_ = {{uapi::kHwQueueAlloc, ENOTTY}};
  ExpectNo("  hw_queue", "HW_QUEUE_ALLOC: ENOTTY");
  errors_ = {{uapi::kHwQueueAlloc, EOPNOTSUPP}};
  ExpectNo("  hw_queue", "HW_QUEUE_ALLOC: EOPNOTSUPP");
}

TEST_F(ProbeTest, ADeviceThatSomebodyHas) {
  errors_[uapi::kVfioBindIommufd] = EBUSY;
  ExpectNo(kDeviceItem, "BIND_IOMMUFD: EBUSY");
  EXPECT_FALSE(CheckHost(*host_).can_serve);
}

TEST_F(ProbeTest, BehindNoSmmuv3) {
  errors_[uapi::kGetHwInfo] = EOPNOTSUPP;
  ExpectNo(kDeviceItem, "GET_HW_INFO: EOPNOTSUPP");
}

TEST_F(ProbeTest, WithoutDevIommu) {
  kernel_.missing.insert(root_.string() + "/dev/iommu");
  ExpectNo("/dev/iommu", "CONFIG_IOMMUFD");
  EXPECT_EQ(Item(kDeviceItem).reason, "missing") << "it cannot be asked";
  EXPECT_FALSE(CheckHost(*host_).can_serve);
}

TEST_F(ProbeTest, WithoutTheDevicesFile) {
  kernel_.missing.insert(root_.string() + "/dev/vfio/devices/vfio3");
  ExpectNo(kDeviceItem, "open: ENOENT");
}

TEST_F(ProbeTest, WithoutCdevs) {
  fs::remove_all(folder() / "vfio-dev");
  ExpectNo(kDeviceItem, "CONFIG_VFIO_DEVICE_CDEV");
}

TEST_F(ProbeTest, NoneIsBound) {
  SetDriver("nvme");
  ExpectNo("VFIO devices", "none of 1 PCI functions behind SMMUs is bound to vfio-pci");
  EXPECT_EQ(Item(kDeviceItem).reason, "missing");
}

TEST_F(ProbeTest, NoSmmu) {
  fs::remove_all(folder());
  ExpectNo("SMMUv3", "CONFIG_ARM_SMMU_V3");
  EXPECT_EQ(Item("VFIO devices").reason, "missing");
}

TEST(MemlockTest, WhatMayBePinned) {
  EXPECT_TRUE(MemlockAbility(0, true).available);
  EXPECT_TRUE(MemlockAbility(RLIM_INFINITY, false).available);
  EXPECT_FALSE(MemlockAbility(8 << 20, false).available);
  EXPECT_NE(MemlockAbility(8 << 20, false).reason.find("8388608 bytes"), std::string::npos);
}

}  // namespace
}  // namespace viommu::agent
