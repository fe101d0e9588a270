// Who changes the record while processes are killed and disks fail, and who watches it. Both know what they were
// promised, and say when it was broken.

#ifndef VIOMMU_TESTS_CRASH_WITNESSES_H_
#define VIOMMU_TESTS_CRASH_WITNESSES_H_

#include <grpcpp/client_context.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "common/uuid.h"
#include "tests/harness/cluster.h"

namespace viommu::tests {

using Stub = v1::FleetService::Stub;

inline constexpr uint64_t kIdsPerWorker = 4096;  // vdev_ids of each worker's own

using Change = std::pair<int64_t, std::string>;  // revision and name of the vdevice

// A violated promise, with the server's state to look at; the first one counts.
class Verdict {
 public:
  void Fail(const std::string& what) {
    std::lock_guard lock(mu_);
    if (what_.empty()) what_ = what;
    failed_ = true;
  }
  bool failed() const { return failed_; }
  std::string what() const {
    std::lock_guard lock(mu_);
    return what_;
  }

 private:
  mutable std::mutex mu_;
  std::string what_;
  std::atomic<bool> failed_ = false;
};

inline bool Unknown(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable || status.code() == absl::StatusCode::kDeadlineExceeded ||
         status.code() == absl::StatusCode::kCancelled;
}

// One device and what its worker knows of it. Every request is repeated under its id until its fate is known, so the
// worker always knows what must be true.
class Worker {
 public:
  Worker(Cluster& cluster, std::string viommu, std::string device, uint64_t first_id, uint64_t seed,
         std::atomic<bool>& stop, std::atomic<int64_t>& acknowledged, Verdict& verdict)
      : cluster_(cluster),
        stub_(cluster.NewStub()),
        viommu_(std::move(viommu)),
        device_(std::move(device)),
        first_id_(first_id),
        random_(seed),
        stop_(stop),
        acknowledged_(acknowledged),
        verdict_(verdict) {}

  void Run() {
    while (!stop_ && !verdict_.failed()) {
      CheckOwner();
      if (!owner_.empty()) {
        random_() % 2 == 0 ? Rebind() : Unset();
      } else {
        Set();
      }
    }
  }

  const std::string& owner() const { return owner_; }
  const std::string& device() const { return device_; }
  // What was acknowledged.
  const std::vector<Change>& changes() const { return changes_; }

 private:
  // Calls until the answer is a definite one; nullopt when the test ended before that.
  template <typename Request, typename Response>
  std::optional<absl::Status> Definite(Cluster::Method<Request, Response> method, Request request, Response* response) {
    request.set_request_id(NewUuid());
    while (!verdict_.failed()) {
      const absl::Status status = FromGrpcStatus(Cluster::Call(*stub_, method, request, response, 5));
      if (status.ok()) Acknowledge({response->revision(), response->vdevice().name()});
      if (!Unknown(status)) return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      // A channel that has failed to connect waits before it tries again; the load should not.
      stub_ = cluster_.NewStub();
    }
    return std::nullopt;
  }

  void Acknowledge(Change change) {
    int64_t seen = acknowledged_;
    while (change.first > seen && !acknowledged_.compare_exchange_weak(seen, change.first)) {
    }
    changes_.push_back(std::move(change));
  }

  void CheckOwner() {
    v1::GetDeviceRequest request;
    v1::GetDeviceResponse response;
    request.set_name(device_);
    const absl::Status status = FromGrpcStatus(Cluster::Call(*stub_, &Stub::GetDevice, request, &response));
    if (!status.ok()) return;  // asked again before the next change
    const std::string& owner = response.device().owner();
    const bool right = releasing_.empty() ? owner == owner_ : owner.empty() || owner == releasing_;
    if (!right) {
      verdict_.Fail("device " + device_ + " belongs to \"" + owner + "\", but what was acknowledged last is \"" +
                    owner_ + "\" (releasing \"" + releasing_ + "\")");
    }
  }

  void Set() {
    v1::SetVdevIdRequest request;
    v1::SetVdevIdResponse response;
    request.set_viommu(viommu_);
    request.set_device(device_);
    request.set_vdev_id(NextId());
    const auto status = Definite(&Stub::SetVdevId, request, &response);
    if (!status.has_value()) return;
    if (status->ok()) {
      owner_ = response.vdevice().name();
      releasing_.clear();
    } else if (ReasonOf(*status) != v1::ERROR_REASON_DEVICE_TAKEN || releasing_.empty()) {
      verdict_.Fail("set " + device_ + ": " + status->ToString());
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the agent has not confirmed the release yet
    }
  }

  void Unset() {
    v1::UnsetVdevIdRequest request;
    v1::UnsetVdevIdResponse response;
    request.set_name(owner_);
    const auto status = Definite(&Stub::UnsetVdevId, request, &response);
    if (!status.has_value()) return;
    if (!status->ok()) {
      verdict_.Fail("unset " + owner_ + ": " + status->ToString());
      return;
    }
    releasing_ = owner_;
    owner_.clear();
  }

  void Rebind() {
    v1::RebindVdevIdRequest request;
    v1::RebindVdevIdResponse response;
    request.set_name(owner_);
    request.set_new_vdev_id(NextId());
    const auto status = Definite(&Stub::RebindVdevId, request, &response);
    if (!status.has_value()) return;
    if (status->ok()) {
      owner_ = response.vdevice().name();
    } else if (ReasonOf(*status) == v1::ERROR_REASON_REBIND_PENDING) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    } else {
      verdict_.Fail("rebind " + owner_ + ": " + status->ToString());
    }
  }

  // From a range of its own, in turns: none that may still be held by an unconfirmed rebind or release.
  uint64_t NextId() { return first_id_ + used_ids_++ % kIdsPerWorker; }

  Cluster& cluster_;
  std::unique_ptr<Stub> stub_;
  const std::string viommu_;
  const std::string device_;
  const uint64_t first_id_;
  uint64_t used_ids_ = 0;
  std::mt19937_64 random_;
  std::atomic<bool>& stop_;
  std::atomic<int64_t>& acknowledged_;
  Verdict& verdict_;
  std::string owner_;      // vdevice that was acknowledged last; empty: none
  std::string releasing_;  // vdevice whose release was acknowledged and may not be confirmed yet
  std::vector<Change> changes_;
};

// Follows the vdevices across all crashes and keeps what it was told.
class Watcher {
 public:
  Watcher(Cluster& cluster, Verdict& verdict) : cluster_(cluster), verdict_(verdict) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Watcher() { Stop(); }

  // Waits until everything up to `revision` was seen.
  bool ReachesRevision(int64_t revision, double seconds) {
    return Eventually(seconds, [&] { return revision_ >= revision || verdict_.failed(); });
  }

  void Stop() {
    stop_ = true;
    {
      std::lock_guard lock(mu_);
      if (context_ != nullptr) context_->TryCancel();
    }
    if (thread_.joinable()) thread_.join();
  }

  // After Stop.
  const std::map<std::string, int64_t>& vdevices() const { return vdevices_; }
  const std::set<Change>& seen() const { return seen_; }
  int64_t synced_at() const { return synced_at_; }  // revision of the first sync mark: seen is all that came after it
  int64_t resumed() const { return resumed_; }

 private:
  void Run() {
    while (!stop_) {
      stub_ = cluster_.NewStub();
      auto context = std::make_unique<grpc::ClientContext>();
      {
        std::lock_guard lock(mu_);
        context_ = context.get();
      }
      v1::WatchRequest request;
      request.set_start_revision(revision_);
      last_ = 0;
      // A part of a revision whose rest did not arrive comes again as a whole.
      seen_.erase(seen_.lower_bound({revision_ + 1, ""}), seen_.end());
      request.add_kinds(v1::RESOURCE_KIND_VDEVICE);
      request.set_progress(true);
      auto reader = stub_->Watch(context.get(), request);
      v1::WatchResponse response;
      while (reader->Read(&response)) Take(response);
      const absl::Status status = FromGrpcStatus(reader->Finish());
      {
        std::lock_guard lock(mu_);
        context_ = nullptr;
      }
      if (!Unknown(status) && !stop_)
        verdict_.Fail("watch from " + std::to_string(revision_) + ": " + status.ToString());
      ++resumed_;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  void Take(const v1::WatchResponse& response) {
    if (response.has_events()) {
      for (const auto& event : response.events().events()) {
        const v1::Vdevice& vdevice = event.resource().vdevice();
        if (event.type() == v1::EVENT_TYPE_EXISTING) {
          // Before the sync mark revisions do not matter; a broken one begins anew.
          if (existing_from_ != context_) vdevices_.clear();
          existing_from_ = context_;
          vdevices_[vdevice.name()] = vdevice.revision();
          continue;
        }
        if (event.revision() < last_ || event.revision() <= revision_) {
          verdict_.Fail("watch: revision " + std::to_string(event.revision()) + " after " + std::to_string(revision_) +
                        " and " + std::to_string(last_));
        }
        last_ = event.revision();
        if (!seen_.emplace(event.revision(), vdevice.name()).second) {
          verdict_.Fail("watch: " + vdevice.name() + " at revision " + std::to_string(event.revision()) + " twice");
        }
        if (event.type() == v1::EVENT_TYPE_DELETED) {
          if (vdevices_.erase(vdevice.name()) == 0) {
            verdict_.Fail("watch: " + vdevice.name() + " deleted at revision " + std::to_string(response.revision()) +
                          ", but it was never there");
          }
        } else {
          vdevices_[vdevice.name()] = vdevice.revision();
        }
      }
      if (existing_from_ == context_ && revision_ == 0) return;  // part of what was there: not resumable from
      if (!response.events().more()) revision_ = response.revision();
      return;
    }
    if (response.has_sync_mark() && synced_at_ == 0) synced_at_ = response.revision();
    revision_ = std::max<int64_t>(revision_, response.revision());
  }

  Cluster& cluster_;
  std::unique_ptr<Stub> stub_;
  Verdict& verdict_;
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> revision_ = 0;
  int64_t last_ = 0;  // revision of this stream's last event
  const grpc::ClientContext* existing_from_ = nullptr;
  std::map<std::string, int64_t> vdevices_;  // name -> revision of its last change
  std::set<Change> seen_;
  int64_t synced_at_ = 0;
  int64_t resumed_ = 0;
  std::mutex mu_;
  grpc::ClientContext* context_ = nullptr;
  std::thread thread_;
};

}  // namespace viommu::tests

#endif  // VIOMMU_TESTS_CRASH_WITNESSES_H_
