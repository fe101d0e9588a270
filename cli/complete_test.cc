#include "cli/complete.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/app.h"

namespace viommu::cli {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::IsSupersetOf;
using testing::Not;

class CompleteTest : public testing::Test {
 protected:
  std::vector<std::string> Words(const std::vector<std::string>& words) {
    std::vector<std::string> found;
    const NameSource names = [](Kind kind) -> std::vector<std::string> {
      if (kind == Kind::kDevice) return {"hosts/a/devices/0000:01:00.0", "hosts/b/devices/0000:01:00.0"};
      if (kind == Kind::kViommu) return {"viommus/v1"};
      return {};
    };
    for (const Candidate& candidate : Complete(*root_, words, names)) found.push_back(candidate.word);
    return found;
  }

  const std::unique_ptr<Command> root_ = MakeCommands();
};

TEST_F(CompleteTest, Commands) {
  EXPECT_THAT(Words({"des"}), ElementsAre("describe"));
  EXPECT_THAT(Words({"set", ""}), ElementsAre("vdev-id", "vdev-ids", "quota"));
  EXPECT_THAT(Words({""}), IsSupersetOf({"get", "watch", "completion"}));
  EXPECT_THAT(Words({"--server", "x:1", "loc"}), ElementsAre("local"));
  EXPECT_THAT(Words({}), IsEmpty());
}

TEST_F(CompleteTest, EveryCommandAndFlagOfTheTreeIsOffered) {
  const std::function<void(const Command&, std::vector<std::string>)> visit = [&](const Command& command,
                                                                                  std::vector<std::string> path) {
    for (const auto& child : command.children()) {
      std::vector<std::string> words = path;
      words.push_back(child->name());
      EXPECT_THAT(Words(words), Contains(child->name()));
      visit(*child, words);
    }
    std::vector<std::string> words = path;
    words.emplace_back("--");
    const auto flags = Words(words);
    for (const Argument& argument : command.arguments()) {
      if (argument.positional || !command.Takes(argument)) continue;
      EXPECT_THAT(flags, Contains(argument.LongName())) << command.Path();
    }
  };
  visit(*root_, {});
}

TEST_F(CompleteTest, FlagsOfChangesOnlyForChanges) {
  EXPECT_THAT(Words({"get", "--"}), Not(Contains("--dry-run")));
  EXPECT_THAT(Words({"attach", "--"}), IsSupersetOf({"--dry-run", "--wait"}));
  EXPECT_THAT(Words({"cordon", "--"}), Contains("--dry-run"));
  EXPECT_THAT(Words({"cordon", "--"}), Not(Contains("--wait"))) << "no host has a part in it";
  EXPECT_THAT(Words({"create", "viommu", "--"}), Not(Contains("--etag"))) << "there is none yet";
}

TEST_F(CompleteTest, ValuesOfFlags) {
  EXPECT_THAT(Words({"get", "-o", ""}), ElementsAre("table", "wide", "json", "yaml", "name"));
  EXPECT_THAT(Words({"attach", "--wait=ap"}), ElementsAre("--wait=applied"));
  EXPECT_THAT(Words({"delete", "q"}), ElementsAre("quota"));
  EXPECT_THAT(Words({"get", "--tls-ca", ""}), ElementsAre(":files"));
}

TEST_F(CompleteTest, NamesOfTheRightKind) {
  EXPECT_THAT(Words({"get", "devices", "a"}), ElementsAre("a/0000:01:00.0"));
  EXPECT_THAT(Words({"get", "devices", "hosts/b"}), ElementsAre("hosts/b/devices/0000:01:00.0"));
  EXPECT_THAT(Words({"get", "viommus", ""}), ElementsAre("v1"));
  EXPECT_THAT(Words({"set", "vdev-id", "v1", "b"}), ElementsAre("b/0000:01:00.0"));
  EXPECT_THAT(Words({"set", "vdev-id", "v1", "b/0000:01:00.0", ""}), IsEmpty());
}

TEST_F(CompleteTest, ScriptsHandTheWordsOver) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const auto script = CompletionScript(shell);
    ASSERT_TRUE(script.ok()) << shell;
    EXPECT_NE(script->find("__complete"), std::string::npos);
    // A script that names commands of its own would grow old.
    EXPECT_EQ(script->find("cordon"), std::string::npos) << shell;
  }
  EXPECT_FALSE(CompletionScript("tcsh").ok());
}

}  // namespace
}  // namespace viommu::cli
