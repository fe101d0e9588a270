#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/version.h"

namespace viommu {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

// Virtual and resident memory: the first two numbers of /proc/self/statm, in pages (proc(5)).
double MemoryBytes(size_t index) {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  for (size_t i = 0; i <= index; ++i) statm >> pages;
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double EntriesOf(const char* directory) {
  std::error_code error;
  double count = 0;
  for (auto entry = std::filesystem::directory_iterator(directory, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    ++count;
  }
  return count;
}

double MaxOpenFiles() {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

void AddValue(MetricSet& metrics, std::string_view name, std::string_view help, MetricKind kind,
              std::function<double()> read) {
  metrics.AddCallback(name, help, kind, [read = std::move(read)] { return std::vector<MetricSample>{{{}, read()}}; });
}

}  // namespace

void AddProcessMetrics(MetricSet& metrics, std::string_view prefix) {
  metrics
      .AddGauge(fmt::format("{}_build_info", prefix), "Always 1; the version is a label",
                {{"version", std::string(Version())}})
      .Set(1);
  const double started = std::chrono::duration<double>(RealClock().Now().time_since_epoch()).count();
  AddValue(metrics, "process_start_time_seconds", "When the process started, in seconds since 1970", MetricKind::kGauge,
           [started] { return started; });
  AddValue(metrics, "process_cpu_seconds_total", "User and system time", MetricKind::kCounter, CpuSeconds);
  AddValue(metrics, "process_virtual_memory_bytes", "Virtual memory", MetricKind::kGauge,
           [] { return MemoryBytes(0); });
  AddValue(metrics, "process_resident_memory_bytes", "Resident memory", MetricKind::kGauge,
           [] { return MemoryBytes(1); });
  AddValue(metrics, "process_open_fds", "Open file descriptors", MetricKind::kGauge,
           [] { return EntriesOf("/proc/self/fd"); });
  AddValue(metrics, "process_max_fds", "Most file descriptors that may be open", MetricKind::kGauge, MaxOpenFiles);
  AddValue(metrics, "process_threads", "Threads", MetricKind::kGauge, [] { return EntriesOf("/proc/self/task"); });
}

}  // namespace viommu
