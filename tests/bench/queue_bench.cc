// The invalidation queue against the queues that one could take off the shelf (tests/bench/queue_rivals.h).
//
// Cells: 1, 2, 4, 8 producers and one consumer by batches of 1, 8, 64 commands. In each, two loads:
//   flood   producers push as fast as they can: commands consumed per second, and what the slowest producer got
//   sync    each producer pushes a batch, waits until it has been consumed, and does so again: the time of one such
//   turn
// The consumer reads every command and does the same with it, whatever the queue.
//
// Queues take turns within a round and rounds are repeated, because other load on the machine comes and goes; what is
// reported is the median of the rounds.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <bit>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/queue_rivals.h"
#include "tests/bench/report.h"

namespace viommu::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Cell {
  int producers;
  int batch;
  std::string Name() const { return fmt::format("P{} B{}", producers, batch); }
};

// In the first word of a batch's last command, for queues that do not say themselves what has been consumed.
constexpr uint64_t kTellProducer = uint64_t{1} << 63;

struct alignas(128) Turns {
  std::atomic<uint64_t> done{0};
};

// Latencies by magnitude: exact up to 64 ns, then 64 steps per power of two. One thread.
class Histogram {
 public:
  void Add(uint64_t ns) { ++counts_[Index(ns)]; }
  void Add(const Histogram& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }
  // In microseconds.
  double Quantile(double q) const {
    uint64_t total = 0;
    for (const uint64_t count : counts_) total += count;
    auto rank = static_cast<uint64_t>(q * static_cast<double>(total));
    for (size_t i = 0; i < counts_.size(); ++i) {
      if (rank < counts_[i]) return static_cast<double>(Value(i)) / 1000;
      rank -= counts_[i];
    }
    return static_cast<double>(Value(Last())) / 1000;
  }

 private:
  static constexpr uint64_t kSteps = 64;
  static size_t Index(uint64_t ns) {
    if (ns < kSteps) return ns;
    const auto shift = static_cast<uint64_t>(std::bit_width(ns)) - 7;
    return (shift + 1) * kSteps + ((ns >> shift) - kSteps);
  }
  static uint64_t Value(size_t index) {
    if (index < kSteps) return index;
    return (index % kSteps + kSteps) << (index / kSteps - 1);
  }
  size_t Last() const {
    size_t last = counts_.size() - 1;
    while (last > 0 && counts_[last] == 0) --last;
    return last;
  }
  std::vector<uint64_t> counts_ = std::vector<uint64_t>(kSteps * 59);
};

// What one run of one queue in one cell gave, by metric.
using Sample = std::map<std::string, double>;

// Keeps the compiler from leaving out what computes it.
void Use(uint64_t value) { asm volatile("" : : "r"(value)); }

template <typename Queue>
class Run {
 public:
  Run(const Cell& cell, Clock::duration length)
      : cell_(cell),
        length_(length),
        queue_(cell.producers),
        turns_(static_cast<size_t>(cell.producers)),
        start_(cell.producers + 2) {}

  Sample Flood() {
    std::vector<uint64_t> pushed(static_cast<size_t>(cell_.producers));
    const auto produce = [&](int id) {
      typename Queue::Producer producer(queue_, id);
      const std::vector<RawCommand> batch = Batch(id);
      uint64_t batches = 0;
      start_.arrive_and_wait();
      while (!stop_.load(std::memory_order_relaxed)) {
        producer.Push(batch);
        ++batches;
      }
      pushed[static_cast<size_t>(id)] = batches;
    };
    const auto work = [](std::span<const RawCommand> run) {
      uint64_t sink = 0;
      for (const RawCommand& command : run) sink ^= command.dw0 ^ command.dw1;
      Use(sink);
    };
    const double seconds = Drive(produce, work);
    uint64_t sum = 0;
    for (const uint64_t batches : pushed) sum += batches;
    const uint64_t least = *std::min_element(pushed.begin(), pushed.end());
    const double mean = static_cast<double>(sum) / cell_.producers;
    return {{"throughput", static_cast<double>(consumed_) / seconds / 1e6},
            {"slowest", mean == 0 ? 0 : 100 * static_cast<double>(least) / mean}};
  }

  Sample Sync() {
    std::vector<Histogram> histograms(static_cast<size_t>(cell_.producers));
    const auto produce = [&](int id) {
      typename Queue::Producer producer(queue_, id);
      std::vector<RawCommand> batch = Batch(id);
      Histogram& histogram = histograms[static_cast<size_t>(id)];
      uint64_t turn = 0;
      start_.arrive_and_wait();
      while (!stop_.load(std::memory_order_relaxed)) {
        batch.back().dw1 = ++turn;
        const auto begin = Clock::now();
        producer.Push(batch);
        if constexpr (Queue::kPositions) {
          producer.Sync();
        } else {
          Backoff backoff;
          while (turns_[static_cast<size_t>(id)].done.load(std::memory_order_acquire) < turn) backoff();
        }
        histogram.Add(static_cast<uint64_t>((Clock::now() - begin).count()));
      }
    };
    const auto work = [this](std::span<const RawCommand> run) {
      uint64_t sink = 0;
      for (const RawCommand& command : run) {
        sink ^= command.dw0 ^ command.dw1;
        if ((command.dw0 & kTellProducer) != 0) {
          turns_[command.dw0 & ~kTellProducer].done.store(command.dw1, std::memory_order_release);
        }
      }
      Use(sink);
    };
    Drive(produce, work);
    Histogram all;
    for (const Histogram& one : histograms) all.Add(one);
    return {{"p50", all.Quantile(0.5)},
            {"p99", all.Quantile(0.99)},
            {"p99.9", all.Quantile(0.999)},
            {"worst", all.Quantile(1)}};
  }

 private:
  std::vector<RawCommand> Batch(int id) const {
    std::vector<RawCommand> batch(static_cast<size_t>(cell_.batch), {static_cast<uint64_t>(id), 0x5eed});
    if (!Queue::kPositions) batch.back().dw0 |= kTellProducer;
    return batch;
  }

  // Runs the producers and the consumer; returns how long they ran.
  template <typename Work>
  double Drive(const std::function<void(int)>& produce, Work work) {
    std::vector<std::thread> producers;
    for (int id = 0; id < cell_.producers; ++id) producers.emplace_back(produce, id);
    std::atomic<bool> producers_done{false};
    std::thread consumer([&] {
      start_.arrive_and_wait();
      uint64_t consumed = 0;
      while (!stop_.load(std::memory_order_relaxed)) consumed += queue_.Consume(work);
      consumed_ = consumed;
      seconds_ = std::chrono::duration<double>(Clock::now() - begin_).count();
      // Nobody is left waiting.
      while (!producers_done.load(std::memory_order_relaxed)) queue_.Consume(work);
      while (queue_.Consume(work) != 0) continue;
    });
    begin_ = Clock::now();
    start_.arrive_and_wait();
    std::this_thread::sleep_until(begin_ + length_);
    stop_.store(true, std::memory_order_relaxed);
    for (std::thread& producer : producers) producer.join();
    queue_.Stop();
    producers_done.store(true, std::memory_order_relaxed);
    consumer.join();
    return seconds_;
  }

  const Cell cell_;
  const Clock::duration length_;
  Queue queue_;
  std::vector<Turns> turns_;
  std::barrier<> start_;
  Clock::time_point begin_;
  alignas(128) std::atomic<bool> stop_{false};
  alignas(128) uint64_t consumed_ = 0;
  double seconds_ = 0;
};

struct Contestant {
  const char* name;
  std::function<Sample(const Cell&, Clock::duration)> flood;
  std::function<Sample(const Cell&, Clock::duration)> sync;
};

template <typename Queue>
Contestant Make() {
  return {Queue::kName,
          [](const Cell& cell, Clock::duration length) { return std::make_unique<Run<Queue>>(cell, length)->Flood(); },
          [](const Cell& cell, Clock::duration length) { return std::make_unique<Run<Queue>>(cell, length)->Sync(); }};
}

struct Metric {
  const char* name;
  const char* label;
  const char* unit;
  Better better;
};
constexpr std::array<Metric, 6> kMetrics = {{{"throughput", "throughput", "M/s", Better::kHigher},
                                             {"slowest", "slowest's share", "%", Better::kHigher},
                                             {"p50", "sync p50", "us", Better::kLower},
                                             {"p99", "sync p99", "us", Better::kLower},
                                             {"p99.9", "sync p99.9", "us", Better::kLower},
                                             {"worst", "sync worst", "us", Better::kLower}}};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// Values of all rounds, by cell, contestant and metric.
using Results = std::map<std::string, std::vector<std::map<std::string, std::vector<double>>>>;

void AddRows(Report& report, const Results& results, const std::vector<Cell>& cells,
             const std::vector<Contestant>& contestants) {
  std::vector<Row> others;
  for (const Cell& cell : cells) {
    const auto& of_cell = results.at(cell.Name());
    for (const Metric& metric : kMetrics) {
      if (cell.producers == 1 && std::string(metric.name) == "slowest") continue;
      std::vector<double> medians;
      std::string ranges;
      for (size_t i = 0; i < contestants.size(); ++i) {
        const std::vector<double>& values = of_cell[i].at(metric.name);
        medians.push_back(Median(values));
        ranges += fmt::format("{} {} {:.4g} ({:.4g}-{:.4g})", i == 0 ? "" : ",", contestants[i].name, medians.back(),
                              *std::min_element(values.begin(), values.end()),
                              *std::max_element(values.begin(), values.end()));
        if (i != 0) {
          Row row;
          row.subject = fmt::format("{}, {}", cell.Name(), contestants[i].name);
          row.metric = metric.label;
          row.unit = metric.unit;
          row.value = medians[i];
          row.better = metric.better;
          others.push_back(std::move(row));
        }
      }
      const auto best = metric.better == Better::kHigher ? std::max_element(medians.begin() + 1, medians.end())
                                                         : std::min_element(medians.begin() + 1, medians.end());
      report.Add({.subject = cell.Name(),
                  .metric = metric.label,
                  .unit = metric.unit,
                  .value = medians[0],
                  .better = metric.better,
                  .rival = contestants[static_cast<size_t>(best - medians.begin())].name,
                  .rival_value = *best,
                  .aim = 1});
      report.Note(fmt::format("{} {}, {}:{}", cell.Name(), metric.label, metric.unit, ranges));
    }
  }
  for (Row& row : others) report.Add(std::move(row));
}

int Main(int argc, char** argv) {
  Report report("queue", argc, argv);
  const int rounds = report.quick() ? 1 : 7;
  const auto length = std::chrono::milliseconds(report.quick() ? 5 : 100);
  // We are the first.
  const std::vector<Contestant> contestants = {Make<Ours>(),
                                               Make<RteRing<0>>(),
                                               Make<RteRing<RING_F_MP_RTS_ENQ>>(),
                                               Make<RteRing<RING_F_MP_HTS_ENQ>>(),
                                               Make<Moodycamel>(),
                                               Make<BoostLockfree>(),
                                               Make<MutexRing>()};
  std::vector<Cell> cells;
  for (const int producers : {1, 2, 4, 8}) {
    for (const int batch : {1, 8, 64}) cells.push_back({producers, batch});
  }
  Results results;
  for (int round = 0; round < rounds; ++round) {
    fmt::print(stderr, "queue: round {} of {}\n", round + 1, rounds);
    for (const Cell& cell : cells) {
      auto& of_cell = results[cell.Name()];
      of_cell.resize(contestants.size());
      for (size_t i = 0; i < contestants.size(); ++i) {
        // Nobody is always behind the same neighbour.
        const size_t turn = (i + static_cast<size_t>(round)) % contestants.size();
        for (const auto& load : {contestants[turn].flood, contestants[turn].sync}) {
          for (const auto& [metric, value] : load(cell, length)) of_cell[turn][metric].push_back(value);
        }
      }
    }
  }
  AddRows(report, results, cells, contestants);
  report.Note(fmt::format("median (least-most) of {} rounds of {} ms; {} CPUs; rings of {} commands", rounds,
                          length.count(), std::thread::hardware_concurrency(), kCapacity));
  return report.Finish();
}

}  // namespace
}  // namespace viommu::bench

int main(int argc, char** argv) { return viommu::bench::Main(argc, argv); }
