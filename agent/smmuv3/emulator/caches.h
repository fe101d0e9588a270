// All that an emulated SMMU and the devices behind it have cached, under one lock.
//
// A fill is accepted only when no invalidation was carried out since the transaction began, because what was read may
// be what was invalidated: otherwise a completed sync would not mean what it says. Configuration and translations share
// one count of invalidations, because translations are tagged by what the configuration said.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_CACHES_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_CACHES_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/device_caches.h"
#include "agent/smmuv3/emulator/tlb.h"
#include "agent/smmuv3/spec/command.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// Counts of invalidations at some moment.
struct CacheEpoch {
  uint64_t smmu = 0;  // CMD_CFGI_*, CMD_TLBI_*
  uint64_t atc = 0;   // CMD_ATC_INV
};

class Caches {
 public:
  // Capacities as in SmmuOptions. With a seed, entries are thrown out at random, about one in eight of those looked
  // for.
  Caches(uint32_t tlb_capacity, uint32_t config_capacity, uint32_t atc_capacity, std::optional<uint64_t> eviction_seed);

  Mutex& mu() ABSL_LOCK_RETURNED(mu_) { return mu_; }

  Tlb& tlb() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return tlb_; }
  ConfigCache& config() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return config_; }
  AtcCaches& atc() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return atc_; }

  CacheEpoch epoch() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return epoch_; }
  // Whether what was read since `since` may go into TLB and configuration cache, or into an ATC. Counts refusals.
  bool MayFill(const CacheEpoch& since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool MayFillAtc(const CacheEpoch& since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t fills_dropped() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return fills_dropped_; }

  // Carries out CMD_CFGI_*, CMD_TLBI_* and CMD_ATC_INV. `ds` is IDR5.DS.
  void Invalidate(const Command& command, bool ds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // To be called before a lookup: forgets something now and then, in the mode that does so.
  void MaybeEvict() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

 private:
  uint64_t Random() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  Tlb tlb_ ABSL_GUARDED_BY(mu_);
  ConfigCache config_ ABSL_GUARDED_BY(mu_);
  AtcCaches atc_ ABSL_GUARDED_BY(mu_);
  CacheEpoch epoch_ ABSL_GUARDED_BY(mu_);
  uint64_t fills_dropped_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<uint64_t> random_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_CACHES_H_
