// A server for the tests of the CLI: an in-memory record without rules, calls that fail on demand, watches by script.

#ifndef VIOMMU_CLI_FAKE_FLEET_SERVICE_H_
#define VIOMMU_CLI_FAKE_FLEET_SERVICE_H_

#include <grpcpp/server.h>

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "viommu/v1/fleet_service.grpc.pb.h"

namespace viommu::cli {

class FakeFleetService final : public v1::FleetService::Service {
 public:
  // One stream of a watch: what it brings, and how it ends (OK: the server closes it).
  struct WatchScript {
    std::vector<v1::WatchResponse> responses;
    absl::Status end;
  };

  // Serves `more`, which must outlive it, at the same address.
  explicit FakeFleetService(grpc::Service& more);
  ~FakeFleetService() override;

  // "127.0.0.1:PORT".
  const std::string& address() const { return address_; }

  // The record. Filled before calls are made.
  std::map<std::string, v1::Host> hosts;
  std::map<std::string, v1::Device> devices;
  std::map<std::string, v1::Stage2Domain> stage2_domains;
  std::map<std::string, v1::Viommu> viommus;
  std::map<std::string, v1::Vdevice> vdevices;
  std::map<std::string, v1::NestedDomain> nested_domains;
  std::map<std::string, v1::HwQueue> hw_queues;
  v1::GetServerStatusResponse status;
  // What SetVdevId, UnsetVdevId, … answer as the state and its reason.
  v1::State state_of_changes = v1::STATE_PENDING;
  v1::StateReason reason_of_changes;
  v1::InvalidationResult invalidation;

  // The next `times` calls of the method (all without arguments of their own) answer this.
  void FailNext(const std::string& method, const absl::Status& error, int times = 1);
  // Calls of the method stay without an answer until Release().
  void Hold(const std::string& method);
  void Release();
  // Watches play these one after the other; when there are none left, a watch ends with CANCELLED.
  void AddWatch(WatchScript script);

  // Calls of a method so far, and its last request.
  int Calls(const std::string& method);
  template <typename Request>
  Request Last(const std::string& method) {
    MutexLock lock(mu_);
    Request request;
    request.ParseFromString(requests_[method].empty() ? "" : requests_[method].back());
    return request;
  }
  template <typename Request>
  std::vector<Request> All(const std::string& method) {
    MutexLock lock(mu_);
    std::vector<Request> all;
    for (const std::string& bytes : requests_[method]) all.emplace_back().ParseFromString(bytes);
    return all;
  }

  grpc::Status GetServerStatus(grpc::ServerContext*, const v1::GetServerStatusRequest*,
                               v1::GetServerStatusResponse*) override;
  grpc::Status GetHost(grpc::ServerContext*, const v1::GetHostRequest*, v1::GetHostResponse*) override;
  grpc::Status ListHosts(grpc::ServerContext*, const v1::ListHostsRequest*, v1::ListHostsResponse*) override;
  grpc::Status CordonHost(grpc::ServerContext*, const v1::CordonHostRequest*, v1::CordonHostResponse*) override;
  grpc::Status GetDevice(grpc::ServerContext*, const v1::GetDeviceRequest*, v1::GetDeviceResponse*) override;
  grpc::Status ListDevices(grpc::ServerContext*, const v1::ListDevicesRequest*, v1::ListDevicesResponse*) override;
  grpc::Status GetStage2Domain(grpc::ServerContext*, const v1::GetStage2DomainRequest*,
                               v1::GetStage2DomainResponse*) override;
  grpc::Status GetHwQueue(grpc::ServerContext*, const v1::GetHwQueueRequest*, v1::GetHwQueueResponse*) override;
  grpc::Status ListViommus(grpc::ServerContext*, const v1::ListViommusRequest*, v1::ListViommusResponse*) override;
  grpc::Status GetViommu(grpc::ServerContext*, const v1::GetViommuRequest*, v1::GetViommuResponse*) override;
  grpc::Status CreateViommu(grpc::ServerContext*, const v1::CreateViommuRequest*, v1::CreateViommuResponse*) override;
  grpc::Status UpdateViommuLabels(grpc::ServerContext*, const v1::UpdateViommuLabelsRequest*,
                                  v1::UpdateViommuLabelsResponse*) override;
  grpc::Status DeleteViommu(grpc::ServerContext*, const v1::DeleteViommuRequest*, v1::DeleteViommuResponse*) override;
  grpc::Status CreateNestedDomain(grpc::ServerContext*, const v1::CreateNestedDomainRequest*,
                                  v1::CreateNestedDomainResponse*) override;
  grpc::Status SetVdevId(grpc::ServerContext*, const v1::SetVdevIdRequest*, v1::SetVdevIdResponse*) override;
  grpc::Status UnsetVdevId(grpc::ServerContext*, const v1::UnsetVdevIdRequest*, v1::UnsetVdevIdResponse*) override;
  grpc::Status BatchSetVdevIds(grpc::ServerContext*, const v1::BatchSetVdevIdsRequest*,
                               v1::BatchSetVdevIdsResponse*) override;
  grpc::Status GetVdevice(grpc::ServerContext*, const v1::GetVdeviceRequest*, v1::GetVdeviceResponse*) override;
  grpc::Status UncordonHost(grpc::ServerContext*, const v1::UncordonHostRequest*, v1::UncordonHostResponse*) override;
  grpc::Status CreateStage2Domain(grpc::ServerContext*, const v1::CreateStage2DomainRequest*,
                                  v1::CreateStage2DomainResponse*) override;
  grpc::Status DeleteStage2Domain(grpc::ServerContext*, const v1::DeleteStage2DomainRequest*,
                                  v1::DeleteStage2DomainResponse*) override;
  grpc::Status RebindVdevId(grpc::ServerContext*, const v1::RebindVdevIdRequest*, v1::RebindVdevIdResponse*) override;
  grpc::Status ListVdevices(grpc::ServerContext*, const v1::ListVdevicesRequest*, v1::ListVdevicesResponse*) override;
  grpc::Status GetNestedDomain(grpc::ServerContext*, const v1::GetNestedDomainRequest*,
                               v1::GetNestedDomainResponse*) override;
  grpc::Status AttachDevice(grpc::ServerContext*, const v1::AttachDeviceRequest*, v1::AttachDeviceResponse*) override;
  grpc::Status DetachDevice(grpc::ServerContext*, const v1::DetachDeviceRequest*, v1::DetachDeviceResponse*) override;
  grpc::Status Invalidate(grpc::ServerContext*, const v1::InvalidateRequest*, v1::InvalidateResponse*) override;
  grpc::Status Watch(grpc::ServerContext*, const v1::WatchRequest*, grpc::ServerWriter<v1::WatchResponse>*) override;

 private:
  // Notes the request; the error that was ordered for the method, if any.
  absl::Status Begin(const std::string& method, const google::protobuf::Message& request);
  v1::Vdevice MakeVdevice(const std::string& viommu, const std::string& device, uint64_t vdev_id) const;

  Mutex mu_;
  std::map<std::string, std::vector<std::string>> requests_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::deque<absl::Status>> failures_ ABSL_GUARDED_BY(mu_);
  std::string held_ ABSL_GUARDED_BY(mu_);
  CondVar released_;
  std::deque<WatchScript> watches_ ABSL_GUARDED_BY(mu_);
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_FAKE_FLEET_SERVICE_H_
