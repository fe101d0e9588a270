// Runs the micro-benchmarks (Google Benchmark) that are linked in under the flags and with the report of ./bench: a row
// for each one's time, and one for each counter that it sets.

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "tests/bench/report.h"

namespace viommu::bench {
namespace {

class ToReport : public benchmark::BenchmarkReporter {
 public:
  explicit ToReport(Report& report) : report_(report) {}

  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.error_occurred) {
        failed_ = true;
        report_.Note(run.benchmark_name() + ": " + run.error_message);
        continue;
      }
      report_.Add({.subject = run.benchmark_name(),
                   .metric = "time",
                   .unit = benchmark::GetTimeUnitString(run.time_unit),
                   .value = run.GetAdjustedRealTime(),
                   .better = Better::kLower});
      for (const auto& [name, counter] : run.counters) {
        const bool rate = (counter.flags & benchmark::Counter::kIsRate) != 0;
        report_.Add({.subject = run.benchmark_name(),
                     .metric = name,
                     .unit = rate ? "1/s" : "",
                     .value = counter.value,
                     .better = rate ? Better::kHigher : Better::kLower});
      }
    }
  }
  bool failed() const { return failed_; }

 private:
  Report& report_;
  bool failed_ = false;
};

int Main(int argc, char** argv) {
  // "rules" of ".../rules_bench".
  std::string name = argv[0];
  name = name.substr(name.rfind('/') + 1);
  name = name.substr(0, name.rfind("_bench"));
  Report report(name, argc, argv);
  std::vector<std::string> flags = {argv[0]};
  if (report.quick()) {
    flags.emplace_back("--benchmark_min_time=0.01");
    flags.emplace_back("--benchmark_filter=-/[0-9]{7,}(/|$)");  // sizes that take minutes to fill
  }
  std::vector<char*> words;
  for (std::string& flag : flags) words.push_back(flag.data());
  int count = static_cast<int>(words.size());
  benchmark::Initialize(&count, words.data());
  ToReport reporter(report);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  benchmark::Shutdown();
  const int status = report.Finish();
  return reporter.failed() ? 1 : status;
}

}  // namespace
}  // namespace viommu::bench

int main(int argc, char** argv) { return viommu::bench::Main(argc, argv); }
