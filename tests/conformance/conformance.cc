#include "tests/conformance/conformance.h"

#include <cstdlib>
#include <iostream>

#include "agent/errno_status.h"
#include "tests/conformance/one_sided.h"
#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

const OneSided* FindOneSided(const std::string& name) {
  for (const OneSided& entry : kOneSided) {
    if (name == entry.name) return &entry;
  }
  return nullptr;
}

// "Suite.Case" of the running case, without the prefix of the instantiation and the parameter.
std::string CaseName() {
  const testing::TestInfo* info = testing::UnitTest::GetInstance()->current_test_info();
  std::string suite = info->test_suite_name();
  suite = suite.substr(suite.find('/') + 1);
  std::string name = info->name();
  name = name.substr(0, name.find('/'));
  return suite + "." + name;
}

[[noreturn]] void Die(const std::string& message) {
  std::cerr << message << std::endl;
  std::abort();
}

}  // namespace

testing::AssertionResult HasErrno(const char* want_text, const char* got_text, int want, const absl::Status& got) {
  const int number = got.ok() ? 0 : agent::StatusErrno(got);
  if (number == want && got.ok() == (want == 0)) return testing::AssertionSuccess();
  const auto name = [](int value) { return value == 0 ? std::string("OK") : std::string(agent::ErrnoName(value)); };
  return testing::AssertionFailure() << got_text << "\n  gives " << (got.ok() ? "OK" : got.ToString()) << "\n  wanted "
                                     << name(want) << " (" << want_text << ")";
}

int StatusErrnoOf(const InvalidateResult& result) { return agent::StatusErrno(result.status); }

void ConformanceBase::SetUp() {
  rig_ = factory().make(request_);
  if (rig_ == nullptr) Die("rig " + factory().name + " cannot be set up");
  if (rig_->Device(Role::kA0).empty()) Die("rig " + factory().name + " has no device");
  const testing::TestInfo* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::string name = std::string(info->test_suite_name()) + "." + info->name();
  huge_pages = rig_->WantsHugePages(name);
  const std::string flaw = rig_->Flaw(name);
  if (!flaw.empty()) GTEST_SKIP() << "hardware: " << flaw;
  const OneSided* entry = FindOneSided(CaseName());
  if (entry == nullptr) return;
  const bool emulated = rig_->hooks() != nullptr;
  if (emulated != (entry->side == Side::kEmulation)) {
    GTEST_SKIP() << (emulated ? "kernel only: " : "emulation only: ") << entry->reason;
  }
}

EmulationHooks& ConformanceBase::hooks() {
  const OneSided* entry = FindOneSided(CaseName());
  if (entry == nullptr || entry->side != Side::kEmulation) Die(CaseName() + " is missing in one_sided.h");
  return *rig_->hooks();
}

std::unique_ptr<Context> ConformanceBase::Open() {
  auto context = backend().OpenContext();
  if (!context.ok()) Die("OpenContext: " + context.status().ToString());
  return *std::move(context);
}

agent::DeviceInfo ConformanceBase::Info(const std::string& pci_address) {
  for (const agent::DeviceInfo& device : Must(backend().Discover()).devices) {
    if (device.pci_address == pci_address) return device;
  }
  ADD_FAILURE() << "Discover() does not know " << pci_address;
  return {};
}

agent::SmmuInfo ConformanceBase::SmmuOf(const std::string& pci_address) {
  const std::string name = Info(pci_address).smmu;
  for (const agent::SmmuInfo& smmu : Must(backend().Discover()).smmus) {
    if (smmu.name == name) return smmu;
  }
  ADD_FAILURE() << "Discover() does not know SMMU " << name;
  return {};
}

std::string ConformanceBase::Lacks(std::string_view capability) {
  for (const agent::Capability& entry : backend().GetCapabilities().others) {
    if (entry.name == capability) return entry.available ? "" : entry.name + ": " + entry.reason;
  }
  return std::string(capability) + ": not among its capabilities";
}

agent::SmmuStats ConformanceBase::StatsOf(const std::string& smmu) {
  for (const agent::SmmuStats& stats : backend().GetStats()) {
    if (stats.smmu == smmu) return stats;
  }
  ADD_FAILURE() << "GetStats() does not know SMMU " << smmu;
  return {};
}

}  // namespace viommu::conformance
