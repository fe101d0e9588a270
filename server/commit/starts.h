// The starts of the server on one store, and what they prove about others' memories of it.
//
// An older copy of a store, once restored, has the identity of the newer one and goes on counting where the copy was
// made. Whoever was told a later revision, or obeyed a start that the copy has not seen, can tell the two apart: each
// start has an epoch, an id made up at random, and the revision that it went on from. That stays so however far the
// copy gets afterwards.
//
// Revisions that were told and lost with the power are no proof: the store skips them (core.h).
//
// A value; not thread-safe.

#ifndef VIOMMU_SERVER_COMMIT_STARTS_H_
#define VIOMMU_SERVER_COMMIT_STARTS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/commit/record.pb.h"

namespace viommu::server {

class Starts {
 public:
  // Starts that are remembered. What is older is judged by the oldest one left, and not by its id.
  static constexpr int kMaxStarts = 256;

  // Of the bytes that Encode made; DATA_LOSS.
  static absl::StatusOr<Starts> Decode(std::string_view bytes);
  std::string Encode() const { return record_.SerializeAsString(); }

  // A start in `epoch`, higher than all before. `left_at`: the last revision that the store has; `began_at`: the one
  // that it goes on from.
  void Add(int64_t epoch, std::string id, int64_t left_at, int64_t began_at);

  // Whether somebody who last obeyed the start `epoch` with `id` can have been told `revision` by this store, whose
  // newest is `head`. `epoch` is not above the present one. An empty id, from before there were ids, proves nothing.
  bool Told(int64_t epoch, std::string_view id, int64_t revision, int64_t head) const;

  // Whether this store can have recorded, durably, a change with `revision`: false in what it skipped.
  bool Recorded(int64_t revision) const;

 private:
  StartsRecord record_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_STARTS_H_
