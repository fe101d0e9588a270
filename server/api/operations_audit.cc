// The method of the operations service that reads the audit log.

#include "server/api/audit.h"
#include "server/api/operations_service.h"

namespace viommu::server {

grpc::ServerUnaryReactor* OperationsService::ListAuditEntries(Context* context,
                                                              const v1::ListAuditEntriesRequest* request,
                                                              v1::ListAuditEntriesResponse* response) {
  return Answer(context, server::ListAuditEntries(core(), *request, response));
}

}  // namespace viommu::server
