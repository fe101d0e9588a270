#include "tests/bench/report.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace viommu::bench {
namespace {

Row Throughput() {
  return {.subject = "set, 64 callers",
          .metric = "throughput",
          .unit = "1/s",
          .value = 12'000,
          .better = Better::kHigher,
          .rival = "RocksDB",
          .rival_value = 16'000,
          .aim = 0.9};
}

Row Latency() {
  return {.subject = "set, 1 caller",
          .metric = "p50",
          .unit = "us",
          .value = 50.25,
          .better = Better::kLower,
          .rival = "fdatasync",
          .rival_value = 100.5,
          .aim = std::nullopt};
}

Row Alone() {
  return {.subject = "alone",
          .metric = "p99",
          .unit = "us",
          .value = 3,
          .better = Better::kLower,
          .rival = "",
          .rival_value = 0,
          .aim = std::nullopt};
}

TEST(ReportTest, RatioAboveOneIsBetterEitherWay) {
  EXPECT_DOUBLE_EQ(Ratio(Throughput()).value(), 0.75);
  EXPECT_DOUBLE_EQ(Ratio(Latency()).value(), 2);
  EXPECT_FALSE(Ratio(Alone()).has_value());
  Row zero = Throughput();
  zero.rival_value = 0;
  EXPECT_FALSE(Ratio(zero).has_value());
}

TEST(ReportTest, TableIsAligned) {
  const char* argv[] = {"x"};
  Report report("x", 1, argv);
  report.Add(Throughput());
  report.Add(Latency());
  report.Add(Alone());
  EXPECT_EQ(report.Table(),
            "case             metric       value  unit  rival      rival's               ratio\n"
            "---------------  ----------  ------  ----  ---------  -------  ------------------\n"
            "set, 64 callers  throughput  12,000  1/s   RocksDB     16,000  0.75 (MISSED 0.90)\n"
            "set, 1 caller    p50          50.25  us    fdatasync    100.5                2.00\n"
            "alone            p99              3  us\n");
}

TEST(ReportTest, WritesJsonWhereItIsAskedTo) {
  const std::string file = testing::TempDir() + "/report.json";
  const char* argv[] = {"x", "--json", file.c_str(), "--quick"};
  Report report("x", 4, argv);
  EXPECT_TRUE(report.quick());
  report.Add(Throughput());
  report.Add(Alone());
  EXPECT_EQ(report.Finish(), 0);
  std::ifstream in(file);
  const auto rows = nlohmann::json::parse(std::string(std::istreambuf_iterator<char>(in), {}));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0], (nlohmann::json{{"case", "set, 64 callers"},
                                     {"metric", "throughput"},
                                     {"unit", "1/s"},
                                     {"value", 12000.0},
                                     {"rival", "RocksDB"},
                                     {"rival_value", 16000.0},
                                     {"ratio", 0.75}}));
  EXPECT_TRUE(rows[1]["rival"].is_null());
  EXPECT_TRUE(rows[1]["ratio"].is_null());
}

TEST(ReportTest, FailsWhenTheFileCannotBeWritten) {
  const char* argv[] = {"x", "--json", "/nonexistent/report.json"};
  EXPECT_EQ(Report("x", 3, argv).Finish(), 1);
}

TEST(ReportDeathTest, WrongArgumentsExit) {
  const char* argv[] = {"x", "--fast"};
  EXPECT_EXIT(Report("x", 2, argv), testing::ExitedWithCode(2), "");
}

}  // namespace
}  // namespace viommu::bench
