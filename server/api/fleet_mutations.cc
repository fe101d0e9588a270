// The methods of the fleet service that change the record.

#include "server/api/fleet_service.h"
#include "server/api/mutation.h"

namespace viommu::server {

grpc::ServerUnaryReactor* FleetService::CordonHost(Context* context, const v1::CordonHostRequest* request,
                                                   v1::CordonHostResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::UncordonHost(Context* context, const v1::UncordonHostRequest* request,
                                                     v1::UncordonHostResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::CreateStage2Domain(Context* context,
                                                           const v1::CreateStage2DomainRequest* request,
                                                           v1::CreateStage2DomainResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::DeleteStage2Domain(Context* context,
                                                           const v1::DeleteStage2DomainRequest* request,
                                                           v1::DeleteStage2DomainResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::CreateViommu(Context* context, const v1::CreateViommuRequest* request,
                                                     v1::CreateViommuResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::UpdateViommuLabels(Context* context,
                                                           const v1::UpdateViommuLabelsRequest* request,
                                                           v1::UpdateViommuLabelsResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::DeleteViommu(Context* context, const v1::DeleteViommuRequest* request,
                                                     v1::DeleteViommuResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::SetVdevId(Context* context, const v1::SetVdevIdRequest* request,
                                                  v1::SetVdevIdResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::UnsetVdevId(Context* context, const v1::UnsetVdevIdRequest* request,
                                                    v1::UnsetVdevIdResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::RebindVdevId(Context* context, const v1::RebindVdevIdRequest* request,
                                                     v1::RebindVdevIdResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::BatchSetVdevIds(Context* context, const v1::BatchSetVdevIdsRequest* request,
                                                        v1::BatchSetVdevIdsResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::CreateNestedDomain(Context* context,
                                                           const v1::CreateNestedDomainRequest* request,
                                                           v1::CreateNestedDomainResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::AttachDevice(Context* context, const v1::AttachDeviceRequest* request,
                                                     v1::AttachDeviceResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::DetachDevice(Context* context, const v1::DetachDeviceRequest* request,
                                                     v1::DetachDeviceResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::DeleteNestedDomain(Context* context,
                                                           const v1::DeleteNestedDomainRequest* request,
                                                           v1::DeleteNestedDomainResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::CreateHwQueue(Context* context, const v1::CreateHwQueueRequest* request,
                                                      v1::CreateHwQueueResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* FleetService::DeleteHwQueue(Context* context, const v1::DeleteHwQueueRequest* request,
                                                      v1::DeleteHwQueueResponse* response) {
  return Mutate(parts_, context, request, response);
}

}  // namespace viommu::server
