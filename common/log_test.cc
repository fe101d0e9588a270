#include "common/log.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace viommu {
namespace {

class LogTest : public testing::Test {
 protected:
  void Init(LogLevel level, LogFormat format) {
    InitLogging({level, format, [this](std::string_view line) { lines_.emplace_back(line); }});
  }
  ~LogTest() override { InitLogging({}); }

  std::vector<std::string> lines_;
};

TEST_F(LogTest, JsonKeepsTypesAndEscapes) {
  Init(LogLevel::kInfo, LogFormat::kJson);
  const std::string host = "hosts/a\"\n\\";
  VIOMMU_LOG(kWarning, "agent lost",
             {{"host", host}, {"revision", uint64_t{18446744073709551615u}}, {"errno", -5}, {"ok", false}, {"s", 0.5}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0].find('\n'), std::string::npos);
  const auto line = nlohmann::json::parse(lines_[0]);
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["event"], "agent lost");
  EXPECT_EQ(line["host"], host);
  EXPECT_EQ(line["revision"], 18446744073709551615u);
  EXPECT_EQ(line["errno"], -5);
  EXPECT_EQ(line["ok"], false);
  EXPECT_EQ(line["s"], 0.5);
  EXPECT_EQ(line["time"].get<std::string>().size(), std::string("2026-11-23T22:16:18.123456Z").size());
}

TEST_F(LogTest, JsonSurvivesWhatJsonCannotHold) {
  Init(LogLevel::kInfo, LogFormat::kJson);
  VIOMMU_LOG(kInfo, "odd", {{"bytes", "\xff\xfe"}, {"nan", std::numeric_limits<double>::quiet_NaN()}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_TRUE(nlohmann::json::parse(lines_[0])["nan"].is_null());
}

TEST_F(LogTest, TextQuotesOnlyWhatNeedsIt) {
  Init(LogLevel::kInfo, LogFormat::kText);
  VIOMMU_LOG(kInfo, "vdevice set", {{"device", "hosts/a/devices/0000:01:00.0"}, {"why", "two words"}, {"empty", ""}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(lines_[0].find("Z INFO vdevice set device=hosts/a/devices/0000:01:00.0 why=\"two words\" empty=\"\""),
            std::string::npos)
      << lines_[0];
}

TEST_F(LogTest, StatusShowsCodeAndMessage) {
  Init(LogLevel::kInfo, LogFormat::kText);
  VIOMMU_LOG(kError, "sync failed", {{"error", absl::UnavailableError("gone")}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_NE(lines_[0].find("ERROR sync failed error=\"UNAVAILABLE: gone\""), std::string::npos) << lines_[0];
}

TEST_F(LogTest, EvaluatesNothingBelowTheLevel) {
  Init(LogLevel::kWarning, LogFormat::kText);
  int evaluated = 0;
  VIOMMU_LOG(kInfo, "quiet", {{"count", ++evaluated}});
  EXPECT_EQ(evaluated, 0);
  EXPECT_TRUE(lines_.empty());
  VIOMMU_LOG(kError, "loud", {{"count", ++evaluated}});
  EXPECT_EQ(evaluated, 1);
  EXPECT_EQ(lines_.size(), 1u);
  Init(LogLevel::kOff, LogFormat::kText);
  VIOMMU_LOG(kError, "nothing");
  EXPECT_EQ(lines_.size(), 1u);
}

TEST_F(LogTest, LinesOfManyThreadsDoNotMix) {
  Init(LogLevel::kInfo, LogFormat::kJson);
  constexpr int kThreads = 4;
  constexpr int kLines = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < kLines; ++i) VIOMMU_LOG(kInfo, "tick", {{"thread", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines_.size(), size_t{kThreads * kLines});
  for (const std::string& line : lines_) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
}

}  // namespace
}  // namespace viommu
