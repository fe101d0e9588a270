// What must hold, checked while it happens.
//
// A Timeline is the history of one store: which revisions were written, published and acknowledged. A restored backup
// or a wiped store begins another one; what agents and clients know of the first is then not true in the second, and
// the checker watches that nobody acts as if it were.
//
// The first thing that does not hold is kept (failure()); the simulation stops there.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_CHECKER_H_
#define VIOMMU_TESTS_SIMULATION_CHECKER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/commit/core.h"
#include "server/fleet/view.h"
#include "tests/simulation/disk.h"

namespace viommu::simulation {

// The answer to a change: what was recorded, and the resources in it.
struct Answer {
  std::string bytes;
  server::Kind kind{};
  std::vector<server::RecordPtr> resources;
};

// A value: copied when the store's content is.
class Timeline {
 public:
  using Key = std::pair<server::Kind, std::string>;

  int64_t id = 1;

  // Hashes of the whole record after a revision that was handed to the store; several where some have failed.
  std::map<int64_t, std::set<uint64_t>> attempted{{0, {0}}};
  // Likewise after one that was published, since the log was last dropped.
  std::map<int64_t, uint64_t> published{{0, 0}};
  // What a published revision changed; never forgotten, so that none is given twice.
  std::map<int64_t, uint64_t> told;
  std::map<int64_t, server::ChangeSetPtr> sets;  // by revision
  std::map<Key, server::RecordPtr> state;        // as published
  struct Acknowledgement {
    std::string fingerprint;
    int64_t revision = 0;
    std::string bytes;
  };
  std::map<std::string, Acknowledgement> answers;  // by request id
  std::set<std::string> released;                  // uids that are gone for good
  // Of these, what went with a host that was declared dead, by the revision of that: the host has not confirmed it.
  std::map<std::string, int64_t> forgotten;
  int64_t acknowledged = 0;  // the newest revision that a caller relies on
  int64_t epoch = 0;         // of the last start
  std::string incarnation;
  std::vector<std::pair<int64_t, int64_t>> gaps;  // revisions that were skipped after a loss of power: behind, up to
};

class Checker {
 public:
  explicit Checker(Scheduler& scheduler) : scheduler_(scheduler) {}

  bool failed() const { return !failure_.empty(); }
  const std::string& failure() const { return failure_; }
  void Fail(const std::string& what);

  // --- The server.

  // A server that opens the store goes on from `revision`: what it wrote may be there although it did not come up.
  void Opening(Timeline& timeline, int64_t left_at, int64_t revision);
  // A server has opened the store, which had `left_at` as its last revision.
  void Started(Timeline& timeline, const server::CommitCore& core, const ServerDisk& disk, int64_t left_at);
  void Attempted(Timeline& timeline, int64_t revision, uint64_t change);
  void Published(Timeline& timeline, const server::CommitCore& core, const std::vector<server::ChangeSetPtr>& sets);
  // The server answers a change: here it begins to be relied on.
  void Acknowledged(Timeline& timeline, const std::string& request_id, const std::string& fingerprint,
                    const absl::Status& status, int64_t revision, const Answer& answer);

  // --- Copies.

  // A timeline that goes on from `revision` of `parent` by itself, and is to have the id that is returned. With parent
  // 0: a new one from nothing.
  int64_t Fork(int64_t parent, int64_t revision);
  bool forked() const { return forks_.size() > 1; }
  // Whether `revision` of timeline `known` is a part of `timeline`'s past.
  bool IsPastOf(int64_t timeline, int64_t known, int64_t revision) const;

  uint64_t checks() const { return checks_; }

  // What was looked at on the hosts, so that one knows that there was something to see.
  void CountReached(uint64_t devices) { reached_ += devices; }
  void CountInvalidation() { ++invalidations_; }
  void CountQueueUse() { ++queue_uses_; }
  uint64_t reached() const { return reached_; }
  uint64_t invalidations() const { return invalidations_; }
  uint64_t queue_uses() const { return queue_uses_; }

 private:
  static uint64_t HashOfChange(const server::Change& change);
  void Take(Timeline& timeline, const server::ChangeSetPtr& set);
  // What one change more of a kind does for the quota of its owner.
  void CheckQuota(const Timeline& timeline, server::Kind kind, const std::string& owner);
  // No IOMMU group is on two stage 2s, and so none is of two VMs. Hosts here never change their groups.
  void CheckGroups(const Timeline& timeline);
  // A drain has come to its end: nothing on the host is left to stay.
  void CheckEvicted(const Timeline& timeline, const std::string& host);

  Scheduler& scheduler_;
  std::string failure_;
  uint64_t checks_ = 0;
  uint64_t reached_ = 0;
  uint64_t invalidations_ = 0;
  uint64_t queue_uses_ = 0;
  std::map<int64_t, std::pair<int64_t, int64_t>> forks_{{1, {0, 0}}};  // by timeline: its parent, and up to where
};

// What a resource adds to the hash of the record.
uint64_t HashOfResource(server::Kind kind, const google::protobuf::Message& resource);

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_CHECKER_H_
