#include <fmt/format.h>

#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "cli/vste.h"

namespace viommu::cli {
namespace {

struct Stage2DomainArguments {
  std::string name;
  std::string host;
  std::string vm;
  std::string smmu;
  std::vector<std::string> labels;
};

struct ViommuArguments {
  std::string name;
  std::string smmu;
  std::string stage2_domain;
  std::string type = "arm-smmuv3";
  std::vector<std::string> labels;
};

struct NestedDomainArguments {
  std::string name;
  bool abort = false;
  bool bypass = false;
  bool translate = false;
  std::string vste;
  std::vector<std::string> labels;
};

struct HwQueueArguments {
  std::string name;
  std::string iova;
  std::string length;
  std::vector<std::string> labels;
};

template <typename Resource>
absl::Status SetLabels(const std::vector<std::string>& pieces, Resource& resource) {
  VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs(pieces, "--label"));
  for (const auto& [key, value] : labels) (*resource.mutable_labels())[key] = value;
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> CreateStage2Domain(Session& session, const Stage2DomainArguments& arguments) {
  v1::CreateStage2DomainRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const std::string name, FullName(Kind::kStage2Domain, arguments.name));
  request.set_stage2_domain_id(std::string(LastSegment(name)));
  v1::Stage2Domain& domain = *request.mutable_stage2_domain();
  VIOMMU_ASSIGN_OR_RETURN(*domain.mutable_host(), FullName(Kind::kHost, arguments.host));
  domain.set_vm(arguments.vm);
  if (!arguments.smmu.empty()) {
    // An SMMU of the host that is named may go by its own name alone.
    const bool bare = arguments.smmu.find('/') == std::string::npos;
    const std::string smmu = bare ? ShortName(domain.host()) + "/" + arguments.smmu : arguments.smmu;
    VIOMMU_ASSIGN_OR_RETURN(*domain.mutable_smmu(), FullName(Kind::kSmmu, smmu));
  }
  VIOMMU_RETURN_IF_ERROR(SetLabels(arguments.labels, domain));
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::CreateStage2DomainResponse>(
                                                   request, "waiting for " + domain.host() + " to apply it"));
  return ShowChange(session, Kind::kStage2Domain, {&response.stage2_domain()}, "created", response.revision());
}

absl::StatusOr<ExitCode> CreateViommu(Session& session, const ViommuArguments& arguments) {
  v1::CreateViommuRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const std::string name, FullName(Kind::kViommu, arguments.name));
  request.set_viommu_id(std::string(LastSegment(name)));
  v1::Viommu& viommu = *request.mutable_viommu();
  VIOMMU_ASSIGN_OR_RETURN(*viommu.mutable_smmu(), FullName(Kind::kSmmu, arguments.smmu));
  VIOMMU_ASSIGN_OR_RETURN(*viommu.mutable_stage2_domain(), FullName(Kind::kStage2Domain, arguments.stage2_domain));
  viommu.set_type(arguments.type == "tegra241-cmdqv" ? v1::VIOMMU_TYPE_TEGRA241_CMDQV : v1::VIOMMU_TYPE_ARM_SMMUV3);
  VIOMMU_RETURN_IF_ERROR(SetLabels(arguments.labels, viommu));
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::CreateViommuResponse>(
                                                   request, "waiting for " + HostOf(viommu.smmu()) + " to apply it"));
  return ShowChange(session, Kind::kViommu, {&response.viommu()}, "created", response.revision());
}

absl::StatusOr<ExitCode> CreateNestedDomain(Session& session, const NestedDomainArguments& arguments) {
  if (arguments.abort + arguments.bypass + arguments.translate != 1) {
    return UsageError("say what it does: one of --abort, --bypass, --translate --vste W0,W1");
  }
  if (arguments.translate != !arguments.vste.empty()) {
    return UsageError("--translate and --vste W0,W1 belong together: the words are the guest's stream table entry");
  }
  v1::CreateNestedDomainRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const std::string name, FullName(Kind::kNestedDomain, arguments.name));
  const std::vector<std::string> segments = Split(name, '/');
  request.set_viommu(segments[0] + "/" + segments[1]);
  request.set_nested_domain_id(segments[3]);
  v1::NestedDomain& domain = *request.mutable_nested_domain();
  if (arguments.abort) domain.mutable_config()->mutable_abort();
  if (arguments.bypass) domain.mutable_config()->mutable_bypass();
  if (arguments.translate) {
    VIOMMU_ASSIGN_OR_RETURN(*domain.mutable_config()->mutable_translate(), ParseVste(arguments.vste));
  }
  VIOMMU_RETURN_IF_ERROR(SetLabels(arguments.labels, domain));
  VIOMMU_ASSIGN_OR_RETURN(const auto response,
                          session.Change<v1::CreateNestedDomainResponse>(
                              request, "waiting for the host of " + request.viommu() + " to apply it"));
  return ShowChange(session, Kind::kNestedDomain, {&response.nested_domain()}, "created", response.revision());
}

absl::StatusOr<ExitCode> CreateHwQueue(Session& session, const HwQueueArguments& arguments) {
  v1::CreateHwQueueRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const std::string name, FullName(Kind::kHwQueue, arguments.name));
  const std::vector<std::string> segments = Split(name, '/');
  request.set_viommu(segments[0] + "/" + segments[1]);
  v1::HwQueue& queue = *request.mutable_hw_queue();
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t index, ParseNumber(segments[3], "INDEX", UINT32_MAX));
  queue.set_index(static_cast<uint32_t>(index));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t iova, ParseNumber(arguments.iova, "--iova"));
  queue.set_nesting_parent_iova(iova);
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t length, ParseNumber(arguments.length, "--length"));
  queue.set_length_bytes(length);
  VIOMMU_RETURN_IF_ERROR(SetLabels(arguments.labels, queue));
  VIOMMU_ASSIGN_OR_RETURN(const auto response,
                          session.Change<v1::CreateHwQueueResponse>(
                              request, "waiting for the host of " + request.viommu() + " to apply it"));
  return ShowChange(session, Kind::kHwQueue, {&response.hw_queue()}, "created", response.revision());
}

void DeclareStage2Domain(Command& create) {
  const auto arguments = std::make_shared<Stage2DomainArguments>();
  create.Sub("stage2domain", "Record the stage 2 of a VM on a host")
      .MakesNew()
      .WithExample("create stage2domain web-1 --host a --vm web-1", "one for all SMMUs of host a")
      .WithExample("create stage2domain web-1-s0 --host a --vm web-1 --smmu smmu0",
                   "where the host's stage 2 serves one SMMU only")
      .Positional("NAME", &arguments->name, "lowercase letters, digits and hyphens; begins with a letter")
      .RequiredFlag("--host", &arguments->host, "HOST", "the host that runs the VM", {.names_of = Kind::kHost})
      .RequiredFlag("--vm", &arguments->vm, "VM", "the orchestrator's name of the VM")
      .Flag("--smmu", &arguments->smmu, "SMMU", "needed where a stage 2 of the host serves one SMMU only",
            {.names_of = Kind::kSmmu})
      .Flags("-l,--label", &arguments->labels, "KEY=VALUE,...", "labels of the new resource")
      .Runs([arguments](Session& session) { return CreateStage2Domain(session, *arguments); });
}

void DeclareViommu(Command& create) {
  const auto arguments = std::make_shared<ViommuArguments>();
  create.Sub("viommu", "Record a viommu: a slice of one SMMU for one VM")
      .MakesNew()
      .WithExample("create viommu v1 --smmu a/smmu0 --stage2domain web-1", "behind smmu0 of host a")
      .Positional("NAME", &arguments->name, "lowercase letters, digits and hyphens; begins with a letter")
      .RequiredFlag("--smmu", &arguments->smmu, "SMMU", "the SMMU: HOST/SMMU or its full name",
                    {.names_of = Kind::kSmmu})
      .RequiredFlag("--stage2domain", &arguments->stage2_domain, "NAME", "the VM's stage 2, of the same host",
                    {.names_of = Kind::kStage2Domain})
      .Flag("--type", &arguments->type, "TYPE", "its kind",
            {.words = {"arm-smmuv3", "tegra241-cmdqv"}, .only_words = true})
      .Flags("-l,--label", &arguments->labels, "KEY=VALUE,...", "labels of the new resource")
      .Runs([arguments](Session& session) { return CreateViommu(session, *arguments); });
}

void DeclareNestedDomain(Command& create) {
  const auto arguments = std::make_shared<NestedDomainArguments>();
  create.Sub("nesteddomain", "Record a nested domain of a viommu: what devices can be attached to")
      .MakesNew()
      .Details(
          "The words of --vste are the first two of the guest's stream table entry (IHI 0070, 5.2). A guest may set\n"
          "  word 0   V [0], Config [3:1] (0 abort, 4 bypass, 5 stage 1), S1Fmt [5:4], S1ContextPtr [51:6], S1CDMax "
          "[63:59]\n"
          "  word 1   S1DSS [1:0], S1CIR [3:2], S1COR [5:4], S1CSH [7:6], S1STALLD [27], EATS [29:28] (0 or 1)\n"
          "and nothing else.")
      .WithExample("create nesteddomain v1/s1 --translate --vste 0x8000100b,0x2", "the guest's stage 1")
      .WithExample("create nesteddomain v1/off --abort", "every access is aborted")
      .WithExample("create nesteddomain v1/flat --bypass", "guest-physical addresses, by the stage 2 alone")
      .Positional("NAME", &arguments->name, "VIOMMU/NAME or its full name")
      .Switch("--abort", &arguments->abort, "every access is aborted")
      .Switch("--bypass", &arguments->bypass, "no stage 1")
      .Switch("--translate", &arguments->translate, "the guest's stage 1, then the stage 2; needs --vste")
      .Flag("--vste", &arguments->vste, "W0,W1", "two 64-bit words, in decimal or 0x hex")
      .Flags("-l,--label", &arguments->labels, "KEY=VALUE,...", "labels of the new resource")
      .Runs([arguments](Session& session) { return CreateNestedDomain(session, *arguments); });
}

void DeclareHwQueue(Command& create) {
  const auto arguments = std::make_shared<HwQueueArguments>();
  create.Sub("hwqueue", "Record a hardware queue of a viommu of the type tegra241-cmdqv")
      .MakesNew()
      .Details("Queues of a viommu are made with rising indices, from 0, and deleted with falling ones.")
      .WithExample("create hwqueue v1/0 --iova 0x50000000 --length 65536", "4096 commands in the guest's memory")
      .Positional("NAME", &arguments->name, "VIOMMU/INDEX or its full name")
      .RequiredFlag("--iova", &arguments->iova, "ADDRESS", "guest-physical address: a multiple of the length")
      .RequiredFlag("--length", &arguments->length, "BYTES", "a power of two: 16 for each command")
      .Flags("-l,--label", &arguments->labels, "KEY=VALUE,...", "labels of the new resource")
      .Runs([arguments](Session& session) { return CreateHwQueue(session, *arguments); });
}

}  // namespace

void DeclareCreate(Command& root) {
  Command& create = root.Sub("create", "Record something new");
  DeclareStage2Domain(create);
  DeclareViommu(create);
  DeclareNestedDomain(create);
  DeclareHwQueue(create);
}

}  // namespace viommu::cli
