// Planning: where something would fit, and what would be different elsewhere.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/output/document.h"
#include "cli/output/table.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

struct PlaceArguments {
  std::vector<std::string> wishes;
  std::string host;
  std::string vm;
  std::string stage2_domain;
  std::vector<std::string> host_labels;
  bool hw_queue = false;
  std::string max_vdev_id;
  std::string max;
};

struct CompareArguments {
  std::string source;
  std::string target;
  bool all = false;
};

// "2,ats,pasid=16,kind=gpu"
absl::StatusOr<v1::DeviceWish> ParseWish(const std::string& text) {
  v1::DeviceWish wish;
  wish.set_count(1);
  for (const std::string& piece : Split(text, ',')) {
    if (piece == "ats") {
      wish.set_ats(true);
    } else if (piece.starts_with("pasid=")) {
      VIOMMU_ASSIGN_OR_RETURN(const uint64_t bits, ParseNumber(piece.substr(6), "pasid"));
      if (bits > 20) return UsageError(fmt::format("\"{}\": a PASID has at most 20 bits", piece));
      wish.set_min_pasid_log2(static_cast<uint32_t>(bits));
    } else if (piece.find('=') != std::string::npos) {
      VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs({piece}, "WISH"));
      for (const auto& [key, value] : labels) (*wish.mutable_labels())[key] = value;
    } else {
      VIOMMU_ASSIGN_OR_RETURN(const uint64_t count, ParseNumber(piece, "WISH"));
      if (count == 0 || count > 1024) return UsageError(fmt::format("\"{}\": 1 to 1024 devices can be wished", piece));
      wish.set_count(static_cast<int32_t>(count));
    }
  }
  return wish;
}

absl::StatusOr<ExitCode> Place(Session& session, const PlaceArguments& arguments) {
  v1::FindPlacementRequest request;
  for (const std::string& text : arguments.wishes) {
    VIOMMU_ASSIGN_OR_RETURN(*request.add_devices(), ParseWish(text));
  }
  if (!arguments.host.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(*request.mutable_host(), FullName(Kind::kHost, arguments.host));
  }
  request.set_vm(arguments.vm);
  if (!arguments.stage2_domain.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(*request.mutable_stage2_domain(), FullName(Kind::kStage2Domain, arguments.stage2_domain));
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs(arguments.host_labels, "--host-label"));
  for (const auto& [key, value] : labels) (*request.mutable_host_labels())[key] = value;
  if (arguments.hw_queue) request.set_type(v1::VIOMMU_TYPE_TEGRA241_CMDQV);
  if (!arguments.max_vdev_id.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t max_vdev_id, ParseNumber(arguments.max_vdev_id, "--max-vdev-id"));
    request.set_max_vdev_id(max_vdev_id);
  }
  if (!arguments.max.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t max, ParseNumber(arguments.max, "--max"));
    request.set_max_placements(static_cast<int32_t>(std::min<uint64_t>(max, 1000)));
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Call<v1::FindPlacementResponse>(request));
  const ExitCode code = response.placements().empty() ? ExitCode::kNotFound : ExitCode::kOk;
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(response));
    return code;
  }
  std::ostream& out = *session.terminal().out;
  if (session.settings().output == OutputFormat::kName) {
    for (const v1::Placement& placement : response.placements()) out << placement.smmu() << "\n";
    return code;
  }
  const bool colour = session.terminal().ColourOut();
  if (!response.placements().empty()) {
    Table table({{"SMMU"}, {"VMIDS-FREE", Align::kRight}, {"DEVICES-LEFT", Align::kRight}, {"STAGE2"}, {"DEVICES"}});
    for (const v1::Placement& placement : response.placements()) {
      std::vector<std::string> devices;
      for (const std::string& device : placement.devices()) devices.emplace_back(LastSegment(device));
      table.Add({ShortName(placement.smmu()), std::to_string(placement.vmids_free()),
                 std::to_string(placement.devices_left()),
                 placement.stage2_domain().empty() ? "any" : ShortName(placement.stage2_domain()), Join(devices, " ")});
    }
    out << table.Print(colour);
  }
  if (!response.refusals().empty()) {
    Table table({{"NOT"}, {"REASON"}, {"BECAUSE"}});
    for (const v1::Refusal& refusal : response.refusals()) {
      table.Add({ShortName(refusal.name()), Cell(refusal.reason(), Style::kBusy), refusal.message()});
    }
    if (!response.placements().empty()) out << "\n";
    out << table.Print(colour);
  }
  *session.terminal().err << fmt::format("{} SMMUs have a place, on {} hosts looked at (revision {})\n",
                                         response.placements_size(), response.hosts(), response.revision());
  return code;
}

// hosts/a, hosts/a/smmus/s, a, a/s; and viommus/v where one may stand.
absl::StatusOr<std::string> Side(const std::string& text, bool may_be_viommu) {
  const std::optional<Kind> full = KindOfFullName(text);
  if (full == Kind::kHost || full == Kind::kSmmu || (may_be_viommu && full == Kind::kViommu)) return text;
  if (full.has_value()) {
    return UsageError(
        fmt::format("\"{}\" is neither a host nor an SMMU{}", text, may_be_viommu ? " nor a viommu" : ""));
  }
  return FullName(text.find('/') == std::string::npos ? Kind::kHost : Kind::kSmmu, text);
}

absl::StatusOr<ExitCode> Compare(Session& session, const CompareArguments& arguments) {
  v1::CompareHostsRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_source(), Side(arguments.source, /*may_be_viommu=*/true));
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_target(), Side(arguments.target, /*may_be_viommu=*/false));
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Call<v1::CompareHostsResponse>(request));
  const bool fits = std::any_of(response.comparisons().begin(), response.comparisons().end(),
                                [](const v1::Comparison& comparison) { return comparison.fits(); });
  const ExitCode code = fits ? ExitCode::kOk : ExitCode::kRefused;
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(response));
    return code;
  }
  std::ostream& out = *session.terminal().out;
  const bool colour = session.terminal().ColourOut();
  for (const v1::Comparison& comparison : response.comparisons()) {
    out << fmt::format(
        "{} -> {}: {}\n", ShortName(comparison.source()), ShortName(comparison.target()),
        Styled(comparison.fits() ? "fits" : "does not fit", comparison.fits() ? Style::kGood : Style::kBad, colour));
    Table table({{"FIELD"}, {"SOURCE"}, {"TARGET"}, {"BLOCKS"}, {"MEANING"}});
    for (const v1::Difference& difference : comparison.differences()) {
      if (!arguments.all && !difference.blocking()) continue;
      table.Add({difference.field(), difference.source(), difference.target(),
                 Cell(difference.blocking() ? "yes" : "no", difference.blocking() ? Style::kBad : Style::kPlain),
                 difference.meaning()});
    }
    if (!table.empty()) out << table.Print(colour, 2);
    for (const v1::Refusal& refusal : comparison.refusals()) {
      out << fmt::format("  {}: {}\n", Styled(refusal.reason(), Style::kBad, colour), refusal.message());
    }
  }
  return code;
}

}  // namespace

void DeclarePlan(Command& root) {
  const auto place = std::make_shared<PlaceArguments>();
  root.Sub("place", "Find SMMUs that could take a set of devices, and why the others could not")
      .Details(
          "Each WISH is a number of devices and what they must have, separated by commas: ats, pasid=BITS, labels "
          "(KEY=VALUE).\n"
          "All of them have to be free behind one SMMU. Nothing is reserved. Exits with 4 when there is no place.")
      .WithExample("place 2,kind=gpu,ats 1,kind=nic", "two GPUs that can use ATS and a network card behind one SMMU")
      .WithExample("place 4 --host-label zone=a", "any four devices of one zone")
      .WithExample("place 1,kind=nic --stage2domain web-1", "a network card more for the VM of that stage 2")
      .Positionals("WISH", &place->wishes, "devices that are wanted", /*required=*/true)
      .Flag("--host", &place->host, "HOST", "only on this host", {.names_of = Kind::kHost})
      .Flag("--vm", &place->vm, "VM",
            "for this VM: devices that share an IOMMU group with its own are free for the same stage 2")
      .Flag("--stage2domain", &place->stage2_domain, "NAME",
            "to share the memory that a VM has on a host already: only what can be on this stage 2",
            {.names_of = Kind::kStage2Domain})
      .Flags("--host-label", &place->host_labels, "KEY=VALUE", "only hosts with this label")
      .Switch("--hw-queue", &place->hw_queue, "for a viommu with hardware queues (TEGRA241_CMDQV)")
      .Flag("--max-vdev-id", &place->max_vdev_id, "VDEV_ID", "the largest vdev_id that has to fit")
      .Flag("--max", &place->max, "N", "at most N places, 10 without it")
      .Runs([place](Session& session) { return Place(session, *place); });

  const auto compare = std::make_shared<CompareArguments>();
  root.Sub("compare", "What a guest would find different on another SMMU")
      .Details(
          "Compares identification registers field by field. A difference blocks when a guest that has used what the "
          "source offers would\n"
          "break. With a viommu as SOURCE also says whether there is room for it. Exits with 1 when nothing fits.")
      .WithExample("compare viommus/v1 b", "would v1 fit on an SMMU of host b?")
      .WithExample("compare a/smmu0 b/smmu0 --all", "every field that differs")
      .Positional("SOURCE", &compare->source, "viommus/VIOMMU, HOST or HOST/SMMU", {.names_of = Kind::kHost})
      .Positional("TARGET", &compare->target, "HOST or HOST/SMMU", {.names_of = Kind::kHost})
      .Switch("--all", &compare->all, "also the differences that do not block")
      .Runs([compare](Session& session) { return Compare(session, *compare); });
}

}  // namespace viommu::cli
