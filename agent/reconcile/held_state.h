// What an agent's journal says: who the agent is, what should be on its host, and what was released. Pure: the fold of
// the journal's records, plus the judgement of a new command against it.
//
// Generations are store revisions, so they rise fleet-wide and over every incarnation of a name. That is what makes a
// late or repeated command harmless: nothing at or below a tombstone's generation comes back under that uid or name,
// and nothing below the held generation replaces what is held.
//
// Tombstones are kept for the last kMaxTombstones releases. Older ones collapse into a floor generation, below which
// everything that is not held counts as released. The floor only rises up to a revision of which the server has said
// that the agent has everything recorded (Synced): whatever is legitimately at or below it is held by then.

#ifndef VIOMMU_AGENT_RECONCILE_HELD_STATE_H_
#define VIOMMU_AGENT_RECONCILE_HELD_STATE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "agent/reconcile/journal.pb.h"
#include "agent/reconcile/resource.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::agent {

inline constexpr size_t kMaxHeldItems = 65536;
inline constexpr size_t kMaxTombstones = 4096;           // beyond it they collapse into the floor as far as is synced
inline constexpr size_t kMaxUnsyncedTombstones = 65536;  // beyond it they collapse in any case

// One resource that the agent holds.
struct HeldItem {
  v1::Resource resource;
  ItemKind kind = ItemKind::kStage2Domain;
  bool deleting = false;  // to be torn down: state DELETING, or unknown to the server
  bool acted = false;     // steps towards this generation were begun, in this process or an earlier one
  bool done = false;      // this generation was reached, in this process or an earlier one
  std::map<std::string, uint32_t> kernel_ids;  // with done; of the process that wrote them

  const std::string& uid() const { return UidOf(resource); }
  const std::string& name() const { return NameOf(resource); }
  int64_t generation() const { return GenerationOf(resource); }
};

// A context that outlives the process: what it holds.
struct KeptState {
  std::string key;  // the backend's
  std::string boot_id;
  std::string changing;  // a change that began and whose end is not known: nothing below is sure
  uint32_t ioas = 0;
  std::map<std::string, journal::KeptObject> objects;  // by uid
  std::map<uint64_t, journal::KeptRange> ranges;       // by guest-physical address
};

enum class Verdict {
  kAccept,    // newer than what is held, or not held yet
  kSame,      // held at this generation
  kStale,     // held at a later generation
  kReleased,  // a tombstone or the floor stands against it
  kGone,      // asks for the release of something that is not held
};

class HeldState {
 public:
  // What becomes of a command for `item`, which is of a held kind.
  Verdict Judge(const v1::Resource& item) const;

  // FAILED_PRECONDITION when the record cannot follow what stands.
  absl::Status Check(const journal::Record& record) const;

  // Takes one record of the journal into account, or changes nothing and fails like Check().
  absl::Status Apply(const journal::Record& record);

  // Records that lead from nothing to this state, without sequence numbers.
  std::vector<journal::Record> Snapshot() const;

  const journal::Identity& identity() const { return identity_; }
  const absl::btree_map<std::string, HeldItem>& items() const { return items_; }  // by uid
  const HeldItem* Find(std::string_view uid) const;
  // The item of this name that is not on its way out; nullptr when there is none.
  const HeldItem* FindLive(std::string_view name) const;

  // Tombstone generation of a released uid; 0 when there is none.
  int64_t ReleasedGeneration(std::string_view uid) const;
  size_t tombstones() const { return tombstones_.size(); }
  int64_t floor_generation() const { return floor_; }

  const std::map<std::string, KeptState>& kept() const { return kept_; }                // by VM name
  const std::map<std::string, journal::VmUser>& vm_users() const { return vm_users_; }  // by VM name; of each somebody

  int64_t synced_revision() const { return synced_.revision(); }
  // The newest revision that is known to be the server's: a release that was asked for later than the last `synced`
  // counts, although nothing of it is held any more.
  int64_t told_revision() const;
  // Generation of the newest release; 0 when there was none.
  int64_t newest_release() const;
  // The boot in which the server last said that the agent has everything.
  const std::string& synced_boot_id() const { return synced_.boot_id(); }

 private:
  void ApplyIntent(const journal::Intent& intent);
  void ApplyDone(const journal::Done& done);
  void ApplyKept(const journal::Kept& kept);
  void SnapshotKept(std::vector<journal::Record>& records) const;
  void Put(const v1::Resource& resource);
  // Objects of contexts that are kept were made of what was held, and `next` cannot come of them.
  void OutdateKept(const v1::Resource& held, const v1::Resource& next);
  void Erase(const std::string& uid);
  void AddTombstone(const std::string& uid, const std::string& name, int64_t generation);
  void Collapse();

  journal::Identity identity_;
  journal::Synced synced_;
  absl::btree_map<std::string, HeldItem> items_;                        // by uid
  absl::flat_hash_map<std::string, std::string> live_uid_;              // by name, of items not on their way out
  absl::flat_hash_map<std::string, journal::Tombstone> tombstones_;     // by uid
  absl::flat_hash_map<std::string, int64_t> released_name_generation_;  // highest of its tombstones
  std::set<std::pair<int64_t, std::string>> tombstones_by_generation_;  // with the uid
  int64_t floor_ = 0;
  std::map<std::string, KeptState> kept_;            // by VM name
  std::map<std::string, journal::VmUser> vm_users_;  // by VM name
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_HELD_STATE_H_
