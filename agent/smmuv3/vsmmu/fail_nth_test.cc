// Every call of a VM's life, and every allocation of memory in it, is made to fail once: nothing leaks, and trying
// again works. In the manner of the kernel's iommufd_fail_nth.

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/test_guest.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kTop = TestGuest::kBase + TestGuest::kBytes;

class FailNthTest : public testing::TestWithParam<Personality> {
 protected:
  FailNthTest() : backend_(MakeBackend()), memory_(backend_->GetMemoryStats()) {}

  // SMMU a has one interface of two queues.
  static std::unique_ptr<EmulatedBackend> MakeBackend() {
    EmulatedInventory inventory = MakeTestInventory(GetParam());
    inventory.smmus[0].info.hw_queue = HwQueueInventory{.vintfs = 1, .queues_per_vintf = 2, .sid_slots = 2};
    return *EmulatedBackend::Create(std::move(inventory));
  }

  // Makes a call, once more when it fails; `failures` counts.
  template <typename Call>
  auto Retried(Call call) {
    auto result = call();
    if (result.ok()) return result;
    ++failures_;
    auto again = call();
    EXPECT_TRUE(again.ok()) << absl::Status(again.status()) << " after " << absl::Status(result.status());
    return again;
  }
  void RetriedStatus(const std::function<absl::Status()>& call) {
    static_cast<void>(Retried([&]() -> absl::StatusOr<int> {
      const absl::Status status = call();
      return status.ok() ? absl::StatusOr<int>(0) : absl::StatusOr<int>(status);
    }));
  }

  // All kinds of objects, built up and taken down again.
  void LiveOnce() {
    auto context = *Retried([&] { return backend_->OpenContext(); });
    Context& vm = *context;
    const ObjectId device = *Retried([&] { return vm.BindDevice(kDeviceA0); });
    const ObjectId ioas = *Retried([&] { return vm.AllocIoas(); });
    RetriedStatus([&] { return vm.MapIoas(ioas, TestGuest::kBase, TestGuest::kBytes, guest_.handle()); });
    RetriedStatus([&] { return vm.Attach(device, ioas); });
    const ObjectId stage2 = *Retried([&] { return vm.AllocStage2(device, ioas); });
    const ObjectId plain = *Retried([&] { return vm.AllocHwpt({.device = device, .pt = ioas}); });
    // Into tables that are there, in single pages.
    RetriedStatus([&] { return vm.MapIoas(ioas, kTop + 0x1000, 0x1000, guest_.handle()); });
    RetriedStatus([&] { return vm.Attach(device, plain); });
    const ObjectId viommu = Retried([&] { return vm.AllocViommu(device, stage2, ViommuType::kArmSmmuv3); })->id;
    const ObjectId vdevice = *Retried([&] { return vm.AllocVdevice(viommu, device, 0x10); });
    const ObjectId veventq = *Retried([&] { return vm.AllocVeventq(viommu, VeventqType::kArmSmmuv3, 8); });
    const ObjectId faults = *Retried([&] { return vm.AllocFaultQueue(); });
    const ObjectId nested =
        *Retried([&] { return vm.AllocNested(viommu, device, TestGuest::Vste(TestGuest::kBase, true), faults); });
    RetriedStatus([&] { return vm.Attach(device, nested); });
    static_cast<void>(Retried([&] { return vm.GetHwInfo(device); }));
    const smmuv3::RawCommand all = smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhAll});
    RetriedStatus([&] { return vm.Invalidate(viommu, InvalidateDataType::kArmSmmuv3, {&all, 1}).status; });
    static_cast<void>(Retried([&] { return vm.ReadVeventq(veventq, 1); }));
    static_cast<void>(Retried([&] { return vm.ReadFaults(faults, 1); }));
    static_cast<void>(Retried([&] { return vm.UnmapIoas(ioas, kTop, 0x2000); }));
    RetriedStatus([&] { return vm.Attach(device, stage2); });
    RetriedStatus([&] { return vm.Detach(device); });
    for (const ObjectId object : {nested, vdevice, veventq, faults, viommu, stage2, plain}) {
      RetriedStatus([&] { return vm.Destroy(object); });
    }
    static_cast<void>(Retried([&] { return vm.UnmapIoas(ioas, 0, ~uint64_t{0}); }));
    RetriedStatus([&] { return vm.Destroy(ioas); });
    // No object is left behind but the device.
    const ObjectId probe = *Retried([&] { return vm.AllocIoas(); });
    EXPECT_EQ(probe, device + 1);
    RetriedStatus([&] { return vm.Destroy(probe); });
    RetriedStatus([&] { return vm.UnbindDevice(kDeviceA0); });
  }

  // A guest with command queues of its own, from its interface to its end.
  void LiveWithQueuesOnce() {
    auto context = *Retried([&] { return backend_->OpenContext(); });
    Context& vm = *context;
    const ObjectId device = *Retried([&] { return vm.BindDevice(kDeviceA0); });
    const ObjectId ioas = *Retried([&] { return vm.AllocIoas(); });
    RetriedStatus([&] { return vm.MapIoas(ioas, TestGuest::kBase, TestGuest::kBytes, guest_.handle()); });
    const ObjectId stage2 = *Retried([&] { return vm.AllocStage2(device, ioas); });
    const ObjectId viommu = Retried([&] { return vm.AllocViommu(device, stage2, ViommuType::kTegra241Cmdqv); })->id;
    const ObjectId vdevice = *Retried([&] { return vm.AllocVdevice(viommu, device, 0x10); });
    std::array<ObjectId, 2> queues = {};
    for (uint32_t index = 0; index < queues.size(); ++index) {
      queues[index] = *Retried([&] {
        return vm.AllocHwQueue(viommu, HwQueueType::kTegra241Cmdqv, index, TestGuest::kBase + index * 0x1000, 0x1000);
      });
    }
    const VintfMapping mapping = *Retried([&] { return vm.MapVintf(viommu); });
    ::close(mapping.fd);
    RetriedStatus([&] { return vm.UnmapVintf(viommu); });
    for (const ObjectId object : {queues[1], queues[0], vdevice, viommu, stage2}) {
      RetriedStatus([&] { return vm.Destroy(object); });
    }
    static_cast<void>(Retried([&] { return vm.UnmapIoas(ioas, 0, ~uint64_t{0}); }));
    RetriedStatus([&] { return vm.Destroy(ioas); });
    RetriedStatus([&] { return vm.UnbindDevice(kDeviceA0); });
  }

  // As far as it comes: the context is closed where the first call fails.
  void LiveUntilItFails() {
    auto opened = backend_->OpenContext();
    if (!opened.ok()) return;
    Context& vm = **opened;
    const auto device = vm.BindDevice(kDeviceA0);
    const auto ioas = vm.AllocIoas();
    if (!device.ok() || !ioas.ok()) return;
    if (!vm.MapIoas(*ioas, TestGuest::kBase, TestGuest::kBytes, guest_.handle()).ok()) return;
    if (!vm.MapIoas(*ioas, kTop + 0x1000, 0x1000, guest_.handle()).ok()) return;
    if (!vm.Attach(*device, *ioas).ok()) return;
    const auto stage2 = vm.AllocStage2(*device, *ioas);
    if (!stage2.ok() || !vm.MapIoas(*ioas, uint64_t{1} << 40, 0x1000, guest_.handle()).ok()) return;
    const auto viommu = vm.AllocViommu(*device, *stage2, ViommuType::kArmSmmuv3);
    if (!viommu.ok() || !vm.AllocVdevice(viommu->id, *device, 0x10).ok()) return;
    const auto nested = vm.AllocNested(viommu->id, *device, TestGuest::Vste(TestGuest::kBase));
    if (nested.ok()) static_cast<void>(vm.Attach(*device, *nested));
  }

  void ExpectNothingLeft(const std::string& what) {
    EXPECT_EQ(backend_->GetMemoryStats(), memory_) << what;
    for (const SmmuStats& stats : backend_->GetStats()) {
      EXPECT_EQ(stats.vmids_used, 0u) << what;
      EXPECT_EQ(stats.tlb_entries, 0u) << what;
      EXPECT_EQ(stats.atc_entries, 0u) << what;
    }
    EXPECT_EQ(backend_->ReadSte("a", kSidA0), smmuv3::MakeAbortSte()) << what;
  }

  // Each of `ops`, the first time that `live` calls it, the second time, and so on.
  void FailEach(std::span<const BackendOp> ops, const std::function<void()>& live) {
    for (const BackendOp op : ops) {
      for (uint32_t skip = 0;; ++skip) {
        failures_ = 0;
        backend_->FailNext(op, ENOMEM, skip);
        live();
        ExpectNothingLeft(std::string(BackendOpName(op)) + " " + std::to_string(skip));
        if (failures_ == 0) {
          EXPECT_GT(skip, 0u) << BackendOpName(op);
          break;
        }
        EXPECT_EQ(failures_, 1);
      }
      // The wish is still there, and must not hit what comes next.
      backend_ = MakeBackend();
    }
  }
  // Each allocation of memory; returns how many there are.
  uint32_t FailEachAllocation(const std::function<void()>& live) {
    uint32_t skip = 0;
    for (bool all = false; !all; ++skip) {
      failures_ = 0;
      backend_->FailNextAllocation(skip);
      live();
      all = backend_->CancelAllocationFailure();
      EXPECT_EQ(failures_, all ? 0 : 1);
      ExpectNothingLeft("allocation " + std::to_string(skip));
    }
    return skip;
  }

  TestGuest guest_;
  std::unique_ptr<EmulatedBackend> backend_;
  const HostMemoryStats memory_;
  int failures_ = 0;
};

TEST_P(FailNthTest, EveryCall) {
  constexpr std::array kOps = {
      BackendOp::kOpenContext, BackendOp::kBindDevice,  BackendOp::kUnbindDevice,    BackendOp::kAllocIoas,
      BackendOp::kMapIoas,     BackendOp::kUnmapIoas,   BackendOp::kAllocStage2,     BackendOp::kAllocViommu,
      BackendOp::kAllocPlain,  BackendOp::kAllocNested, BackendOp::kAllocVdevice,    BackendOp::kAttach,
      BackendOp::kDetach,      BackendOp::kInvalidate,  BackendOp::kAllocVeventq,    BackendOp::kReadVeventq,
      BackendOp::kReadFaults,  BackendOp::kDestroy,     BackendOp::kAllocFaultQueue, BackendOp::kGetHwInfo,
  };
  FailEach(kOps, [this] { LiveOnce(); });
}

TEST_P(FailNthTest, EveryCallOfAGuestWithQueues) {
  constexpr std::array kOps = {BackendOp::kAllocViommu, BackendOp::kAllocVdevice, BackendOp::kAllocHwQueue,
                               BackendOp::kMapVintf, BackendOp::kDestroy};
  FailEach(kOps, [this] { LiveWithQueuesOnce(); });
}

TEST_P(FailNthTest, EveryAllocation) {
  // Tables of several levels, three times over, files and a context descriptor.
  EXPECT_GT(FailEachAllocation([this] { LiveOnce(); }), 15u);
}

TEST_P(FailNthTest, EveryAllocationOfAGuestWithQueues) {
  EXPECT_GT(FailEachAllocation([this] { LiveWithQueuesOnce(); }), 4u);
}

TEST_P(FailNthTest, ClosedWhereItFails) {
  uint32_t skip = 0;
  for (bool all = false; !all; ++skip) {
    backend_->FailNextAllocation(skip);
    LiveUntilItFails();
    all = backend_->CancelAllocationFailure();
    ExpectNothingLeft("allocation " + std::to_string(skip));
  }
  EXPECT_GT(skip, 10u);
}

INSTANTIATE_TEST_SUITE_P(Personalities, FailNthTest, testing::Values(Strict(), Linux72()),
                         [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; });

}  // namespace
}  // namespace viommu::agent
