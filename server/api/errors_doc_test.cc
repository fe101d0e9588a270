// docs/errors.md and the enum of reasons tell the same story.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>

#include "common/error.h"

namespace viommu {
namespace {

// The text under every "### REASON".
std::map<std::string, std::string> Sections() {
  std::ifstream file("docs/errors.md");
  EXPECT_TRUE(file.is_open());
  std::map<std::string, std::string> sections;
  std::string* section = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("### ", 0) == 0) {
      section = &sections[line.substr(4)];
      EXPECT_TRUE(section->empty()) << line << " is there twice";
    } else if (line.rfind("## ", 0) == 0) {
      section = nullptr;
    } else if (section != nullptr) {
      *section += line + "\n";
    }
  }
  return sections;
}

TEST(ErrorsDocTest, EveryReasonHasItsSectionWithAWayOut) {
  const auto sections = Sections();
  const auto* descriptor = v1::ErrorReason_descriptor();
  for (int i = 0; i < descriptor->value_count(); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(descriptor->value(i)->number());
    if (reason == v1::ERROR_REASON_UNSPECIFIED) continue;
    const auto section = sections.find(ReasonName(reason));
    ASSERT_NE(section, sections.end()) << ReasonName(reason) << " is not in docs/errors.md";
    EXPECT_THAT(section->second, testing::HasSubstr("**Way out:**")) << section->first;
  }
}

TEST(ErrorsDocTest, EverySectionIsAReason) {
  for (const auto& [name, text] : Sections()) {
    EXPECT_NE(ReasonFromName(name), v1::ERROR_REASON_UNSPECIFIED) << name << " is in docs/errors.md only";
  }
}

}  // namespace
}  // namespace viommu
