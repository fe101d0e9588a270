// Rules of stage-2 domains.

#include <utility>

#include "server/fleet/deletion.h"
#include "server/fleet/quota.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

// The SMMU that a new stage-2 domain is to belong to.
absl::Status CheckSmmu(const View& view, const v1::Host& host, const std::string& name) {
  const bool per_smmu = host.stage2_sharing() == v1::STAGE2_SHARING_PER_SMMU;
  if (name.empty()) {
    if (!per_smmu) return absl::OkStatus();
    return Refusal(v1::ERROR_REASON_STAGE2_NOT_SHAREABLE, host.name(),
                   "on {} a stage-2 domain serves one SMMU only; name it in stage2_domain.smmu, and create one stage-2 "
                   "domain for each SMMU of the VM",
                   host.name())
        .Meta("host", host.name());
  }
  VIOMMU_RETURN_IF_ERROR(CheckSmmuName("stage2_domain.smmu", name));
  if (ParentName(name) != host.name()) {
    return Refusal(v1::ERROR_REASON_HOST_MISMATCH, name, "{} is not an SMMU of {}; name one of that host", name,
                   host.name())
        .Meta("smmu", name)
        .Meta("host", host.name());
  }
  const v1::Smmu* smmu = FindSmmu(host, name);
  if (smmu == nullptr) return SmmuNotFound(name);
  VIOMMU_RETURN_IF_ERROR(CheckCanNest(*smmu));
  return per_smmu ? CheckVmidFree(view, host, *smmu) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::CreateStage2DomainResponse> Judge(const v1::CreateStage2DomainRequest& request,
                                                     const Context& context, Draft& draft) {
  VIOMMU_RETURN_IF_ERROR(CheckId("stage2_domain_id", request.stage2_domain_id()));
  if (!request.has_stage2_domain()) return InvalidField("stage2_domain", "is required");
  const v1::Stage2Domain& asked = request.stage2_domain();
  VIOMMU_RETURN_IF_ERROR(CheckVm("stage2_domain.vm", asked.vm()));
  VIOMMU_RETURN_IF_ERROR(CheckLabels("stage2_domain.labels", asked.labels()));
  VIOMMU_RETURN_IF_ERROR(CheckOwnerLabel("stage2_domain.labels", asked.labels()));
  VIOMMU_ASSIGN_OR_RETURN(const auto host, Get<v1::Host>(draft, "stage2_domain.host", asked.host()));
  VIOMMU_RETURN_IF_ERROR(CheckNotCordoned(*host));

  const std::string name = Stage2DomainName(request.stage2_domain_id());
  if (const auto present = draft.Find<v1::Stage2Domain>(name); present != nullptr) {
    return NameTaken(Kind::kStage2Domain, name, present->state() == v1::STATE_DELETING);
  }
  VIOMMU_RETURN_IF_ERROR(CheckSmmu(draft, *host, asked.smmu()));

  v1::Stage2Domain stage2;
  stage2.set_name(name);
  *stage2.mutable_labels() = asked.labels();
  stage2.set_host(asked.host());
  stage2.set_vm(asked.vm());
  stage2.set_smmu(asked.smmu());
  Begin(stage2, context);
  Desire(stage2, v1::STATE_PENDING, context);
  v1::CreateStage2DomainResponse response;
  *response.mutable_stage2_domain() = stage2;
  draft.Put(std::move(stage2));
  return response;
}

absl::StatusOr<v1::DeleteStage2DomainResponse> Judge(const v1::DeleteStage2DomainRequest& request,
                                                     const Context& context, Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto stage2, Get<v1::Stage2Domain>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*stage2, request.etag()));
  if (!request.cascade()) {
    InTheWay found;
    for (const std::string& viommu : draft.Children(Relation::kStage2Viommus, stage2->name())) {
      if (MustFind<v1::Viommu>(draft, viommu)->state() != v1::STATE_DELETING) found.Add(viommu);
    }
    VIOMMU_RETURN_IF_ERROR(found.Check(stage2->name(), "delete these viommus first, or set cascade"));
  }
  v1::DeleteStage2DomainResponse response;
  *response.mutable_stage2_domain() = Release(*stage2, context, draft);
  VIOMMU_RETURN_IF_ERROR(CheckCascade(draft, stage2->name()));
  return response;
}

}  // namespace viommu::server
