#include "common/metrics.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <prometheus/check_names.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <variant>

#include "absl/status/status.h"

namespace viommu {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

[[noreturn]] void Die(std::string_view name, std::string_view reason) {
  fmt::print(stderr, "metric {}: {}\n", name, reason);
  std::abort();
}

std::vector<ClientMetric::Label> ToLabels(const MetricLabels& labels) {
  std::vector<ClientMetric::Label> result;
  result.reserve(labels.size());
  for (const auto& [name, value] : labels) result.push_back({name, value});
  return result;
}

void Fill(ClientMetric& metric, MetricType type, double value) {
  if (type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

void Fill(ClientMetric& metric, const Histogram& histogram) {
  const double scale = histogram.layout().scale;
  uint64_t count = 0;
  for (const auto& [bound, in_bucket] : histogram.Buckets()) {
    count += in_bucket;
    const bool open = bound == std::numeric_limits<uint64_t>::max();
    metric.histogram.bucket.push_back(
        {count, open ? std::numeric_limits<double>::infinity() : static_cast<double>(bound) * scale});
  }
  metric.histogram.sample_count = count;
  metric.histogram.sample_sum = static_cast<double>(histogram.sum()) * scale;
}

void Fill(ClientMetric& metric, const HistogramSample& sample) {
  uint64_t count = 0;
  for (const auto& [bound, in_bucket] : sample.buckets) {
    count += in_bucket;
    metric.histogram.bucket.push_back({count, bound});
  }
  metric.histogram.sample_count = count;
  metric.histogram.sample_sum = sample.sum;
}

// Connects and hangs up.
void Knock(const Address& address) {
  const int fd = socket(address.host.find(':') == std::string::npos ? AF_INET : AF_INET6,
                        SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  // An address to listen everywhere (0.0.0.0, [::]) reaches this machine when it is connected to.
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(address.port);
  sockaddr_in6 v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(address.port);
  if (inet_pton(AF_INET, address.host.c_str(), &v4.sin_addr) == 1) {
    connect(fd, reinterpret_cast<sockaddr*>(&v4), sizeof(v4));
  } else if (inet_pton(AF_INET6, address.host.c_str(), &v6.sin6_addr) == 1) {
    connect(fd, reinterpret_cast<sockaddr*>(&v6), sizeof(v6));
  }
  close(fd);
}

}  // namespace

Histogram::Histogram(const HistogramLayout& layout)
    : layout_(layout), min_exponent_(static_cast<uint32_t>(std::countr_zero(layout.min))) {
  if (!std::has_single_bit(layout.min) || !std::has_single_bit(layout.max) || layout.max < layout.min ||
      min_exponent_ < layout.sub_bits) {
    Die("histogram", "the layout needs powers of two with 2^sub_bits <= min <= max");
  }
  const auto doublings = static_cast<size_t>(std::countr_zero(layout.max)) - min_exponent_;
  bucket_count_ = 1 + (doublings << layout.sub_bits) + 1;
  buckets_ = std::make_unique<std::atomic<uint64_t>[]>(bucket_count_);
}

std::vector<std::pair<uint64_t, uint64_t>> Histogram::Buckets() const {
  std::vector<std::pair<uint64_t, uint64_t>> result;
  result.reserve(bucket_count_);
  for (size_t i = 0; i < bucket_count_; ++i) {
    uint64_t bound = layout_.min;
    if (i + 1 == bucket_count_) {
      bound = std::numeric_limits<uint64_t>::max();
    } else if (i > 0) {
      const uint64_t start = layout_.min << ((i - 1) >> layout_.sub_bits);
      const uint64_t sub = (i - 1) & ((uint64_t{1} << layout_.sub_bits) - 1);
      bound = start + (start >> layout_.sub_bits) * (sub + 1);
    }
    result.emplace_back(bound, buckets_[i].load(std::memory_order_relaxed));
  }
  return result;
}

struct MetricSet::Family {
  std::string help;
  MetricType type = MetricType::Untyped;
  // Deques: what they hold never moves.
  std::deque<std::pair<MetricLabels, Counter>> counters;
  std::deque<std::pair<MetricLabels, Gauge>> gauges;
  std::deque<std::pair<MetricLabels, Histogram>> histograms;
  std::vector<std::function<std::vector<MetricSample>()>> callbacks;
  std::vector<std::function<std::vector<HistogramSample>()>> histogram_callbacks;
};

namespace {

template <typename Members>
void RefuseTwice(const Members& members, std::string_view name, const MetricLabels& labels) {
  for (const auto& member : members) {
    if (member.first == labels) Die(name, "the same labels are added twice");
  }
}

}  // namespace

MetricSet::MetricSet() = default;
MetricSet::~MetricSet() = default;

MetricSet::Family& MetricSet::FamilyOf(std::string_view name, std::string_view help, int type) {
  auto& family = families_[std::string(name)];
  if (family == nullptr) {
    if (!prometheus::CheckMetricName(std::string(name))) Die(name, "is no name for a metric");
    family = std::make_unique<Family>();
    family->help = std::string(help);
    family->type = static_cast<MetricType>(type);
  }
  if (family->type != static_cast<MetricType>(type)) Die(name, "is added as two different kinds");
  return *family;
}

Counter& MetricSet::AddCounter(std::string_view name, std::string_view help, MetricLabels labels) {
  MutexLock lock(mu_);
  auto& counters = FamilyOf(name, help, static_cast<int>(MetricType::Counter)).counters;
  RefuseTwice(counters, name, labels);
  return counters.emplace_back(std::piecewise_construct, std::forward_as_tuple(std::move(labels)), std::tuple<>())
      .second;
}

Gauge& MetricSet::AddGauge(std::string_view name, std::string_view help, MetricLabels labels) {
  MutexLock lock(mu_);
  auto& gauges = FamilyOf(name, help, static_cast<int>(MetricType::Gauge)).gauges;
  RefuseTwice(gauges, name, labels);
  return gauges.emplace_back(std::piecewise_construct, std::forward_as_tuple(std::move(labels)), std::tuple<>()).second;
}

Histogram& MetricSet::AddHistogram(std::string_view name, std::string_view help, const HistogramLayout& layout,
                                   MetricLabels labels) {
  MutexLock lock(mu_);
  auto& histograms = FamilyOf(name, help, static_cast<int>(MetricType::Histogram)).histograms;
  RefuseTwice(histograms, name, labels);
  return histograms
      .emplace_back(std::piecewise_construct, std::forward_as_tuple(std::move(labels)), std::forward_as_tuple(layout))
      .second;
}

void MetricSet::AddCallback(std::string_view name, std::string_view help, MetricKind kind,
                            std::function<std::vector<MetricSample>()> read) {
  const MetricType type = kind == MetricKind::kCounter ? MetricType::Counter : MetricType::Gauge;
  MutexLock lock(mu_);
  FamilyOf(name, help, static_cast<int>(type)).callbacks.push_back(std::move(read));
}

void MetricSet::AddHistogramCallback(std::string_view name, std::string_view help,
                                     std::function<std::vector<HistogramSample>()> read) {
  MutexLock lock(mu_);
  FamilyOf(name, help, static_cast<int>(MetricType::Histogram)).histogram_callbacks.push_back(std::move(read));
}

void MetricSet::RemoveCallbacks() {
  MutexLock lock(mu_);
  for (auto& [name, family] : families_) {
    family->callbacks.clear();
    family->histogram_callbacks.clear();
  }
}

std::vector<MetricFamily> MetricSet::Collect() const {
  MutexLock lock(mu_);
  std::vector<MetricFamily> result;
  result.reserve(families_.size());
  for (const auto& [name, family] : families_) {
    MetricFamily& out = result.emplace_back();
    out.name = name;
    out.help = family->help;
    out.type = family->type;
    const auto add = [&out](const MetricLabels& labels) -> ClientMetric& {
      ClientMetric& metric = out.metric.emplace_back();
      metric.label = ToLabels(labels);
      return metric;
    };
    for (const auto& [labels, counter] : family->counters) {
      Fill(add(labels), out.type, static_cast<double>(counter.value()));
    }
    for (const auto& [labels, gauge] : family->gauges) Fill(add(labels), out.type, static_cast<double>(gauge.value()));
    for (const auto& [labels, histogram] : family->histograms) Fill(add(labels), histogram);
    for (const auto& read : family->callbacks) {
      for (const MetricSample& sample : read()) Fill(add(sample.labels), out.type, sample.value);
    }
    for (const auto& read : family->histogram_callbacks) {
      for (const HistogramSample& sample : read()) Fill(add(sample.labels), sample);
    }
  }
  return result;
}

MetricsExporter::MetricsExporter(Address address, std::shared_ptr<MetricSet> metrics,
                                 std::unique_ptr<prometheus::Exposer> exposer)
    : address_(std::move(address)), metrics_(std::move(metrics)), exposer_(std::move(exposer)) {}

// The HTTP server notices that it should stop only when its wait for connections ends, which takes up to two seconds; a
// connection ends it at once. One that comes before the stop is noticed is in vain, hence the loop.
MetricsExporter::~MetricsExporter() {
  constexpr std::chrono::milliseconds kBetweenKnocks(10);
  auto stopped = std::async(std::launch::async, [this] { exposer_.reset(); });
  do {
    Knock(address_);
  } while (stopped.wait_for(kBetweenKnocks) != std::future_status::ready);
}

absl::Status CheckMetricsAddress(const Address& address, bool allow_insecure) {
  if (address.reach == AddressReach::kUnix) {
    return absl::InvalidArgumentError(
        fmt::format("metrics.listen: metrics are served over TCP, not on {}", address.ToString()));
  }
  if (address.reach == AddressReach::kNetwork && !allow_insecure) {
    return absl::InvalidArgumentError(
        fmt::format("metrics.listen: {} can be reached from the network, and metrics are plain HTTP that everybody may "
                    "read: listen on loopback, or ask for it with metrics.allow_insecure",
                    address.ToString()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MetricsExporter>> MetricsExporter::Start(const Address& address,
                                                                        std::shared_ptr<MetricSet> metrics,
                                                                        bool allow_insecure) {
  if (absl::Status status = CheckMetricsAddress(address, allow_insecure); !status.ok()) return status;
  Address real = address;
  // The HTTP server takes numbers only.
  if (real.host == "localhost") real.host = "127.0.0.1";
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(real.ToString(), /*num_threads=*/2);
    exposer->RegisterCollectable(metrics);
    const auto ports = exposer->GetListeningPorts();
    if (!ports.empty()) real.port = static_cast<uint16_t>(ports.front());
    return std::unique_ptr<MetricsExporter>(new MetricsExporter(real, std::move(metrics), std::move(exposer)));
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        fmt::format("metrics cannot be served on {}: {}; is the address in use?", real.ToString(), error.what()));
  }
}

}  // namespace viommu
