#include "server/store/rocksdb_rival.h"

#include <rocksdb/db.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace viommu::server {
namespace {

using Clock = std::chrono::steady_clock;

struct Writer {
  rocksdb::Status status;
  std::vector<std::chrono::nanoseconds> latencies;
};

void Write(rocksdb::DB& db, int index, size_t value_bytes, Clock::time_point end, Writer& writer) {
  std::mt19937_64 random(static_cast<uint64_t>(index) + 1);
  std::string value(value_bytes, '\0');
  rocksdb::WriteOptions synced;
  synced.sync = true;
  for (uint64_t number = 0; Clock::now() < end; ++number) {
    char key[32];
    std::snprintf(key, sizeof(key), "%04d%012llu", index, static_cast<unsigned long long>(number));
    for (char& c : value) c = static_cast<char>(random());
    const Clock::time_point start = Clock::now();
    writer.status = db.Put(synced, key, value);
    if (!writer.status.ok()) return;
    writer.latencies.push_back(Clock::now() - start);
  }
}

}  // namespace

absl::StatusOr<RivalResult> RocksDbSyncedPuts(const std::string& path, int threads, size_t value_bytes,
                                              std::chrono::nanoseconds duration) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.error_if_exists = true;
  rocksdb::DB* raw = nullptr;
  if (const rocksdb::Status status = rocksdb::DB::Open(options, path, &raw); !status.ok()) {
    return absl::UnavailableError(status.ToString());
  }
  std::unique_ptr<rocksdb::DB> db(raw);
  std::vector<Writer> writers(static_cast<size_t>(threads));
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] { Write(*db, i, value_bytes, start + duration, writers[static_cast<size_t>(i)]); });
  }
  for (std::thread& thread : running) thread.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  db.reset();
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);

  std::vector<std::chrono::nanoseconds> latencies;
  for (Writer& writer : writers) {
    if (!writer.status.ok()) return absl::UnavailableError(writer.status.ToString());
    latencies.insert(latencies.end(), writer.latencies.begin(), writer.latencies.end());
  }
  std::sort(latencies.begin(), latencies.end());
  RivalResult result;
  result.writes = static_cast<int64_t>(latencies.size());
  result.writes_per_s = static_cast<double>(latencies.size()) / seconds;
  if (!latencies.empty()) {
    result.p50 = latencies[latencies.size() / 2];
    result.p99 = latencies[latencies.size() * 99 / 100];
  }
  return result;
}

}  // namespace viommu::server
