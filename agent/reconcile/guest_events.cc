#include "agent/reconcile/guest_events.h"

#include <fmt/format.h>

#include <utility>

#include "common/log.h"

namespace viommu::agent {
namespace {

constexpr uint32_t kSequenceMask = 0x7fffffff;

}  // namespace

void GuestEvents::Add(const std::string& uid, Queue queue) {
  MutexLock lock(mu_);
  Entry& entry = entries_[uid];
  entry.queue = std::move(queue);
  entry.events.since = options_.clock->Now();
  changed_.NotifyAll();
}

void GuestEvents::Remove(const std::string& uid) {
  MutexLock lock(mu_);
  const auto found = entries_.find(uid);
  if (found == entries_.end()) return;
  while (found->second.being_read) changed_.Wait(mu_);
  entries_.erase(found);
}

std::optional<GuestEvents::Events> GuestEvents::List(std::string_view viommu, uint64_t after) const {
  MutexLock lock(mu_);
  for (const auto& [uid, entry] : entries_) {
    if (entry.queue.viommu != viommu) continue;
    Events events = entry.events;
    for (const GuestEvent& event : entry.kept) {
      if (event.number > after || after > events.count) events.kept.push_back(event);
    }
    return events;
  }
  return std::nullopt;
}

size_t GuestEvents::queues() const {
  MutexLock lock(mu_);
  return entries_.size();
}

void GuestEvents::Turn() {
  std::string uid;
  // Others come and go while one is read.
  while (const auto queue = BeginRead(uid)) EndRead(uid, queue->context->ReadVeventq(queue->id, kMaxPerTurn));
}

std::optional<GuestEvents::Queue> GuestEvents::BeginRead(std::string& uid) {
  MutexLock lock(mu_);
  const auto next = entries_.upper_bound(uid);
  if (next == entries_.end()) return std::nullopt;
  uid = next->first;
  next->second.being_read = true;
  return next->second.queue;
}

void GuestEvents::EndRead(const std::string& uid, const absl::StatusOr<std::vector<Vevent>>& events) {
  MutexLock lock(mu_);
  Entry& entry = entries_.at(uid);
  entry.being_read = false;
  changed_.NotifyAll();
  if (!events.ok() && !entry.failed) {
    VIOMMU_LOG(kWarning, "guest events cannot be read",
               {{"vm", entry.queue.vm}, {"viommu", entry.queue.viommu}, {"status", events.status()}});
  }
  entry.failed = !events.ok();
  if (!events.ok()) return;
  for (const Vevent& event : *events) Take(entry, event);
}

void GuestEvents::Take(Entry& entry, const Vevent& event) {
  uint64_t lost = (event.sequence - entry.next_sequence) & kSequenceMask;
  if (event.lost) ++lost;
  entry.next_sequence = (event.sequence + 1) & kSequenceMask;
  entry.events.count += lost;
  entry.events.lost += lost;
  if (lost != 0 && options_.on_lost) options_.on_lost(lost);
  if (event.lost) return;
  ++entry.events.count;
  if (options_.on_event) options_.on_event(static_cast<uint8_t>(smmuv3::event::kId.Get(event.record[0])));
  if (entry.kept.size() == kMaxKept) entry.kept.pop_front();
  entry.kept.push_back({entry.events.count, options_.clock->Now(), event.record});
  Tell(entry, event.record);
}

void GuestEvents::Tell(Entry& entry, const smmuv3::RawEvent& record) {
  const MonotonicTime now = options_.clock->Monotonic();
  ++entry.unlogged;
  if (entry.logged && now - *entry.logged < kLogEvery) return;
  if (!lines_since_ || now - *lines_since_ >= kLogEvery) {
    lines_since_ = now;
    lines_ = 0;
  }
  if (lines_ == kMaxLines) return;
  ++lines_;
  const smmuv3::Event event = smmuv3::DecodeEvent(record);
  VIOMMU_LOG(kWarning, "guest fault",
             {{"vm", entry.queue.vm},
              {"viommu", entry.queue.viommu},
              {"vdev_id", fmt::format("{:#x}", event.sid)},
              {"fault", smmuv3::EventName(static_cast<uint8_t>(event.id))},
              {"ssid", event.ssv ? fmt::format("{:#x}", event.ssid) : "none"},
              {"address", smmuv3::HasInputAddress(event.id) ? fmt::format("{:#x}", event.address) : "none"},
              {"events", entry.unlogged},
              {"lost", entry.events.lost}});
  entry.logged = now;
  entry.unlogged = 0;
}

void GuestEvents::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void GuestEvents::Stop() {
  {
    MutexLock lock(mu_);
    stop_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void GuestEvents::Loop() {
  // Wakes may come early: the next turn does not.
  MonotonicTime due = options_.clock->Monotonic();
  while (true) {
    {
      MutexLock lock(mu_);
      while (!stop_ && (entries_.empty() || options_.clock->Monotonic() < due)) {
        if (entries_.empty()) {
          changed_.Wait(mu_);
        } else {
          changed_.WaitFor(mu_, due - options_.clock->Monotonic());
        }
      }
      if (stop_) return;
    }
    due = options_.clock->Monotonic() + kTurnEvery;
    Turn();
    // However much there is to read, there is a rest.
    const MonotonicTime now = options_.clock->Monotonic();
    if (now > due) due = now + kTurnEvery;
  }
}

}  // namespace viommu::agent
