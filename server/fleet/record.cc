#include "server/fleet/record.h"

#include <algorithm>

#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::server {
namespace {

constexpr KindWords kWords[] = {
    {"viommu.v1.Host", "host", "hosts/{host}", IsHostName, v1::ERROR_REASON_HOST_NOT_FOUND},
    {"viommu.v1.Device", "device", "hosts/{host}/devices/{segment:bus:device.function}", IsDeviceName,
     v1::ERROR_REASON_DEVICE_NOT_FOUND},
    {"viommu.v1.Stage2Domain", "stage-2 domain", "stage2Domains/{stage2_domain}", IsStage2DomainName,
     v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND},
    {"viommu.v1.Viommu", "viommu", "viommus/{viommu}", IsViommuName, v1::ERROR_REASON_VIOMMU_NOT_FOUND},
    {"viommu.v1.Vdevice", "vdevice", "viommus/{viommu}/vdevices/{vdev_id}", IsVdeviceName,
     v1::ERROR_REASON_VDEVICE_NOT_FOUND},
    {"viommu.v1.NestedDomain", "nested domain", "viommus/{viommu}/nestedDomains/{nested_domain}", IsNestedDomainName,
     v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND},
    {"viommu.v1.HwQueue", "hardware queue", "viommus/{viommu}/hwQueues/{index}", IsHwQueueName,
     v1::ERROR_REASON_HW_QUEUE_NOT_FOUND},
    {"viommu.v1.Quota", "quota", "quotas/{owner}", IsQuotaName, v1::ERROR_REASON_QUOTA_NOT_FOUND},
};

constexpr uint32_t kCmdqvVdevIdBits = 20;  // what the matching registers of CMDQV hold

constexpr size_t kMaxShownBytes = 80;  // of a malformed text in an error

std::string_view Shown(std::string_view text) { return text.substr(0, kMaxShownBytes); }

// Neither control characters nor DEL: such text spoils tables, logs and terminals.
bool IsPrintable(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

bool IsLabelKey(std::string_view key) {
  return !key.empty() && key.size() <= kMaxLabelKeyBytes && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == '/';
  });
}

}  // namespace

const KindWords& WordsOf(Kind kind) { return kWords[static_cast<size_t>(kind) - 1]; }

absl::Status CheckName(Kind kind, std::string_view field, const std::string& name) {
  const KindWords& words = WordsOf(kind);
  if (words.is_name(name)) return absl::OkStatus();
  if (name.empty()) return InvalidField(field, "is required: {}", words.form);
  return InvalidField(field, "'{}' is no name of a {}: {}", Shown(name), words.noun, words.form);
}

absl::Status CheckSmmuName(std::string_view field, const std::string& name) {
  if (IsSmmuName(name)) return absl::OkStatus();
  if (name.empty()) return InvalidField(field, "is required: hosts/{{host}}/smmus/{{smmu}}");
  return InvalidField(field, "'{}' is no name of an SMMU: hosts/{{host}}/smmus/{{smmu}}", Shown(name));
}

absl::Status CheckId(std::string_view field, const std::string& id) {
  if (IsId(id)) return absl::OkStatus();
  return InvalidField(field, "'{}' must be 1 to {} lowercase letters, digits and hyphens, and begin with a letter",
                      Shown(id), kMaxIdBytes);
}

absl::Status CheckLabels(std::string_view field, const Labels& labels) {
  if (labels.size() > kMaxLabels) {
    const std::string what = fmt::format("has {} labels, and at most {} are taken", labels.size(), kMaxLabels);
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("{}: {}", field, what)
        .Meta("field", field)
        .Meta("limit", std::to_string(kMaxLabels))
        .Field(field, what);
  }
  for (const auto& [key, value] : labels) {
    if (!IsLabelKey(key)) {
      return InvalidField(field, "the key '{}' must be 1 to {} letters, digits, '-', '_', '.' and '/'", Shown(key),
                          kMaxLabelKeyBytes);
    }
    if (value.size() > kMaxLabelValueBytes || !IsPrintable(value)) {
      return InvalidField(field, "the value of '{}' must be at most {} bytes without control characters", key,
                          kMaxLabelValueBytes);
    }
  }
  return absl::OkStatus();
}

bool SameLabels(const Labels& a, const Labels& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& label) {
           const auto found = b.find(label.first);
           return found != b.end() && found->second == label.second;
         });
}

absl::Status CheckVm(std::string_view field, const std::string& vm) {
  if (!vm.empty() && vm.size() <= kMaxVmBytes && IsPrintable(vm)) return absl::OkStatus();
  return InvalidField(field, "must be the name of the VM: 1 to {} bytes without control characters", kMaxVmBytes);
}

void CutText(std::string& text, size_t max_bytes) {
  constexpr std::string_view kEllipsis = "…";
  if (text.size() <= max_bytes) return;
  size_t end = max_bytes - kEllipsis.size();
  const auto continues = [&text](size_t at) { return (static_cast<uint8_t>(text[at]) & 0xc0) == 0x80; };
  while (end > 0 && continues(end)) --end;
  text.resize(end);
  text += kEllipsis;
}

Error NotFound(Kind kind, const std::string& name) {
  const KindWords& words = WordsOf(kind);
  return Error(absl::StatusCode::kNotFound, words.not_found)
      .Message("there is no {} '{}'; list them to see which there are", words.noun, name)
      .Meta("name", name)
      .Resource(words.type, name);
}

Error BeingDeleted(Kind kind, const std::string& name) {
  return Refusal(v1::ERROR_REASON_BEING_DELETED, name,
                 "{} '{}' is being deleted; wait until its host has confirmed that it is gone, then create it anew",
                 WordsOf(kind).noun, name)
      .Meta("name", name);
}

Error NameTaken(Kind kind, const std::string& name, bool deleting) {
  const KindWords& words = WordsOf(kind);
  return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN)
      .Message(
          "there is a {} '{}' already{}", words.noun, name,
          deleting ? ", being deleted; wait until its host has confirmed, or choose another id" : "; choose another id")
      .Meta("name", name)
      .Resource(words.type, name);
}

absl::Status CheckNotCordoned(const v1::Host& host) {
  if (!host.cordoned()) return absl::OkStatus();
  return Refusal(v1::ERROR_REASON_HOST_CORDONED, host.name(),
                 "{} is cordoned and takes no new assignments; uncordon it or choose another host", host.name())
      .Meta("host", host.name());
}

const v1::Smmu* FindSmmu(const v1::Host& host, const std::string& name) {
  for (const v1::Smmu& smmu : host.smmus()) {
    if (smmu.name() == name) return &smmu;
  }
  return nullptr;
}

Error SmmuNotFound(const std::string& name) {
  return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND)
      .Message("there is no SMMU '{}'; get {} to see which ones it has", name, ParentName(name))
      .Meta("name", name)
      .Resource("viommu.v1.Smmu", name);
}

absl::StatusOr<std::shared_ptr<const v1::Host>> GetHostOfSmmu(const View& view, std::string_view field,
                                                              const std::string& smmu) {
  VIOMMU_RETURN_IF_ERROR(CheckSmmuName(field, smmu));
  const std::string name(ParentName(smmu));
  std::shared_ptr<const v1::Host> host = view.Find<v1::Host>(name);
  if (host == nullptr) return NotFound(Kind::kHost, name);
  return host;
}

int64_t TotalVmids(const v1::Smmu& smmu) { return (int64_t{1} << smmu.vmid_bits()) - 1; }

int64_t UsedVmids(const View& view, const v1::Host& host, const std::string& smmu) {
  return view.Count(
      host.stage2_sharing() == v1::STAGE2_SHARING_PER_SMMU ? Relation::kSmmuStage2s : Relation::kSmmuViommus, smmu);
}

absl::Status CheckVmidFree(const View& view, const v1::Host& host, const v1::Smmu& smmu) {
  const int64_t used = UsedVmids(view, host, smmu.name());
  const int64_t total = TotalVmids(smmu);
  if (used < total) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_VMID_EXHAUSTED)
      .Message("all VMIDs of {} are taken ({} of {}); delete what is not needed there or use another SMMU", smmu.name(),
               used, total)
      .Meta("smmu", smmu.name())
      .Meta("used", std::to_string(used))
      .Meta("total", std::to_string(total));
}

absl::Status CheckStage2(const v1::Stage2Domain& stage2, const v1::Host& host, const v1::Smmu& smmu) {
  if (stage2.host() != host.name()) {
    return Refusal(v1::ERROR_REASON_HOST_MISMATCH, stage2.name(),
                   "{} is on {}, but the SMMU {} is on {}; both must be on one host", stage2.name(), stage2.host(),
                   smmu.name(), host.name())
        .Meta("stage2_domain", stage2.name())
        .Meta("smmu", smmu.name());
  }
  if (stage2.state() == v1::STATE_DELETING) return BeingDeleted(Kind::kStage2Domain, stage2.name());
  const bool per_smmu = host.stage2_sharing() == v1::STAGE2_SHARING_PER_SMMU;
  if (stage2.smmu() == smmu.name() || (stage2.smmu().empty() && !per_smmu)) return absl::OkStatus();
  return Refusal(v1::ERROR_REASON_STAGE2_NOT_SHAREABLE, stage2.name(),
                 "{} serves {} only, not {}; create a stage-2 domain of the VM for that SMMU", stage2.name(),
                 stage2.smmu().empty() ? "no SMMU of this host" : stage2.smmu(), smmu.name())
      .Meta("stage2_domain", stage2.name())
      .Meta("stage2_smmu", stage2.smmu())
      .Meta("smmu", smmu.name());
}

absl::Status CheckInterfaceFree(const View& view, const v1::Smmu& smmu) {
  if (!smmu.has_hw_queue()) {
    return Refusal(v1::ERROR_REASON_SMMU_INCAPABLE, smmu.name(),
                   "{} has no hardware queues for guests, so there can be no TEGRA241_CMDQV viommu on it; use the type "
                   "ARM_SMMUV3 or another SMMU",
                   smmu.name())
        .Meta("smmu", smmu.name());
  }
  const int64_t used = view.Count(Relation::kSmmuHwQueueViommus, smmu.name());
  const int64_t total = smmu.hw_queue().interfaces();
  if (used < total) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_HW_QUEUE_EXHAUSTED)
      .Message("all hardware queue interfaces of {} are taken ({} of {}); use the type ARM_SMMUV3 or another SMMU",
               smmu.name(), used, total)
      .Meta("smmu", smmu.name())
      .Meta("used", std::to_string(used))
      .Meta("total", std::to_string(total));
}

uint32_t VdevIdBits(v1::ViommuType type, const v1::Smmu& smmu) {
  return type == v1::VIOMMU_TYPE_TEGRA241_CMDQV ? std::min(smmu.sid_bits(), kCmdqvVdevIdBits) : smmu.sid_bits();
}

absl::Status CheckCanNest(const v1::Smmu& smmu) {
  smmuv3::IdRegisters idr = {};
  for (int i = 0; i < smmu.idr_size() && i < static_cast<int>(idr.size()); ++i) {
    idr[static_cast<size_t>(i)] = smmu.idr(i);
  }
  if (smmuv3::CanNest(smmuv3::DecodeIdRegisters(idr), smmu.iidr())) return absl::OkStatus();
  return Refusal(
             v1::ERROR_REASON_SMMU_INCAPABLE, smmu.name(),
             "{} cannot nest: it lacks one of the two stages (IDR0 is {:#x}) or has an erratum that forbids it (IIDR "
             "is {:#x}); use another SMMU",
             smmu.name(), idr[0], smmu.iidr())
      .Meta("smmu", smmu.name());
}

void SetDeviceState(v1::Device& device, bool releasing) {
  if (device.missing()) {
    device.set_state(v1::DEVICE_STATE_MISSING);
  } else if (device.owner().empty()) {
    device.set_state(v1::DEVICE_STATE_FREE);
  } else {
    device.set_state(releasing ? v1::DEVICE_STATE_RELEASING : v1::DEVICE_STATE_ASSIGNED);
  }
}

}  // namespace viommu::server
