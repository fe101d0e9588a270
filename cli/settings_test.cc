// Contexts and the order of precedence.

#include "cli/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "cli/contexts.h"
#include "cli/text.h"
#include "common/clock.h"

namespace viommu::cli {
namespace {

using testing::HasSubstr;

class SettingsTest : public testing::Test {
 protected:
  SettingsTest() {
    path_ = std::string(std::getenv("TEST_TMPDIR")) + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name() + "/viommuctl/config.yaml";
    terminal_.in = &std::cin;
    terminal_.out = &std::cout;
    terminal_.err = &std::cerr;
    terminal_.clock = &RealClock();
    terminal_.interrupted = &interrupted_;
    terminal_.environment = [this](const std::string& name) -> std::optional<std::string> {
      const auto found = environment_.find(name);
      if (found == environment_.end()) return std::nullopt;
      return found->second;
    };
    environment_["VIOMMUCTL_CONFIG"] = path_;
  }

  void WriteContexts() {
    ContextFile file = ContextFile::Load(path_).value();
    file.Put({"lab", {{"server", "lab:1"}, {"timeout", "20s"}, {"wait", "applied"}}});
    file.Put({"prod", {{"server", "prod:1"}, {"tls-ca", "ca.pem"}, {"output", "wide"}}});
    ASSERT_TRUE(file.Save().ok());
  }

  void WriteFile(const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
    std::ofstream(path_) << text;
  }

  std::string path_;
  std::map<std::string, std::string> environment_;
  std::atomic<bool> interrupted_{false};
  Terminal terminal_;
};

TEST_F(SettingsTest, DefaultsWithoutAnything) {
  const Settings settings = ResolveSettings({}, terminal_).value();
  EXPECT_EQ(settings.server, kDefaultServer);
  EXPECT_EQ(settings.timeout, std::chrono::seconds(10));
  EXPECT_EQ(settings.wait, v1::WAIT_ACCEPTED);
  EXPECT_EQ(settings.output, OutputFormat::kTable);
  EXPECT_FALSE(settings.output_given);
}

TEST_F(SettingsTest, FlagsOverEnvironmentOverContext) {
  WriteContexts();
  EXPECT_EQ(ResolveSettings({}, terminal_)->server, "lab:1");
  EXPECT_EQ(ResolveSettings({}, terminal_)->wait, v1::WAIT_APPLIED);
  environment_["VIOMMUCTL_SERVER"] = "env:1";
  EXPECT_EQ(ResolveSettings({}, terminal_)->server, "env:1");
  EXPECT_EQ(ResolveSettings({}, terminal_)->timeout, std::chrono::seconds(20));
  EXPECT_EQ(ResolveSettings({{"server", "flag:1"}}, terminal_)->server, "flag:1");
  environment_["VIOMMUCTL_TIMEOUT"] = "3s";
  environment_["VIOMMUCTL_INSECURE"] = "true";
  EXPECT_EQ(ResolveSettings({}, terminal_)->timeout, std::chrono::seconds(3));
  EXPECT_TRUE(ResolveSettings({}, terminal_)->insecure);
}

TEST_F(SettingsTest, AContextThatIsTypedStandsAboveTheEnvironment) {
  WriteContexts();
  environment_["VIOMMUCTL_SERVER"] = "env:1";
  EXPECT_EQ(ResolveSettings({{"context", "prod"}}, terminal_)->server, "prod:1");
  EXPECT_EQ(ResolveSettings({{"context", "prod"}, {"server", "flag:1"}}, terminal_)->server, "flag:1");
  environment_["VIOMMUCTL_CONTEXT"] = "prod";
  EXPECT_EQ(ResolveSettings({}, terminal_)->server, "env:1");
  EXPECT_EQ(ResolveSettings({}, terminal_)->tls_ca, "ca.pem");
  EXPECT_EQ(ResolveSettings({{"tls-ca", ""}}, terminal_)->tls_ca, "");
}

TEST_F(SettingsTest, WhatIsWrongIsNamed) {
  WriteContexts();
  EXPECT_THAT(std::string(ResolveSettings({{"context", "x"}}, terminal_).status().message()),
              HasSubstr("there are lab, prod"));
  environment_["VIOMMUCTL_TIMEOUT"] = "soon";
  EXPECT_THAT(std::string(ResolveSettings({}, terminal_).status().message()), HasSubstr("VIOMMUCTL_TIMEOUT"));
}

TEST_F(SettingsTest, TheFileFollowsXdg) {
  environment_.clear();
  environment_["HOME"] = "/home/x";
  EXPECT_EQ(ConfigPath({}, terminal_), "/home/x/.config/viommuctl/config.yaml");
  environment_["XDG_CONFIG_HOME"] = "/xdg";
  EXPECT_EQ(ConfigPath({}, terminal_), "/xdg/viommuctl/config.yaml");
  EXPECT_EQ(ConfigPath({{"config", "f"}}, terminal_), "f");
}

TEST_F(SettingsTest, AFileThatIsNamedHasToBeThere) {
  const std::string missing = path_ + ".missing";
  auto settings = ResolveSettings({{"config", missing}}, terminal_);
  ASSERT_TRUE(settings.ok()) << "`config set` makes it";
  EXPECT_TRUE(IsUsageError(settings->context_problem));
  EXPECT_NE(settings->context_problem.message().find(missing), std::string::npos);
  settings = ResolveSettings({}, terminal_);
  ASSERT_TRUE(settings.ok());
  EXPECT_TRUE(settings->context_problem.ok()) << "most people have none";
}

TEST_F(SettingsTest, ContextsAreKept) {
  WriteContexts();
  ContextFile file = ContextFile::Load(path_).value();
  EXPECT_EQ(file.current(), "lab");
  ASSERT_EQ(file.contexts().size(), 2U);
  EXPECT_EQ(file.Find("prod")->values.at("output"), "wide");
  ASSERT_TRUE(file.Use("prod").ok());
  EXPECT_TRUE(IsUsageError(file.Use("x")));
  ASSERT_TRUE(file.Save().ok());
  file = ContextFile::Load(path_).value();
  EXPECT_EQ(file.current(), "prod");
  ASSERT_TRUE(file.Remove("prod").ok());
  ASSERT_TRUE(file.Save().ok());
  file = ContextFile::Load(path_).value();
  EXPECT_EQ(file.current(), "");
  EXPECT_EQ(file.Find("prod"), nullptr);
  struct stat info = {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST_F(SettingsTest, ACurrentContextThatIsNotThereIsAProblemOfConnectionsOnly) {
  WriteFile("current-context: gone\ncontexts:\n  - name: lab\n    server: lab:1\n");
  const auto settings = ResolveSettings({}, terminal_);
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_TRUE(IsUsageError(settings->context_problem));
  EXPECT_THAT(std::string(settings->context_problem.message()), HasSubstr("current-context is gone"));
  EXPECT_TRUE(ResolveSettings({{"context", "lab"}}, terminal_)->context_problem.ok());
  environment_["VIOMMUCTL_CONTEXT"] = "lab";
  EXPECT_TRUE(ResolveSettings({}, terminal_)->context_problem.ok());
  ContextFile file = ContextFile::Load(path_).value();
  EXPECT_TRUE(file.Use("lab").ok());
}

TEST_F(SettingsTest, BrokenFilesNameTheLine) {
  for (const auto& [text, said] : std::vector<std::pair<std::string, std::string>>{
           {"contexts:\n  - name: a\n    sever: x\n", "line 3: a context has no \"sever\""},
           {"contexts:\n  - server: x\n", "line 2: a context needs a name"},
           {"contexts: [\n", "line"},
           {"contexts:\n  - name: a\n  - name: a\n", "a second context called a"},
           {"servers: []\n", "line 1"},
           {"- a\n", "not a map"}}) {
    WriteFile(text);
    const auto file = ContextFile::Load(path_);
    EXPECT_TRUE(IsUsageError(file.status())) << text;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(said)) << text;
  }
}

}  // namespace
}  // namespace viommu::cli
