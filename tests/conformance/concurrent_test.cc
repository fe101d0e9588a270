// Calls and accesses beside each other.

#include <atomic>
#include <thread>
#include <vector>

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

// Runs `body` on a thread, over and over, until told to stop.
class Repeat {
 public:
  template <typename Body>
  explicit Repeat(Body body)
      : thread_([this, body] {
          while (!stop_.load(std::memory_order_relaxed)) {
            body();
            rounds_.fetch_add(1, std::memory_order_release);
          }
        }) {}
  ~Repeat() { Stop(); }
  Repeat(const Repeat&) = delete;
  Repeat& operator=(const Repeat&) = delete;

  void Stop() {
    stop_.store(true, std::memory_order_relaxed);
    if (thread_.joinable()) thread_.join();
  }
  // Waits until the body has run `count` more times.
  void Await(uint64_t count) const {
    const uint64_t target = rounds_.load(std::memory_order_acquire) + count;
    while (rounds_.load(std::memory_order_acquire) < target) std::this_thread::yield();
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> rounds_{0};
  std::thread thread_;  // last: it uses the others
};

class Concurrent : public Conformance {};
CONFORMANCE_RIGS(Concurrent);

TEST_P(Concurrent, InvalidationsBesideControlCalls) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  std::atomic<int> failures{0};
  const auto invalidate = [&] {
    std::vector<RawCommand> commands(70, Encode(NhAsid(kAsid)));
    commands[65] = Encode(CfgiCdAll(0x10));
    if (!vm.Send(function.viommu, commands).status.ok()) ++failures;
  };
  Repeat one(invalidate);
  Repeat other(invalidate);
  for (int i = 0; i < 50; ++i) {
    const ObjectId nested = vm.Nested(function, kTranslateVste);
    EXPECT_OK(vm->Attach(function.device, nested));
    EXPECT_OK(vm->Detach(function.device));
    EXPECT_OK(vm->Destroy(nested));
  }
  one.Await(3);
  other.Await(3);
  one.Stop();
  other.Stop();
  EXPECT_EQ(failures, 0);
}

// Backends may make one call for several callers.
TEST_P(Concurrent, ABadCommandIsItsCallersAlone) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  std::atomic<int> surprises{0};
  const auto good = [&] {
    const std::vector<RawCommand> commands(3, Encode(CfgiCdAll(0x10)));
    const InvalidateResult result = vm.Send(function.viommu, commands);
    if (!result.status.ok() || result.handled != commands.size()) ++surprises;
  };
  const auto bad = [&] {
    const RawCommand commands[] = {Encode(NhAll()), Encode(CfgiCdAll(0x77)), Encode(NhAll())};
    const InvalidateResult result = vm.Send(function.viommu, commands);
    if (StatusErrnoOf(result) != EIO || result.handled > 1) ++surprises;
  };
  Repeat one(good), two(good), other(bad), another(bad);
  for (Repeat* caller : {&one, &two, &other, &another}) caller->Await(200);
  for (Repeat* caller : {&one, &two, &other, &another}) caller->Stop();
  EXPECT_EQ(surprises, 0);
}

TEST_P(Concurrent, VdevicesComeAndGoBesideInvalidations) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  std::atomic<int> surprises{0};
  Repeat invalidations([&] {
    const int error = StatusErrnoOf(vm.Send(function.viommu, CfgiCdAll(0x10)));
    if (error != 0 && error != EIO) ++surprises;
  });
  for (int i = 0; i < 100; ++i) EXPECT_OK(vm->Destroy(vm.Vdevice(function.viommu, function.device, 0x10)));
  invalidations.Await(2);
  invalidations.Stop();
  EXPECT_EQ(surprises, 0);
}

TEST_P(Concurrent, DestroyOfAViommuInUse) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  std::atomic<int> surprises{0};
  std::atomic<bool> pause{false};
  Repeat invalidations([&] {
    if (pause) return std::this_thread::yield();
    const int error = StatusErrnoOf(vm.Send(function.viommu, NhAll()));
    if (error != 0 && error != ENOENT) ++surprises;
  });
  invalidations.Await(2);
  // Busy as long as a call is in flight; free between two of them, a moment that may never be met: after a while there
  // are no more calls.
  absl::Status status;
  for (int i = 0; i < 1'000'000; ++i) {
    status = vm->Destroy(function.viommu);
    if (status.ok()) break;
    ASSERT_ERRNO(EBUSY, status);
    pause = i >= 100;
    std::this_thread::yield();
  }
  EXPECT_OK(status);
  pause = false;
  invalidations.Await(2);
  invalidations.Stop();
  EXPECT_EQ(surprises, 0);
}

TEST_P(Concurrent, TwoVmsOnOneSmmu) {
  NEED_DEVICE(a1, Role::kA1);
  std::atomic<int> failures{0};
  const auto live = [&](const std::string& pci) {
    for (int i = 0; i < 10; ++i) {
      auto context = backend().OpenContext();
      if (!context.ok()) {
        ++failures;
        return;
      }
      Vm vm(*std::move(context));
      const Function function = vm.Plug(pci, 0x10);
      if (!vm->Attach(function.device, vm.Nested(function, kTranslateVste)).ok()) ++failures;
      if (!vm.Send(function.viommu, NsnhAll()).status.ok()) ++failures;
    }
  };
  std::thread other([&] { live(a1); });
  live(A0());
  other.join();
  EXPECT_EQ(failures, 0);
}

TEST_P(Concurrent, OneDeviceTwoSuitors) {
  std::atomic<int> owners{0};
  std::atomic<int> surprises{0};
  const auto bind = [&] {
    Vm vm(Must(backend().OpenContext()));
    for (int i = 0; i < 200; ++i) {
      const absl::Status status = vm->BindDevice(A0()).status();
      if (!status.ok()) continue;
      if (++owners != 1) ++surprises;
      --owners;
      if (!vm->UnbindDevice(A0()).ok()) ++surprises;
    }
  };
  std::thread other(bind);
  bind();
  other.join();
  EXPECT_EQ(surprises, 0);
}

class DmaConcurrent : public DmaSuite {};
CONFORMANCE_RIGS(DmaConcurrent);

// What "has taken effect" means: from then on the page is the guest's again.
TEST_P(DmaConcurrent, AfterAnInvalidationNobodyWritesToTheOldPage) {
  const uint64_t pages[2] = {memory().Filled(0), memory().Filled(0)};
  guest().tables().Map(kVa, pages[0]);
  guest().Start();
  Repeat writer([&] { Write(kVa, kNew); });
  for (int i = 0; i < rig().Rounds(100); ++i) {
    const uint64_t old = pages[i % 2];
    writer.Await(1);
    guest().tables().Map(kVa, pages[(i + 1) % 2]);
    guest().Send(NhVa(kAsid, kVa));
    memory().Write(old, kOld);
    writer.Await(2);
    ASSERT_EQ(memory().Read(old), kOld) << i;
  }
  writer.Stop();
}

TEST_P(DmaConcurrent, AfterUnmapNobodyReachesTheMemory) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  constexpr uint64_t kWindow = 0x8000'0000;
  Repeat writer([&] { Write(kWindow, kNew); });
  for (int i = 0; i < rig().Rounds(50); ++i) {
    MemoryFile file(4096);
    ASSERT_OK(vm()->MapIoas(vm().ioas(), kWindow, 4096, file.handle()));
    writer.Await(1);
    ASSERT_OK(vm()->UnmapIoas(vm().ioas(), kWindow, 4096));
    auto* word = reinterpret_cast<uint64_t*>(file.data());
    std::atomic_ref<uint64_t>(*word).store(kOld);
    writer.Await(2);
    ASSERT_EQ(std::atomic_ref<uint64_t>(*word).load(), kOld) << i;
  }
  writer.Stop();
}

TEST_P(DmaConcurrent, AfterDetachNobodyReachesTheMemory) {
  const uint64_t page = memory().Filled(0);
  guest().tables().Map(kVa, page);
  guest().Start();
  const RawVste vste = guest().cds().Vste();
  Repeat writer([&] { Write(kVa, kNew); });
  for (int i = 0; i < rig().Rounds(50); ++i) {
    writer.Await(1);
    ASSERT_OK(vm()->Detach(guest().function().device));
    memory().Write(page, kOld);
    writer.Await(2);
    ASSERT_EQ(memory().Read(page), kOld) << i;
    guest().Attach(vste);
  }
  writer.Stop();
}

// While a device goes from one vSTE to another, an access goes by the one or the other, or is refused.
TEST_P(DmaConcurrent, ReplaceIsNeverTorn) {
  const uint64_t page = memory().Filled(kOld);
  // The same address is mapped to another page behind stage 1.
  guest().tables().Map(page, memory().Filled(kNew));
  guest().Start();
  const RawVste vste = guest().cds().Vste();
  std::atomic<int> surprises{0};
  Repeat reader([&] {
    const std::optional<uint64_t> got = Read(page);
    if (got.has_value() && got != kOld && got != kNew) ++surprises;
  });
  for (int i = 0; i < rig().Rounds(50); ++i) {
    guest().Attach(smmuv3::kBypassVste);
    EXPECT_EQ(Read(page), kOld);
    guest().Attach(vste);
    EXPECT_EQ(Read(page), kNew);
  }
  reader.Await(2);
  reader.Stop();
  EXPECT_EQ(surprises, 0);
}

// From one context descriptor table to another: only one word of the entry changes, so that no access is refused.
TEST_P(DmaConcurrent, ReplaceOfOneWordIsSeamless) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Stage1 tables(memory(), Granule::k4k);
  tables.Map(kVa, memory().Filled(kNew));
  CdTable cds(memory(), smmuv3::S1Fmt::kLinear, 0);
  cds.Set(0, MakeCd(kAsid + 1, tables, Ips()));
  const RawVste one = guest().cds().Vste();
  std::atomic<int> surprises{0};
  Repeat reader([&] {
    const std::optional<uint64_t> got = Read(kVa);
    if (got != kOld && got != kNew) ++surprises;
  });
  for (int i = 0; i < rig().Rounds(50); ++i) {
    guest().Attach(cds.Vste());
    EXPECT_EQ(Read(kVa), kNew);
    guest().Attach(one);
    EXPECT_EQ(Read(kVa), kOld);
  }
  reader.Await(2);
  reader.Stop();
  EXPECT_EQ(surprises, 0);
}

TEST_P(DmaConcurrent, ManyDevicesAndInvalidations) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Guest second(vm(), memory(), a1, 0x20, Ips(), Granule::k4k, &guest().function());
  second.Attach(guest().cds().Vste());
  std::atomic<int> surprises{0};
  Repeat one([&] {
    if (Read(kVa) != kOld) ++surprises;
  });
  Repeat other([&] {
    if (Read({.device = a1, .address = kVa}) != kOld) ++surprises;
  });
  Repeat invalidations([&] { vm().Send(guest().function().viommu, NsnhAll()); });
  one.Await(static_cast<uint64_t>(rig().Rounds(100)));
  other.Await(static_cast<uint64_t>(rig().Rounds(100)));
  invalidations.Await(static_cast<uint64_t>(rig().Rounds(20)));
  one.Stop();
  other.Stop();
  invalidations.Stop();
  EXPECT_EQ(surprises, 0);
}

}  // namespace
}  // namespace viommu::conformance
