// The methods of the operations service that change the record.

#include "server/api/mutation.h"
#include "server/api/operations_service.h"

namespace viommu::server {

grpc::ServerUnaryReactor* OperationsService::DrainHost(Context* context, const v1::DrainHostRequest* request,
                                                       v1::DrainHostResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* OperationsService::AbortDrain(Context* context, const v1::AbortDrainRequest* request,
                                                        v1::AbortDrainResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* OperationsService::EvictHost(Context* context, const v1::EvictHostRequest* request,
                                                       v1::EvictHostResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* OperationsService::ForgetHost(Context* context, const v1::ForgetHostRequest* request,
                                                        v1::ForgetHostResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* OperationsService::SetQuota(Context* context, const v1::SetQuotaRequest* request,
                                                      v1::SetQuotaResponse* response) {
  return Mutate(parts_, context, request, response);
}

grpc::ServerUnaryReactor* OperationsService::DeleteQuota(Context* context, const v1::DeleteQuotaRequest* request,
                                                         v1::DeleteQuotaResponse* response) {
  return Mutate(parts_, context, request, response);
}

}  // namespace viommu::server
