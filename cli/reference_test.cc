// docs/cli.md says what the program says.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <sstream>

#include "cli/app.h"
#include "cli/help.h"

namespace viommu::cli {
namespace {

std::string ReadDocument() {
  std::ifstream file("docs/cli.md");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Reference, IsWhatTheProgramSays) {
  std::istringstream written(ReadDocument());
  std::istringstream said(Reference(*MakeCommands()));
  std::string document_line;
  std::string program_line;
  for (int line = 1; std::getline(said, program_line); ++line) {
    ASSERT_TRUE(std::getline(written, document_line)) << "docs/cli.md ends before line " << line;
    ASSERT_EQ(document_line, program_line)
        << "docs/cli.md, line " << line << "; write it anew: bazel run //cli:write_reference > docs/cli.md";
  }
  EXPECT_FALSE(std::getline(written, document_line)) << "docs/cli.md has more than the program: " << document_line;
}

// Leaves of the tree.
void Visit(const Command& command, const std::function<void(const Command&)>& look) {
  if (command.children().empty()) look(command);
  for (const auto& child : command.children()) Visit(*child, look);
}

TEST(Reference, EveryCommandRunsAndHasAnExampleOfItself) {
  const auto root = MakeCommands();
  Visit(*root, [](const Command& command) {
    EXPECT_TRUE(command.action()) << command.Path();
    EXPECT_FALSE(command.examples().empty()) << command.Path();
    for (const Example& example : command.examples()) {
      EXPECT_THAT(example.command, testing::StartsWith(command.Path()));
    }
  });
}

}  // namespace
}  // namespace viommu::cli
