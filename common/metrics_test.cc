#include "common/metrics.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "prometheus/text_serializer.h"

namespace viommu {
namespace {

using testing::HasSubstr;

std::string Text(const MetricSet& metrics) { return prometheus::TextSerializer().Serialize(metrics.Collect()); }

// GET /metrics, raw.
std::string Scrape(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string reply;
  char buffer[4096];
  for (ssize_t size = 0; (size = read(fd, buffer, sizeof(buffer))) > 0;)
    reply.append(buffer, static_cast<size_t>(size));
  close(fd);
  return reply;
}

TEST(MetricSetTest, AHistogramThatIsCountedElsewhereIsOneFamily) {
  MetricSet metrics;
  metrics.AddHistogramCallback("viommu_test_seconds", "Time of a test", [] {
    HistogramSample sample;
    sample.labels = {{"of", "a"}};
    sample.buckets = {{0.5, 2}, {1, 0}, {std::numeric_limits<double>::infinity(), 3}};
    sample.sum = 7.5;
    return std::vector<HistogramSample>{sample};
  });
  const std::string text = Text(metrics);
  EXPECT_THAT(text, HasSubstr("# TYPE viommu_test_seconds histogram\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_seconds_count{of=\"a\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_seconds_sum{of=\"a\"} 7.5\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_seconds_bucket{of=\"a\",le=\"0.5\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_seconds_bucket{of=\"a\",le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_seconds_bucket{of=\"a\",le=\"+Inf\"} 5\n"));
  metrics.RemoveCallbacks();
  EXPECT_THAT(Text(metrics), testing::Not(HasSubstr("viommu_test_seconds_count{")));
}

TEST(HistogramTest, EveryValueIsInTheFirstBucketThatHoldsIt) {
  for (const HistogramLayout& layout : {HistogramLayout{1, 64, 0, 1}, HistogramLayout{4, 256, 2, 1},
                                        HistogramLayout{8, 64, 3, 1}, HistogramLayout{16, 16, 0, 1}}) {
    const auto bounds = Histogram(layout).Buckets();
    EXPECT_EQ(bounds.front().first, layout.min);
    EXPECT_EQ(bounds[bounds.size() - 2].first, layout.max);
    for (size_t i = 1; i < bounds.size(); ++i) EXPECT_GT(bounds[i].first, bounds[i - 1].first);
    for (uint64_t value = 0; value < 300; ++value) {
      Histogram histogram(layout);
      histogram.Record(value);
      for (const auto& [bound, count] : histogram.Buckets()) {
        if (value > bound) {
          EXPECT_EQ(count, 0u) << value << " in bucket up to " << bound;
        } else {
          EXPECT_EQ(count, 1u) << value << " not in bucket up to " << bound;
          break;
        }
      }
      EXPECT_EQ(histogram.sum(), value);
    }
  }
}

TEST(MetricSetTest, ExportsWhatWasCounted) {
  MetricSet metrics;
  metrics.AddCounter("viommu_test_commits_total", "Commits").Add(3);
  metrics.AddGauge("viommu_test_resources", "Resources", {{"kind", "viommu"}}).Set(-2);
  metrics.AddGauge("viommu_test_resources", "Resources", {{"kind", "vdevice"}}).Add(7);
  Histogram& seconds = metrics.AddHistogram("viommu_test_seconds", "Seconds", {1 << 10, 1 << 12, 0, 0.5});
  for (const uint64_t value : {1024, 1025, 2048, 5000}) seconds.Record(value);
  metrics.AddCallback("viommu_test_lag", "Lag", MetricKind::kGauge, [] {
    return std::vector<MetricSample>{{{{"host", "a"}}, 1.5}};
  });
  const std::string text = Text(metrics);
  EXPECT_THAT(text, HasSubstr("# HELP viommu_test_commits_total Commits\n"
                              "# TYPE viommu_test_commits_total counter\nviommu_test_commits_total 3\n"));
  EXPECT_THAT(text,
              HasSubstr("viommu_test_resources{kind=\"viommu\"} -2\nviommu_test_resources{kind=\"vdevice\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_lag{host=\"a\"} 1.5\n"));
  EXPECT_THAT(text,
              HasSubstr("viommu_test_seconds_count 4\nviommu_test_seconds_sum 4548.5\n"
                        "viommu_test_seconds_bucket{le=\"512\"} 1\nviommu_test_seconds_bucket{le=\"1024\"} 3\n"
                        "viommu_test_seconds_bucket{le=\"2048\"} 3\nviommu_test_seconds_bucket{le=\"+Inf\"} 4\n"));
  metrics.RemoveCallbacks();
  EXPECT_THAT(Text(metrics), testing::Not(HasSubstr("host=\"a\"")));
}

TEST(MetricSetDeathTest, MistakesEndTheProgram) {
  MetricSet metrics;
  metrics.AddCounter("viommu_test_total", "x", {{"a", "1"}});
  EXPECT_DEATH(metrics.AddCounter("viommu_test_total", "x", {{"a", "1"}}), "the same labels are added twice");
  EXPECT_DEATH(metrics.AddGauge("viommu_test_total", "x"), "two different kinds");
  EXPECT_DEATH(metrics.AddGauge("viommu-test", "x"), "no name for a metric");
  EXPECT_DEATH(Histogram({3, 8, 0, 1}), "powers of two");
}

TEST(MetricSetTest, CountsFromManyThreadsWhileScraped) {
  MetricSet metrics;
  Counter& counter = metrics.AddCounter("viommu_test_total", "x");
  Histogram& histogram = metrics.AddHistogram("viommu_test_seconds", "x", kLatency);
  constexpr int kThreads = 4;
  constexpr int kAdds = 10'000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kAdds; ++i) {
        counter.Add();
        histogram.Record(std::chrono::microseconds(i));
      }
    });
  }
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(metrics.Collect().empty());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), uint64_t{kThreads} * kAdds);
  EXPECT_THAT(Text(metrics), HasSubstr("viommu_test_seconds_count 40000\n"));
}

TEST(MetricsExporterTest, ServesOnAFreePort) {
  auto metrics = std::make_shared<MetricSet>();
  AddProcessMetrics(*metrics, "viommu_test");
  const auto exporter = MetricsExporter::Start(ParseAddress("localhost:0").value(), metrics);
  ASSERT_TRUE(exporter.ok()) << exporter.status();
  EXPECT_NE((*exporter)->address().port, 0);
  const std::string reply = Scrape((*exporter)->address().port);
  EXPECT_THAT(reply, HasSubstr("200 OK"));
  EXPECT_THAT(reply, HasSubstr("viommu_test_build_info{version=\""));
  EXPECT_THAT(reply, HasSubstr("\nprocess_resident_memory_bytes "));
  EXPECT_THAT(reply, HasSubstr("\nprocess_open_fds "));

  const auto second = MetricsExporter::Start((*exporter)->address(), metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*exporter)->address().ToString()));
  for (const char* everywhere : {"0.0.0.0:0", "[::]:0"}) {
    const auto open = MetricsExporter::Start(ParseAddress(everywhere).value(), metrics);
    EXPECT_EQ(open.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(open.status().message()), HasSubstr("metrics.allow_insecure"));
  }
  EXPECT_TRUE(MetricsExporter::Start(ParseAddress("0.0.0.0:0").value(), metrics, /*allow_insecure=*/true).ok());
  EXPECT_EQ(MetricsExporter::Start(ParseAddress("unix:/x").value(), metrics).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace viommu
