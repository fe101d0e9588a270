// The store alone: one writer that commits batches of 1 to 64 records with one sync each, against RocksDB with as many
// threads that write one synced record each. That is what group commit in commit/ is worth before anything is built on
// it.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/rocksdb_rival.h"
#include "server/store/rocksdb_store.h"
#include "server/store/store.h"
#include "server/store/testing/temp_folder.h"
#include "tests/bench/report.h"

namespace viommu::server {
namespace {

using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::duration<double, std::micro>;

constexpr size_t kValueBytes = 256;

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

struct Result {
  double records_per_s = 0;
  double p50_us = 0;
  double p99_us = 0;
};

// Of each figure the middle one: a disk that others use as well has good and bad seconds.
Result Middle(const std::vector<Result>& rounds) {
  const auto middle = [&](double Result::*figure) {
    std::vector<double> values;
    for (const Result& round : rounds) values.push_back(round.*figure);
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  };
  return {middle(&Result::records_per_s), middle(&Result::p50_us), middle(&Result::p99_us)};
}

Result CommitBatches(RocksDbStore& store, size_t records, Durability durability, std::chrono::nanoseconds duration) {
  std::mt19937_64 random(static_cast<uint64_t>(Clock::now().time_since_epoch().count()));
  std::vector<double> latencies;
  const Clock::time_point begin = Clock::now();
  while (Clock::now() < begin + duration) {
    Batch batch;
    for (size_t i = 0; i < records; ++i) {
      std::string value(kValueBytes, '\0');
      for (char& c : value) c = static_cast<char>(random());
      batch.Put(KeySpace::kResources, fmt::format("{:04}{:012}", records, random() % 1'000'000), std::move(value));
    }
    const Clock::time_point start = Clock::now();
    if (const absl::Status status = store.Commit(batch, durability); !status.ok()) Die(status);
    latencies.push_back(Microseconds(Clock::now() - start).count());
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::sort(latencies.begin(), latencies.end());
  return {static_cast<double>(latencies.size() * records) / seconds, latencies[latencies.size() / 2],
          latencies[latencies.size() * 99 / 100]};
}

Result Rival(const std::string& path, size_t threads, std::chrono::nanoseconds duration) {
  const absl::StatusOr<RivalResult> rival = RocksDbSyncedPuts(path, static_cast<int>(threads), kValueBytes, duration);
  if (!rival.ok()) Die(rival.status());
  return {rival->writes_per_s, Microseconds(rival->p50).count(), Microseconds(rival->p99).count()};
}

// Adds the rows of one case; without a rival where there is none to compare with.
void AddRows(bench::Report& report, const std::string& subject, const Result& ours, const std::string& rival = "",
             const Result& theirs = {}) {
  report.Add({.subject = subject,
              .metric = "records",
              .unit = "1/s",
              .value = ours.records_per_s,
              .better = bench::Better::kHigher,
              .rival = rival,
              .rival_value = theirs.records_per_s});
  report.Add({.subject = subject,
              .metric = "p50",
              .unit = "us",
              .value = ours.p50_us,
              .better = bench::Better::kLower,
              .rival = rival,
              .rival_value = theirs.p50_us});
  report.Add({.subject = subject,
              .metric = "p99",
              .unit = "us",
              .value = ours.p99_us,
              .better = bench::Better::kLower,
              .rival = rival,
              .rival_value = theirs.p99_us});
}

int Run(int argc, char** argv) {
  bench::Report report("store", argc, argv);
  const int rounds = report.quick() ? 1 : 7;
  const std::chrono::nanoseconds duration = std::chrono::milliseconds(report.quick() ? 200 : 1000);
  // In the folder for temporary files: set TMPDIR or TEST_TMPDIR to measure another disk.
  const TempFolder folder;
  RocksDbOptions options;
  options.fsync_probes = 101;
  absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(folder.path(), options);
  if (!store.ok()) Die(store.status());
  report.Note(
      fmt::format("values of {} bytes; each figure is the middle one of {} rounds, ours and the rival's in turns",
                  kValueBytes, rounds));
  report.Note(fmt::format("a synced write of 512 bytes takes {:.0f} us here (p50 of {}, at the start)",
                          Microseconds((*store)->fsync_p50().value_or(std::chrono::nanoseconds(0))).count(),
                          options.fsync_probes));
  for (const size_t records : {1, 4, 16, 64}) {
    std::vector<Result> ours;
    std::vector<Result> theirs;
    for (int round = 0; round < rounds; ++round) {
      ours.push_back(CommitBatches(**store, records, Durability::kSynced, duration));
      theirs.push_back(Rival(folder.root() + "/rival", records, duration));
    }
    AddRows(report, fmt::format("synced batches of {}", records), Middle(ours),
            fmt::format("RocksDB, {} threads", records), Middle(theirs));
  }
  AddRows(report, "buffered batches of 1", CommitBatches(**store, 1, Durability::kBuffered, duration));
  return report.Finish();
}

}  // namespace
}  // namespace viommu::server

int main(int argc, char** argv) { return viommu::server::Run(argc, argv); }
