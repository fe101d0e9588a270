#include "common/version.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>

namespace viommu {
namespace {

TEST(VersionTest, IsSemantic) {
  const std::regex semantic(R"((0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9a-z.-]+)?)");
  EXPECT_TRUE(std::regex_match(std::string(Version()), semantic)) << Version();
}

}  // namespace
}  // namespace viommu
