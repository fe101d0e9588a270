// Rules of hosts: cordon, what an agent's hello records, budgets.

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <set>
#include <string>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

constexpr uint32_t kMaxVmidBits = 16;
constexpr uint32_t kMaxSidBits = 32;
constexpr int kMaxIdRegisters = 6;  // SMMU_IDR0 to SMMU_IDR5

// Equal bytes mean equal messages: maps are written in order.
std::string Bytes(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

// ---- Whether a hello makes sense -----------------------------------------------------------------------------------

Error Malformed(std::string_view field, const std::string& what) {
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION)
      .Message("hello: {}: {}", field, what)
      .Meta("field", field)
      .Field(field, what);
}

absl::Status CheckLength(std::string_view field, int size, int limit) {
  if (size <= limit) return absl::OkStatus();
  const std::string what = fmt::format("has {} entries, and at most {} are taken", size, limit);
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
      .Message("hello: {}: {}", field, what)
      .Meta("field", field)
      .Meta("limit", std::to_string(limit))
      .Field(field, what);
}

// Words that an agent reports about its host.
absl::Status CheckText(std::string_view field, const std::string& text) {
  if (text.size() <= kMaxReportedTextBytes) return absl::OkStatus();
  const std::string what = fmt::format("has {} bytes, and at most {} are taken", text.size(), kMaxReportedTextBytes);
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
      .Message("hello: {}: {}", field, what)
      .Meta("field", field)
      .Meta("limit", std::to_string(kMaxReportedTextBytes))
      .Field(field, what);
}

absl::Status CheckHost(const v1::Host& host) {
  if (!IsHostName(host.name())) {
    return Malformed("host.name", fmt::format("'{}' is no name of a host: hosts/{{host}}", host.name()));
  }
  VIOMMU_RETURN_IF_ERROR(CheckLabels("host.labels", host.labels()));
  if (host.stage2_sharing() != v1::STAGE2_SHARING_SHARED && host.stage2_sharing() != v1::STAGE2_SHARING_PER_SMMU) {
    return Malformed("host.stage2_sharing", "must be SHARED or PER_SMMU");
  }
  VIOMMU_RETURN_IF_ERROR(CheckLength("host.capabilities", host.capabilities_size(), kMaxHostCapabilities));
  for (const v1::Capability& capability : host.capabilities()) {
    VIOMMU_RETURN_IF_ERROR(CheckText("host.capabilities.name", capability.name()));
  }
  VIOMMU_RETURN_IF_ERROR(CheckText("host.backend", host.backend()));
  VIOMMU_RETURN_IF_ERROR(CheckText("host.boot_id", host.boot_id()));
  VIOMMU_RETURN_IF_ERROR(CheckLength("host.smmus", host.smmus_size(), kMaxHostSmmus));
  std::set<std::string_view> names;
  for (int i = 0; i < host.smmus_size(); ++i) {
    const v1::Smmu& smmu = host.smmus(i);
    const std::string field = fmt::format("host.smmus[{}]", i);
    if (!IsSmmuName(smmu.name()) || ParentName(smmu.name()) != host.name()) {
      return Malformed(field, fmt::format("'{}' is no name of an SMMU of {}", smmu.name(), host.name()));
    }
    if (!names.insert(smmu.name()).second) return Malformed(field, smmu.name() + " is listed twice");
    VIOMMU_RETURN_IF_ERROR(CheckLength(field + ".idr", smmu.idr_size(), kMaxIdRegisters));
    if (smmu.vmid_bits() < 1 || smmu.vmid_bits() > kMaxVmidBits) {
      return Malformed(field, fmt::format("{} bits of VMID: 1 to {} are possible", smmu.vmid_bits(), kMaxVmidBits));
    }
    if (smmu.sid_bits() > kMaxSidBits) {
      return Malformed(field,
                       fmt::format("{} bits of StreamID: at most {} are possible", smmu.sid_bits(), kMaxSidBits));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDevices(const v1::Hello& hello) {
  VIOMMU_RETURN_IF_ERROR(CheckLength("devices", hello.devices_size(), kMaxHostDevices));
  absl::flat_hash_set<std::string> names;
  for (int i = 0; i < hello.devices_size(); ++i) {
    const v1::Device& device = hello.devices(i);
    const std::string field = fmt::format("devices[{}]", i);
    if (!IsDeviceName(device.name()) || ParentName(device.name()) != hello.host().name()) {
      return Malformed(field, fmt::format("'{}' is no name of a device of {}", device.name(), hello.host().name()));
    }
    if (!names.insert(device.name()).second) return Malformed(field, device.name() + " is listed twice");
    if (FindSmmu(hello.host(), device.smmu()) == nullptr) {
      return Malformed(field, fmt::format("{} is behind '{}', which is not listed", device.name(), device.smmu()));
    }
    VIOMMU_RETURN_IF_ERROR(CheckLabels(field + ".labels", device.labels()));
  }
  return absl::OkStatus();
}

// ---- What a hello changes ------------------------------------------------------------------------------------------

// Takes over what the agent reports, and nothing else.
void Report(const v1::Host& reported, v1::Host& host) {
  *host.mutable_labels() = reported.labels();
  *host.mutable_smmus() = reported.smmus();
  for (v1::Smmu& smmu : *host.mutable_smmus()) {
    smmu.clear_vmids();
    smmu.clear_devices();
    smmu.clear_hw_queue_interfaces();
    smmu.clear_host_vmids();
  }
  host.set_stage2_sharing(reported.stage2_sharing());
  host.set_invalidate_by_nested_domain(reported.invalidate_by_nested_domain());
  host.set_backend(reported.backend());
  *host.mutable_capabilities() = reported.capabilities();
  for (v1::Capability& capability : *host.mutable_capabilities()) {
    CutText(*capability.mutable_reason(), kMaxReasonBytes);
  }
  host.set_boot_id(reported.boot_id());
}

// What an agent reports of a device, and what follows from all that it reports.
struct ReportedDevice {
  const v1::Device& device;
  bool iommu_group_shared;
};

void Report(const ReportedDevice& report, v1::Device& device) {
  const v1::Device& reported = report.device;
  *device.mutable_labels() = reported.labels();
  device.set_smmu(reported.smmu());
  device.set_stream_id(reported.stream_id());
  device.set_ats(reported.ats());
  device.set_max_pasid_log2(reported.max_pasid_log2());
  device.set_iommu_group(reported.iommu_group());
  device.set_iommu_group_shared(report.iommu_group_shared);
  device.set_missing(false);
}

bool IsAsReported(const ReportedDevice& report, const v1::Device& device) {
  const v1::Device& reported = report.device;
  return !device.missing() && device.smmu() == reported.smmu() && device.stream_id() == reported.stream_id() &&
         device.ats() == reported.ats() && device.max_pasid_log2() == reported.max_pasid_log2() &&
         device.iommu_group() == reported.iommu_group() && device.iommu_group_shared() == report.iommu_group_shared &&
         SameLabels(device.labels(), reported.labels());
}

void RecordHost(const v1::Hello& hello, const Context& context, Draft& draft) {
  const auto present = draft.Find<v1::Host>(hello.host().name());
  v1::Host host;
  if (present != nullptr) {
    host = *present;
  } else {
    host.set_name(hello.host().name());
    Begin(host, context);
    DesireSettled(host, context);
  }
  Report(hello.host(), host);
  host.set_agent_id(hello.agent_id());
  host.set_agent_version(hello.agent_version());
  host.set_state(v1::HOST_STATE_CONNECTED);
  host.clear_state_reason();
  if (present != nullptr && Bytes(*present) == Bytes(host)) return;
  Touch(host, context);
  draft.Put(std::move(host));
}

// The vdevice that holds the device; null when it is free.
std::shared_ptr<const v1::Vdevice> HolderOf(const View& view, const v1::Device& device) {
  return device.owner().empty() ? nullptr : MustFind<v1::Vdevice>(view, device.owner());
}

void RecordDevice(const ReportedDevice& report, const v1::Device* present, const Context& context, Draft& draft) {
  v1::Device device;
  if (present != nullptr) {
    if (IsAsReported(report, *present)) return;
    device = *present;
  } else {
    device.set_name(report.device.name());
    Begin(device, context);
    DesireSettled(device, context);
  }
  Report(report, device);
  const auto holder = HolderOf(draft, device);
  SetDeviceState(device, holder != nullptr && holder->state() == v1::STATE_DELETING);
  Touch(device, context);
  if (holder != nullptr && holder->stream_id() != device.stream_id()) {
    v1::Vdevice vdevice = *holder;
    vdevice.set_stream_id(device.stream_id());
    // What was said about it was said about another StreamID.
    if (vdevice.state() == v1::STATE_READY || vdevice.state() == v1::STATE_DORMANT) {
      vdevice.set_state(v1::STATE_PENDING);
      vdevice.set_observed_generation(0);
    }
    Touch(vdevice, context);
    draft.Put(std::move(vdevice));
  }
  draft.Put(std::move(device));
}

void RecordDevices(const v1::Hello& hello, const Context& context, Draft& draft) {
  // In order, as all that is iterated on the way into a draft: the same hello gives the same changes in every process.
  absl::btree_map<std::string, std::shared_ptr<const v1::Device>> present;
  for (auto& device : draft.Scan<v1::Device>(DevicePrefix(hello.host().name())))
    present.emplace(device->name(), device);
  absl::flat_hash_map<uint32_t, int> group_sizes;
  for (const v1::Device& reported : hello.devices()) ++group_sizes[reported.iommu_group()];
  for (const v1::Device& reported : hello.devices()) {
    const auto found = present.find(reported.name());
    // Its viommu is on the SMMU where it was: there it is missing, until its vdevice lets go of it.
    const bool moved =
        found != present.end() && !found->second->owner().empty() && found->second->smmu() != reported.smmu();
    if (moved) continue;
    RecordDevice({reported, group_sizes[reported.iommu_group()] > 1},
                 found == present.end() ? nullptr : found->second.get(), context, draft);
    if (found != present.end()) present.erase(found);
  }
  for (const auto& [name, gone] : present) {
    if (gone->owner().empty()) {
      draft.Erase(Kind::kDevice, name);
    } else if (!gone->missing()) {
      v1::Device device = *gone;
      device.set_missing(true);
      SetDeviceState(device, /*releasing=*/false);
      Touch(device, context);
      draft.Put(std::move(device));
    }
  }
}

// ---- What the agent no longer has ----------------------------------------------------------------------------------

// What the record says to be in effect and the agent does not hold (a reboot, a lost journal) is to be applied anew.
class Recheck {
 public:
  Recheck(const v1::Hello& hello, const Context& context, Draft& draft) : context_(context), draft_(draft) {
    for (const v1::HeldItem& item : hello.held()) held_.emplace(item.uid(), &item);
  }

  void Host(const std::string& host) {
    for (const std::string& stage2 : draft_.Children(Relation::kHostStage2s, host)) {
      for (const std::string& viommu : draft_.Children(Relation::kStage2Viommus, stage2)) Viommu(viommu);
      Check(*MustFind<v1::Stage2Domain>(draft_, stage2));
    }
  }

 private:
  void Viommu(const std::string& viommu) {
    for (const auto& vdevice : draft_.Scan<v1::Vdevice>(VdevicePrefix(viommu))) Check(*vdevice);
    for (const auto& nested : draft_.Scan<v1::NestedDomain>(NestedDomainPrefix(viommu))) Check(*nested);
    for (const auto& queue : draft_.Scan<v1::HwQueue>(HwQueuePrefix(viommu))) Check(*queue);
    Check(*MustFind<v1::Viommu>(draft_, viommu));
  }

  template <typename T>
  void Check(const T& record) {
    if (record.state() != v1::STATE_READY && record.state() != v1::STATE_DORMANT) return;
    const auto found = held_.find(record.uid());
    const bool held = found != held_.end() && found->second->generation() == record.generation();
    if (held && (found->second->settled() || record.state() == v1::STATE_DORMANT)) return;
    T next = record;
    next.set_state(v1::STATE_PENDING);
    next.set_observed_generation(0);
    Touch(next, context_);
    draft_.Put(std::move(next));
  }

  const Context& context_;
  Draft& draft_;
  absl::flat_hash_map<std::string, const v1::HeldItem*> held_;
};

absl::Status SetCordoned(const View& view, const std::string& name, const std::string& etag, bool cordoned,
                         const Context& context, Draft& draft, v1::Host& answer) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Host>(view, "name", name));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, etag));
  answer = *present;
  if (present->cordoned() != cordoned) {
    answer.set_cordoned(cordoned);
    if (!cordoned) answer.clear_drain();
    DesireSettled(answer, context);
    draft.Put(answer);
  }
  answer = WithBudgets(answer, draft);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::CordonHostResponse> Judge(const v1::CordonHostRequest& request, const Context& context,
                                             Draft& draft) {
  v1::CordonHostResponse response;
  VIOMMU_RETURN_IF_ERROR(
      SetCordoned(draft, request.name(), request.etag(), true, context, draft, *response.mutable_host()));
  return response;
}

absl::StatusOr<v1::UncordonHostResponse> Judge(const v1::UncordonHostRequest& request, const Context& context,
                                               Draft& draft) {
  v1::UncordonHostResponse response;
  VIOMMU_RETURN_IF_ERROR(
      SetCordoned(draft, request.name(), request.etag(), false, context, draft, *response.mutable_host()));
  return response;
}

absl::Status JudgeHello(const v1::Hello& hello, const Context& context, Draft& draft) {
  VIOMMU_RETURN_IF_ERROR(CheckHost(hello.host()));
  VIOMMU_RETURN_IF_ERROR(CheckText("agent_version", hello.agent_version()));
  VIOMMU_RETURN_IF_ERROR(CheckDevices(hello));
  RecordHost(hello, context, draft);
  RecordDevices(hello, context, draft);
  Recheck(hello, context, draft).Host(hello.host().name());
  return absl::OkStatus();
}

absl::Status JudgeDisconnect(const std::string& host, v1::ErrorReason reason, const std::string& message,
                             const Context& context, Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Host>(draft, "host", host));
  if (present->state() == v1::HOST_STATE_DISCONNECTED) return absl::OkStatus();
  v1::Host next = *present;
  next.set_state(v1::HOST_STATE_DISCONNECTED);
  next.mutable_state_reason()->set_reason(ReasonName(reason));
  next.mutable_state_reason()->set_message(message);
  CutText(*next.mutable_state_reason()->mutable_message(), kMaxReasonBytes);
  Touch(next, context);
  draft.Put(std::move(next));
  return absl::OkStatus();
}

v1::Host WithBudgets(const v1::Host& host, const View& view) {
  v1::Host filled = host;
  for (v1::Smmu& smmu : *filled.mutable_smmus()) {
    smmu.mutable_vmids()->set_used(static_cast<uint64_t>(UsedVmids(view, host, smmu.name())));
    smmu.mutable_vmids()->set_total(static_cast<uint64_t>(TotalVmids(smmu)));
    smmu.mutable_devices()->set_used(static_cast<uint64_t>(view.Count(Relation::kSmmuTakenDevices, smmu.name())));
    smmu.mutable_devices()->set_total(static_cast<uint64_t>(view.Count(Relation::kSmmuDevices, smmu.name())));
    if (!smmu.has_hw_queue()) continue;
    v1::Budget& interfaces = *smmu.mutable_hw_queue_interfaces();
    interfaces.set_used(static_cast<uint64_t>(view.Count(Relation::kSmmuHwQueueViommus, smmu.name())));
    interfaces.set_total(smmu.hw_queue().interfaces());
  }
  return filled;
}

}  // namespace viommu::server
