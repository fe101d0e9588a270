#include "server/server_metrics.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/strings/ascii.h"
#include "common/error.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

// Hosts that are looked at while the writer waits.
constexpr size_t kHostsAtATime = 64;

// "ready" of STATE_READY, "free" of DEVICE_STATE_FREE.
std::string StateName(Kind kind, int state) {
  std::string name;
  std::string_view prefix = "STATE_";
  if (kind == Kind::kHost) {
    name = v1::HostState_Name(state);
    prefix = "HOST_STATE_";
  } else if (kind == Kind::kDevice) {
    name = v1::DeviceState_Name(state);
    prefix = "DEVICE_STATE_";
  } else {
    name = v1::State_Name(state);
  }
  return name.empty() ? name : absl::AsciiStrToLower(name.substr(prefix.size()));
}

std::vector<MetricSample> One(double value) { return {{{}, value}}; }

// Visits every SMMU of the fleet with its budgets.
void ForEachSmmu(const CommitCore& core, const std::function<void(const v1::Smmu&)>& visit) {
  std::string after;
  bool more = true;
  while (more) {
    std::vector<v1::Host> hosts;
    core.Read([&](const Tables& tables, int64_t) {
      for (const auto& host : tables.Scan<v1::Host>("", after, kHostsAtATime)) {
        hosts.push_back(WithBudgets(*host, tables));
      }
    });
    more = hosts.size() == kHostsAtATime;
    for (const v1::Host& host : hosts) {
      for (const v1::Smmu& smmu : host.smmus()) visit(smmu);
      after = host.name();
    }
  }
}

std::vector<MetricSample> Vmids(const CommitCore& core, bool total) {
  std::vector<MetricSample> samples;
  ForEachSmmu(core, [&](const v1::Smmu& smmu) {
    samples.push_back(
        {{{"smmu", smmu.name()}}, static_cast<double>(total ? smmu.vmids().total() : smmu.vmids().used())});
  });
  return samples;
}

std::vector<MetricSample> Resources(const CommitCore& core) {
  const Tables::States states = core.Read([](const Tables& tables, int64_t) { return tables.states(); });
  std::vector<MetricSample> samples;
  for (const Kind kind : kKinds) {
    for (size_t state = 0; state < Tables::kStates; ++state) {
      const int64_t count = states[static_cast<size_t>(kind)][state];
      std::string name = StateName(kind, static_cast<int>(state));
      // Every state that there is, also while nothing is in it; none that there is not.
      if (name.empty() || (state == 0 && count == 0)) continue;
      samples.push_back(
          {{{"kind", std::string(KindName(kind))}, {"state", std::move(name)}}, static_cast<double>(count)});
    }
  }
  return samples;
}

}  // namespace

WriteMetrics::WriteMetrics(MetricSet& metrics)
    : batch_commands_(metrics.AddHistogram("viommu_server_commit_batch_commands",
                                           "Commands that were judged and written together", kBatchSize)),
      batch_seconds_(metrics.AddHistogram("viommu_server_commit_batch_seconds",
                                          "Time to judge, write and publish one batch", kLatency)),
      sync_seconds_(metrics.AddHistogram("viommu_server_store_sync_seconds",
                                         "Time that one batch waited for stable storage", kLatency)),
      store_bytes_(metrics.AddCounter("viommu_server_store_written_bytes_total", "Bytes of the batches written")) {}

void WriteMetrics::OnBatch(size_t commands, double seconds) {
  batch_commands_.Record(commands);
  batch_seconds_.Record(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds)));
}

void WriteMetrics::OnStoreCommit(const CommitSample& sample) {
  if (!sample.ok) return;
  store_bytes_.Add(sample.bytes);
  if (sample.synced) sync_seconds_.Record(sample.sync);
}

void RegisterServerMetrics(MetricSet& metrics, const MetricSources& sources) {
  const auto gauge = [&metrics](std::string_view name, std::string_view help, std::function<double()> read) {
    metrics.AddCallback(name, help, MetricKind::kGauge, [read = std::move(read)] { return One(read()); });
  };
  const auto counter = [&metrics](std::string_view name, std::string_view help, std::function<double()> read) {
    metrics.AddCallback(name, help, MetricKind::kCounter, [read = std::move(read)] { return One(read()); });
  };
  const CommitCore& core = sources.core;
  gauge("viommu_server_revision", "Store revision", [&core] { return static_cast<double>(core.revision()); });
  gauge("viommu_server_oldest_revision", "Oldest revision that a watch can start after",
        [&core] { return static_cast<double>(core.log().oldest()); });
  gauge("viommu_server_epoch", "Starts of a server on this store",
        [&core] { return static_cast<double>(core.identity().epoch); });
  gauge("viommu_server_store_writable", "1 while the store takes writes",
        [&core] { return core.writable().ok() ? 1.0 : 0.0; });
  counter("viommu_server_commit_commands_total", "Commands judged",
          [&core] { return static_cast<double>(core.stats().commands); });
  counter("viommu_server_commit_refused_total", "Commands that the rules refused",
          [&core] { return static_cast<double>(core.stats().refused); });
  counter("viommu_server_commit_replayed_total", "Commands answered from their request_id",
          [&core] { return static_cast<double>(core.stats().replayed); });
  counter("viommu_server_store_failures_total", "Batches that the store did not take",
          [&core] { return static_cast<double>(core.stats().store_failures); });
  counter("viommu_server_audit_entries_total", "Entries that the audit log got",
          [&core] { return static_cast<double>(core.audit().stats().entries); });
  counter("viommu_server_audit_dropped_total", "Calls that changed nothing and were left out of the audit log",
          [&core] { return static_cast<double>(core.audit().stats().dropped); });
  gauge("viommu_server_audit_bytes", "Length of the audit log",
        [&core] { return static_cast<double>(core.audit().stats().bytes); });
  const Backups& backups = sources.backups;
  counter("viommu_server_backups_total", "Backups made",
          [&backups] { return static_cast<double>(backups.stats().made); });
  counter("viommu_server_backups_failed_total", "Backups that could not be made",
          [&backups] { return static_cast<double>(backups.stats().failed); });
  // Of the latest backup there is; without one, nothing.
  const auto latest = [&metrics, &backups](std::string_view name, std::string_view help,
                                           int64_t Backups::Backup::*field) {
    metrics.AddCallback(name, help, MetricKind::kGauge, [&backups, field] {
      const auto all = backups.List();
      return all.ok() && !all->empty() ? One(static_cast<double>(all->front().*field)) : std::vector<MetricSample>();
    });
  };
  latest("viommu_server_backup_last_timestamp_seconds", "When the latest backup was made, since 1970",
         &Backups::Backup::time_s);
  latest("viommu_server_backup_last_bytes", "Length of the latest backup", &Backups::Backup::size_bytes);
  gauge("viommu_server_commit_queue_depth", "Commands that wait to be judged",
        [&committer = sources.committer] { return static_cast<double>(committer.queue_depth()); });
  gauge("viommu_server_apply_waits", "Calls that wait for their host",
        [&waits = sources.waits] { return static_cast<double>(waits.count()); });
  gauge("viommu_server_apply_wait_bytes", "What calls that wait for their host hold",
        [&waits = sources.waits] { return static_cast<double>(waits.bytes()); });
  gauge("viommu_server_watches", "Open watches",
        [&watches = sources.watches] { return static_cast<double>(watches.count()); });

  const Sessions& sessions = sources.sessions;
  gauge("viommu_server_sessions", "Agents with a session",
        [&sessions] { return static_cast<double>(sessions.stats().connected); });
  gauge("viommu_server_sessions_synced", "Agents that have everything recorded",
        [&sessions] { return static_cast<double>(sessions.stats().synced); });
  gauge("viommu_server_sessions_pending_resources", "Resources to be sent, over all sessions",
        [&sessions] { return static_cast<double>(sessions.stats().pending_resources); });
  gauge("viommu_server_sessions_hello_bytes", "What hellos hold that are being worked off",
        [&sessions] { return static_cast<double>(sessions.stats().hello_bytes); });
  gauge("viommu_server_sessions_max_lag_revisions", "How far the agent furthest behind is behind",
        [&sessions] { return static_cast<double>(sessions.stats().max_lag_revisions); });
  metrics.AddCallback(
      "viommu_server_sessions_ended_total", "Sessions that ended, by reason", MetricKind::kCounter, [&sessions] {
        std::vector<MetricSample> samples;
        for (const auto& [reason, count] : sessions.stats().ended) {
          const bool by_agent = reason == v1::ERROR_REASON_UNSPECIFIED;
          samples.push_back({{{"reason", by_agent ? "AGENT" : ReasonName(reason)}}, static_cast<double>(count)});
        }
        return samples;
      });

  metrics.AddCallback("viommu_server_resources", "Recorded resources by kind and state", MetricKind::kGauge,
                      [&core = sources.core] { return Resources(core); });
  metrics.AddCallback("viommu_server_smmu_vmids_used", "VMIDs taken on an SMMU", MetricKind::kGauge,
                      [&core] { return Vmids(core, false); });
  metrics.AddCallback("viommu_server_smmu_vmids", "VMIDs that an SMMU has", MetricKind::kGauge,
                      [&core] { return Vmids(core, true); });
}

}  // namespace viommu::server
