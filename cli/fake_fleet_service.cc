#include "cli/fake_fleet_service.h"

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>

#include "common/error.h"
#include "common/grpc_error.h"

namespace viommu::cli {
namespace {

constexpr int64_t kRevision = 42;

template <typename Resource>
absl::Status Find(const std::map<std::string, Resource>& record, const std::string& name, v1::ErrorReason reason,
                  Resource* found) {
  const auto entry = record.find(name);
  if (entry == record.end()) {
    return Error(absl::StatusCode::kNotFound, reason).Message("there is no {}", name).Resource("", name);
  }
  *found = entry->second;
  return absl::OkStatus();
}

// Pages of a record; a token is the index of the page's first item.
template <typename Resource, typename Request, typename Response, typename Add>
void Page(const std::map<std::string, Resource>& record, const Request& request, Response* response, Add add) {
  const size_t begin = request.page_token().empty() ? 0 : std::stoul(request.page_token());
  const size_t end = std::min(record.size(), begin + static_cast<size_t>(request.page_size()));
  size_t index = 0;
  for (const auto& [name, resource] : record) {
    if (index >= begin && index < end) *add(response) = resource;
    ++index;
  }
  if (end < record.size()) response->set_next_page_token(std::to_string(end));
  response->set_revision(kRevision);
}

}  // namespace

FakeFleetService::FakeFleetService(grpc::Service& more) {
  status.set_version("0.0.1");
  status.set_cluster_id("test-cluster");
  status.set_revision(kRevision);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  builder.RegisterService(&more);
  server_ = builder.BuildAndStart();
  address_ = fmt::format("127.0.0.1:{}", port);
}

FakeFleetService::~FakeFleetService() {
  Release();
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeFleetService::FailNext(const std::string& method, const absl::Status& error, int times) {
  MutexLock lock(mu_);
  failures_[method].insert(failures_[method].end(), static_cast<size_t>(times), error);
}

void FakeFleetService::Hold(const std::string& method) {
  MutexLock lock(mu_);
  held_ = method;
}

void FakeFleetService::Release() {
  MutexLock lock(mu_);
  held_.clear();
  released_.NotifyAll();
}

void FakeFleetService::AddWatch(WatchScript script) {
  MutexLock lock(mu_);
  watches_.push_back(std::move(script));
}

int FakeFleetService::Calls(const std::string& method) {
  MutexLock lock(mu_);
  return static_cast<int>(requests_[method].size());
}

absl::Status FakeFleetService::Begin(const std::string& method, const google::protobuf::Message& request) {
  MutexLock lock(mu_);
  requests_[method].push_back(request.SerializeAsString());
  while (held_ == method) released_.Wait(mu_);
  auto& failures = failures_[method];
  if (failures.empty()) return absl::OkStatus();
  absl::Status error = failures.front();
  failures.pop_front();
  return error;
}

v1::Vdevice FakeFleetService::MakeVdevice(const std::string& viommu, const std::string& device,
                                          uint64_t vdev_id) const {
  v1::Vdevice vdevice;
  vdevice.set_name(fmt::format("{}/vdevices/{}", viommu, vdev_id));
  vdevice.set_viommu(viommu);
  vdevice.set_device(device);
  vdevice.set_vdev_id(vdev_id);
  vdevice.set_state(state_of_changes);
  *vdevice.mutable_state_reason() = reason_of_changes;
  return vdevice;
}

#define FAKE_BEGIN(method)                                                   \
  if (const absl::Status ordered = Begin(method, *request); !ordered.ok()) { \
    return ToGrpcStatus(ordered);                                            \
  }

grpc::Status FakeFleetService::GetServerStatus(grpc::ServerContext*, const v1::GetServerStatusRequest* request,
                                               v1::GetServerStatusResponse* response) {
  FAKE_BEGIN("GetServerStatus");
  *response = status;
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::GetHost(grpc::ServerContext*, const v1::GetHostRequest* request,
                                       v1::GetHostResponse* response) {
  FAKE_BEGIN("GetHost");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(hosts, request->name(), v1::ERROR_REASON_HOST_NOT_FOUND, response->mutable_host()));
}

grpc::Status FakeFleetService::ListHosts(grpc::ServerContext*, const v1::ListHostsRequest* request,
                                         v1::ListHostsResponse* response) {
  FAKE_BEGIN("ListHosts");
  Page(hosts, *request, response, [](auto* r) { return r->add_hosts(); });
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::CordonHost(grpc::ServerContext*, const v1::CordonHostRequest* request,
                                          v1::CordonHostResponse* response) {
  FAKE_BEGIN("CordonHost");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(hosts, request->name(), v1::ERROR_REASON_HOST_NOT_FOUND, response->mutable_host()));
}

grpc::Status FakeFleetService::GetDevice(grpc::ServerContext*, const v1::GetDeviceRequest* request,
                                         v1::GetDeviceResponse* response) {
  FAKE_BEGIN("GetDevice");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(devices, request->name(), v1::ERROR_REASON_DEVICE_NOT_FOUND, response->mutable_device()));
}

grpc::Status FakeFleetService::ListDevices(grpc::ServerContext*, const v1::ListDevicesRequest* request,
                                           v1::ListDevicesResponse* response) {
  FAKE_BEGIN("ListDevices");
  Page(devices, *request, response, [](auto* r) { return r->add_devices(); });
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::GetStage2Domain(grpc::ServerContext*, const v1::GetStage2DomainRequest* request,
                                               v1::GetStage2DomainResponse* response) {
  FAKE_BEGIN("GetStage2Domain");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(stage2_domains, request->name(), v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND,
                           response->mutable_stage2_domain()));
}

grpc::Status FakeFleetService::GetHwQueue(grpc::ServerContext*, const v1::GetHwQueueRequest* request,
                                          v1::GetHwQueueResponse* response) {
  FAKE_BEGIN("GetHwQueue");
  response->set_revision(kRevision);
  return ToGrpcStatus(
      Find(hw_queues, request->name(), v1::ERROR_REASON_HW_QUEUE_NOT_FOUND, response->mutable_hw_queue()));
}

grpc::Status FakeFleetService::ListViommus(grpc::ServerContext*, const v1::ListViommusRequest* request,
                                           v1::ListViommusResponse* response) {
  FAKE_BEGIN("ListViommus");
  Page(viommus, *request, response, [](auto* r) { return r->add_viommus(); });
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::GetViommu(grpc::ServerContext*, const v1::GetViommuRequest* request,
                                         v1::GetViommuResponse* response) {
  FAKE_BEGIN("GetViommu");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(viommus, request->name(), v1::ERROR_REASON_VIOMMU_NOT_FOUND, response->mutable_viommu()));
}

grpc::Status FakeFleetService::CreateViommu(grpc::ServerContext*, const v1::CreateViommuRequest* request,
                                            v1::CreateViommuResponse* response) {
  FAKE_BEGIN("CreateViommu");
  *response->mutable_viommu() = request->viommu();
  response->mutable_viommu()->set_name("viommus/" + request->viommu_id());
  response->mutable_viommu()->set_state(state_of_changes);
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::UpdateViommuLabels(grpc::ServerContext*, const v1::UpdateViommuLabelsRequest* request,
                                                  v1::UpdateViommuLabelsResponse* response) {
  FAKE_BEGIN("UpdateViommuLabels");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(viommus, request->name(), v1::ERROR_REASON_VIOMMU_NOT_FOUND, response->mutable_viommu()));
}

grpc::Status FakeFleetService::DeleteViommu(grpc::ServerContext*, const v1::DeleteViommuRequest* request,
                                            v1::DeleteViommuResponse* response) {
  FAKE_BEGIN("DeleteViommu");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(viommus, request->name(), v1::ERROR_REASON_VIOMMU_NOT_FOUND, response->mutable_viommu()));
}

grpc::Status FakeFleetService::CreateNestedDomain(grpc::ServerContext*, const v1::CreateNestedDomainRequest* request,
                                                  v1::CreateNestedDomainResponse* response) {
  FAKE_BEGIN("CreateNestedDomain");
  *response->mutable_nested_domain() = request->nested_domain();
  response->mutable_nested_domain()->set_name(
      fmt::format("{}/nestedDomains/{}", request->viommu(), request->nested_domain_id()));
  response->mutable_nested_domain()->set_state(state_of_changes);
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::SetVdevId(grpc::ServerContext*, const v1::SetVdevIdRequest* request,
                                         v1::SetVdevIdResponse* response) {
  FAKE_BEGIN("SetVdevId");
  *response->mutable_vdevice() = MakeVdevice(request->viommu(), request->device(), request->vdev_id());
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::UnsetVdevId(grpc::ServerContext*, const v1::UnsetVdevIdRequest* request,
                                           v1::UnsetVdevIdResponse* response) {
  FAKE_BEGIN("UnsetVdevId");
  response->mutable_vdevice()->set_name(request->name());
  response->mutable_vdevice()->set_state(state_of_changes);
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::BatchSetVdevIds(grpc::ServerContext*, const v1::BatchSetVdevIdsRequest* request,
                                               v1::BatchSetVdevIdsResponse* response) {
  FAKE_BEGIN("BatchSetVdevIds");
  for (const v1::VdevIdAssignment& assignment : request->assignments()) {
    *response->add_vdevices() = MakeVdevice(request->viommu(), assignment.device(), assignment.vdev_id());
  }
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::GetVdevice(grpc::ServerContext*, const v1::GetVdeviceRequest* request,
                                          v1::GetVdeviceResponse* response) {
  FAKE_BEGIN("GetVdevice");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(vdevices, request->name(), v1::ERROR_REASON_VDEVICE_NOT_FOUND, response->mutable_vdevice()));
}

grpc::Status FakeFleetService::UncordonHost(grpc::ServerContext*, const v1::UncordonHostRequest* request,
                                            v1::UncordonHostResponse* response) {
  FAKE_BEGIN("UncordonHost");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(hosts, request->name(), v1::ERROR_REASON_HOST_NOT_FOUND, response->mutable_host()));
}

grpc::Status FakeFleetService::CreateStage2Domain(grpc::ServerContext*, const v1::CreateStage2DomainRequest* request,
                                                  v1::CreateStage2DomainResponse* response) {
  FAKE_BEGIN("CreateStage2Domain");
  *response->mutable_stage2_domain() = request->stage2_domain();
  response->mutable_stage2_domain()->set_name("stage2Domains/" + request->stage2_domain_id());
  response->mutable_stage2_domain()->set_state(state_of_changes);
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::DeleteStage2Domain(grpc::ServerContext*, const v1::DeleteStage2DomainRequest* request,
                                                  v1::DeleteStage2DomainResponse* response) {
  FAKE_BEGIN("DeleteStage2Domain");
  response->mutable_stage2_domain()->set_name(request->name());
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::RebindVdevId(grpc::ServerContext*, const v1::RebindVdevIdRequest* request,
                                            v1::RebindVdevIdResponse* response) {
  FAKE_BEGIN("RebindVdevId");
  const std::string viommu = request->name().substr(0, request->name().find("/vdevices/"));
  *response->mutable_vdevice() = MakeVdevice(viommu, "hosts/a/devices/0000:01:00.0", request->new_vdev_id());
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::ListVdevices(grpc::ServerContext*, const v1::ListVdevicesRequest* request,
                                            v1::ListVdevicesResponse* response) {
  FAKE_BEGIN("ListVdevices");
  Page(vdevices, *request, response, [](auto* r) { return r->add_vdevices(); });
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::GetNestedDomain(grpc::ServerContext*, const v1::GetNestedDomainRequest* request,
                                               v1::GetNestedDomainResponse* response) {
  FAKE_BEGIN("GetNestedDomain");
  response->set_revision(kRevision);
  return ToGrpcStatus(Find(nested_domains, request->name(), v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND,
                           response->mutable_nested_domain()));
}

grpc::Status FakeFleetService::AttachDevice(grpc::ServerContext*, const v1::AttachDeviceRequest* request,
                                            v1::AttachDeviceResponse* response) {
  FAKE_BEGIN("AttachDevice");
  *response->mutable_vdevice() =
      MakeVdevice(request->name().substr(0, request->name().find("/nestedDomains/")), request->device(), 16);
  response->mutable_vdevice()->set_nested_domain(request->name());
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::DetachDevice(grpc::ServerContext*, const v1::DetachDeviceRequest* request,
                                            v1::DetachDeviceResponse* response) {
  FAKE_BEGIN("DetachDevice");
  response->mutable_vdevice()->set_name(request->vdevice());
  response->mutable_vdevice()->set_state(state_of_changes);
  response->set_revision(kRevision);
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::Invalidate(grpc::ServerContext*, const v1::InvalidateRequest* request,
                                          v1::InvalidateResponse* response) {
  FAKE_BEGIN("Invalidate");
  *response->mutable_result() = invalidation;
  return grpc::Status::OK;
}

grpc::Status FakeFleetService::Watch(grpc::ServerContext*, const v1::WatchRequest* request,
                                     grpc::ServerWriter<v1::WatchResponse>* writer) {
  FAKE_BEGIN("Watch");
  WatchScript script;
  script.end = absl::CancelledError("the script is over");
  {
    MutexLock lock(mu_);
    if (!watches_.empty()) {
      script = std::move(watches_.front());
      watches_.pop_front();
    }
  }
  for (const v1::WatchResponse& response : script.responses) writer->Write(response);
  return ToGrpcStatus(script.end);
}

#undef FAKE_BEGIN

}  // namespace viommu::cli
