#include "cli/output/resources.h"

#include <fmt/format.h>

#include <functional>

#include "cli/text.h"
#include "cli/vste.h"
#include "common/timestamp.h"

namespace viommu::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// A column of a kind: how a resource fills it.
struct View {
  std::string heading;
  bool wide = false;
  Align align = Align::kLeft;
  std::function<Cell(const Message&, const CommonFields&)> cell;
};

template <typename T>
const T& As(const Message& message) {
  return static_cast<const T&>(message);
}

View Name() {
  return {"NAME", false, Align::kLeft, [](const Message&, const CommonFields& c) { return Cell(c.name); }};
}

View StateColumn() {
  return {"STATE", false, Align::kLeft,
          [](const Message&, const CommonFields& c) { return Cell(StateText(c), StyleOfState(c.state)); }};
}

View Age(WallTime now) {
  return {"AGE", false, Align::kRight,
          [now](const Message&, const CommonFields& c) { return Cell(FormatAge(c.create_time, now)); }};
}

View Labels() {
  return {"LABELS", true, Align::kLeft,
          [](const Message&, const CommonFields& c) { return Cell(LabelsText(c.labels)); }};
}

// Which change was asked for, and which one the host's answer speaks of.
View Generation() {
  return {"CONFIRMED", true, Align::kRight, [](const Message&, const CommonFields& c) {
            return Cell(fmt::format("{}/{}", c.observed_generation, c.generation));
          }};
}

View Reason() {
  return {"REASON", true, Align::kLeft, [](const Message&, const CommonFields& c) { return Cell(c.reason.message()); }};
}

template <typename T>
View Make(std::string heading, std::function<Cell(const T&)> cell, bool wide = false, Align align = Align::kLeft) {
  return {std::move(heading), wide, align,
          [cell = std::move(cell)](const Message& m, const CommonFields&) { return cell(As<T>(m)); }};
}

std::string YesNo(bool value) { return value ? "yes" : "no"; }

std::string BudgetText(const v1::Budget& budget) { return fmt::format("{}/{}", budget.used(), budget.total()); }

Cell BudgetCell(const v1::Budget& budget) {
  const bool full = budget.total() > 0 && budget.used() >= budget.total();
  return {BudgetText(budget), full ? Style::kBusy : Style::kPlain};
}

std::vector<View> HostViews(WallTime now) {
  using v1::Host;
  return {
      Name(),
      StateColumn(),
      Make<Host>("CORDONED",
                 [](const Host& h) { return Cell(YesNo(h.cordoned()), h.cordoned() ? Style::kBusy : Style::kPlain); }),
      Make<Host>(
          "SMMUS", [](const Host& h) { return Cell(std::to_string(h.smmus_size())); }, false, Align::kRight),
      Make<Host>(
          "DEVICES",
          [](const Host& h) {
            v1::Budget sum;
            for (const auto& smmu : h.smmus()) {
              sum.set_used(sum.used() + smmu.devices().used());
              sum.set_total(sum.total() + smmu.devices().total());
            }
            return Cell(BudgetText(sum));
          },
          false, Align::kRight),
      Make<Host>("BACKEND", [](const Host& h) { return Cell(h.backend()); }),
      Make<Host>(
          "STAGE2", [](const Host& h) { return Cell(EnumWord(*v1::Stage2Sharing_descriptor(), h.stage2_sharing())); },
          true),
      Make<Host>(
          "AGENT", [](const Host& h) { return Cell(h.agent_version()); }, true),
      Make<Host>(
          "BOOT", [](const Host& h) { return Cell(h.boot_id()); }, true),
      Labels(),
      Age(now),
  };
}

std::vector<View> SmmuViews() {
  using v1::Smmu;
  return {
      Name(),
      Make<Smmu>(
          "VMIDS", [](const Smmu& s) { return BudgetCell(s.vmids()); }, false, Align::kRight),
      Make<Smmu>(
          "DEVICES", [](const Smmu& s) { return Cell(BudgetText(s.devices())); }, false, Align::kRight),
      Make<Smmu>(
          "VMID-BITS", [](const Smmu& s) { return Cell(std::to_string(s.vmid_bits())); }, false, Align::kRight),
      Make<Smmu>(
          "SID-BITS", [](const Smmu& s) { return Cell(std::to_string(s.sid_bits())); }, false, Align::kRight),
      Make<Smmu>(
          "SSID-BITS", [](const Smmu& s) { return Cell(std::to_string(s.ssid_bits())); }, false, Align::kRight),
      Make<Smmu>("ATS", [](const Smmu& s) { return Cell(YesNo(s.ats())); }),
      Make<Smmu>("HW-QUEUES",
                 [](const Smmu& s) {
                   if (!s.has_hw_queue()) return Cell("-");
                   return Cell(fmt::format("{}x{}", s.hw_queue().interfaces(), s.hw_queue().queues_per_interface()));
                 }),
      Make<Smmu>(
          "IDR0-5",
          [](const Smmu& s) {
            std::vector<std::string> words;
            for (const uint32_t word : s.idr()) words.push_back(fmt::format("{:08x}", word));
            return Cell(Join(words, ","));
          },
          true),
      Make<Smmu>(
          "IIDR", [](const Smmu& s) { return Cell(fmt::format("{:08x}", s.iidr())); }, true),
      Make<Smmu>(
          "AIDR", [](const Smmu& s) { return Cell(fmt::format("{:08x}", s.aidr())); }, true),
  };
}

std::vector<View> DeviceViews(WallTime now) {
  using v1::Device;
  return {
      Name(),
      StateColumn(),
      Make<Device>("SMMU", [](const Device& d) { return Cell(std::string(LastSegment(d.smmu()))); }),
      Make<Device>(
          "STREAMID", [](const Device& d) { return Cell(HexAndDecimal(d.stream_id())); }, false, Align::kRight),
      Make<Device>("OWNER", [](const Device& d) { return Cell(ShortName(d.owner())); }),
      Make<Device>(
          "ATS", [](const Device& d) { return Cell(YesNo(d.ats())); }, true),
      Make<Device>(
          "PASID-BITS", [](const Device& d) { return Cell(std::to_string(d.max_pasid_log2())); }, true, Align::kRight),
      Make<Device>(
          "GROUP", [](const Device& d) { return Cell(std::to_string(d.iommu_group())); }, true, Align::kRight),
      Labels(),
      Age(now),
  };
}

std::vector<View> Stage2DomainViews(WallTime now) {
  using v1::Stage2Domain;
  return {
      Name(),
      StateColumn(),
      Make<Stage2Domain>("VM", [](const Stage2Domain& d) { return Cell(d.vm()); }),
      Make<Stage2Domain>("HOST", [](const Stage2Domain& d) { return Cell(ShortName(d.host())); }),
      Make<Stage2Domain>(
          "SMMU",
          [](const Stage2Domain& d) { return Cell(d.smmu().empty() ? "any" : std::string(LastSegment(d.smmu()))); },
          true),
      Generation(),
      Reason(),
      Labels(),
      Age(now),
  };
}

std::vector<View> ViommuViews(WallTime now) {
  using v1::Viommu;
  return {
      Name(),
      StateColumn(),
      Make<Viommu>("VM", [](const Viommu& v) { return Cell(v.vm()); }),
      Make<Viommu>("SMMU", [](const Viommu& v) { return Cell(ShortName(v.smmu())); }),
      Make<Viommu>("STAGE2", [](const Viommu& v) { return Cell(ShortName(v.stage2_domain())); }),
      Make<Viommu>(
          "TYPE", [](const Viommu& v) { return Cell(EnumWord(*v1::ViommuType_descriptor(), v.type())); }, true),
      Make<Viommu>(
          "VMID", [](const Viommu& v) { return Cell(v.vmid() == 0 ? "-" : std::to_string(v.vmid())); }, true,
          Align::kRight),
      Generation(),
      Reason(),
      Labels(),
      Age(now),
  };
}

std::vector<View> VdeviceViews(WallTime now) {
  using v1::Vdevice;
  return {
      Name(),
      StateColumn(),
      Make<Vdevice>(
          "VDEV-ID",
          [](const Vdevice& v) {
            if (!v.has_previous_vdev_id()) return Cell(Hex(v.vdev_id()));
            return Cell(fmt::format("{} (was {})", Hex(v.vdev_id()), Hex(v.previous_vdev_id())), Style::kBusy);
          },
          false, Align::kRight),
      Make<Vdevice>("DEVICE", [](const Vdevice& v) { return Cell(ShortName(v.device())); }),
      Make<Vdevice>(
          "STREAMID", [](const Vdevice& v) { return Cell(Hex(v.stream_id())); }, false, Align::kRight),
      Make<Vdevice>("ATTACHED",
                    [](const Vdevice& v) {
                      return Cell(v.nested_domain().empty() ? "stage 2" : std::string(LastSegment(v.nested_domain())));
                    }),
      Make<Vdevice>("VM", [](const Vdevice& v) { return Cell(v.vm()); }),
      Generation(),
      Reason(),
      Labels(),
      Age(now),
  };
}

std::vector<View> NestedDomainViews(WallTime now) {
  using v1::NestedDomain;
  return {
      Name(),
      StateColumn(),
      Make<NestedDomain>("CONFIG", [](const NestedDomain& n) { return Cell(FormatNestedKind(n.config())); }),
      Make<NestedDomain>("VM", [](const NestedDomain& n) { return Cell(n.vm()); }),
      Make<NestedDomain>("HOST", [](const NestedDomain& n) { return Cell(ShortName(n.host())); }),
      Make<NestedDomain>(
          "VSTE",
          [](const NestedDomain& n) {
            return Cell(n.config().has_translate() ? FormatVste(n.config().translate()) : "-");
          },
          true),
      Generation(),
      Reason(),
      Labels(),
      Age(now),
  };
}

std::vector<View> HwQueueViews(WallTime now) {
  using v1::HwQueue;
  return {
      Name(),
      StateColumn(),
      Make<HwQueue>(
          "COMMANDS", [](const HwQueue& q) { return Cell(std::to_string(q.length_bytes() / 16)); }, false,
          Align::kRight),
      Make<HwQueue>(
          "MEMORY", [](const HwQueue& q) { return Cell(Hex(q.nesting_parent_iova())); }, false, Align::kRight),
      Make<HwQueue>("VM", [](const HwQueue& q) { return Cell(q.vm()); }),
      Make<HwQueue>("HOST", [](const HwQueue& q) { return Cell(ShortName(q.host())); }),
      Generation(),
      Reason(),
      Labels(),
      Age(now),
  };
}

std::string LimitCell(bool limited, uint64_t total) { return limited ? std::to_string(total) : "-"; }

std::vector<View> QuotaViews(WallTime now) {
  using v1::Quota;
  return {
      Name(),
      Make<Quota>(
          "VIOMMUS", [](const Quota& q) { return Cell(std::to_string(q.usage().viommus())); }, false, Align::kRight),
      Make<Quota>(
          "MAX-VIOMMUS", [](const Quota& q) { return Cell(LimitCell(q.has_max_viommus(), q.max_viommus())); }, false,
          Align::kRight),
      Make<Quota>(
          "VDEVICES", [](const Quota& q) { return Cell(std::to_string(q.usage().vdevices())); }, false, Align::kRight),
      Make<Quota>(
          "MAX-VDEVICES", [](const Quota& q) { return Cell(LimitCell(q.has_max_vdevices(), q.max_vdevices())); }, false,
          Align::kRight),
      Age(now),
  };
}

std::vector<View> ViewsOf(Kind kind, WallTime now) {
  switch (kind) {
    case Kind::kHost:
      return HostViews(now);
    case Kind::kSmmu:
      return SmmuViews();
    case Kind::kDevice:
      return DeviceViews(now);
    case Kind::kStage2Domain:
      return Stage2DomainViews(now);
    case Kind::kViommu:
      return ViommuViews(now);
    case Kind::kVdevice:
      return VdeviceViews(now);
    case Kind::kNestedDomain:
      return NestedDomainViews(now);
    case Kind::kHwQueue:
      return HwQueueViews(now);
    case Kind::kQuota:
      return QuotaViews(now);
  }
  return {};
}

}  // namespace

std::string EnumWord(const EnumDescriptor& type, int number) {
  constexpr std::string_view kZero = "UNSPECIFIED";
  const auto* value = type.FindValueByNumber(number);
  if (value == nullptr) return std::to_string(number);  // of a newer server
  return value->name().substr(type.FindValueByNumber(0)->name().size() - kZero.size());
}

CommonFields CommonOf(const Message& resource) {
  const Descriptor& type = *resource.GetDescriptor();
  const Reflection& reflection = *resource.GetReflection();
  const auto text = [&](const char* field) {
    const FieldDescriptor* found = type.FindFieldByName(field);
    return found == nullptr ? "" : reflection.GetString(resource, found);
  };
  const auto number = [&](const char* field) -> int64_t {
    const FieldDescriptor* found = type.FindFieldByName(field);
    return found == nullptr ? 0 : reflection.GetInt64(resource, found);
  };
  const auto time = [&](const char* field) {
    const FieldDescriptor* found = type.FindFieldByName(field);
    if (found == nullptr) return WallTime();
    return FromTimestamp(static_cast<const google::protobuf::Timestamp&>(reflection.GetMessage(resource, found)));
  };
  CommonFields common;
  common.name = text("name");
  common.uid = text("uid");
  common.etag = text("etag");
  common.generation = number("generation");
  common.observed_generation = number("observed_generation");
  common.revision = number("revision");
  common.create_time = time("create_time");
  common.update_time = time("update_time");
  if (const FieldDescriptor* state = type.FindFieldByName("state"); state != nullptr) {
    common.state = EnumWord(*state->enum_type(), reflection.GetEnumValue(resource, state));
    common.reason.CopyFrom(reflection.GetMessage(resource, type.FindFieldByName("state_reason")));
  }
  if (const FieldDescriptor* labels = type.FindFieldByName("labels"); labels != nullptr) {
    for (int i = 0; i < reflection.FieldSize(resource, labels); ++i) {
      const Message& entry = reflection.GetRepeatedMessage(resource, labels, i);
      const Reflection& reader = *entry.GetReflection();
      common.labels[reader.GetString(entry, labels->message_type()->map_key())] =
          reader.GetString(entry, labels->message_type()->map_value());
    }
  }
  return common;
}

std::string StateText(const CommonFields& common) {
  // Only a failure needs its reason beside it; the others' are for --output wide.
  if (common.state != "FAILED" || common.reason.reason().empty()) return common.state;
  return fmt::format("{} ({})", common.state, common.reason.reason());
}

std::string LabelsText(const std::map<std::string, std::string>& labels) {
  std::vector<std::string> parts;
  for (const auto& [key, value] : labels) parts.push_back(key + "=" + value);
  return Join(parts, ",");
}

const Message* Inside(const v1::Resource& resource) {
  const Reflection& reflection = *resource.GetReflection();
  const FieldDescriptor* field =
      reflection.GetOneofFieldDescriptor(resource, v1::Resource::descriptor()->oneof_decl(0));
  return field == nullptr ? nullptr : &reflection.GetMessage(resource, field);
}

Kind KindOf(const Message& resource) {
  const std::string word = Lower(resource.GetDescriptor()->name());
  for (const KindInfo& info : AllKinds()) {
    if (info.singular == word) return info.kind;
  }
  return Kind::kHost;  // not reached: every resource of the API is a kind
}

Table ResourceTable(Kind kind, const std::vector<const Message*>& resources, bool wide, WallTime now) {
  std::vector<View> views;
  std::vector<Column> columns;
  for (View& view : ViewsOf(kind, now)) {
    if (view.wide && !wide) continue;
    columns.push_back({view.heading, view.align});
    views.push_back(std::move(view));
  }
  Table table(std::move(columns));
  for (const Message* resource : resources) {
    const CommonFields common = CommonOf(*resource);
    Row row;
    for (const View& view : views) row.push_back(view.cell(*resource, common));
    table.Add(std::move(row));
  }
  return table;
}

}  // namespace viommu::cli
