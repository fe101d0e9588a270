#include "tests/conformance/rig.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <utility>

namespace viommu::conformance {
namespace {

std::vector<RigFactory>& Registered() {
  static std::vector<RigFactory> rigs;
  return rigs;
}

// At the end: how many cases, and why some were skipped.
class Summary : public testing::EmptyTestEventListener {
 public:
  void OnTestEnd(const testing::TestInfo& info) override {
    if (!info.result()->Skipped()) return;
    std::string reason = "no reason given";
    for (int i = 0; i < info.result()->total_part_count(); ++i) {
      const testing::TestPartResult& part = info.result()->GetTestPartResult(i);
      if (part.skipped()) reason = part.message();
    }
    skipped_[reason].push_back(std::string(info.test_suite_name()) + "." + info.name());
  }

  void OnTestProgramEnd(const testing::UnitTest& unit_test) override {
    for (const auto& [reason, names] : skipped_) {
      std::printf("skipped, %s: %zu\n", reason.c_str(), names.size());
      for (const std::string& name : names) std::printf("  %s\n", name.c_str());
    }
    std::printf("%d cases on %zu rigs: %d passed, %d failed, %d skipped\n", unit_test.test_to_run_count(),
                Registered().size(), unit_test.successful_test_count(), unit_test.failed_test_count(),
                unit_test.skipped_test_count());
  }

 private:
  std::map<std::string, std::vector<std::string>> skipped_;
};

class BackendDma final : public DmaEngine {
 public:
  explicit BackendDma(agent::Backend& backend) : engine_(*backend.device_dma()) {
    if (auto inventory = backend.Discover(); inventory.ok()) inventory_ = *std::move(inventory);
  }

  bool Reaches(const std::string& device) const override { return Find(device) != nullptr; }
  bool HasPasids(const std::string& device) const override {
    const agent::DeviceInfo* info = Find(device);
    return info != nullptr && info->max_pasid_log2 > 0;
  }
  bool HasAts(const std::string& device) const override {
    const agent::DeviceInfo* info = Find(device);
    return info != nullptr && info->ats;
  }

  DmaAnswer Read(const DmaAddress& from, std::span<std::byte> out) override {
    return Answer(engine_.Read(Request(from), out));
  }
  DmaAnswer Write(const DmaAddress& to, std::span<const std::byte> in) override {
    return Answer(engine_.Write(Request(to), in));
  }

 private:
  const agent::DeviceInfo* Find(const std::string& device) const {
    for (const agent::DeviceInfo& info : inventory_.devices) {
      if (info.pci_address == device) return &info;
    }
    return nullptr;
  }

  static agent::DmaRequest Request(const DmaAddress& address) {
    agent::DmaRequest request;
    request.pci_address = address.device;
    request.pasid = address.pasid;
    request.address = address.address;
    request.use_ats = address.use_ats;
    request.stall_limit = std::chrono::seconds(30);  // answers come; this is for cases that fail
    return request;
  }

  static DmaAnswer Answer(const absl::StatusOr<agent::DmaResult>& result) {
    if (!result.ok()) return {false, result.status().ToString()};
    static constexpr const char* kOutcomes[] = {"done", "aborted", "ignored", "timed out", "no memory"};
    return {result->outcome == agent::DmaResult::Outcome::kDone,
            std::string(kOutcomes[static_cast<size_t>(result->outcome)]) + " " + result->event};
  }

  agent::DeviceDma& engine_;
  agent::Inventory inventory_;
};

}  // namespace

const char* RoleName(Role role) {
  switch (role) {
    case Role::kA0:
      return "a device behind SMMU A";
    case Role::kA1:
      return "a second device behind SMMU A";
    case Role::kB0:
      return "a device behind a second SMMU";
    case Role::kAts:
      return "a device with ATS";
    case Role::kPasid:
      return "a device with PASIDs";
    case Role::kTwoStreams:
      return "a device with two StreamIDs";
    case Role::kGroup0:
    case Role::kGroup1:
      return "two devices in one IOMMU group";
    case Role::kIncoherent:
      return "a device whose DMA is not coherent";
    case Role::kOneStage:
      return "a device behind an SMMU with one stage";
    case Role::kAroundCache:
      return "a device that can go around the cache";
    case Role::kQueue0:
    case Role::kQueue1:
      return "devices behind an SMMU with hardware queues";
  }
  return "?";
}

void RegisterRig(RigFactory factory) { Registered().push_back(std::move(factory)); }

const std::vector<RigFactory>& Rigs() { return Registered(); }

int RunSuite(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new Summary);  // GoogleTest owns it
  return RUN_ALL_TESTS();
}

std::unique_ptr<DmaEngine> MakeBackendDma(agent::Backend& backend) {
  if (backend.device_dma() == nullptr) return nullptr;
  return std::make_unique<BackendDma>(backend);
}

}  // namespace viommu::conformance
