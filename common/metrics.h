// Metrics for Prometheus that cost a few nanoseconds where they are counted and are put together when they are scraped.
//
// Names follow Prometheus: viommu_server_… or viommu_agent_…, base units (seconds, bytes), _total for counters.
//
//   auto metrics = std::make_shared<MetricSet>();
//   Counter& commits = metrics->AddCounter("viommu_server_commits_total", "Batches written to the store");
//   Histogram& sync = metrics->AddHistogram("viommu_server_store_sync_seconds", "Time of one sync", kLatency);
//   metrics->AddCallback("viommu_server_sessions", "Connected agents", MetricKind::kGauge, [&] { … });
//   auto exporter = MetricsExporter::Start(address, metrics);
//
// What Add…() returns lives as long as the set. Any thread may count, add and scrape.

#ifndef VIOMMU_COMMON_METRICS_H_
#define VIOMMU_COMMON_METRICS_H_

#include <prometheus/collectable.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/mutex.h"

namespace prometheus {
class Exposer;
}  // namespace prometheus

namespace viommu {

// Two lines of the cache, because the processor fetches them in pairs: one counter never slows its neighbour down.
inline constexpr size_t kMetricAlignment = 128;

class alignas(kMetricAlignment) Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class alignas(kMetricAlignment) Gauge {
 public:
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void Add(int64_t n) { value_.fetch_add(n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// The buckets of a histogram: from `min` to `max`, in every doubling 2^sub_bits of the same width; what is larger only
// counts towards +Inf. Both are powers of two, in the unit that is recorded; `scale` turns that unit into what is
// exported.
struct HistogramLayout {
  uint64_t min = 1;
  uint64_t max = uint64_t{1} << 20;
  uint32_t sub_bits = 0;
  double scale = 1;
};

// Nanoseconds, exported as seconds: from 1 µs to 17 s in 24 doublings of two buckets each, so that a quantile is off by
// a quarter at most.
inline constexpr HistogramLayout kLatency = {uint64_t{1} << 10, uint64_t{1} << 34, 1, 1e-9};

// Counts of things in a batch: 1 to 4096.
inline constexpr HistogramLayout kBatchSize = {1, 4096, 0, 1};

class Histogram {
 public:
  explicit Histogram(const HistogramLayout& layout);

  void Record(uint64_t value) {
    buckets_[BucketOf(value)].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }
  // For layouts in nanoseconds. What is negative counts as 0.
  void Record(std::chrono::nanoseconds duration) {
    Record(duration.count() < 0 ? uint64_t{0} : static_cast<uint64_t>(duration.count()));
  }

  // A bucket's upper bound (inclusive, in the recorded unit) and how many values are in it, from the smallest; the last
  // one has no bound (UINT64_MAX). Values that are recorded meanwhile may be in or not.
  std::vector<std::pair<uint64_t, uint64_t>> Buckets() const;
  uint64_t sum() const { return sum_.load(std::memory_order_relaxed); }
  const HistogramLayout& layout() const { return layout_; }

 private:
  // Bucket 0 holds everything up to `min`. A bound belongs to the bucket below it: Prometheus' "le" is inclusive.
  size_t BucketOf(uint64_t value) const {
    if (value <= layout_.min) return 0;
    if (value > layout_.max) return bucket_count_ - 1;
    const uint64_t below = value - 1;
    const uint32_t exponent = static_cast<uint32_t>(std::bit_width(below)) - 1;
    const uint32_t step_bits = exponent > layout_.sub_bits ? exponent - layout_.sub_bits : 0;
    const uint64_t sub = (below - (uint64_t{1} << exponent)) >> step_bits;
    return 1 + ((static_cast<size_t>(exponent - min_exponent_) << layout_.sub_bits) + sub);
  }

  HistogramLayout layout_;
  uint32_t min_exponent_;
  size_t bucket_count_;
  std::unique_ptr<std::atomic<uint64_t>[]> buckets_;
  std::atomic<uint64_t> sum_{0};
};

using MetricLabels = std::map<std::string, std::string>;

enum class MetricKind { kCounter, kGauge };

// One value of a metric that is asked for when scraped.
struct MetricSample {
  MetricLabels labels;
  double value = 0;
};

// One histogram that is counted elsewhere.
struct HistogramSample {
  MetricLabels labels;
  // A bucket's upper bound (inclusive, in the unit that is exported) and how many values are in it alone, from the
  // smallest; the last one has no bound (infinity).
  std::vector<std::pair<double, uint64_t>> buckets;
  double sum = 0;
};

class MetricSet final : public prometheus::Collectable {
 public:
  MetricSet();
  ~MetricSet() override;

  // Metrics of the same name and different labels make one family, of which the first `help` holds. A bad name, the
  // same labels twice or a name of two kinds is a mistake in the program and ends it.
  Counter& AddCounter(std::string_view name, std::string_view help, MetricLabels labels = {});
  Gauge& AddGauge(std::string_view name, std::string_view help, MetricLabels labels = {});
  Histogram& AddHistogram(std::string_view name, std::string_view help, const HistogramLayout& layout,
                          MetricLabels labels = {});

  // `read` is called at every scrape, on the exporter's thread; it must not call back into the set. What it refers to
  // must live until RemoveCallbacks() or the set's end.
  void AddCallback(std::string_view name, std::string_view help, MetricKind kind,
                   std::function<std::vector<MetricSample>()> read);

  // The same for a family of histograms.
  void AddHistogramCallback(std::string_view name, std::string_view help,
                            std::function<std::vector<HistogramSample>()> read);

  // Forgets all callbacks; none is running when this returns. For the shutdown, before what they read is destroyed.
  void RemoveCallbacks();

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  struct Family;

  Family& FamilyOf(std::string_view name, std::string_view help, int type) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable Mutex mu_;
  std::map<std::string, std::unique_ptr<Family>, std::less<>> families_ ABSL_GUARDED_BY(mu_);
};

// Adds <prefix>_build_info{version} = 1 and the process' CPU time, memory, threads, open files and start time (under
// the process_… names that every Prometheus client uses).
void AddProcessMetrics(MetricSet& metrics, std::string_view prefix);

// Whether metrics may be served on `address`: over TCP, and because it is plain HTTP that tells everybody who asks, on
// loopback only unless `allow_insecure`. INVALID_ARGUMENT, naming the option metrics.listen.
absl::Status CheckMetricsAddress(const Address& address, bool allow_insecure);

// Serves GET /metrics over plain HTTP in threads of its own, from Start() to its end.
class MetricsExporter {
 public:
  // Port 0 takes a free one. INVALID_ARGUMENT as CheckMetricsAddress; UNAVAILABLE, naming the address, when it cannot
  // be bound.
  static absl::StatusOr<std::unique_ptr<MetricsExporter>> Start(const Address& address,
                                                                std::shared_ptr<MetricSet> metrics,
                                                                bool allow_insecure = false);
  ~MetricsExporter();

  // Where it listens, with the real port.
  const Address& address() const { return address_; }

 private:
  MetricsExporter(Address address, std::shared_ptr<MetricSet> metrics, std::unique_ptr<prometheus::Exposer> exposer);

  Address address_;
  std::shared_ptr<MetricSet> metrics_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace viommu

#endif  // VIOMMU_COMMON_METRICS_H_
