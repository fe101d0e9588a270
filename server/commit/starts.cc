#include "server/commit/starts.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"

namespace viommu::server {

absl::StatusOr<Starts> Starts::Decode(std::string_view bytes) {
  Starts starts;
  if (!starts.record_.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("the list of the server's starts cannot be read");
  }
  return starts;
}

void Starts::Add(int64_t epoch, std::string id, int64_t left_at, int64_t began_at) {
  auto& starts = *record_.mutable_starts();
  if (starts.size() >= kMaxStarts) starts.DeleteSubrange(0, starts.size() - kMaxStarts + 1);
  auto& start = *starts.Add();
  start.set_epoch(epoch);
  start.set_id(std::move(id));
  start.set_left_at(left_at);
  start.set_began_at(began_at);
}

bool Starts::Told(int64_t epoch, std::string_view id, int64_t revision, int64_t head) const {
  const auto& starts = record_.starts();
  // What a start told ends where the next one begins.
  const auto next = std::upper_bound(starts.begin(), starts.end(), epoch,
                                     [](int64_t wanted, const auto& start) { return wanted < start.epoch(); });
  if (revision > (next == starts.end() ? head : next->began_at())) return false;
  if (id.empty() || next == starts.begin()) return true;
  const auto& obeyed = *std::prev(next);
  return obeyed.epoch() != epoch || obeyed.id() == id;
}

bool Starts::Recorded(int64_t revision) const {
  return std::none_of(record_.starts().begin(), record_.starts().end(), [revision](const auto& start) {
    return start.left_at() < revision && revision <= start.began_at();
  });
}

}  // namespace viommu::server
