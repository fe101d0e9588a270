#include "agent/smmuv3/emulator/page_requests.h"

#include "agent/smmuv3/spec/registers.h"

namespace viommu::smmuv3 {
namespace {

// A device says with it that it has given up a PASID; it expects no answer (chapter 8).
bool IsStopMarker(const PageRequest& r) { return r.ssv && r.last && !r.read && !r.write; }

}  // namespace

PageRequests::PageRequests(Memory* memory, uint32_t max_log2_size, Interrupts* interrupts)
    : interrupts_(interrupts), ring_(memory, sizeof(RawPageRequest), max_log2_size) {}

PageRequests::Fate PageRequests::Append(const PageRequest& request, bool last_only) {
  MutexLock lock(mu_);
  if (!enabled_ || interrupts_->IsActive(gerror::kPriqAbt)) return Fate::kOff;
  // Unlike in the event queue nothing is written before an overflow is acknowledged (8.1).
  if (ring_.InOverflow()) return Fate::kOverflow;
  const RawPageRequest raw = EncodePageRequest(request);
  const RecordRing::Put put = ring_.Append(raw);
  if (put == RecordRing::Put::kAborted) return Fate::kAborted;
  if (put == RecordRing::Put::kFull) {
    ring_.Overflow();
    return Fate::kOverflowBegins;
  }
  const bool interrupt = last_only ? request.last : put == RecordRing::Put::kDoneFirst;
  return interrupt ? Fate::kQueuedWithInterrupt : Fate::kQueued;
}

bool PageRequests::Request(const PageRequest& request, absl::FunctionRef<Ppar()> ppar) {
  const bool last_only = priq_irq_cfg2::kLo.Get(interrupts_->config(Interrupt::kPriq).attributes) != 0;
  const Fate fate = Append(request, last_only);
  PageResponse answer{.sid = request.sid, .group = request.group};
  bool due = !IsStopMarker(request);
  switch (fate) {
    case Fate::kQueued:
      return true;
    case Fate::kQueuedWithInterrupt:
      interrupts_->Raise(Interrupt::kPriq);
      return true;
    case Fate::kOff:
      break;
    case Fate::kAborted:
      interrupts_->RaiseError(gerror::kPriqAbt);
      break;
    case Fate::kOverflowBegins:
    case Fate::kOverflow: {
      if (fate == Fate::kOverflowBegins) interrupts_->Raise(Interrupt::kPriq);
      // The device believes that its pages are there, asks for a translation, fails, and asks here again.
      due = due && request.last;
      answer.response = kPageResponseSuccess;
      if (!due || !request.ssv) break;
      const Ppar pasid = ppar();
      if (pasid == Ppar::kUnknown) answer.response = kPageResponseFailure;
      answer.ssv = pasid == Ppar::kYes;
      answer.ssid = answer.ssv ? request.ssid : 0;
      break;
    }
  }
  if (due) Respond(answer);
  return false;
}

void PageRequests::Respond(const PageResponse& response) {
  MutexLock lock(mu_);
  std::deque<PageResponse>& responses = responses_[response.sid];
  if (responses.size() >= kMaxPageResponses) responses.pop_front();
  responses.push_back(response);
}

std::vector<PageResponse> PageRequests::TakeResponses(uint32_t sid) {
  MutexLock lock(mu_);
  const auto found = responses_.find(sid);
  if (found == responses_.end()) return {};
  std::vector<PageResponse> taken(found->second.begin(), found->second.end());
  responses_.erase(found);
  return taken;
}

void PageRequests::SetEnabled(bool enabled) {
  MutexLock lock(mu_);
  enabled_ = enabled;
}

uint64_t PageRequests::base() const {
  MutexLock lock(mu_);
  return ring_.base();
}

uint32_t PageRequests::prod() const {
  MutexLock lock(mu_);
  return ring_.prod();
}

uint32_t PageRequests::cons() const {
  MutexLock lock(mu_);
  return ring_.cons();
}

void PageRequests::WriteBase(uint64_t value) {
  MutexLock lock(mu_);
  if (!enabled_) ring_.SetBase(value);
}

void PageRequests::WriteProd(uint32_t value) {
  MutexLock lock(mu_);
  if (!enabled_) ring_.SetProd(value);
}

void PageRequests::WriteCons(uint32_t value) {
  MutexLock lock(mu_);
  ring_.SetCons(value);
}

}  // namespace viommu::smmuv3
