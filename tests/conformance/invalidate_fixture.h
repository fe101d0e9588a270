// A VM with one vdevice whose viommu takes invalidations.

#ifndef VIOMMU_TESTS_CONFORMANCE_INVALIDATE_FIXTURE_H_
#define VIOMMU_TESTS_CONFORMANCE_INVALIDATE_FIXTURE_H_

#include <memory>
#include <span>
#include <vector>

#include "tests/conformance/vm.h"

namespace viommu::conformance {

inline constexpr uint32_t kVsid = 0x99;
inline constexpr uint32_t kOtherVsid = 0x77;  // of no vdevice

// A command that is always fine, and one that never is.
inline RawCommand GoodCommand() { return smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhAll}); }
inline RawCommand BadCommand() { return smmuv3::Encode({.opcode = smmuv3::Opcode::kSync}); }

class InvalidateFixture : public Conformance {
 protected:
  using Conformance::Conformance;
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    vm_ = std::make_unique<Vm>(Open());
    f_ = vm_->Plug(A0(), kVsid);
  }
  void TearDown() override { vm_.reset(); }

  Vm& vm() { return *vm_; }
  InvalidateResult Send(std::span<const RawCommand> commands) { return vm().Send(f_.viommu, commands); }
  InvalidateResult Send(const smmuv3::Command& command) { return vm().Send(f_.viommu, command); }
  InvalidateResult SendRaw(const InvalidateArray& array) { return vm()->InvalidateRaw(f_.viommu, array); }

  // `count` good commands with `bad` at this index.
  static std::vector<RawCommand> WithBadAt(uint32_t count, uint32_t bad) {
    std::vector<RawCommand> commands(count, GoodCommand());
    commands[bad] = BadCommand();
    return commands;
  }

  // What SMMU A has counted of these.
  agent::InvalidationCount Of(smmuv3::Opcode opcode) {
    for (const agent::InvalidationCount& entry : StatsOf(Info(A0()).smmu).invalidations) {
      if (entry.opcode == static_cast<uint8_t>(opcode)) return entry;
    }
    return {};
  }

  void ExpectRefused(int error, uint32_t handled, const InvalidateResult& result) {
    EXPECT_ERRNO(error, result.status);
    EXPECT_EQ(result.handled, handled);
  }

  Function f_;

 private:
  std::unique_ptr<Vm> vm_;
};

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_INVALIDATE_FIXTURE_H_
