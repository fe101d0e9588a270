#include "server/fleet/comparison.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "agent/smmuv3/spec/id_registers.h"
#include "common/error.h"
#include "server/fleet/record.h"

namespace viommu::server {
namespace {

using smmuv3::Features;

// When a difference would break a guest that goes by what its VMM has told it about the source.
enum class Rule {
  kAtLeast,  // the target has less
  kSame,     // the target has something else
  kHost,     // never: it concerns the host alone
};

struct Field {
  std::string_view name;
  uint64_t (*value)(const Features&);
  Rule rule;
  std::string_view meaning;
};

// IHI 0070, 6.3.1 to 6.3.6.
constexpr Field kFields[] = {
    {"IDR0.S2P", [](const Features& f) -> uint64_t { return f.stage2; }, Rule::kHost, "stage 2, which the host uses"},
    {"IDR0.S1P", [](const Features& f) -> uint64_t { return f.stage1; }, Rule::kAtLeast, "stage 1, which guests use"},
    {"IDR0.TTF.AArch32", [](const Features& f) -> uint64_t { return f.aarch32; }, Rule::kAtLeast,
     "VMSAv8-32 LPAE tables"},
    {"IDR0.TTF.AArch64", [](const Features& f) -> uint64_t { return f.aarch64; }, Rule::kAtLeast, "VMSAv8-64 tables"},
    {"IDR0.COHACC", [](const Features& f) -> uint64_t { return f.coherent; }, Rule::kAtLeast,
     "table walks are coherent: a guest that relies on it does not clean its caches"},
    {"IDR0.ATS", [](const Features& f) -> uint64_t { return f.ats; }, Rule::kAtLeast, "devices may cache translations"},
    {"IDR0.ASID bits", [](const Features& f) -> uint64_t { return f.asid_bits; }, Rule::kAtLeast,
     "address spaces of a guest"},
    {"IDR0.MSI", [](const Features& f) -> uint64_t { return f.msi; }, Rule::kHost, "the physical SMMU's interrupts"},
    {"IDR0.SEV", [](const Features& f) -> uint64_t { return f.sev; }, Rule::kHost, "the physical SMMU's CMD_SYNC"},
    {"IDR0.PRI", [](const Features& f) -> uint64_t { return f.pri; }, Rule::kAtLeast, "page requests of devices"},
    {"IDR0.VMID bits", [](const Features& f) -> uint64_t { return f.vmid_bits; }, Rule::kHost, "VMs on the host"},
    {"IDR0.CD2L", [](const Features& f) -> uint64_t { return f.two_level_cd; }, Rule::kAtLeast,
     "two-level tables of context descriptors"},
    {"IDR0.TTENDIAN", [](const Features& f) { return static_cast<uint64_t>(f.table_endianness); }, Rule::kSame,
     "byte order of tables"},
    {"IDR0.STALL_MODEL", [](const Features& f) { return static_cast<uint64_t>(f.stall_model); }, Rule::kSame,
     "what becomes of a transaction that faults"},
    {"IDR0.TERM_MODEL", [](const Features& f) -> uint64_t { return f.terminate_aborts; }, Rule::kSame,
     "how a transaction is terminated"},
    {"IDR0.ST_LEVEL", [](const Features& f) -> uint64_t { return f.two_level_st; }, Rule::kHost,
     "two-level stream tables; guests have those of their VMM"},
    {"IDR1.SIDSIZE", [](const Features& f) -> uint64_t { return f.sid_bits; }, Rule::kAtLeast, "width of a vdev_id"},
    {"IDR1.SSIDSIZE", [](const Features& f) -> uint64_t { return f.ssid_bits; }, Rule::kAtLeast, "PASIDs of a device"},
    {"IDR3.HAD", [](const Features& f) -> uint64_t { return f.had; }, Rule::kAtLeast,
     "hierarchical attributes can be switched off"},
    {"IDR3.XNX", [](const Features& f) -> uint64_t { return f.xnx; }, Rule::kHost, "execution rights in stage 2"},
    {"IDR3.FWB", [](const Features& f) -> uint64_t { return f.fwb; }, Rule::kHost,
     "stage 2 can force write-back; without it or CANWBS Linux makes no viommu"},
    {"IDR3.RIL", [](const Features& f) -> uint64_t { return f.ril; }, Rule::kAtLeast,
     "invalidation by range: a guest that uses it sends commands that the target refuses"},
    {"IDR3.BBML", [](const Features& f) -> uint64_t { return f.bbml; }, Rule::kAtLeast,
     "changes of block size without break-before-make"},
    {"IDR5.OAS", [](const Features& f) -> uint64_t { return f.oas_bits; }, Rule::kAtLeast, "width of an address"},
    {"IDR5.GRAN4K", [](const Features& f) -> uint64_t { return f.gran4k; }, Rule::kAtLeast, "granule"},
    {"IDR5.GRAN16K", [](const Features& f) -> uint64_t { return f.gran16k; }, Rule::kAtLeast, "granule"},
    {"IDR5.GRAN64K", [](const Features& f) -> uint64_t { return f.gran64k; }, Rule::kAtLeast, "granule"},
    {"IDR5.DS", [](const Features& f) -> uint64_t { return f.ds; }, Rule::kAtLeast,
     "52-bit addresses with small granules"},
    {"IDR5.VAX", [](const Features& f) -> uint64_t { return f.vax; }, Rule::kAtLeast, "52-bit virtual addresses"},
    {"IDR5.STALL_MAX", [](const Features& f) -> uint64_t { return f.stall_max; }, Rule::kHost,
     "transactions that can wait at a time"},
};

Features FeaturesOf(const v1::Smmu& smmu) {
  smmuv3::IdRegisters idr = {};
  for (int i = 0; i < smmu.idr_size() && i < static_cast<int>(idr.size()); ++i) {
    idr[static_cast<size_t>(i)] = smmu.idr(i);
  }
  return smmuv3::DecodeIdRegisters(idr);
}

void Add(v1::Comparison& comparison, std::string_view field, std::string source, std::string target, bool blocking,
         std::string_view meaning) {
  if (source == target) return;
  v1::Difference& difference = *comparison.add_differences();
  difference.set_field(std::string(field));
  difference.set_source(std::move(source));
  difference.set_target(std::move(target));
  difference.set_blocking(blocking);
  difference.set_meaning(std::string(meaning));
}

bool HasHwQueues(const v1::Smmu& smmu) { return smmu.hw_queue().interfaces() > 0; }

std::string HwQueueText(const v1::Smmu& smmu) {
  if (!HasHwQueues(smmu)) return "none";
  return fmt::format("{} queues, {} StreamIDs", smmu.hw_queue().queues_per_interface(), smmu.hw_queue().sid_slots());
}

void Refuse(v1::Comparison& comparison, const std::string& name, const absl::Status& status) {
  if (status.ok()) return;
  v1::Refusal& refusal = *comparison.add_refusals();
  refusal.set_name(name);
  refusal.set_reason(ReasonName(ReasonOf(status)));
  refusal.set_message(std::string(status.message()));
}

}  // namespace

v1::Comparison CompareSmmus(const View& view, const v1::Host& source_host, const v1::Smmu& source,
                            const v1::Host& target_host, const v1::Smmu& target, const v1::Viommu* viommu) {
  v1::Comparison comparison;
  comparison.set_source(source.name());
  comparison.set_target(target.name());
  const Features from = FeaturesOf(source);
  const Features to = FeaturesOf(target);
  for (const Field& field : kFields) {
    const uint64_t a = field.value(from);
    const uint64_t b = field.value(to);
    const bool blocking = (field.rule == Rule::kAtLeast && b < a) || (field.rule == Rule::kSame && b != a);
    Add(comparison, field.name, std::to_string(a), std::to_string(b), blocking, field.meaning);
  }
  const bool cmdqv = viommu != nullptr && viommu->type() == v1::VIOMMU_TYPE_TEGRA241_CMDQV;
  const bool fewer = target.hw_queue().queues_per_interface() < source.hw_queue().queues_per_interface() ||
                     target.hw_queue().sid_slots() < source.hw_queue().sid_slots();
  Add(comparison, "hw_queue", HwQueueText(source), HwQueueText(target),
      fewer && (cmdqv || (viommu == nullptr && HasHwQueues(source))), "command queues that a guest owns");
  Add(comparison, "stage2_sharing", v1::Stage2Sharing_Name(source_host.stage2_sharing()),
      v1::Stage2Sharing_Name(target_host.stage2_sharing()), false,
      "whether a VM needs a stage-2 domain for each of its SMMUs there");
  Add(comparison, "backend", source_host.backend(), target_host.backend(), false, "what drives the SMMU");
  if (viommu != nullptr) {
    Refuse(comparison, target_host.name(), CheckNotCordoned(target_host));
    Refuse(comparison, target.name(), CheckCanNest(target));
    Refuse(comparison, target.name(), CheckVmidFree(view, target_host, target));
    if (cmdqv) Refuse(comparison, target.name(), CheckInterfaceFree(view, target));
  }
  bool fits = comparison.refusals().empty();
  for (const v1::Difference& difference : comparison.differences()) fits = fits && !difference.blocking();
  comparison.set_fits(fits);
  return comparison;
}

}  // namespace viommu::server
