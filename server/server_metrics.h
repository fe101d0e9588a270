// The server's own metrics (docs/metrics.md).

#ifndef VIOMMU_SERVER_SERVER_METRICS_H_
#define VIOMMU_SERVER_SERVER_METRICS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "server/api/apply_waits.h"
#include "server/api/watch_hub.h"
#include "server/commit/backups.h"
#include "server/commit/committer.h"
#include "server/commit/core.h"
#include "server/store/rocksdb_store.h"
#include "server/sync/sessions.h"

namespace viommu::server {

// What the writer and the store report as they go.
class WriteMetrics {
 public:
  explicit WriteMetrics(MetricSet& metrics);

  void OnBatch(size_t commands, double seconds);
  void OnStoreCommit(const CommitSample& sample);

 private:
  Histogram& batch_commands_;
  Histogram& batch_seconds_;
  Histogram& sync_seconds_;
  Counter& store_bytes_;
};

struct MetricSources {
  const Committer& committer;
  const CommitCore& core;
  const ApplyWaits& waits;
  const WatchHub& watches;
  const Sessions& sessions;
  const Backups& backups;
};

// Registers everything that is asked for when scraped. The sources must live until metrics.RemoveCallbacks().
void RegisterServerMetrics(MetricSet& metrics, const MetricSources& sources);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SERVER_METRICS_H_
