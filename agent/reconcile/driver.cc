#include "agent/reconcile/driver.h"

#include <algorithm>

namespace viommu::agent {

Driver::Driver(std::unique_ptr<Reconciler> reconciler, const Journal& journal, Options options)
    : options_(std::move(options)), journal_(journal), reconciler_(std::move(reconciler)) {}

Driver::~Driver() { Stop(); }

void Driver::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Driver::Stop() {
  {
    MutexLock lock(mu_);
    stop_ = true;
    wake_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void Driver::Loop() {
  bool stop = false;
  while (!stop) {
    if (Turn(stop) && on_results_) on_results_();
  }
}

bool Driver::Turn(bool& stop) {
  // A mutex alone may be taken again and again by the thread that has just let it go.
  constexpr std::chrono::milliseconds kLetIn(1);
  constexpr std::chrono::seconds kLongestWait(60);
  const MonotonicTime start = options_.clock->Monotonic();
  MutexLock lock(mu_);
  while (!stop_) {
    const MonotonicTime now = options_.clock->Monotonic();
    const bool due = news_ || (due_ && *due_ <= now);
    const bool waited_for = callers_.load() > 0 && now - start < kLongestLetIn;
    if (due && !waited_for) break;
    std::chrono::nanoseconds wait = kLongestWait;
    if (waited_for) {
      wait = kLetIn;
    } else if (due_) {
      wait = std::min<std::chrono::nanoseconds>(*due_ - now, kLongestWait);
    }
    wake_.WaitFor(mu_, wait);
  }
  stop = stop_;
  if (stop) return false;
  news_ = false;
  const MonotonicTime begin = options_.clock->Monotonic();
  due_ = reconciler_->Run(options_.portion_changes);
  if (options_.on_portion) options_.on_portion(options_.clock->Monotonic() - begin);
  return reconciler_->has_results();
}

template <typename F>
auto Driver::Call(F&& f) {
  ++callers_;
  MutexLock lock(mu_);
  --callers_;
  wake_.NotifyAll();
  return f(*reconciler_);
}

template <typename F>
auto Driver::CallForWork(F&& f) {
  ++callers_;
  MutexLock lock(mu_);
  --callers_;
  news_ = true;
  wake_.NotifyAll();
  return f(*reconciler_);
}

void Driver::FillHello(v1::Hello& hello) {
  Call([&](Reconciler& r) { r.FillHello(hello); });
}

absl::Status Driver::BeginSession(const v1::Welcome& welcome) {
  return Call([&](Reconciler& r) { return r.BeginSession(welcome); });
}

void Driver::EndSession() {
  Call([](Reconciler& r) { r.EndSession(); });
}

absl::Status Driver::Accept(const v1::Desired& desired) {
  return CallForWork([&](Reconciler& r) { return r.Accept(desired); });
}

absl::Status Driver::MapMemory(const std::string& vm, uint64_t iova, VmMemory::Range range) {
  return CallForWork([&](Reconciler& r) { return r.MapMemory(vm, iova, std::move(range)); });
}

absl::StatusOr<uint64_t> Driver::UnmapMemory(VmMemory::Owner owner, const std::string& vm, uint64_t iova,
                                             uint64_t length) {
  return CallForWork([&](Reconciler& r) { return r.UnmapMemory(owner, vm, iova, length); });
}

absl::StatusOr<OpenedHwQueue> Driver::OpenHwQueue(VmMemory::Owner owner, VmMemory::User user, const std::string& name) {
  return Call([&](Reconciler& r) { return r.OpenHwQueue(owner, user, name); });
}

absl::Status Driver::CheckReader(VmMemory::User user, const std::string& viommu) {
  return Call([&](Reconciler& r) { return r.CheckReader(user, viommu); });
}

void Driver::ForgetOwner(VmMemory::Owner owner) {
  {
    MutexLock lock(mu_);
    if (stop_) return;
  }
  CallForWork([&](Reconciler& r) { r.ForgetOwner(owner); });
}

bool Driver::HasObjects(const std::string& uid) {
  return Call([&](Reconciler& r) { return r.HasObjects(uid); });
}

bool Driver::TakeResults(int max, v1::Results& results) {
  return Call([&](Reconciler& r) { return r.TakeResults(max, results); });
}

void Driver::Inspect(const v1::InspectCall& call, v1::InspectReply& reply) {
  if (call.repair()) return CallForWork([&](Reconciler& r) { r.Inspect(call, reply); });
  Call([&](Reconciler& r) { r.Inspect(call, reply); });
}

int64_t Driver::revision() {
  return Call([](Reconciler& r) { return r.revision(); });
}

std::map<std::string, uint64_t> Driver::Counts() {
  return Call([](Reconciler& r) { return r.Counts(); });
}

std::map<std::string, uint64_t> Driver::UnclaimedBytes() {
  return Call([](Reconciler& r) { return r.UnclaimedBytes(); });
}

Reconciler::DriftCounts Driver::CountDrift() {
  return Call([](Reconciler& r) { return r.CountDrift(); });
}

std::vector<v1::HeldObject> Driver::List(const std::pair<std::string, std::string>& after, size_t max) {
  return Call([&](Reconciler& r) { return r.List(after, max); });
}

journal::Identity Driver::identity() {
  return Call([](Reconciler& r) { return r.held().identity(); });
}

bool Driver::believes() {
  return Call([](Reconciler& r) { return r.believes(); });
}

JournalStats Driver::journal_stats() {
  return Call([this](Reconciler& r) {
    return JournalStats{.size_bytes = journal_.size_bytes(),
                        .compactions = journal_.compactions(),
                        .tombstones = r.held().tombstones()};
  });
}

}  // namespace viommu::agent
