// Pages of resources.
//
// A page is read in chunks, so that a long scan does not keep the writer waiting; its revision is the one of its first
// chunk: a watch that starts after it sees every change that the page may have missed. Filters that the record has a
// relation for (ARCHITECTURE.md) bound what is looked at; others are applied to what they leave. A call that has
// looked at ListLimits::scan_records ends its page there, maybe empty, with a token to go on.

#ifndef VIOMMU_SERVER_API_LIST_H_
#define VIOMMU_SERVER_API_LIST_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "server/api/limits.h"
#include "server/commit/core.h"
#include "viommu/v1/fleet_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

struct ListLimits {
  size_t page_bytes = kMaxPageBytes;          // serialized entries of a page
  int64_t scan_records = kMaxScanRecords;     // looked at for one page
  int64_t chunk_records = kScanChunkRecords;  // looked at while the writer is kept waiting
};

// Any thread. INVALID_ARGUMENT: INVALID_FIELD, LIMIT_EXCEEDED, PAGE_TOKEN_INVALID.
absl::Status List(const CommitCore& core, const v1::ListHostsRequest& request, v1::ListHostsResponse* response,
                  const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListDevicesRequest& request, v1::ListDevicesResponse* response,
                  const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListStage2DomainsRequest& request,
                  v1::ListStage2DomainsResponse* response, const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListViommusRequest& request, v1::ListViommusResponse* response,
                  const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListVdevicesRequest& request, v1::ListVdevicesResponse* response,
                  const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListNestedDomainsRequest& request,
                  v1::ListNestedDomainsResponse* response, const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListHwQueuesRequest& request, v1::ListHwQueuesResponse* response,
                  const ListLimits& limits = {});
absl::Status List(const CommitCore& core, const v1::ListQuotasRequest& request, v1::ListQuotasResponse* response,
                  const ListLimits& limits = {});

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_LIST_H_
