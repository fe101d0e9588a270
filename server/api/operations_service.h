// The operations service on gRPC's callback API: what operators and schedulers call beside the fleet service, by the
// same rules of threads (fleet_service.h).

#ifndef VIOMMU_SERVER_API_OPERATIONS_SERVICE_H_
#define VIOMMU_SERVER_API_OPERATIONS_SERVICE_H_

#include <atomic>

#include "server/api/fleet_service.h"
#include "viommu/v1/operations_service.grpc.pb.h"

namespace viommu::server {

class OperationsService final : public v1::OperationsService::CallbackService {
 public:
  // Works on the same parts as the fleet service; everything must outlive it.
  explicit OperationsService(const FleetServiceParts& parts) : parts_(parts) {}

 private:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  // Changes: operations_mutations.cc.
  Reactor* DrainHost(Context* context, const v1::DrainHostRequest* request, v1::DrainHostResponse* response) override;
  Reactor* AbortDrain(Context* context, const v1::AbortDrainRequest* request,
                      v1::AbortDrainResponse* response) override;
  Reactor* EvictHost(Context* context, const v1::EvictHostRequest* request, v1::EvictHostResponse* response) override;
  Reactor* ForgetHost(Context* context, const v1::ForgetHostRequest* request,
                      v1::ForgetHostResponse* response) override;
  Reactor* SetQuota(Context* context, const v1::SetQuotaRequest* request, v1::SetQuotaResponse* response) override;
  Reactor* DeleteQuota(Context* context, const v1::DeleteQuotaRequest* request,
                       v1::DeleteQuotaResponse* response) override;

  // Reads: operations_reads.cc.
  Reactor* GetQuota(Context* context, const v1::GetQuotaRequest* request, v1::GetQuotaResponse* response) override;
  Reactor* ListQuotas(Context* context, const v1::ListQuotasRequest* request,
                      v1::ListQuotasResponse* response) override;
  Reactor* GetDrain(Context* context, const v1::GetDrainRequest* request, v1::GetDrainResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchDrainResponse>* WatchDrain(Context* context,
                                                               const v1::WatchDrainRequest* request) override;
  Reactor* FindPlacement(Context* context, const v1::FindPlacementRequest* request,
                         v1::FindPlacementResponse* response) override;
  Reactor* CompareHosts(Context* context, const v1::CompareHostsRequest* request,
                        v1::CompareHostsResponse* response) override;

  // operations_drift.cc.
  Reactor* GetDrift(Context* context, const v1::GetDriftRequest* request, v1::GetDriftResponse* response) override;

  // operations_audit.cc.
  Reactor* ListAuditEntries(Context* context, const v1::ListAuditEntriesRequest* request,
                            v1::ListAuditEntriesResponse* response) override;

  // operations_backup.cc.
  Reactor* CreateBackup(Context* context, const v1::CreateBackupRequest* request,
                        v1::CreateBackupResponse* response) override;
  Reactor* ListBackups(Context* context, const v1::ListBackupsRequest* request,
                       v1::ListBackupsResponse* response) override;

  const CommitCore& core() const { return parts_.committer.core(); }

  // Ends a call that reads, if the caller may call at all.
  Reactor* Answer(Context* context, const absl::Status& status) const;

  const FleetServiceParts parts_;
  std::atomic<int> inspections_{0};  // calls of GetDrift under way
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_OPERATIONS_SERVICE_H_
