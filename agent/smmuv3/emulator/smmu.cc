#include "agent/smmuv3/emulator/smmu.h"

#include <algorithm>
#include <utility>

namespace viommu::smmuv3 {
namespace {

// Linux refuses smaller queues, whose entries its 64-entry batches would not fit in.
constexpr uint32_t kMinLog2Size = 7;

uint32_t OrLargest(uint32_t log2_size) { return log2_size == 0 ? kMaxQueueLog2Size : log2_size; }

uint32_t QueueLog2Size(const Features& features, const SmmuOptions& options) {
  const uint32_t largest = std::min(OrLargest(features.cmdq_log2_size), kMaxQueueLog2Size);
  return std::clamp(std::min(options.queue_log2_size, largest), kMinLog2Size, kMaxQueueLog2Size);
}

uint32_t StallCapacity(const Features& features, const SmmuOptions& options) {
  return features.stall_max == 0 ? options.max_stalled : std::min<uint32_t>(options.max_stalled, features.stall_max);
}

}  // namespace

EmulatedSmmu::EmulatedSmmu(std::string name, const IdRegisters& idr, uint32_t iidr, uint32_t aidr,
                           const SmmuOptions& options, Memory* memory, Handlers handlers)
    : name_(std::move(name)),
      own_thread_(options.own_thread),
      idr_(idr),
      iidr_(iidr),
      aidr_(aidr),
      features_(DecodeIdRegisters(idr)),
      memory_(memory),
      queue_(QueueLog2Size(features_, options)),
      gbpa_(static_cast<uint32_t>(gbpa::kAbort.mask())),
      caches_(options.tlb_capacity, options.config_capacity, options.atc_capacity, options.eviction_seed),
      translator_(features_, memory, &caches_),
      interrupts_(features_, memory,
                  {std::move(handlers.on_gerror), std::move(handlers.on_event), std::move(handlers.on_page_request),
                   std::move(handlers.on_sync)}),
      events_(memory, OrLargest(features_.eventq_log2_size), &interrupts_),
      page_requests_(memory, OrLargest(features_.priq_log2_size), &interrupts_),
      stalls_(StallCapacity(features_, options)),
      atc_invalidations_(options.atc_timeout) {
  if (own_thread_) thread_ = std::thread([this] { Run(); });
}

EmulatedSmmu::~EmulatedSmmu() {
  {
    MutexLock lock(state_mu_);
    stopping_ = true;
    state_changed_.NotifyAll();
  }
  atc_invalidations_.Close();
  if (own_thread_) {
    queue_.Wake();
    thread_.join();
  } else {
    queue_.Abandon();
  }
  stalls_.Close();
  in_flight_.Wait();
}

SmmuCounters EmulatedSmmu::GetCounters() const {
  SmmuCounters counters;
  for (size_t i = 0; i < executed_.size(); ++i) counters.executed[i] = executed_[i].load(std::memory_order_relaxed);
  counters.command_errors = command_errors_.load(std::memory_order_relaxed);
  counters.events_recorded = events_.recorded();
  counters.events_lost = events_.lost();
  counters.transactions = transactions_.load(std::memory_order_relaxed);
  counters.walks = translator_.walks();
  counters.stalled = stalls_.count();
  MutexLock lock(caches_.mu());
  counters.fills_dropped = caches_.fills_dropped();
  counters.tlb_entries = caches_.tlb().size();
  counters.atc_entries = caches_.atc().size();
  counters.config_entries = caches_.config().size();
  return counters;
}

void EmulatedSmmu::Pause() {
  MutexLock lock(state_mu_);
  paused_ = true;
  // A thread that waits for work counts as executing: it comes and sees.
  queue_.Wake();
  while (executing_) state_changed_.Wait(state_mu_);
}

void EmulatedSmmu::Resume() {
  MutexLock lock(state_mu_);
  paused_ = false;
  state_changed_.NotifyAll();
}

}  // namespace viommu::smmuv3
