// THE RULES: which changes the record takes, and what follows from them (docs/rules.md).
//
// Pure functions from (request, view) to (changes in a draft, answer) or an error. No I/O, threads, clock, randomness
// or gRPC: time and uids come in through the Context. On an error the draft is to be thrown away.
//
// One overload of Judge for each mutating method of the fleet and operations services; the request is the command.
// Limits and formats of fields are checked here as well, so that there is one place for them. request_id, validate_only
// and wait are not the rules' business (server/commit, server/api).

#ifndef VIOMMU_SERVER_FLEET_RULES_H_
#define VIOMMU_SERVER_FLEET_RULES_H_

#include <google/protobuf/timestamp.pb.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/fleet/draft.h"
#include "server/fleet/names.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/errors.pb.h"
#include "viommu/v1/fleet_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// Limits; docs/limits.md lists them. Those of names are in names.h.
inline constexpr int kMaxBatchVdevIds = 1024;         // assignments in one BatchSetVdevIds
inline constexpr int kMaxLabels = 64;                 // labels of a resource
inline constexpr int kMaxLabelKeyBytes = 63;          // length of a label's key
inline constexpr int kMaxLabelValueBytes = 255;       // length of a label's value
inline constexpr int kMaxVmBytes = 128;               // length of a VM's name
inline constexpr int kMaxHostSmmus = 256;             // SMMUs of a host
inline constexpr int kMaxHostDevices = 16384;         // devices of a host
inline constexpr int kMaxHostCapabilities = 256;      // capabilities of a host
inline constexpr size_t kMaxReportedTextBytes = 255;  // of one text in a hello, such as a capability's value
inline constexpr size_t kMaxReasonBytes = 4096;       // of the message in a state's reason; what is longer is cut
inline constexpr int kMaxCascadeRecords = 65536;      // records that one deletion changes
inline constexpr int kMaxDrainHours = 30 * 24;        // until a drain's deadline

struct Context {
  google::protobuf::Timestamp now;
  int64_t revision = 0;  // that the command gets if it is accepted
  absl::FunctionRef<std::string()> new_uid;
};

// --- What callers of the fleet service ask for. The answers' `revision` is left to the caller of these.

absl::StatusOr<v1::CordonHostResponse> Judge(const v1::CordonHostRequest&, const Context&, Draft&);
absl::StatusOr<v1::UncordonHostResponse> Judge(const v1::UncordonHostRequest&, const Context&, Draft&);
absl::StatusOr<v1::CreateStage2DomainResponse> Judge(const v1::CreateStage2DomainRequest&, const Context&, Draft&);
absl::StatusOr<v1::DeleteStage2DomainResponse> Judge(const v1::DeleteStage2DomainRequest&, const Context&, Draft&);
absl::StatusOr<v1::CreateViommuResponse> Judge(const v1::CreateViommuRequest&, const Context&, Draft&);
absl::StatusOr<v1::UpdateViommuLabelsResponse> Judge(const v1::UpdateViommuLabelsRequest&, const Context&, Draft&);
absl::StatusOr<v1::DeleteViommuResponse> Judge(const v1::DeleteViommuRequest&, const Context&, Draft&);
absl::StatusOr<v1::SetVdevIdResponse> Judge(const v1::SetVdevIdRequest&, const Context&, Draft&);
absl::StatusOr<v1::UnsetVdevIdResponse> Judge(const v1::UnsetVdevIdRequest&, const Context&, Draft&);
absl::StatusOr<v1::RebindVdevIdResponse> Judge(const v1::RebindVdevIdRequest&, const Context&, Draft&);
absl::StatusOr<v1::BatchSetVdevIdsResponse> Judge(const v1::BatchSetVdevIdsRequest&, const Context&, Draft&);
absl::StatusOr<v1::CreateNestedDomainResponse> Judge(const v1::CreateNestedDomainRequest&, const Context&, Draft&);
absl::StatusOr<v1::AttachDeviceResponse> Judge(const v1::AttachDeviceRequest&, const Context&, Draft&);
absl::StatusOr<v1::DetachDeviceResponse> Judge(const v1::DetachDeviceRequest&, const Context&, Draft&);
absl::StatusOr<v1::DeleteNestedDomainResponse> Judge(const v1::DeleteNestedDomainRequest&, const Context&, Draft&);
absl::StatusOr<v1::CreateHwQueueResponse> Judge(const v1::CreateHwQueueRequest&, const Context&, Draft&);
absl::StatusOr<v1::DeleteHwQueueResponse> Judge(const v1::DeleteHwQueueRequest&, const Context&, Draft&);

// --- What callers of the operations service ask for; likewise.

absl::StatusOr<v1::DrainHostResponse> Judge(const v1::DrainHostRequest&, const Context&, Draft&);
absl::StatusOr<v1::AbortDrainResponse> Judge(const v1::AbortDrainRequest&, const Context&, Draft&);
absl::StatusOr<v1::EvictHostResponse> Judge(const v1::EvictHostRequest&, const Context&, Draft&);
absl::StatusOr<v1::ForgetHostResponse> Judge(const v1::ForgetHostRequest&, const Context&, Draft&);
absl::StatusOr<v1::SetQuotaResponse> Judge(const v1::SetQuotaRequest&, const Context&, Draft&);
absl::StatusOr<v1::DeleteQuotaResponse> Judge(const v1::DeleteQuotaRequest&, const Context&, Draft&);

// --- What comes from the host's side.

// An agent said hello: records the host and its devices as it reports them. Devices that are gone and hold nothing are
// erased; devices that are in a vdevice and gone, or behind another SMMU, are marked missing. A host whose SMMU
// vanished under recorded viommus is taken all the same: its viommus' applies will fail with a reason. What is recorded
// as READY or DORMANT on the host and is not among what the agent holds (after a reboot, with another journal) becomes
// PENDING, of the same generation; so does a vdevice whose device has another StreamID. Changes nothing when nothing
// changed.
absl::Status JudgeHello(const v1::Hello& hello, const Context&, Draft&);

// The agent's session ended.
absl::Status JudgeDisconnect(const std::string& host, v1::ErrorReason reason, const std::string& message,
                             const Context&, Draft&);

// What became of resources on `host`. Results for another uid or an older generation than recorded, and repeated ones,
// change nothing; a result for a resource of another host is refused.
absl::Status JudgeResults(const std::string& host, const v1::Results& results, const Context&, Draft&);

// --- Reading.

// The host with the budgets of its SMMUs filled in.
v1::Host WithBudgets(const v1::Host& host, const View& view);

// The quota with what its owner has filled in.
v1::Quota WithUsage(const v1::Quota& quota, const View& view);

// Checks everything that must hold between the records (used when a store is opened, and by tests): the first broken
// promise as an error that names the records.
absl::Status CheckInvariants(const View& view);
// Likewise of the records of one kind.
absl::Status CheckInvariants(const View& view, Kind kind);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_RULES_H_
