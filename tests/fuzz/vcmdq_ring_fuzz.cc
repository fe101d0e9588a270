// A guest-owned command queue whose owner writes anything anywhere, at any time: also between the hardware's look at
// the registers and its fetch from the ring.
//
// Input: steps, each a byte that says what happens and its values.

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/vcmdq.h"
#include "agent/smmuv3/emulator/vintf_filter.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/words.h"
#include "agent/smmuv3/vintf/page.h"
#include "tests/fuzz/input.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;

constexpr uint64_t kBase = 0x80000;
constexpr uint32_t kLog2Size = 3;
constexpr uint32_t kSize = 1u << kLog2Size;
constexpr uint32_t kVintf = 2;
constexpr uint32_t kQueue = 1;
constexpr uint16_t kVmid = 7;
constexpr uint32_t kSid = 0x100;

// A ring that its owner may write to while it is being read.
class HostileRing final : public Memory {
 public:
  HostileRing(VintfPage* page, fuzz::Input* input) : page_(page), input_(input) {}

  bool Read(uint64_t address, std::span<std::byte> out) override {
    FUZZ_CHECK(address >= kBase && address % sizeof(RawCommand) == 0);
    const uint64_t offset = address - kBase;
    FUZZ_CHECK(!out.empty() && offset + out.size() <= sizeof(ring_));
    if (failing_) return false;
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(ring_.data()) + offset, out.size());
    if (interfering_) Scribble();
    return true;
  }
  bool Write(uint64_t, std::span<const std::byte>) override { fuzz::Fail("the ring is read only", __FILE__, __LINE__); }
  bool ReadWord(uint64_t, uint64_t&) override { fuzz::Fail("entries are read whole", __FILE__, __LINE__); }
  bool WriteWord(uint64_t, uint64_t) override { fuzz::Fail("the ring is read only", __FILE__, __LINE__); }

  void Scribble() {
    if (input_->TakeFlag()) {
      ring_[input_->Take<uint8_t>() % kSize] = input_->Take<RawCommand>();
    } else {
      const auto reg = static_cast<QueueRegister>(4 * (input_->Take<uint8_t>() % 6));
      page_->Store(kQueue, reg, input_->Take<uint32_t>());
    }
  }
  // A command that the queue carries, so that the fuzzer gets far.
  void PutGood(uint32_t index, uint32_t which) {
    const std::array<Command, 4> good = {Command{.opcode = Opcode::kSync},
                                         Command{.opcode = Opcode::kTlbiNhAsid, .vmid = 9, .asid = 3},
                                         Command{.opcode = Opcode::kTlbiNhVa, .address = 0x7000},
                                         Command{.opcode = Opcode::kAtcInv, .sid = 5, .size = kAtcSizeAll}};
    ring_[index] = Encode(good[which]);
  }
  void SetFailing(bool failing) { failing_ = failing; }
  void SetInterfering(bool interfering) { interfering_ = interfering; }

 private:
  VintfPage* const page_;
  fuzz::Input* const input_;
  std::array<RawCommand, kSize> ring_ = {};
  bool failing_ = false;
  bool interfering_ = false;
};

void CheckCommand(const RawCommand& raw) {
  const std::optional<Command> command = Decode(raw);
  FUZZ_CHECK(command.has_value());
  switch (command->opcode) {
    case Opcode::kSync:
      FUZZ_CHECK(command->cs == kSyncSignalNone);
      return;
    case Opcode::kTlbiNhAsid:
    case Opcode::kTlbiNhVa:
      FUZZ_CHECK(command->vmid == kVmid);
      return;
    case Opcode::kAtcInv:
      FUZZ_CHECK(command->sid == kSid);
      return;
    default:
      fuzz::Fail("a guest's queue carries four commands", __FILE__, __LINE__);
  }
}

uint64_t Sum(const std::array<std::atomic<uint64_t>, 256>& counters) {
  uint64_t sum = 0;
  for (const auto& counter : counters) sum += counter.load(std::memory_order_relaxed);
  return sum;
}

void CheckReleased(const VintfPage& page) {
  for (uint32_t reg = 0; reg < 6; ++reg) {
    FUZZ_CHECK(page.Load(kQueue, static_cast<QueueRegister>(4 * reg)) == 0);
  }
}

}  // namespace
}  // namespace viommu::smmuv3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viommu::smmuv3;
  viommu::fuzz::Input input(data, size);
  const std::shared_ptr<VintfPage> page = VintfPage::Create();
  FUZZ_CHECK(page != nullptr);
  HostileRing ring(page.get(), &input);
  VintfFilter filter{.vmid = kVmid, .hyp_own = false, .slots = {}};
  filter.slots[3] = SidSlot{.virt_sid = 5, .sid = kSid};
  uint32_t in_turn = 0;
  // kIllegalAccess stands for a command that is never complete.
  CommandErrorCode answer = CommandErrorCode::kNone;
  const CommandExecutor executor = [&](const RawCommand& raw, VcmdqId id) -> std::optional<CommandErrorCode> {
    FUZZ_CHECK(id.vintf == kVintf && id.lvcmdq == kQueue);
    CheckCommand(raw);
    if (answer == CommandErrorCode::kIllegalAccess) return std::nullopt;
    ++in_turn;
    return answer;
  };
  VcmdqCounters counters;
  Vcmdq queue;
  queue.Assign(*page, kQueue, kBase, kLog2Size);
  uint64_t executed = 0;
  while (!input.empty()) {
    switch (input.Take<uint8_t>() % 8) {
      case 0:
        ring.SetInterfering(input.TakeFlag());
        ring.SetFailing((input.Take<uint8_t>() & 7) == 7);
        break;
      case 1:
        answer = static_cast<CommandErrorCode>(input.Take<uint8_t>() % 5);
        break;
      case 2: {
        const uint32_t index = input.Take<uint8_t>() % kSize;
        ring.PutGood(index, input.Take<uint8_t>() % 4);
        break;
      }
      case 3:
        page->Store(kQueue, QueueRegister::kConfig, 1);
        page->Store(kQueue, QueueRegister::kProd, input.Take<uint8_t>() % (2 * kSize));
        break;
      case 4:
        page->Store(kQueue, QueueRegister::kGerrorn, page->Load(kQueue, QueueRegister::kGerror));
        break;
      case 5:
        ring.Scribble();
        break;
      case 6:
        if ((input.Take<uint8_t>() & 15) != 15) break;
        queue.Disable(*page, kQueue);
        queue.Release(*page, kQueue);
        CheckReleased(*page);
        FUZZ_CHECK(!queue.error_active());
        queue.Assign(*page, kQueue, kBase, kLog2Size);
        break;
      default: {
        const uint32_t limit = 1 + input.Take<uint8_t>() % (2 * kSize);
        const bool had_error = queue.error_active();
        in_turn = 0;
        const Vcmdq::Turn turn = queue.Run({.page = page.get(),
                                            .id = {.vintf = kVintf, .lvcmdq = kQueue},
                                            .filter = &filter,
                                            .memory = &ring,
                                            .executor = &executor,
                                            .counters = &counters,
                                            .run_limit = limit});
        FUZZ_CHECK(in_turn <= limit && in_turn <= kSize);
        FUZZ_CHECK(turn.worked || in_turn == 0);
        if (turn.error_raised) FUZZ_CHECK(queue.error_active() && turn.worked);
        if (had_error && queue.error_active() && !turn.error_raised) FUZZ_CHECK(in_turn == 0);
        executed += in_turn;
        const uint64_t seen = Sum(counters.done) + Sum(counters.refused) + Sum(counters.failed);
        FUZZ_CHECK(seen >= executed);
      }
    }
  }
  return 0;
}
