#include "agent/smmuv3/iommufd/context.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/fake_kernel.h"
#include "agent/smmuv3/iommufd/host.h"
#include "agent/smmuv3/iommufd/sysfs.h"
#include "agent/smmuv3/iommufd/uapi.h"

namespace viommu::agent {
namespace {

namespace fs = std::filesystem;

constexpr char kDevice[] = "0000:01:00.0";
constexpr char kSmmu[] = "smmu3.0x0000000009050000";
constexpr uint64_t kVintfOffset = 0x3000;
constexpr uint64_t kVintfLength = 0x10000;

// A sysfs with one function that VFIO has and one that another driver has, and one context.
class IommufdContextTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    AddFunction(kDevice, "vfio-pci", "vfio3");
    AddFunction("0000:02:00.0", "nvme", "");
    kernel_.root_path = root_.string();
    kernel_.on_ioctl = [this](int fd, unsigned long request, void* argument) {
      requests_.push_back(request);
      files_.push_back(fd);
      return Answer(request, argument);
    };
    host_ = std::make_unique<IommufdHost>(&kernel_);
    auto context = IommufdContext::Open(host_.get());
    ASSERT_TRUE(context.ok()) << context.status();
    context_ = *std::move(context);
  }
  void TearDown() override {
    context_.reset();
    EXPECT_TRUE(kernel_.open_files.empty()) << "a file was left open";
    EXPECT_EQ(kernel_.maps, 0);
    fs::remove_all(root_);
  }

  void AddFunction(const std::string& address, const std::string& driver, const std::string& vfio) {
    const fs::path folder = root_ / "sys/bus/pci/devices" / address;
    fs::create_directories(folder);
    fs::create_symlink(std::string("../../iommu/") + kSmmu, folder / "iommu");
    fs::create_symlink("../../kernel/iommu_groups/17", folder / "iommu_group");
    fs::create_symlink("../../drivers/" + driver, folder / "driver");
    if (!vfio.empty()) fs::create_directories(folder / "vfio-dev" / vfio);
  }

  // Everything works, unless `errors_` says otherwise; ids rise.
  int Answer(unsigned long request, void* argument) {
    if (const auto error = errors_.find(request); error != errors_.end()) return -error->second;
    switch (request) {
      case uapi::kVfioBindIommufd:
        static_cast<uapi::VfioBindIommufd*>(argument)->out_devid = ++id_;
        break;
      case uapi::kIoasAlloc:
        static_cast<uapi::IoasAlloc*>(argument)->out_ioas_id = ++id_;
        break;
      case uapi::kHwptAlloc:
        static_cast<uapi::HwptAlloc*>(argument)->out_hwpt_id = ++id_;
        break;
      case uapi::kViommuAlloc: {
        auto& call = *static_cast<uapi::ViommuAlloc*>(argument);
        call.out_viommu_id = ++id_;
        if (call.type == static_cast<uint32_t>(ViommuType::kTegra241Cmdqv)) {
          *reinterpret_cast<uapi::ViommuTegra241Cmdqv*>(call.data_uptr) = {kVintfOffset, kVintfLength};
        }
        break;
      }
      case uapi::kHwQueueAlloc:
        hw_queue_ = *static_cast<uapi::HwQueueAlloc*>(argument);
        static_cast<uapi::HwQueueAlloc*>(argument)->out_hw_queue_id = ++id_;
        break;
      case uapi::kVeventqAlloc:
        static_cast<uapi::VeventqAlloc*>(argument)->out_veventq_id = ++id_;
        static_cast<uapi::VeventqAlloc*>(argument)->out_veventq_fd = last_queue_ = kernel_.NewFile();
        break;
      case uapi::kFaultQueueAlloc:
        static_cast<uapi::FaultQueueAlloc*>(argument)->out_fault_id = ++id_;
        static_cast<uapi::FaultQueueAlloc*>(argument)->out_fault_fd = last_queue_ = kernel_.NewFile();
        break;
      default:
        break;
    }
    return 0;
  }
  static int Errno(const absl::Status& status) { return StatusErrno(status); }

  fs::path root_;
  FakeKernel kernel_;
  std::map<unsigned long, int> errors_;
  std::vector<unsigned long> requests_;
  std::vector<int> files_;
  ObjectId id_ = 0;
  int last_queue_ = -1;
  uapi::HwQueueAlloc hw_queue_;  // the last one that was asked for
  std::unique_ptr<IommufdHost> host_;
  std::unique_ptr<IommufdContext> context_;
};

TEST_F(IommufdContextTest, BindsTheVfioDeviceOfAFunction) {
  EXPECT_EQ(*context_->BindDevice(kDevice), 1u);
  EXPECT_EQ(kernel_.opened.back(), root_.string() + "/dev/vfio/devices/vfio3");
  EXPECT_TRUE(context_->UnbindDevice(kDevice).ok());
  EXPECT_EQ(Errno(context_->UnbindDevice(kDevice)), ENOENT);
}

TEST_F(IommufdContextTest, DevicesThatAreNotVfios) {
  EXPECT_EQ(Errno(context_->BindDevice("0000:ff:00.0").status()), ENODEV);
  EXPECT_EQ(Errno(context_->BindDevice("../../../etc").status()), ENODEV);
  const absl::Status status = context_->BindDevice("0000:02:00.0").status();
  EXPECT_EQ(Errno(status), ENODEV);
  EXPECT_NE(status.message().find("nvme"), std::string::npos);
}

TEST_F(IommufdContextTest, ErrorsKeepTheirNumberAndNameCallAndObject) {
  const ObjectId device = *context_->BindDevice(kDevice);
  errors_[uapi::kVdeviceAlloc] = EEXIST;
  const absl::Status status = context_->AllocVdevice(9, device, 0x20).status();
  EXPECT_EQ(Errno(status), EEXIST);
  EXPECT_EQ(status.message(), "VDEVICE_ALLOC: EEXIST: viommu 9, device 1, guest StreamID 32");
}

TEST_F(IommufdContextTest, ARefusedBindLeavesNoFile) {
  errors_[uapi::kVfioBindIommufd] = EBUSY;
  EXPECT_EQ(Errno(context_->BindDevice(kDevice).status()), EBUSY);
  EXPECT_EQ(kernel_.open_files.size(), 1u);  // the iommufd
}

TEST_F(IommufdContextTest, AttachGoesToTheDevicesFile) {
  const ObjectId device = *context_->BindDevice(kDevice);
  const int bound = files_.back();
  EXPECT_TRUE(context_->Attach(device, 5).ok());
  EXPECT_EQ(requests_.back(), uapi::kVfioAttachPt);
  EXPECT_EQ(files_.back(), bound);
  EXPECT_EQ(Errno(context_->Attach(99, 5)), ENOENT);
}

TEST_F(IommufdContextTest, FilesOnADiskAreMappedByAddress) {
  const ObjectId ioas = *context_->AllocIoas();
  errors_[uapi::kIoasMapFile] = EINVAL;
  EXPECT_TRUE(context_->MapIoas(ioas, 0x1000, 4096, {.fd = 5}).ok());
  EXPECT_EQ(requests_.back(), uapi::kIoasMap);
  EXPECT_EQ(kernel_.maps, 1);
  errors_[uapi::kIoasMap] = EEXIST;
  EXPECT_EQ(Errno(context_->MapIoas(ioas, 0x1000, 4096, {.fd = 5})), EINVAL);
  EXPECT_EQ(kernel_.maps, 1);
  EXPECT_TRUE(context_->UnmapIoas(ioas, 0x1000, 4096).ok());
  EXPECT_EQ(kernel_.maps, 0);
}

// An unmap that fails may have unmapped this one: its address is given back when another one comes to its place.
TEST_F(IommufdContextTest, WhatAFailedUnmapTookIsGivenBackWithTheNextMapping) {
  const ObjectId ioas = *context_->AllocIoas();
  errors_[uapi::kIoasMapFile] = EINVAL;
  EXPECT_TRUE(context_->MapIoas(ioas, 0x1000, 4096, {.fd = 5}).ok());
  errors_[uapi::kIoasUnmap] = ENOENT;
  EXPECT_EQ(Errno(context_->UnmapIoas(ioas, 0x1000, 8192).status()), ENOENT);
  EXPECT_EQ(kernel_.maps, 1);
  EXPECT_TRUE(context_->MapIoas(ioas, 0x1000, 4096, {.fd = 5}).ok());
  EXPECT_EQ(kernel_.maps, 1);
}

TEST_F(IommufdContextTest, APartOfARecordIsAnError) {
  const ObjectId queue = *context_->AllocVeventq(3, VeventqType::kArmSmmuv3, 8);
  kernel_.to_read[last_queue_].push_back(std::vector<std::byte>(20));
  EXPECT_EQ(Errno(context_->ReadVeventq(queue, 16).status()), EIO);
}

// Its descriptor is a user of a queue: closed first, and never when the queue has to stay.
TEST_F(IommufdContextTest, AQueueInUseKeepsItsFile) {
  const ObjectId device = *context_->BindDevice(kDevice);
  const ObjectId queue = *context_->AllocFaultQueue();
  const ObjectId nested = *context_->AllocNested(3, device, {1, 0}, queue);
  EXPECT_EQ(Errno(context_->Destroy(queue)), EBUSY);
  EXPECT_TRUE(context_->ReadFaults(queue, 4).ok());
  EXPECT_TRUE(context_->AnswerFault(queue, 9, PageResponseCode::kInvalid).ok());
  EXPECT_TRUE(context_->Destroy(nested).ok());
  EXPECT_TRUE(context_->Destroy(queue).ok());
  EXPECT_FALSE(kernel_.open_files.contains(last_queue_));
  EXPECT_EQ(Errno(context_->ReadFaults(queue, 4).status()), ENOENT);
}

TEST_F(IommufdContextTest, HardwareQueues) {
  const ObjectId device = *context_->BindDevice(kDevice);
  const ObjectId viommu = context_->AllocViommu(device, 2, ViommuType::kTegra241Cmdqv)->id;
  const ObjectId queue = *context_->AllocHwQueue(viommu, HwQueueType::kTegra241Cmdqv, 1, 0x4000'0000, 0x2000);
  EXPECT_EQ(queue, id_);
  EXPECT_EQ(hw_queue_.viommu_id, viommu);
  EXPECT_EQ(hw_queue_.type, static_cast<uint32_t>(HwQueueType::kTegra241Cmdqv));
  EXPECT_EQ(hw_queue_.index, 1u);
  EXPECT_EQ(hw_queue_.nesting_parent_iova, 0x4000'0000u);
  EXPECT_EQ(hw_queue_.length, 0x2000u);
  errors_[uapi::kHwQueueAlloc] = EIO;
  EXPECT_EQ(Errno(context_->AllocHwQueue(viommu, HwQueueType::kTegra241Cmdqv, 3, 0, 0x2000).status()), EIO);
}

TEST_F(IommufdContextTest, TheRegistersOfHardwareQueuesAreMappedFromTheContextsFile) {
  const int iommufd = *kernel_.open_files.begin();
  const ObjectId device = *context_->BindDevice(kDevice);
  const ObjectId plain = context_->AllocViommu(device, 2, ViommuType::kArmSmmuv3)->id;
  EXPECT_EQ(Errno(context_->MapVintf(plain).status()), EOPNOTSUPP);
  EXPECT_EQ(Errno(context_->MapVintf(99).status()), ENOENT);
  const ObjectId viommu = context_->AllocViommu(device, 2, ViommuType::kTegra241Cmdqv)->id;
  EXPECT_EQ(Errno(context_->UnmapVintf(viommu)), EINVAL);
  const VintfMapping mapping = *context_->MapVintf(viommu);
  EXPECT_EQ(mapping.offset, kVintfOffset);
  EXPECT_EQ(mapping.length, kVintfLength);
  EXPECT_TRUE(kernel_.open_files.contains(mapping.fd));
  EXPECT_EQ(kernel_.mapped, (std::vector<FakeKernel::Mapping>{{iommufd, kVintfOffset, kVintfLength}}));
  EXPECT_EQ(kernel_.maps, 1) << "its own mapping keeps the viommu";
  EXPECT_TRUE(context_->UnmapVintf(viommu).ok());
  EXPECT_EQ(kernel_.maps, 0);
  // What goes wrong half way leaves nothing behind.
  kernel_.duplicate_error = -EMFILE;
  EXPECT_EQ(Errno(context_->MapVintf(viommu).status()), EMFILE);
  kernel_.map_error = -ENXIO;
  EXPECT_EQ(Errno(context_->MapVintf(viommu).status()), ENXIO);
  EXPECT_EQ(kernel_.maps, 0);
  kernel_.Close(mapping.fd);  // its owner
}

TEST_F(IommufdContextTest, HowManyHardwareQueuesThereAre) {
  const ObjectId device = *context_->BindDevice(kDevice);
  kernel_.on_ioctl = [&](int, unsigned long request, void* argument) {
    EXPECT_EQ(request, uapi::kGetHwInfo);
    auto& call = *static_cast<uapi::GetHwInfo*>(argument);
    EXPECT_EQ(call.flags, uapi::kHwInfoInputType);
    EXPECT_EQ(call.data_type, uapi::kHwInfoTegra241Cmdqv);
    EXPECT_EQ(call.dev_id, device);
    *reinterpret_cast<uapi::HwInfoTegra241Cmdqv*>(call.data_uptr) = {.log2_vcmdqs = 1, .log2_vsids = 4};
    return 0;
  };
  const auto queues = context_->GetHwQueues(device);
  ASSERT_TRUE(queues.has_value());
  EXPECT_EQ(queues->queues_per_vintf, 2u);
  EXPECT_EQ(queues->sid_slots, 16u);
  kernel_.on_ioctl = [](int, unsigned long, void*) { return -EOPNOTSUPP; };
  EXPECT_FALSE(context_->GetHwQueues(device).has_value());
}

// No device may reach memory that is about to go, and nothing may keep what the kernel is to free with the last
// descriptor.
TEST_F(IommufdContextTest, EndsInOrder) {
  std::map<int, std::string> names = {{*kernel_.open_files.begin(), "iommufd"}};
  const ObjectId device = *context_->BindDevice(kDevice);
  names[files_.back()] = "device";
  const ObjectId ioas = *context_->AllocIoas();
  errors_[uapi::kIoasMapFile] = ENOTTY;
  ASSERT_TRUE(context_->MapIoas(ioas, 0, 4096, {.fd = 5}).ok());
  const ObjectId viommu = context_->AllocViommu(device, 2, ViommuType::kTegra241Cmdqv)->id;
  kernel_.Close(context_->MapVintf(viommu)->fd);
  ASSERT_TRUE(context_->AllocVeventq(viommu, VeventqType::kTegra241Cmdqv, 8).ok());
  names[last_queue_] = "events";
  ASSERT_TRUE(context_->AllocFaultQueue().ok());
  names[last_queue_] = "faults";
  std::vector<std::string> log;
  kernel_.on_ioctl = [&](int fd, unsigned long request, void*) {
    log.push_back((request == uapi::kVfioDetachPt ? "detach " : "? ") + names[fd]);
    return 0;
  };
  kernel_.on_close = [&](int fd) { log.push_back("close " + names[fd]); };
  kernel_.on_unmap = [&](uint64_t length) {
    log.push_back(length == kVintfLength ? "unmap registers" : "unmap memory");
  };
  context_.reset();
  EXPECT_EQ(log, (std::vector<std::string>{"detach device", "unmap registers", "close events", "close faults",
                                           "close device", "unmap memory", "close iommufd"}));
  kernel_.on_close = nullptr;
  kernel_.on_unmap = nullptr;
}

TEST_F(IommufdContextTest, Stage2sAreCountedByTheirSmmu) {
  const ObjectId device = *context_->BindDevice(kDevice);
  const ObjectId stage2 = *context_->AllocStage2(device, 2);
  EXPECT_EQ(host_->Counters(kSmmu).Get().vmids_used, 1u);
  EXPECT_TRUE(context_->Destroy(stage2).ok());
  EXPECT_EQ(host_->Counters(kSmmu).Get().vmids_used, 0u);
  static_cast<void>(context_->AllocStage2(device, 2));
  context_.reset();
  EXPECT_EQ(host_->Counters(kSmmu).Get().vmids_used, 0u);
}

// What is wrong with an array is the kernel's to say.
TEST_F(IommufdContextTest, OddArraysGoToTheKernelAsTheyAre) {
  const ObjectId device = *context_->BindDevice(kDevice);
  const ObjectId viommu = context_->AllocViommu(device, 2, ViommuType::kArmSmmuv3)->id;
  uapi::HwptInvalidate seen;
  kernel_.on_ioctl = [&](int, unsigned long, void* argument) {
    auto& call = *static_cast<uapi::HwptInvalidate*>(argument);
    seen = call;
    call.entry_num = 0;
    return -EINVAL;
  };
  const InvalidateResult result =
      context_->InvalidateRaw(viommu, {.entries = nullptr, .entry_length = 24, .entry_count = 3});
  EXPECT_EQ(Errno(result.status), EINVAL);
  EXPECT_EQ(result.handled, 0u);
  EXPECT_EQ(seen.entry_len, 24u);
  EXPECT_EQ(seen.entry_num, 3u);
  EXPECT_EQ(seen.data_uptr, 0u);
  kernel_.on_ioctl = nullptr;
}

TEST_F(IommufdContextTest, CannotLook) { EXPECT_TRUE(absl::IsUnimplemented(context_->Objects().status())); }

TEST_F(IommufdContextTest, WithoutDevIommu) {
  kernel_.missing.insert(root_.string() + "/dev/iommu");
  const absl::Status status = IommufdContext::Open(host_.get()).status();
  EXPECT_EQ(Errno(status), ENOENT);
  EXPECT_NE(status.message().find("CONFIG_IOMMUFD"), std::string::npos);
}

TEST_F(IommufdContextTest, SysfsTellsFunctionsBehindSmmus) {
  const std::vector<PciFunction> functions = host_->sysfs().Functions();
  ASSERT_EQ(functions.size(), 2u);
  EXPECT_EQ(functions[0].address, kDevice);
  EXPECT_EQ(functions[0].smmu, kSmmu);
  EXPECT_EQ(functions[0].group, 17u);
  EXPECT_EQ(functions[0].vfio_name, "vfio3");
  EXPECT_EQ(functions[1].driver, "nvme");
  EXPECT_TRUE(functions[1].vfio_name.empty());
}

TEST(SysfsTest, Addresses) {
  EXPECT_TRUE(Sysfs::IsAddress("0000:01:00.0"));
  EXPECT_TRUE(Sysfs::IsAddress("abcd:ef:1f.7"));
  for (const char* no : {"", "0000:01:00.8", "0000:01:00", "0000/01:00.0", "../../x:00.0", "0000:01:00.00"}) {
    EXPECT_FALSE(Sysfs::IsAddress(no)) << no;
  }
}

}  // namespace
}  // namespace viommu::agent
