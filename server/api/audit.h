// ListAuditEntries: the audit log by pages.

#ifndef VIOMMU_SERVER_API_AUDIT_H_
#define VIOMMU_SERVER_API_AUDIT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "server/api/limits.h"
#include "server/commit/core.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// Reads one page, looking at no more than `scan_entries` entries. INVALID_FIELD, LIMIT_EXCEEDED, PAGE_TOKEN_INVALID;
// STORE_DAMAGED when an entry cannot be read. Any thread.
absl::Status ListAuditEntries(const CommitCore& core, const v1::ListAuditEntriesRequest& request,
                              v1::ListAuditEntriesResponse* response, int64_t scan_entries = kMaxAuditScanEntries);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_AUDIT_H_
