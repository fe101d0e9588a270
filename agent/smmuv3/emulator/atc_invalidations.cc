#include "agent/smmuv3/emulator/atc_invalidations.h"

#include <algorithm>

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t kLost = ~uint64_t{0};  // id of a request that is never answered

}  // namespace

bool AtcInvalidations::Issue(const Command& command, Outstanding& outstanding) {
  MutexLock lock(mu_);
  const auto device = silent_.find(command.sid);
  if (device == silent_.end()) return true;
  uint64_t id = kLost;
  if (device->second.size() < kMaxUnansweredInvalidations) {
    id = next_id_++;
    device->second.push_back({id, command});
  }
  // One that is lost fails the sync, however many there are.
  if (outstanding.requests_.size() < kMaxUnansweredInvalidations) outstanding.requests_.push_back({command.sid, id});
  outstanding.deadline_ = std::chrono::steady_clock::now() + timeout_;
  return false;
}

bool AtcInvalidations::IsAnswered(const Outstanding::Request& request) const {
  if (request.id == kLost) return false;
  const auto device = silent_.find(request.sid);
  return device == silent_.end() || std::none_of(device->second.begin(), device->second.end(),
                                                 [&](const Kept& kept) { return kept.id == request.id; });
}

std::optional<bool> AtcInvalidations::Look(Outstanding& outstanding) const {
  auto& requests = outstanding.requests_;
  while (!requests.empty() && IsAnswered(requests.back())) requests.pop_back();
  if (requests.empty()) return true;
  if (!closed_ && std::chrono::steady_clock::now() < outstanding.deadline_) return std::nullopt;
  requests.clear();
  return false;
}

bool AtcInvalidations::Wait(Outstanding& outstanding) {
  MutexLock lock(mu_);
  while (true) {
    const std::optional<bool> answered = Look(outstanding);
    if (answered.has_value()) return *answered;
    answered_.WaitFor(mu_, outstanding.deadline_ - std::chrono::steady_clock::now());
  }
}

std::optional<bool> AtcInvalidations::TryWait(Outstanding& outstanding) {
  MutexLock lock(mu_);
  return Look(outstanding);
}

void AtcInvalidations::Silence(uint32_t sid) {
  MutexLock lock(mu_);
  silent_[sid];
}

void AtcInvalidations::Wake(uint32_t sid, absl::FunctionRef<void(const Command&)> carry_out) {
  MutexLock lock(mu_);
  const auto device = silent_.find(sid);
  if (device == silent_.end()) return;
  for (const Kept& kept : device->second) carry_out(kept.command);
  silent_.erase(device);
  answered_.NotifyAll();
}

void AtcInvalidations::Close() {
  MutexLock lock(mu_);
  closed_ = true;
  answered_.NotifyAll();
}

}  // namespace viommu::smmuv3
