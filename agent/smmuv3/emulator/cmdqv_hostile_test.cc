// A guest in another process that writes whatever it likes into its page and its ring, while a well-behaved neighbour
// works: the neighbour's commands are all carried out, in order, and nothing reaches the SMMU that does not bear the
// VMID or the StreamID of the interface that it came through.

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <vector>

#include "agent/smmuv3/emulator/cmdqv.h"
#include "agent/smmuv3/emulator/vcmdq_testing.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vintf/producer.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;
using std::chrono::steady_clock;
using WaitResult = VcmdqProducer::WaitResult;

constexpr uint32_t kLog2Size = 7;
constexpr uint32_t kEntries = 1u << kLog2Size;
constexpr uint64_t kRingBytes = sizeof(RawCommand) << kLog2Size;
constexpr uint16_t kHostileVmid = 11;
constexpr uint16_t kNeighbourVmid = 22;
constexpr uint32_t kHostileSid = 0x111;
constexpr uint32_t kNeighbourSid = 0x222;
constexpr uint32_t kVirtSid = 5;  // of both

// xorshift64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>((Next() >> 11) % bound); }

 private:
  uint64_t state_;
};

// Something that a queue may carry, something it may not, or noise.
RawCommand AnyCommand(Random& random) {
  switch (random.Below(6)) {
    case 0:
      return InvalidateAtc(kVirtSid);
    case 1:
      return InvalidateAtc(kNeighbourSid);
    case 2:
      return SyncCommand();
    case 3:
      return {random.Next(), random.Next()};
    case 4: {
      const Opcode opcode = kAllOpcodes[random.Below(kAllOpcodes.size())];
      return {kOpcodeField.Set(random.Next(), static_cast<uint64_t>(opcode)), random.Next()};
    }
    default:
      return InvalidateAsid(static_cast<uint16_t>(random.Next()), kNeighbourVmid);
  }
}

// The guest's process. Never returns; makes no call that takes a lock.
[[noreturn]] void Scribble(VintfPage& page, std::span<std::byte> rings, uint64_t seed) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Random random(seed);
  auto* words = reinterpret_cast<uint64_t*>(rings.data());
  while (true) {
    const uint32_t queue = random.Below(2);
    const auto reg = static_cast<QueueRegister>(4 * random.Below(6));
    switch (random.Below(10)) {
      case 0:
        page.Store(queue, reg, static_cast<uint32_t>(random.Next()));
        break;
      case 1:
        page.Store(queue, reg, random.Below(2));
        break;
      case 2:
        page.Store(4 * random.Below(cmdqv::kPageBytes / 4), static_cast<uint32_t>(random.Next()));
        break;
      case 3:
        page.Store(cmdqv::kWakeWordOffset, random.Below(3));
        break;
      case 4:
        syscall(SYS_futex, page.wake_word(), FUTEX_WAKE, 1, nullptr, nullptr, 0);
        break;
      case 5:  // as a driver does
        page.Store(queue, QueueRegister::kGerrorn, page.Load(queue, QueueRegister::kGerror));
        page.WakeHardware();
        break;
      case 6:
        page.Store(queue, QueueRegister::kConfig, 1);
        page.Store(queue, QueueRegister::kProd, random.Below(2 * kEntries));
        page.WakeHardware();
        break;
      default: {
        const RawCommand command = AnyCommand(random);
        const size_t entry = random.Below(2 * kEntries);
        std::atomic_ref<uint64_t>(words[2 * entry]).store(command.dw0, std::memory_order_relaxed);
        std::atomic_ref<uint64_t>(words[2 * entry + 1]).store(command.dw1, std::memory_order_relaxed);
      }
    }
  }
}

// In the SMMU's place: looks at everything that comes through.
class Observer {
 public:
  CommandErrorCode Execute(const RawCommand& raw) {
    const std::optional<Command> command = Decode(raw);
    if (!command.has_value()) return Violation();
    switch (command->opcode) {
      case Opcode::kSync:
        return command->cs == kSyncSignalNone ? CommandErrorCode::kNone : Violation();
      case Opcode::kAtcInv:
        if (command->sid == kHostileSid) return Count(hostile);
        return command->sid == kNeighbourSid ? CommandErrorCode::kNone : Violation();
      case Opcode::kTlbiNhAsid:
        if (command->vmid == kNeighbourVmid) {
          // The neighbour counts upwards.
          if (command->asid != static_cast<uint16_t>(next)) return Violation();
          ++next;
          return CommandErrorCode::kNone;
        }
        [[fallthrough]];
      case Opcode::kTlbiNhVa:
        return command->vmid == kHostileVmid ? Count(hostile) : Violation();
      default:
        return Violation();
    }
  }

  std::atomic<uint64_t> violations{0};
  std::atomic<uint64_t> hostile{0};
  std::atomic<uint64_t> next{0};  // of the neighbour

 private:
  CommandErrorCode Violation() {
    violations.fetch_add(1);
    return CommandErrorCode::kNone;
  }
  static CommandErrorCode Count(std::atomic<uint64_t>& counter) {
    counter.fetch_add(1);
    return CommandErrorCode::kNone;
  }
};

std::shared_ptr<VintfPage> MapPage(Cmdqv& cmdqv, uint32_t vintf) {
  const int fd = cmdqv.DupPage(vintf);
  std::shared_ptr<VintfPage> page = VintfPage::Map(fd, 0, cmdqv::kPageBytes);
  close(fd);
  return page;
}

TEST(CmdqvHostileTest, AHostileGuestHurtsItselfAlone) {
  SharedTestMemory memory(4 * kRingBytes);
  Observer observer;
  std::atomic<uint64_t> foreign_errors{0};
  Cmdqv cmdqv({.vintfs = 3, .queues_per_vintf = 2, .sid_slots = 2}, {.run_limit = 16}, &memory,
              [&](const RawCommand& raw, VcmdqId) { return observer.Execute(raw); });
  ASSERT_TRUE(cmdqv.EnableVintf(1, kHostileVmid, false, [&](const LvcmdqErrMap& map) {
    if ((map[0] & ~uint64_t{3}) != 0 || map[1] != 0) foreign_errors.fetch_add(1);
  }));
  ASSERT_TRUE(cmdqv.EnableVintf(2, kNeighbourVmid, false, [&](const LvcmdqErrMap&) { foreign_errors.fetch_add(1); }));
  cmdqv.SetSidSlot(1, 0, {.virt_sid = kVirtSid, .sid = kHostileSid});
  cmdqv.SetSidSlot(2, 0, {.virt_sid = kVirtSid, .sid = kNeighbourSid});

  // While this process has one thread: the CMDQV's starts with the first queue.
  const std::shared_ptr<VintfPage> hostile_page = MapPage(cmdqv, 1);
  const pid_t child = fork();
  if (child == 0) Scribble(*hostile_page, memory.At(0, 2 * kRingBytes), 0x9e3779b97f4a7c15);
  ASSERT_GT(child, 0);
  cmdqv.AssignQueue(1, 0, SharedTestMemory::kBase, kLog2Size);
  cmdqv.AssignQueue(1, 1, SharedTestMemory::kBase + kRingBytes, kLog2Size);

  const auto deadline = steady_clock::now() + std::chrono::minutes(2);
  cmdqv.AssignQueue(2, 0, SharedTestMemory::kBase + 2 * kRingBytes, kLog2Size);
  VcmdqProducer neighbour(MapPage(cmdqv, 2), 0, memory.At(2 * kRingBytes, kRingBytes));
  ASSERT_TRUE(neighbour.Enable(deadline));
  const VcmdqCounters& counters = cmdqv.counters();
  const auto refused = [&] {
    uint64_t sum = 0;
    for (const auto& counter : counters.refused) sum += counter.load();
    return sum;
  };
  uint64_t sent = 0;
  int rounds = 0;
  // Until both have done their worst.
  for (; rounds < 300 || observer.hostile < 100 || refused() < 100; ++rounds) {
    std::vector<RawCommand> batch;
    for (int i = 0; i < 5; ++i) batch.push_back(InvalidateAsid(static_cast<uint16_t>(sent++)));
    batch.push_back(InvalidateAtc(kVirtSid));
    ASSERT_EQ(neighbour.Submit(batch, deadline).result, WaitResult::kDone);
    ASSERT_EQ(neighbour.Sync(deadline), WaitResult::kDone);
    ASSERT_EQ(observer.next, sent);
    // The hostile guest's queue comes and goes, too.
    if (rounds % 100 == 99) {
      cmdqv.DisableQueue(1, 1);
      cmdqv.ReleaseQueue(1, 1);
      cmdqv.AssignQueue(1, 1, SharedTestMemory::kBase + kRingBytes, kLog2Size);
    }
  }
  kill(child, SIGKILL);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(observer.violations, 0u);
  EXPECT_EQ(foreign_errors, 0u);
  EXPECT_EQ(neighbour.error(), std::nullopt);
  RecordProperty("neighbour_rounds", rounds);
  RecordProperty("hostile_carried_out", static_cast<int>(observer.hostile));
  RecordProperty("hostile_refused", static_cast<int>(refused()));
}

}  // namespace
}  // namespace viommu::smmuv3
