// The two words of a guest's stream table entry (IHI 0070, 5.2) as typed and as read.

#ifndef VIOMMU_CLI_VSTE_H_
#define VIOMMU_CLI_VSTE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::cli {

// "W0,W1", each in decimal or 0x hex. Which bits a guest may set is the server's to judge.
absl::StatusOr<v1::Vste> ParseVste(std::string_view text);

// "0x0000000080001001,0x0000000000000002".
std::string FormatVste(const v1::Vste& vste);

// "abort", "bypass", "translate".
std::string FormatNestedKind(const v1::NestedConfig& config);

// What the words mean: "stage 1 at guest-physical 0x80001000, linear context table of 2^0 entries, ATS off".
std::string DescribeVste(const v1::Vste& vste);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_VSTE_H_
