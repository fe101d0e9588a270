// What the rules do to every kind of record alike: look it up, guard it by etag, stamp its changes. Internal to fleet/.

#ifndef VIOMMU_SERVER_FLEET_RECORD_H_
#define VIOMMU_SERVER_FLEET_RECORD_H_

#include <fmt/format.h>
#include <google/protobuf/map.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/error.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "server/fleet/view.h"

namespace viommu::server {

using Labels = google::protobuf::Map<std::string, std::string>;

// How errors speak of a kind of record.
struct KindWords {
  std::string_view type;  // "viommu.v1.Viommu"
  std::string_view noun;  // "viommu"
  std::string_view form;  // of its names
  bool (*is_name)(std::string_view);
  v1::ErrorReason not_found;
};
const KindWords& WordsOf(Kind kind);

// INVALID_ARGUMENT unless `name` has the form of that kind's names.
absl::Status CheckName(Kind kind, std::string_view field, const std::string& name);
// Likewise for the name of an SMMU, and for an id that a caller chose.
absl::Status CheckSmmuName(std::string_view field, const std::string& name);
absl::Status CheckId(std::string_view field, const std::string& id);
absl::Status CheckLabels(std::string_view field, const Labels& labels);
bool SameLabels(const Labels& a, const Labels& b);
absl::Status CheckVm(std::string_view field, const std::string& vm);

// Cuts a text to at most `max_bytes`, between two characters of UTF-8, and ends it with an ellipsis.
void CutText(std::string& text, size_t max_bytes);

Error NotFound(Kind kind, const std::string& name);

// The record that a field of a request names.
template <typename T>
absl::StatusOr<std::shared_ptr<const T>> Get(const View& view, std::string_view field, const std::string& name) {
  constexpr Kind kKind = KindOf<T>::value;
  VIOMMU_RETURN_IF_ERROR(CheckName(kKind, field, name));
  std::shared_ptr<const T> record = view.Find<T>(name);
  if (record == nullptr) return NotFound(kKind, name);
  return record;
}

// The record must be there: the relations between records say so.
template <typename T>
std::shared_ptr<const T> MustFind(const View& view, const std::string& name) {
  std::shared_ptr<const T> record = view.Find<T>(name);
  if (record == nullptr) BrokenInvariant(fmt::format("'{}' is referred to and not recorded", name));
  return record;
}

// FAILED_PRECONDITION about `subject`.
template <typename... Args>
Error Refusal(v1::ErrorReason reason, std::string_view subject, fmt::format_string<Args...> format, Args&&... args) {
  const std::string what = fmt::format(format, std::forward<Args>(args)...);
  return Error(absl::StatusCode::kFailedPrecondition, reason)
      .Message("{}", what)
      .Precondition(ReasonName(reason), subject, what);
}

Error BeingDeleted(Kind kind, const std::string& name);

// `deleting`: whether what has the name is on its way out.
Error NameTaken(Kind kind, const std::string& name, bool deleting);

// Refuses new assignments to a cordoned host.
absl::Status CheckNotCordoned(const v1::Host& host);

// The SMMU in its host's record; null when the host has none of this name.
const v1::Smmu* FindSmmu(const v1::Host& host, const std::string& name);
Error SmmuNotFound(const std::string& name);

// The host of the SMMU that a field names.
absl::StatusOr<std::shared_ptr<const v1::Host>> GetHostOfSmmu(const View& view, std::string_view field,
                                                              const std::string& smmu);

// VMIDs of an SMMU; 0 is never given to anybody.
int64_t TotalVmids(const v1::Smmu& smmu);
int64_t UsedVmids(const View& view, const v1::Host& host, const std::string& smmu);

// Refuses what takes a VMID when all of them are taken.
absl::Status CheckVmidFree(const View& view, const v1::Host& host, const v1::Smmu& smmu);

// Whether the stage-2 domain may serve a viommu on that SMMU.
absl::Status CheckStage2(const v1::Stage2Domain& stage2, const v1::Host& host, const v1::Smmu& smmu);

// Refuses a viommu with hardware queues where there are none, or no interface for it is left.
absl::Status CheckInterfaceFree(const View& view, const v1::Smmu& smmu);

// Width of the vdev_ids that a viommu of that type can have.
uint32_t VdevIdBits(v1::ViommuType type, const v1::Smmu& smmu);

// Whether an SMMU can run a guest's stage 1 on the host's stage 2.
absl::Status CheckCanNest(const v1::Smmu& smmu);

template <typename T>
absl::Status CheckEtag(const T& record, const std::string& etag) {
  if (etag.empty() || etag == record.etag()) return absl::OkStatus();
  return Error(absl::StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH)
      .Message("{} has changed: its etag is {}, not {}; read it again and decide anew", record.name(), record.etag(),
               etag)
      .Meta("etag", record.etag());
}

// Every change of any kind.
template <typename T>
void Touch(T& record, const Context& context) {
  record.set_revision(context.revision);
  *record.mutable_update_time() = context.now;
}

// A change that a caller made.
template <typename T>
void TouchByCaller(T& record, const Context& context) {
  record.set_etag(fmt::format("{:x}", context.revision));
  Touch(record, context);
}

// A change of what should be: the host has to answer anew. Not for hosts and devices, which have other states.
template <typename T>
void Desire(T& record, v1::State state, const Context& context) {
  record.set_generation(context.revision);
  record.set_state(state);
  record.clear_state_reason();
  TouchByCaller(record, context);
}

// The same for hosts and devices: nothing is asked of the host, so it has nothing to answer.
template <typename T>
void DesireSettled(T& record, const Context& context) {
  record.set_generation(context.revision);
  record.set_observed_generation(context.revision);
  TouchByCaller(record, context);
}

// A new record: its identity. The name is set already.
template <typename T>
void Begin(T& record, const Context& context) {
  record.set_uid(context.new_uid());
  *record.mutable_create_time() = context.now;
}

// The state that follows from who has the device; `releasing`: its vdevice is on its way out.
void SetDeviceState(v1::Device& device, bool releasing);

// Whether the host has confirmed that something DELETING is gone: it is then still recorded for the sake of what is
// below it. A failure to delete carries a reason, a confirmation none.
template <typename T>
bool IsReleaseConfirmed(const T& record) {
  return record.state() == v1::STATE_DELETING && record.observed_generation() == record.generation() &&
         !record.has_state_reason();
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_RECORD_H_
