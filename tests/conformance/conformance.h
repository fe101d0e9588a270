// Fixtures and checks of the conformance suite.

#ifndef VIOMMU_TESTS_CONFORMANCE_CONFORMANCE_H_
#define VIOMMU_TESTS_CONFORMANCE_CONFORMANCE_H_

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "tests/conformance/rig.h"

namespace viommu::conformance {

// Names of the seam, for short.
using agent::Backend;
using agent::Context;
using agent::HwptAlloc;
using agent::HwptDataType;
using agent::HwQueueType;
using agent::InvalidateArray;
using agent::InvalidateDataType;
using agent::InvalidateResult;
using agent::MemoryHandle;
using agent::ObjectId;
using agent::Vevent;
using agent::VeventqType;
using agent::ViommuHandle;
using agent::ViommuType;
using smmuv3::RawCommand;
using smmuv3::RawVste;

// An id that no context has handed out.
inline constexpr ObjectId kNoSuchId = 0x7fff0000;

inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& value) {
  return value.status();
}
inline const absl::Status& ToStatus(const InvalidateResult& result) { return result.status; }

// Whether `got` carries this errno; 0: is OK.
testing::AssertionResult HasErrno(const char* want_text, const char* got_text, int want, const absl::Status& got);

#define EXPECT_ERRNO(want, expression) \
  EXPECT_PRED_FORMAT2(::viommu::conformance::HasErrno, want, ::viommu::conformance::ToStatus(expression))
#define ASSERT_ERRNO(want, expression) \
  ASSERT_PRED_FORMAT2(::viommu::conformance::HasErrno, want, ::viommu::conformance::ToStatus(expression))
#define EXPECT_OK(expression) EXPECT_ERRNO(0, expression)
#define ASSERT_OK(expression) ASSERT_ERRNO(0, expression)

// The errno of a call; 0: it has succeeded.
int StatusErrnoOf(const InvalidateResult& result);

// The value of a step that has to work; without one the case fails, and goes on with an empty value (id 0: every call
// refuses it). The builtins, because clang 14 has no std::source_location.
template <typename T>
T Must(absl::StatusOr<T> value, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (value.ok()) return *std::move(value);
  ADD_FAILURE_AT(file, line) << value.status();
  return T{};
}

// Skips the case unless the rig has such a device; `variable` becomes its PCI address.
#define NEED_DEVICE(variable, role)                \
  const std::string variable = rig().Device(role); \
  if (variable.empty()) GTEST_SKIP() << "the rig lacks " << ::viommu::conformance::RoleName(role)

// Skips the case unless the backend says that it can do this (Capabilities::others).
#define NEED_CAPABILITY(name) \
  if (const std::string lack = Lacks(name); !lack.empty()) GTEST_SKIP() << "the backend cannot: " << lack

class ConformanceBase : public testing::Test {
 protected:
  // `request`: what all cases of the suite want of their rig.
  explicit ConformanceBase(const RigRequest& request = {}) : request_(request) {}

  // Makes the rig; skips the case when the rig is of the other side (one_sided.h).
  void SetUp() override;
  virtual const RigFactory& factory() const = 0;

  Rig& rig() { return *rig_; }
  Backend& backend() { return rig_->backend(); }
  const Expectations& expect() const { return rig_->expectations(); }
  std::string A0() const { return rig_->Device(Role::kA0); }
  // Not null; for cases that one_sided.h lists.
  EmulationHooks& hooks();

  std::unique_ptr<Context> Open();
  agent::DeviceInfo Info(const std::string& pci_address);
  agent::SmmuInfo SmmuOf(const std::string& pci_address);
  // Why the backend cannot do this; empty: it can.
  std::string Lacks(std::string_view capability);
  agent::SmmuStats StatsOf(const std::string& smmu);

 private:
  const RigRequest request_;
  std::unique_ptr<Rig> rig_;
};

// A suite whose cases run once on each rig.
class Conformance : public ConformanceBase, public testing::WithParamInterface<RigFactory> {
 protected:
  using ConformanceBase::ConformanceBase;
  const RigFactory& factory() const override { return GetParam(); }
};

// A suite whose cases run for each row of a table on each rig. A Row has a member `name`: letters, digits and "_".
template <typename Row>
class ConformanceRows : public ConformanceBase, public testing::WithParamInterface<std::tuple<RigFactory, Row>> {
 protected:
  using ConformanceBase::ConformanceBase;
  using ParamSource = testing::WithParamInterface<std::tuple<RigFactory, Row>>;
  const RigFactory& factory() const override { return std::get<0>(ParamSource::GetParam()); }
  const Row& row() const { return std::get<1>(ParamSource::GetParam()); }
};

inline void PrintTo(const RigFactory& factory, std::ostream* out) { *out << factory.name; }

#define CONFORMANCE_RIGS(suite)                                                                    \
  INSTANTIATE_TEST_SUITE_P(Conformance, suite, ::testing::ValuesIn(::viommu::conformance::Rigs()), \
                           [](const auto& param) { return param.param.name; })

#define CONFORMANCE_ROWS(suite, rows)                                                                    \
  INSTANTIATE_TEST_SUITE_P(                                                                              \
      Conformance, suite,                                                                                \
      ::testing::Combine(::testing::ValuesIn(::viommu::conformance::Rigs()), ::testing::ValuesIn(rows)), \
      [](const auto& param) {                                                                            \
        return std::get<0>(param.param).name + "_" + std::string(std::get<1>(param.param).name);         \
      })

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_CONFORMANCE_H_
