// The backend on a kernel and a store that are the test's: contexts that outlive their process, above all.

#include "agent/smmuv3/iommufd/iommufd_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/context.h"
#include "agent/smmuv3/iommufd/fake_kernel.h"
#include "agent/smmuv3/iommufd/fd_store.h"
#include "agent/smmuv3/iommufd/uapi.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::agent {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kDevice[] = "0000:01:00.0";
constexpr char kStoredIommufd[] = "iommufd.key";
constexpr char kStoredDevice[] = "vfio.key.0000-01-00.0";

// Has descriptors of its own. systemd's are handed on at the next start.
class FakeStore final : public FdStore {
 public:
  explicit FakeStore(FakeKernel* kernel) : kernel_(*kernel) {}

  std::vector<Entry> Take() override {
    std::vector<Entry> entries;
    for (const auto& [name, fd] : files) entries.push_back({name, kernel_.Duplicate(fd)});
    return entries;
  }
  void Add(const std::string& name, int fd) override { files[name] = kernel_.Duplicate(fd); }
  void Remove(const std::string& name) override {
    const auto node = files.extract(name);
    if (!node.empty()) kernel_.Close(node.mapped());
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [name, fd] : files) names.push_back(name);
    return names;
  }

  std::map<std::string, int> files;

 private:
  FakeKernel& kernel_;
};

// A table with one SMMU, and a root complex of segment 0 that maps one requester id to a StreamID of it.
std::string Iort(uint64_t smmu_base, uint32_t rid, uint32_t stream_id) {
  std::string table(48 + 24 + 56, '\0');
  const auto put = [&table](size_t offset, size_t length, uint64_t value) {
    for (size_t i = 0; i < length; ++i) table.at(offset + i) = static_cast<char>(value >> (8 * i));
  };
  table.replace(0, 4, "IORT");
  put(4, 4, table.size());
  put(36, 4, 2);
  put(40, 4, 48);
  put(48, 1, 4);  // SMMUv3
  put(49, 2, 24);
  put(48 + 16, 8, smmu_base);
  put(72, 1, 2);  // root complex
  put(73, 2, 56);
  put(72 + 8, 4, 1);
  put(72 + 12, 4, 36);
  put(72 + 36, 4, rid);
  put(72 + 44, 4, stream_id);
  put(72 + 48, 4, 48);
  return table;
}

class IommufdBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    const fs::path folder = root_ / "sys/bus/pci/devices" / kDevice;
    fs::create_directories(folder / "vfio-dev/vfio3");
    fs::create_symlink("../../iommu/smmu3.0x9050000", folder / "iommu");
    fs::create_symlink("../../drivers/vfio-pci", folder / "driver");
    kernel_.root_path = root_.string();
    kernel_.on_ioctl = [this](int fd, unsigned long request, void* argument) { return Answer(fd, request, argument); };
    Start();
    ASSERT_EQ(backend_->Discover()->devices.size(), 1u);
  }
  void TearDown() override {
    backend_.reset();
    EXPECT_TRUE(kernel_.open_files.empty()) << "a file was left open";
    fs::remove_all(root_);
  }

  // A process begins.
  void Start() {
    backend_.reset();
    requests_.clear();
    auto backend = IommufdBackend::Create(&kernel_, {.bind = {}, .store = &store_, .on_left_out = {}});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }

  // Objects by id, in the one context that matters; probing makes others, which are forgotten.
  int Answer(int fd, unsigned long request, void* argument) {
    requests_.push_back(request);
    if (const auto error = errors_.find(request); error != errors_.end()) return -error->second;
    const auto add = [this](const std::string& kind) {
      kinds_[++id_] = kind;
      return id_;
    };
    switch (request) {
      case uapi::kVfioBindIommufd:
        static_cast<uapi::VfioBindIommufd*>(argument)->out_devid = add("device");
        return 0;
      case uapi::kVfioAttachPt:
        attached_.emplace_back(fd, static_cast<uapi::VfioAttachPt*>(argument)->pt_id);
        return 0;
      case uapi::kIoasAlloc:
        static_cast<uapi::IoasAlloc*>(argument)->out_ioas_id = add("ioas");
        return 0;
      case uapi::kIoasIovaRanges:
        return kinds_[static_cast<uapi::IoasIovaRanges*>(argument)->ioas_id] == "ioas" ? -EMSGSIZE : -ENOENT;
      case uapi::kHwptAlloc: {
        auto& call = *static_cast<uapi::HwptAlloc*>(argument);
        call.out_hwpt_id = add(call.data_len == 0 ? "stage2" : "nested");
        return 0;
      }
      case uapi::kViommuAlloc:
        static_cast<uapi::ViommuAlloc*>(argument)->out_viommu_id = add("viommu");
        return 0;
      case uapi::kVdeviceAlloc:
        static_cast<uapi::VdeviceAlloc*>(argument)->out_vdevice_id = add("vdevice");
        return 0;
      case uapi::kGetHwInfo: {
        auto& call = *static_cast<uapi::GetHwInfo*>(argument);
        if (call.flags != 0) return -EOPNOTSUPP;
        if (kinds_[call.dev_id] != "device") return -ENOENT;
        call.data_type = uapi::kHwInfoArmSmmuv3;
        return 0;
      }
      case uapi::kHwptInvalidate: {
        auto& call = *static_cast<uapi::HwptInvalidate*>(argument);
        const auto kind = kinds_.find(call.hwpt_id);
        if (kind == kinds_.end()) return -ENOENT;
        if (kind->second == "nested") return -EOPNOTSUPP;
        return kind->second == "viommu" ? 0 : -EINVAL;
      }
      case uapi::kVeventqAlloc:
        static_cast<uapi::VeventqAlloc*>(argument)->out_veventq_id = ++id_;
        static_cast<uapi::VeventqAlloc*>(argument)->out_veventq_fd = kernel_.NewFile();
        return 0;
      case uapi::kVfioDetachPt:
      case uapi::kDestroy:
      case uapi::kIoasMap:
        return 0;
      default:
        return -ENOTTY;
    }
  }

  // A VM with a device that goes through stage 1.
  void MakeVm() {
    context_ = *backend_->OpenKeptContext("key");
    kept_ = {.key = "key"};
    const ObjectId device = *context_->BindDevice(kDevice);
    kept_.ioas = *context_->AllocIoas();
    const ObjectId stage2 = *context_->AllocStage2(device, kept_.ioas);
    const ObjectId viommu = context_->AllocViommu(device, stage2, ViommuType::kArmSmmuv3)->id;
    const ObjectId vdevice = *context_->AllocVdevice(viommu, device, 0x10);
    const ObjectId nested = *context_->AllocNested(viommu, device, smmuv3::kAbortVste);
    ASSERT_TRUE(context_->Attach(device, nested).ok());
    kept_.devices = {{kDevice, device, nested}};
    kept_.stage2s = {{stage2, "smmu3.0x9050000"}};
    kept_.viommus = {{viommu, "smmu3.0x9050000"}};
    kept_.vdevices = {{vdevice, viommu, 0x10}};
    kept_.nested = {nested};
  }
  // The process ends, and the next one begins.
  absl::Status Restart() {
    context_.reset();
    Start();
    auto answers = backend_->AdoptContexts({kept_});
    if (!answers[0].ok()) return answers[0].status();
    context_ = *std::move(answers[0]);
    return absl::OkStatus();
  }
  bool Called(unsigned long request) const {
    return std::find(requests_.begin(), requests_.end(), request) != requests_.end();
  }
  void End() {
    context_->StopKeeping();
    context_.reset();
  }

  fs::path root_;
  FakeKernel kernel_;
  FakeStore store_{&kernel_};
  std::map<unsigned long, int> errors_;
  std::map<ObjectId, std::string> kinds_;
  std::vector<unsigned long> requests_;
  std::vector<std::pair<int, ObjectId>> attached_;
  ObjectId id_ = 0;
  std::unique_ptr<IommufdBackend> backend_;
  std::unique_ptr<Context> context_;
  KeptContext kept_;
};

TEST_F(IommufdBackendTest, TheNextProcessGoesOnWithIt) {
  MakeVm();
  EXPECT_THAT(store_.Names(), ElementsAre(kStoredIommufd, kStoredDevice));
  requests_.clear();
  context_.reset();
  EXPECT_THAT(requests_, IsEmpty()) << "nothing happens to what is kept";
  Start();
  EXPECT_THAT(backend_->Discover()->devices, IsEmpty()) << "in use, until it is adopted";
  ASSERT_TRUE(Restart().ok());
  for (const unsigned long request : {uapi::kVfioBindIommufd, uapi::kVfioDetachPt, uapi::kHwptAlloc, uapi::kIoasAlloc,
                                      uapi::kViommuAlloc, uapi::kVdeviceAlloc, uapi::kDestroy}) {
    EXPECT_FALSE(Called(request)) << std::hex << request;
  }
  EXPECT_EQ(attached_.back().second, kept_.nested[0]) << "to what it was attached to";
  const Inventory inventory = *backend_->Discover();
  ASSERT_EQ(inventory.devices.size(), 1u);
  EXPECT_EQ(backend_->GetStats().at(0).vmids_used, 1u);
  const smmuv3::RawCommand command = {0x10, 0};
  EXPECT_TRUE(context_->Invalidate(kept_.viommus[0].id, InvalidateDataType::kArmSmmuv3, {&command, 1}).status.ok());
  // A device that is given back is kept no more.
  EXPECT_TRUE(context_->UnbindDevice(kDevice).ok());
  EXPECT_THAT(store_.Names(), ElementsAre(kStoredIommufd));
  End();
  EXPECT_THAT(store_.Names(), IsEmpty());
}

TEST_F(IommufdBackendTest, WhatIsNotAsItShouldBeIsDestroyed) {
  using Damage = std::function<void()>;
  const std::map<std::string, Damage> damages = {
      {"IOAS", [this] { kinds_[kept_.ioas] = "stage2"; }},
      {"stage 2", [this] { kinds_.erase(kept_.stage2s[0].id); }},
      {"viommu", [this] { kinds_[kept_.viommus[0].id] = "nested"; }},
      {"nested", [this] { kinds_[kept_.nested[0]] = "viommu"; }},
      {"vdevice", [this] { kinds_.erase(kept_.vdevices[0].id); }},
      {"device", [this] { kinds_.erase(kept_.devices[0].id); }},
      {"attached", [this] { errors_[uapi::kVfioAttachPt] = EINVAL; }},
      {"descriptor of the device", [this] { store_.Remove(kStoredDevice); }},
      {"descriptor of the context", [this] { store_.Remove(kStoredIommufd); }},
      {"one device too many", [this] { store_.Add("vfio.key.0000-02-00.0", store_.files.begin()->second); }},
  };
  for (const auto& [what, damage] : damages) {
    SCOPED_TRACE(what);
    MakeVm();
    damage();
    EXPECT_FALSE(Restart().ok());
    EXPECT_THAT(store_.Names(), IsEmpty());
    errors_.clear();
    EXPECT_EQ(backend_->Discover()->devices.size(), 1u) << "the device is free again";
    EXPECT_EQ(backend_->GetStats().at(0).vmids_used, 0u);
  }
}

// It is nothing but an id to the next process.
TEST_F(IommufdBackendTest, AnEventQueueIsLeftBehindWithoutItsDescriptor) {
  MakeVm();
  const ObjectId queue = *context_->AllocVeventq(kept_.viommus[0].id, VeventqType::kArmSmmuv3, 8);
  EXPECT_THAT(store_.Names(), ElementsAre(kStoredIommufd, kStoredDevice));
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(StatusErrno(context_->ReadVeventq(queue, 1).status()), ENOENT);
  EXPECT_TRUE(context_->Destroy(queue).ok());
  End();
}

TEST_F(IommufdBackendTest, WhatNobodyAsksForIsClosed) {
  MakeVm();
  context_.reset();
  Start();
  EXPECT_THAT(backend_->AdoptContexts({}), IsEmpty());
  EXPECT_THAT(store_.Names(), IsEmpty());
  EXPECT_EQ(backend_->Discover()->devices.size(), 1u);
}

TEST_F(IommufdBackendTest, NothingWasKept) {
  Start();
  KeptContext never{.key = "never"};
  EXPECT_EQ(StatusErrno(backend_->AdoptContexts({never})[0].status()), ENOENT);
}

// The next process could not go on with these.
TEST_F(IommufdBackendTest, StopsWithWhatCannotBeFoundAgain) {
  MakeVm();
  errors_[uapi::kIoasMapFile] = EINVAL;
  ASSERT_TRUE(context_->MapIoas(kept_.ioas, 0x40000000, 0x1000, {.fd = 9}).ok());
  EXPECT_THAT(store_.Names(), IsEmpty());
  context_.reset();
  errors_.clear();
  MakeVm();
  ASSERT_TRUE(context_->AllocViommu(kept_.devices[0].id, kept_.stage2s[0].id, ViommuType::kTegra241Cmdqv).ok());
  EXPECT_THAT(store_.Names(), IsEmpty());
  context_.reset();
}

TEST_F(IommufdBackendTest, StreamIdsAreOfFirmwaresTable) {
  const auto told = [this] {
    const auto others = backend_->GetCapabilities().others;
    return std::find_if(others.begin(), others.end(), [](const Capability& c) { return c.name == "stream_ids"; })
        ->available;
  };
  EXPECT_EQ(backend_->Discover()->devices.at(0).stream_id, 0u);
  EXPECT_FALSE(told());
  fs::create_directories(root_ / "sys/firmware/acpi/tables");
  std::ofstream(root_ / "sys/firmware/acpi/tables/IORT", std::ios::binary) << Iort(0x9050000, 0x100, 0x4200);
  EXPECT_EQ(backend_->Discover()->devices.at(0).stream_id, 0x4200u);
  EXPECT_TRUE(told());
}

TEST_F(IommufdBackendTest, WithoutAKeyNothingIsKept) {
  context_ = *backend_->OpenContext();
  ASSERT_TRUE(context_->BindDevice(kDevice).ok());
  EXPECT_THAT(store_.Names(), IsEmpty());
  context_.reset();
}

}  // namespace
}  // namespace viommu::agent
