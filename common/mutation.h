// Bugs on purpose, to prove that the simulation finds them (tests/simulation, docs/track-record.md).
//
// In every ordinary build Mutated() is false at compile time and nothing of it is left. `--config=mutations` makes a
// build in which a test switches one of them on. Not thread-safe: set it before anything else runs.

#ifndef VIOMMU_COMMON_MUTATION_H_
#define VIOMMU_COMMON_MUTATION_H_

namespace viommu {

enum class Mutation {
  kNone,
  // In the simulated world around the programs.
  kAcknowledgeBeforeSync,  // the server's store answers a synced commit before it is durable
  kJournalSyncLies,        // the agent's journal is told that it is durable, and is not
  kRepeatWatchEvent,       // a watch is sent the same change twice
  kDropWatchEvent,         // a watch misses a change
  kLoseUnknownUids,        // agents are not told what to tear down because nobody knows it
  kPoseAsFirst,            // a second agent of a host says that it is the first one
  // In the server.
  kReuseDeviceEarly,     // an unset frees the device before its host has confirmed
  kRebindFreesIdEarly,   // a rebind frees the old vdev_id before the host has confirmed
  kBelieveOldResults,    // answers about an older generation are taken
  kLoseRequestRecord,    // the answer to a request id is not kept
  kIgnoreFingerprint,    // another request under a known request id gets the first one's answer
  kPublishFailedCommit,  // what the store did not take is published and acknowledged
  kReuseRevisions,       // no revisions are skipped after a loss of power
  kKeepEpoch,            // a start of the server takes no new epoch
  kIgnoreIncarnation,    // server and agent: a wiped store is as good as the one before
  kIgnoreStarts,         // server: an older copy of the store is as good as the newest
  kIgnoreEpoch,          // server and agent: a stale server is as good as the present one
  kDropNack,             // a host's FAILED is not recorded
  kForgetChange,         // a change that comes while a message is being written is not sent
  kForgetGoneWaiter,     // who waits for something to be gone is not told
  kIgnoreQuota,          // owners get more than their quota allows
  kIgnoreGroups,         // two VMs get devices of one IOMMU group
  kMissDeadline,         // a drain's deadline passes, and nothing is evicted
  kMissDrift,            // a repair leaves what an agent's journal has otherwise at the same generation
  // In the agent.
  kForgetTombstone,      // what was released is forgotten
  kActBeforeJournal,     // an intent is acted on before it is durable
  kIgnoreBootId,         // after a reboot the journal is believed
  kReleaseTooEarly,      // RELEASED is said before it is so
  kRenameUnsynced,       // a rewritten journal takes the old one's place before it is durable
  kBuildOnFailedWrite,   // the journal goes on after a failed write
  kForgetDirectorySync,  // a rewritten journal's name is not made durable
  kStayBound,            // a released device is not unbound
  kKeepQueue,            // a released hardware queue is not ended
  // In the emulated backend.
  kStayAttached,         // a detached device's stream table entry stays as it was
  kShareVmid,            // all nested stream table entries bear the same VMID
  kKeepTranslations,     // a VMID is given back, and its translations stay in the TLB
  kKeepUnmapped,         // what is unmapped stays in the TLB
  kInvalidateEverybody,  // a guest's invalidation of everything is not its own alone
  kForgetPin,            // memory is given back although a hardware queue lies in it
  kBelieveQueueVmid,     // a hardware queue's commands bear the VMID that the guest writes
};
inline constexpr int kMutations = static_cast<int>(Mutation::kBelieveQueueVmid) + 1;

namespace mutation_internal {
inline Mutation active = Mutation::kNone;
}  // namespace mutation_internal

#ifdef VIOMMU_MUTATIONS
inline bool Mutated(Mutation mutation) { return mutation_internal::active == mutation; }
#else
constexpr bool Mutated(Mutation /*mutation*/) { return false; }
#endif

}  // namespace viommu

#endif  // VIOMMU_COMMON_MUTATION_H_
