// Rules of nested domains and of what is attached to them.

#include <utility>

#include "agent/smmuv3/spec/ste.h"
#include "server/fleet/deletion.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

std::string_view RuleName(smmuv3::VsteRule rule) {
  switch (rule) {
    case smmuv3::VsteRule::kNone:
      return "NONE";
    case smmuv3::VsteRule::kReservedWord0:
      return "RESERVED_WORD0";
    case smmuv3::VsteRule::kReservedWord1:
      return "RESERVED_WORD1";
    case smmuv3::VsteRule::kConfigStage2:
      return "CONFIG_STAGE2";
    case smmuv3::VsteRule::kConfigReserved:
      return "CONFIG_RESERVED";
    case smmuv3::VsteRule::kEats:
      return "EATS";
  }
  return "UNKNOWN";
}

absl::Status CheckConfig(const v1::NestedConfig& config) {
  constexpr std::string_view kField = "nested_domain.config";
  if (config.kind_case() == v1::NestedConfig::KIND_NOT_SET) {
    return InvalidField(kField, "is required: abort, bypass or translate");
  }
  if (!config.has_translate()) return absl::OkStatus();
  const smmuv3::VsteRule rule = smmuv3::ValidateVste(config.translate().word0(), config.translate().word1());
  if (rule == smmuv3::VsteRule::kNone) return absl::OkStatus();
  const std::string field = fmt::format("{}.translate", kField);
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_VSTE_INVALID)
      .Message("{}: the words {:#018x} {:#018x} are no vSTE that a guest may have: {}", field,
               config.translate().word0(), config.translate().word1(), smmuv3::DescribeVsteRule(rule))
      .Meta("field", field)
      .Meta("rule", RuleName(rule))
      .Field(field, smmuv3::DescribeVsteRule(rule));
}

// The vdevice that the device has in the viommu.
absl::StatusOr<std::shared_ptr<const v1::Vdevice>> FindVdevice(const View& view, const std::string& viommu,
                                                               const v1::Device& device) {
  std::shared_ptr<const v1::Vdevice> vdevice;
  if (ParentName(device.owner()) == viommu) vdevice = MustFind<v1::Vdevice>(view, device.owner());
  if (vdevice != nullptr && vdevice->state() != v1::STATE_DELETING) return vdevice;
  return Refusal(v1::ERROR_REASON_DEVICE_NOT_IN_VIOMMU, device.name(),
                 "{} has no vdevice in {}{}; set its vdev_id there first", device.name(), viommu,
                 vdevice != nullptr       ? " (the one it had is being released)"
                 : device.owner().empty() ? ""
                                          : fmt::format(" (it belongs to {})", device.owner()))
      .Meta("device", device.name())
      .Meta("viommu", viommu)
      .Meta("holder", device.owner());
}

// Attaches the vdevice to a nested domain, or to the stage 2 alone.
v1::Vdevice Attach(const v1::Vdevice& vdevice, const std::string& nested_domain, const Context& context, Draft& draft) {
  v1::Vdevice next = vdevice;
  if (vdevice.nested_domain() == nested_domain) return next;
  next.set_nested_domain(nested_domain);
  Desire(next, v1::STATE_PENDING, context);
  draft.Put(next);
  return next;
}

}  // namespace

absl::StatusOr<v1::CreateNestedDomainResponse> Judge(const v1::CreateNestedDomainRequest& request,
                                                     const Context& context, Draft& draft) {
  VIOMMU_RETURN_IF_ERROR(CheckId("nested_domain_id", request.nested_domain_id()));
  if (!request.has_nested_domain()) return InvalidField("nested_domain", "is required");
  const v1::NestedDomain& asked = request.nested_domain();
  VIOMMU_RETURN_IF_ERROR(CheckConfig(asked.config()));
  VIOMMU_RETURN_IF_ERROR(CheckLabels("nested_domain.labels", asked.labels()));
  VIOMMU_ASSIGN_OR_RETURN(const auto viommu, Get<v1::Viommu>(draft, "viommu", request.viommu()));
  if (viommu->state() == v1::STATE_DELETING) return BeingDeleted(Kind::kViommu, viommu->name());
  const std::string name = NestedDomainName(viommu->name(), request.nested_domain_id());
  if (const auto present = draft.Find<v1::NestedDomain>(name); present != nullptr) {
    return NameTaken(Kind::kNestedDomain, name, present->state() == v1::STATE_DELETING);
  }

  v1::NestedDomain nested;
  nested.set_name(name);
  *nested.mutable_labels() = asked.labels();
  nested.set_viommu(viommu->name());
  *nested.mutable_config() = asked.config();
  nested.set_host(viommu->host());
  nested.set_vm(viommu->vm());
  Begin(nested, context);
  Desire(nested, v1::STATE_PENDING, context);
  v1::CreateNestedDomainResponse response;
  *response.mutable_nested_domain() = nested;
  draft.Put(std::move(nested));
  return response;
}

absl::StatusOr<v1::AttachDeviceResponse> Judge(const v1::AttachDeviceRequest& request, const Context& context,
                                               Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto nested, Get<v1::NestedDomain>(draft, "name", request.name()));
  VIOMMU_ASSIGN_OR_RETURN(const auto device, Get<v1::Device>(draft, "device", request.device()));
  if (nested->state() == v1::STATE_DELETING) return BeingDeleted(Kind::kNestedDomain, nested->name());
  VIOMMU_ASSIGN_OR_RETURN(const auto vdevice, FindVdevice(draft, nested->viommu(), *device));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*vdevice, request.etag()));
  v1::AttachDeviceResponse response;
  *response.mutable_vdevice() = Attach(*vdevice, nested->name(), context, draft);
  return response;
}

absl::StatusOr<v1::DetachDeviceResponse> Judge(const v1::DetachDeviceRequest& request, const Context& context,
                                               Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto vdevice, Get<v1::Vdevice>(draft, "vdevice", request.vdevice()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*vdevice, request.etag()));
  v1::DetachDeviceResponse response;
  *response.mutable_vdevice() = Attach(*vdevice, "", context, draft);
  return response;
}

absl::StatusOr<v1::DeleteNestedDomainResponse> Judge(const v1::DeleteNestedDomainRequest& request,
                                                     const Context& context, Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto nested, Get<v1::NestedDomain>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*nested, request.etag()));
  InTheWay found;
  for (const std::string& vdevice : draft.Children(Relation::kNestedVdevices, nested->name())) found.Add(vdevice);
  VIOMMU_RETURN_IF_ERROR(found.Check(nested->name(), "detach these vdevices first"));
  v1::DeleteNestedDomainResponse response;
  *response.mutable_nested_domain() = Release(*nested, context, draft);
  return response;
}

}  // namespace viommu::server
