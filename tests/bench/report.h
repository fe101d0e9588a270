// What every benchmark program shares: its flags, a table for people, JSON for machines.
//
//   int main(int argc, char** argv) {
//     bench::Report report("control", argc, argv);          // handles --json FILE, --quick, --help
//     const auto length = report.quick() ? 1s : 10s;
//     report.Add({.subject = "SetVdevId, 64 callers", .metric = "throughput", .unit = "1/s", .value = 12'000,
//                 .better = bench::Better::kHigher, .rival = "RocksDB synced writes", .rival_value = 13'600});
//     return report.Finish();
//   }
//
// ./bench NAME builds and runs //tests/bench:NAME_bench, with its arguments handed on.

#ifndef VIOMMU_TESTS_BENCH_REPORT_H_
#define VIOMMU_TESTS_BENCH_REPORT_H_

#include <optional>
#include <string>
#include <vector>

namespace viommu::bench {

// Which way a metric is good: throughput is better when it is higher, latency when it is lower.
enum class Better { kHigher, kLower };

struct Row {
  std::string subject;  // "case" of the JSON: what was measured, under which load
  std::string metric;   // "throughput", "p50", "p99"…
  std::string unit;     // "1/s", "us", "ns", "bytes"…
  double value = 0;
  Better better = Better::kHigher;
  // Whom we are compared with, measured in the same run; empty when there is nobody.
  std::string rival;
  double rival_value = 0;
  // The least ratio that is aimed for; shown beside what was reached, never a reason to fail.
  std::optional<double> aim;
};

// How much better we are than the rival: above 1 is better, whichever way the metric is good. Nothing without a rival
// or where a value is not positive.
std::optional<double> Ratio(const Row& row);

// Keeps the rows of one run. One thread.
class Report {
 public:
  // Exits on --help (0) and on wrong arguments (2).
  Report(std::string name, int argc, const char* const* argv);

  // Whether a short run is wanted: enough to see that everything works, too short to trust the numbers.
  bool quick() const { return quick_; }

  void Add(Row row);

  // A remark that belongs to the numbers (why one is as it is, what the machine is); printed below the table.
  void Note(std::string text);

  // Prints the table and the notes on stdout and writes the JSON file when one is asked for. Returns main's exit code:
  // 1 when the file cannot be written.
  int Finish() const;

  // The table as printed, and the JSON: an array of {case, metric, unit, value, rival, rival_value, ratio}; the last
  // three are null without a rival.
  std::string Table() const;
  std::string Json() const;

 private:
  std::string name_;
  bool quick_ = false;
  std::string json_file_;
  std::vector<Row> rows_;
  std::vector<std::string> notes_;
};

}  // namespace viommu::bench

#endif  // VIOMMU_TESTS_BENCH_REPORT_H_
