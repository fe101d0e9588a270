// Where a watch stands, so that a broken stream is taken up again without a gap and without saying anything twice.
//
// A stream begins either after a revision, or with everything that is there (EXISTING events up to a sync mark). A
// revision's changes may come in several messages, and a message may have those of several. When the stream breaks:
//   - after a complete revision: the next stream begins after it;
//   - inside a revision: the next stream begins before the message, and what was said already is left out;
//   - before the sync mark: the next stream begins anew; what was said already and is still the same is left out, and
//     what has gone in between is said to be deleted when the new sync mark comes.
// Pure; one thread.

#ifndef VIOMMU_CLI_WATCH_POSITION_H_
#define VIOMMU_CLI_WATCH_POSITION_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "viommu/v1/fleet_service.pb.h"

namespace viommu::cli {

class WatchPosition {
 public:
  // 0: everything that is there first.
  explicit WatchPosition(int64_t start_revision) : revision_(start_revision), synced_(start_revision != 0) {}

  // What to ask for when a stream is opened, the first or another one.
  int64_t StartRevision() const { return synced_ ? revision_ : 0; }

  // A stream is about to be opened.
  void BeginStream();

  // Takes a message in and answers the events of it that are news.
  std::vector<v1::Event> Accept(const v1::WatchResponse& response);

  // Whether everything that was there has been said.
  bool synced() const { return synced_; }
  // The last revision of which everything has been said (or that was asked for); 0 before there is one.
  int64_t revision() const { return synced_ ? revision_ : 0; }

 private:
  struct Said {
    int64_t revision;
    v1::Resource resource;
  };

  int64_t revision_;
  bool synced_;
  // Revisions and names that were said after revision_, when more of the last of them was to come.
  std::set<std::pair<int64_t, std::string>> said_of_next_;
  // Before the sync mark: what was said, and the names of this stream's part of it.
  std::map<std::string, Said> existing_;
  std::set<std::string> seen_in_this_stream_;
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_WATCH_POSITION_H_
