// Rules of viommus.

#include <utility>

#include "server/fleet/deletion.h"
#include "server/fleet/quota.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
absl::StatusOr<v1::CreateViommuResponse> Judge(const v1::CreateViommuRequest& request, const Context& context,
                                               Draft& draft) {
  VIOMMU_RETURN_IF_ERROR(CheckId("viommu_id", request.viommu_id()));
  if (!request.has_viommu()) return InvalidField("viommu", "is required");
  const v1::Viommu& asked = request.viommu();
  VIOMMU_RETURN_IF_ERROR(CheckName(Kind::kStage2Domain, "viommu.stage2_domain", asked.stage2_domain()));
  if (!v1::ViommuType_IsValid(asked.type())) {
    return InvalidField("viommu.type", "{} is no type of viommu that this server knows",
                        static_cast<int>(asked.type()));
  }
  VIOMMU_RETURN_IF_ERROR(CheckLabels("viommu.labels", asked.labels()));
  VIOMMU_ASSIGN_OR_RETURN(const auto host, GetHostOfSmmu(draft, "viommu.smmu", asked.smmu()));
  VIOMMU_RETURN_IF_ERROR(CheckNotCordoned(*host));
  const v1::Smmu* smmu = FindSmmu(*host, asked.smmu());
  if (smmu == nullptr) return SmmuNotFound(asked.smmu());
  VIOMMU_ASSIGN_OR_RETURN(const auto stage2,
                          Get<v1::Stage2Domain>(draft, "viommu.stage2_domain", asked.stage2_domain()));

  const std::string name = ViommuName(request.viommu_id());
  if (const auto present = draft.Find<v1::Viommu>(name); present != nullptr) {
    return NameTaken(Kind::kViommu, name, present->state() == v1::STATE_DELETING);
  }
  VIOMMU_RETURN_IF_ERROR(CheckStage2(*stage2, *host, *smmu));
  VIOMMU_RETURN_IF_ERROR(CheckCanNest(*smmu));
  const bool hw_queue = asked.type() == v1::VIOMMU_TYPE_TEGRA241_CMDQV;
  if (hw_queue) VIOMMU_RETURN_IF_ERROR(CheckInterfaceFree(draft, *smmu));
  const std::string& owner = OwnerOf(*stage2);
  VIOMMU_RETURN_IF_ERROR(CheckViommuQuota(draft, owner));
  // Where stage 2 belongs to one SMMU, it has brought the VMID along.
  if (host->stage2_sharing() != v1::STAGE2_SHARING_PER_SMMU) {
    VIOMMU_RETURN_IF_ERROR(CheckVmidFree(draft, *host, *smmu));
  }

  v1::Viommu viommu;
  viommu.set_name(name);
  *viommu.mutable_labels() = asked.labels();
  viommu.set_smmu(asked.smmu());
  viommu.set_stage2_domain(asked.stage2_domain());
  viommu.set_type(hw_queue ? v1::VIOMMU_TYPE_TEGRA241_CMDQV : v1::VIOMMU_TYPE_ARM_SMMUV3);
  viommu.set_host(host->name());
  viommu.set_vm(stage2->vm());
  viommu.set_owner(owner);
  Begin(viommu, context);
  Desire(viommu, v1::STATE_PENDING, context);
  v1::CreateViommuResponse response;
  *response.mutable_viommu() = viommu;
  draft.Put(std::move(viommu));
  return response;
}

absl::StatusOr<v1::UpdateViommuLabelsResponse> Judge(const v1::UpdateViommuLabelsRequest& request,
                                                     const Context& context, Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Viommu>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckLabels("labels", request.labels()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, request.etag()));
  if (present->state() == v1::STATE_DELETING) return BeingDeleted(Kind::kViommu, present->name());
  v1::UpdateViommuLabelsResponse response;
  *response.mutable_viommu() = *present;
  if (SameLabels(present->labels(), request.labels())) return response;
  *response.mutable_viommu()->mutable_labels() = request.labels();
  TouchByCaller(*response.mutable_viommu(), context);
  draft.Put(response.viommu());
  return response;
}

absl::StatusOr<v1::DeleteViommuResponse> Judge(const v1::DeleteViommuRequest& request, const Context& context,
                                               Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto viommu, Get<v1::Viommu>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*viommu, request.etag()));
  if (!request.cascade()) {
    InTheWay found;
    FindInTheWay(draft, viommu->name(), found);
    VIOMMU_RETURN_IF_ERROR(found.Check(viommu->name(),
                                       "unset its vdev_ids and delete its nested domains first, or set "
                                       "cascade"));
  }
  v1::DeleteViommuResponse response;
  *response.mutable_viommu() = Release(*viommu, context, draft);
  VIOMMU_RETURN_IF_ERROR(CheckCascade(draft, viommu->name()));
  return response;
}

}  // namespace viommu::server
