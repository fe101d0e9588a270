#include "agent/agent_metrics.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/event.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

using std::chrono::duration;

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// "applied" of OUTCOME_APPLIED, "synced" of SESSION_STATE_SYNCED.
std::string Word(const std::string& name, std::string_view prefix) { return Lower(name.substr(prefix.size())); }

// Why an invalidation can stop (local/commands.h); the rest counts as BACKEND_FAILED.
constexpr v1::ErrorReason kStops[] = {
    v1::ERROR_REASON_UNKNOWN_VDEV_ID, v1::ERROR_REASON_OPCODE_FORBIDDEN,     v1::ERROR_REASON_COMMAND_ILLEGAL,
    v1::ERROR_REASON_SMMU_TIMEOUT,    v1::ERROR_REASON_TARGET_NOT_SUPPORTED, v1::ERROR_REASON_BACKEND_FAILED,
};

}  // namespace

AgentMetrics::AgentMetrics()
    : set_(std::make_shared<MetricSet>()),
      guest_events_lost_(set_->AddCounter("viommu_agent_guest_events_lost_total",
                                          "Events of guests that came when their viommu's queue was full")),
      reconcile_seconds_(set_->AddHistogram("viommu_agent_reconcile_seconds",
                                            "Time of one portion of the reconciler's work", kLatency)),
      journal_sync_seconds_(set_->AddHistogram("viommu_agent_journal_sync_seconds",
                                               "Time of one sync of the journal to the disk", kLatency)),
      invalidate_seconds_(set_->AddHistogram("viommu_agent_invalidate_request_seconds",
                                             "Time of one request for invalidations at the backend", kLatency)),
      invalidate_commands_(set_->AddHistogram("viommu_agent_invalidate_request_commands",
                                              "Commands in one request for invalidations", kBatchSize)) {
  for (int kind = 0; kind < kItemKinds; ++kind) {
    for (const v1::Outcome outcome :
         {v1::OUTCOME_APPLIED, v1::OUTCOME_DORMANT, v1::OUTCOME_RELEASED, v1::OUTCOME_FAILED}) {
      outcomes_[static_cast<size_t>(kind)][static_cast<size_t>(outcome)] =
          &set_->AddCounter("viommu_agent_items_total", "Attempts on held resources by what came of them",
                            {{"kind", std::string(ItemKindName(static_cast<ItemKind>(kind)))},
                             {"outcome", Word(v1::Outcome_Name(outcome), "OUTCOME_")}});
    }
  }
  const auto stop_counter = [this](v1::ErrorReason reason, const std::string& word) {
    invalidate_stops_[reason] = &set_->AddCounter("viommu_agent_invalidate_requests_total",
                                                  "Requests for invalidations by why they stopped", {{"stop", word}});
  };
  stop_counter(v1::ERROR_REASON_UNSPECIFIED, "none");
  for (const v1::ErrorReason reason : kStops) stop_counter(reason, Lower(ReasonName(reason)));
  std::map<std::string, Counter*> by_name;
  for (size_t id = 0; id < guest_events_.size(); ++id) {
    const std::string name = smmuv3::EventName(static_cast<uint8_t>(id));
    Counter*& counter = by_name[name];
    if (counter == nullptr) {
      counter = &set_->AddCounter("viommu_agent_guest_events_total",
                                  "Events that the SMMU has recorded for guests, by what they are", {{"event", name}});
    }
    guest_events_[id] = counter;
  }
  AddProcessMetrics(*set_, "viommu_agent");
}

void AgentMetrics::CountOutcome(ItemKind kind, v1::Outcome outcome) {
  Counter* counter = outcomes_[static_cast<size_t>(kind)][static_cast<size_t>(outcome)];
  if (counter != nullptr) counter->Add();
}

void AgentMetrics::CountInvalidation(int commands, std::chrono::nanoseconds time, v1::ErrorReason stop) {
  invalidate_seconds_.Record(time);
  invalidate_commands_.Record(static_cast<uint64_t>(commands));
  const auto it = invalidate_stops_.find(stop);
  (it != invalidate_stops_.end() ? it : invalidate_stops_.find(v1::ERROR_REASON_BACKEND_FAILED))->second->Add();
}

void AgentMetrics::Attach(const Backend& backend, Driver& driver, const SessionClient& client, const Vmms& vmms,
                          const GuestEvents& events, std::function<size_t()> waiting_calls) {
  const auto one = [](double value) { return std::vector<MetricSample>{{{}, value}}; };
  set_->AddCallback("viommu_agent_held_items", "Held resources by where they stand", MetricKind::kGauge, [&driver] {
    std::vector<MetricSample> samples;
    for (const auto& [state, count] : driver.Counts()) {
      samples.push_back({{{"state", state}}, static_cast<double>(count)});
    }
    return samples;
  });
  set_->AddCallback("viommu_agent_drift_objects",
                    "Objects that are not as the agent believes, where its backend can tell: see GetDrift",
                    MetricKind::kGauge, [&driver] {
                      const Reconciler::DriftCounts drift = driver.CountDrift();
                      return std::vector<MetricSample>{{{{"how", "missing"}}, static_cast<double>(drift.missing)},
                                                       {{{"how", "different"}}, static_cast<double>(drift.different)},
                                                       {{{"how", "stray"}}, static_cast<double>(drift.strays)},
                                                       {{{"how", "unknown"}}, static_cast<double>(drift.unknown)}};
                    });
  set_->AddCallback("viommu_agent_revision", "Store revision that the host has reached", MetricKind::kGauge,
                    [&driver, one] { return one(static_cast<double>(driver.revision())); });
  set_->AddCallback("viommu_agent_journal_bytes", "Size of the journal", MetricKind::kGauge,
                    [&driver, one] { return one(static_cast<double>(driver.journal_stats().size_bytes)); });
  set_->AddCallback("viommu_agent_journal_rewrites_total", "Times that the journal was written anew",
                    MetricKind::kCounter,
                    [&driver, one] { return one(static_cast<double>(driver.journal_stats().compactions)); });
  set_->AddCallback("viommu_agent_journal_tombstones", "Released resources that are remembered one by one",
                    MetricKind::kGauge,
                    [&driver, one] { return one(static_cast<double>(driver.journal_stats().tombstones)); });
  set_->AddCallback(
      "viommu_agent_session_state", "1 for the state that the session is in", MetricKind::kGauge, [&client] {
        std::vector<MetricSample> samples;
        const v1::SessionState now = client.status().state;
        for (const v1::SessionState state : {v1::SESSION_STATE_CONNECTING, v1::SESSION_STATE_SYNCING,
                                             v1::SESSION_STATE_SYNCED, v1::SESSION_STATE_REFUSED}) {
          samples.push_back(
              {{{"state", Word(v1::SessionState_Name(state), "SESSION_STATE_")}}, state == now ? 1.0 : 0.0});
        }
        return samples;
      });
  set_->AddCallback("viommu_agent_sessions_total", "Sessions that a server has welcomed", MetricKind::kCounter,
                    [&client, one] { return one(static_cast<double>(client.status().sessions)); });
  set_->AddCallback("viommu_agent_invalidate_calls_waiting", "Calls of the server that wait for a thread",
                    MetricKind::kGauge,
                    [waiting = std::move(waiting_calls), one] { return one(static_cast<double>(waiting())); });
  set_->AddCallback("viommu_agent_event_queues", "Viommus whose events are read", MetricKind::kGauge,
                    [&events, one] { return one(static_cast<double>(events.queues())); });
  AttachBackend(backend);
  AttachVmms(vmms);
}

void AgentMetrics::AttachVmms(const Vmms& vmms) {
  const auto one = [](uint64_t value) { return std::vector<MetricSample>{{{}, static_cast<double>(value)}}; };
  set_->AddCallback("viommu_agent_vmms", "VMs whose VMM has handed memory over and is there", MetricKind::kGauge,
                    [&vmms, one] { return one(vmms.connected()); });
  set_->AddCallback("viommu_agent_vmm_restarts_total", "Times that another process took over as the VMM of a VM",
                    MetricKind::kCounter, [&vmms, one] { return one(vmms.restarts()); });
}

void AgentMetrics::AttachBackend(const Backend& backend) {
  set_->AddCallback(
      "viommu_agent_invalidations_total", "Invalidations that guests asked for", MetricKind::kCounter, [&backend] {
        std::vector<MetricSample> samples;
        for (const SmmuStats& stats : backend.GetStats()) {
          for (const InvalidationCount& count : stats.invalidations) {
            const auto add = [&](const char* outcome, uint64_t value) {
              samples.push_back(
                  {{{"smmu", stats.smmu}, {"opcode", smmuv3::OpcodeName(count.opcode)}, {"outcome", outcome}},
                   static_cast<double>(value)});
            };
            add("done", count.done);
            add("refused", count.refused);
            add("failed", count.failed);
          }
        }
        // Unknown opcodes share one name.
        std::map<MetricLabels, double> sums;
        for (const auto& sample : samples) sums[sample.labels] += sample.value;
        samples.clear();
        for (const auto& [labels, value] : sums) samples.push_back({labels, value});
        return samples;
      });
  const auto per_smmu = [this, &backend](const char* name, const char* help, MetricKind kind,
                                         uint64_t SmmuStats::*field) {
    set_->AddCallback(name, help, kind, [&backend, field] {
      std::vector<MetricSample> samples;
      for (const SmmuStats& stats : backend.GetStats()) {
        samples.push_back({{{"smmu", stats.smmu}}, static_cast<double>(stats.*field)});
      }
      return samples;
    });
  };
  per_smmu("viommu_agent_queue_depth", "Commands in the invalidation queue", MetricKind::kGauge,
           &SmmuStats::queue_depth);
  per_smmu("viommu_agent_queue_capacity", "Commands that the invalidation queue holds", MetricKind::kGauge,
           &SmmuStats::queue_capacity);
  per_smmu("viommu_agent_queue_pushed_total", "Commands put in the invalidation queue", MetricKind::kCounter,
           &SmmuStats::queue_pushed);
  per_smmu("viommu_agent_queue_full_waits_total", "Times that a producer waited for room in the queue",
           MetricKind::kCounter, &SmmuStats::queue_full_waits);
  set_->AddCallback("viommu_agent_queue_stalled_seconds",
                    "Time that the queue has waited for a producer that took room in it and has not filled it",
                    MetricKind::kGauge, [&backend] {
                      std::vector<MetricSample> samples;
                      for (const SmmuStats& stats : backend.GetStats()) {
                        samples.push_back({{{"smmu", stats.smmu}}, duration<double>(stats.queue_stalled_for).count()});
                      }
                      return samples;
                    });
  per_smmu("viommu_agent_command_errors_total", "Commands that the SMMU itself refused", MetricKind::kCounter,
           &SmmuStats::command_errors);
  per_smmu("viommu_agent_atc_timeouts_total", "Syncs that failed because a device did not answer ATC invalidations",
           MetricKind::kCounter, &SmmuStats::atc_timeouts);
  per_smmu("viommu_agent_sync_timeouts_total", "Syncs that did not complete in time", MetricKind::kCounter,
           &SmmuStats::sync_timeouts);
  per_smmu("viommu_agent_tlb_entries", "Entries of the emulated TLB", MetricKind::kGauge, &SmmuStats::tlb_entries);
  per_smmu("viommu_agent_atc_entries", "Entries of the emulated devices' caches", MetricKind::kGauge,
           &SmmuStats::atc_entries);
  per_smmu("viommu_agent_config_entries", "Entries of the emulated configuration cache", MetricKind::kGauge,
           &SmmuStats::config_entries);
  per_smmu("viommu_agent_vmids_used", "VMIDs in use", MetricKind::kGauge, &SmmuStats::vmids_used);
  per_smmu("viommu_agent_vmids", "VMIDs that there are", MetricKind::kGauge, &SmmuStats::vmids_total);

  set_->AddHistogramCallback("viommu_agent_sync_seconds", "Time from a CMD_SYNC to its completion", [&backend] {
    std::vector<HistogramSample> samples;
    for (const SmmuStats& stats : backend.GetStats()) {
      const LatencyHistogram& histogram = stats.sync_latency;
      HistogramSample& sample = samples.emplace_back();
      sample.labels = {{"smmu", stats.smmu}};
      sample.sum = duration<double>(histogram.sum).count();
      for (size_t i = 0; i < histogram.counts.size(); ++i) {
        sample.buckets.emplace_back(i < histogram.upper_bounds.size()
                                        ? duration<double>(histogram.upper_bounds[i]).count()
                                        : std::numeric_limits<double>::infinity(),
                                    histogram.counts[i]);
      }
    }
    return samples;
  });
}

}  // namespace viommu::agent
