// What the agent counts, under names viommu_agent_… (docs/metrics.md).

#ifndef VIOMMU_AGENT_AGENT_METRICS_H_
#define VIOMMU_AGENT_AGENT_METRICS_H_

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>

#include "agent/backend.h"
#include "agent/local/vmms.h"
#include "agent/reconcile/driver.h"
#include "agent/reconcile/guest_events.h"
#include "agent/reconcile/resource.h"
#include "agent/session/client.h"
#include "common/metrics.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/errors.pb.h"

namespace viommu::agent {

// The parts count through it; any thread.
class AgentMetrics {
 public:
  AgentMetrics();

  void CountOutcome(ItemKind kind, v1::Outcome outcome);
  void CountPortion(std::chrono::nanoseconds time) { reconcile_seconds_.Record(time); }
  void CountJournalSync(std::chrono::nanoseconds time) { journal_sync_seconds_.Record(time); }
  void CountInvalidation(int commands, std::chrono::nanoseconds time, v1::ErrorReason stop);

  void CountGuestEvent(uint8_t id) { guest_events_[id]->Add(); }
  void CountLostGuestEvents(uint64_t count) { guest_events_lost_.Add(count); }

  // Has these asked at every scrape, until Detach(). They must live until then.
  void Attach(const Backend& backend, Driver& driver, const SessionClient& client, const Vmms& vmms,
              const GuestEvents& events, std::function<size_t()> waiting_calls);
  void Detach() { set_->RemoveCallbacks(); }

  const std::shared_ptr<MetricSet>& set() const { return set_; }

 private:
  void AttachBackend(const Backend& backend);
  void AttachVmms(const Vmms& vmms);

  std::shared_ptr<MetricSet> set_;
  std::array<std::array<Counter*, v1::Outcome_ARRAYSIZE>, kItemKinds> outcomes_ = {};
  std::map<v1::ErrorReason, Counter*> invalidate_stops_;  // filled once
  std::array<Counter*, 256> guest_events_ = {};           // by event id; unknown ones share one
  Counter& guest_events_lost_;
  Histogram& reconcile_seconds_;
  Histogram& journal_sync_seconds_;
  Histogram& invalidate_seconds_;
  Histogram& invalidate_commands_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_AGENT_METRICS_H_
