#include "cli/story.h"

#include <fmt/format.h>

#include <functional>

#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/text.h"
#include "cli/vste.h"
#include "common/timestamp.h"

namespace viommu::cli {
namespace {

using google::protobuf::Message;

// Rows of a section; more are counted and named by the command that shows them.
constexpr size_t kMaxRows = 50;

class Teller {
 public:
  Teller(Session& session, Story& story) : session_(session), story_(story) {}

  void Fact(const std::string& word, const std::string& text, Style style = Style::kPlain) {
    if (!text.empty()) story_.facts.emplace_back(word, Cell(text, style));
  }

  // What every resource has.
  void Begin(Kind kind, const Message& resource) {
    const CommonFields common = CommonOf(resource);
    story_.kind = InfoOf(kind).singular;
    story_.name = common.name;
    story_.document["resource"] = ToJson(resource);
    if (common.state.empty()) return;
    Fact("stands", StandingOf(common), StyleOfState(common.state));
    if (!common.reason.message().empty() || !common.reason.reason().empty()) {
      std::string why = common.reason.message();
      if (!common.reason.reason().empty()) why += fmt::format(" ({})", common.reason.reason());
      if (common.reason.error_number() != 0) why += fmt::format(", errno {}", common.reason.error_number());
      Fact("why", std::string(Trim(why)), common.state == "FAILED" ? Style::kBad : Style::kPlain);
    }
    const WallTime now = session_.terminal().clock->Now();
    Fact("age", fmt::format("{}, last change {} ago at revision {}", FormatAge(common.create_time, now),
                            FormatAge(common.update_time, now), common.revision));
    Fact("labels", LabelsText(common.labels));
  }

  void End(const Message& resource) {
    const CommonFields common = CommonOf(resource);
    if (common.uid.empty()) return;
    Fact("generation",
         fmt::format("{}; the host's last answer speaks of {}", common.generation, common.observed_generation));
    Fact("etag", common.etag);
    Fact("uid", common.uid);
  }

  // How the host is that has to carry out what is recorded.
  void HostSays(const std::string& name) {
    const absl::StatusOr<Fetched> fetched = FetchOne(session_, Kind::kHost, name);
    if (!fetched.ok()) {
      Fact("host", fmt::format("{} (not to be read: {})", name, std::string(fetched.status().message())));
      return;
    }
    const auto& host = As<v1::Host>(*fetched);
    story_.document["host"] = ToJson(host);
    const std::string state = EnumWord(*v1::HostState_descriptor(), host.state());
    std::string says = fmt::format("{} is {}", name, state);
    if (host.cordoned()) says += ", cordoned (no new assignments)";
    if (!host.state_reason().message().empty()) says += ": " + host.state_reason().message();
    if (host.state() != v1::HOST_STATE_CONNECTED) says += "; what runs there goes on, changes wait for its agent";
    Fact("host", says, StyleOfState(state));
    Fact("backend", host.backend());
  }

  void SmmuSays(const std::string& name) {
    const absl::StatusOr<Fetched> fetched = FetchOne(session_, Kind::kSmmu, name);
    if (!fetched.ok()) {
      Fact("smmu", name);
      return;
    }
    const auto& smmu = As<v1::Smmu>(*fetched);
    Fact("smmu", fmt::format("{}: {} of {} VMIDs in use, {} of {} devices assigned, StreamIDs of {} bits", name,
                             smmu.vmids().used(), smmu.vmids().total(), smmu.devices().used(), smmu.devices().total(),
                             smmu.sid_bits()));
  }

  // Lists what belongs to it. `field` chooses ("viommu=viommus/v1"); `keep` may choose further.
  void List(const std::string& heading, Kind kind, const std::string& field,
            const std::function<bool(const Message&)>& keep = nullptr) {
    Filters filters;
    if (!field.empty()) filters.fields.push_back(field);
    const absl::StatusOr<Listing> listing = FetchList(session_, kind, filters, keep ? kDefaultLimit : kMaxRows);
    if (!listing.ok()) return;
    std::vector<const Message*> rows;
    bool more = listing->truncated;
    for (const auto& item : listing->items) {
      if (keep && !keep(*item)) continue;
      if (rows.size() < kMaxRows) {
        rows.push_back(item.get());
      } else {
        more = true;
      }
    }
    Rows(heading, kind, rows);
    if (!more) return;
    story_.document["truncated"] = true;
    story_.sections.back().facts.emplace_back("more",
                                              fmt::format("viommuctl get {} --field {}", InfoOf(kind).plural, field));
  }

  void Rows(const std::string& heading, Kind kind, const std::vector<const Message*>& rows) {
    StorySection section;
    section.heading = heading;
    section.nothing = "none";
    nlohmann::ordered_json items = nlohmann::ordered_json::array();
    for (const Message* row : rows) items.push_back(ToJson(*row));
    story_.document[std::string(InfoOf(kind).plural)] = std::move(items);
    if (!rows.empty()) {
      const bool wide = session_.settings().output == OutputFormat::kWide;
      section.tables.push_back(ResourceTable(kind, rows, wide, session_.terminal().clock->Now()));
    }
    story_.sections.push_back(std::move(section));
  }

  void Table(const std::string& heading, viommu::cli::Table table) {
    StorySection section;
    section.heading = heading;
    section.tables.push_back(std::move(table));
    story_.sections.push_back(std::move(section));
  }

 private:
  Session& session_;
  Story& story_;
};

void TellHost(Teller& teller, const v1::Host& host) {
  teller.Fact("takes", host.cordoned() ? "no new assignments: cordoned" : "new assignments",
              host.cordoned() ? Style::kBusy : Style::kPlain);
  if (host.has_drain()) {
    const v1::Drain& drain = host.drain();
    teller.Fact("drain",
                fmt::format("under way, {}{}",
                            drain.has_deadline() ? "until " + FormatTime(FromTimestamp(drain.deadline()))
                                                 : std::string("without a deadline"),
                            drain.has_evict_time() ? "; what was left is deleted"
                            : drain.evict()        ? "; what is left then is deleted"
                                                   : ""),
                Style::kBusy);
  }
  teller.Fact("backend", host.backend());
  teller.Fact("stage 2", host.stage2_sharing() == v1::STAGE2_SHARING_SHARED
                             ? "one stage-2 domain serves viommus on all its SMMUs"
                             : "one stage-2 domain for each SMMU");
  teller.Fact("agent",
              fmt::format("version {}, id {}, boot {}", host.agent_version(), host.agent_id(), host.boot_id()));
  std::vector<const Message*> smmus;
  for (const auto& smmu : host.smmus()) smmus.push_back(&smmu);
  teller.Rows("SMMUs", Kind::kSmmu, smmus);
  if (host.capabilities_size() > 0) {
    Table table({{"ABILITY"}, {"THERE"}, {"HOW OR WHY NOT"}});
    for (const auto& ability : host.capabilities()) {
      table.Add({ability.name(), Cell(ability.available() ? "yes" : "no"), ability.reason()});
    }
    teller.Table("Abilities", std::move(table));
  }
  teller.List("Viommus", Kind::kViommu, "host=" + host.name());
  teller.List("Devices", Kind::kDevice, "host=" + host.name());
}

void TellSmmu(Teller& teller, const v1::Smmu& smmu) {
  const std::vector<std::string> segments = Split(smmu.name(), '/');
  teller.Fact("VMIDs",
              fmt::format("{} of {} in use ({} bits)", smmu.vmids().used(), smmu.vmids().total(), smmu.vmid_bits()));
  if (smmu.has_host_vmids()) {
    teller.Fact("VMIDs on the host",
                fmt::format("{} of {} in use", smmu.host_vmids().used(), smmu.host_vmids().total()));
  }
  teller.Fact("devices", fmt::format("{} of {} assigned", smmu.devices().used(), smmu.devices().total()));
  teller.Fact("StreamIDs", fmt::format("{} bits", smmu.sid_bits()));
  teller.Fact("SubstreamIDs", smmu.ssid_bits() == 0 ? "none" : fmt::format("{} bits", smmu.ssid_bits()));
  teller.Fact("ATS", smmu.ats() ? "yes" : "no");
  teller.Fact("hw queues", smmu.has_hw_queue() ? fmt::format("{} interfaces of {} queues", smmu.hw_queue().interfaces(),
                                                             smmu.hw_queue().queues_per_interface())
                                               : "none");
  for (int i = 0; i < smmu.idr_size(); ++i) teller.Fact(fmt::format("IDR{}", i), fmt::format("{:#010x}", smmu.idr(i)));
  teller.Fact("IIDR", fmt::format("{:#010x}", smmu.iidr()));
  teller.Fact("AIDR", fmt::format("{:#010x}", smmu.aidr()));
  teller.HostSays(segments[0] + "/" + segments[1]);
  teller.List("Viommus", Kind::kViommu, "smmu=" + smmu.name());
  teller.List("Devices", Kind::kDevice, "smmu=" + smmu.name());
}

void TellDevice(Session& session, Teller& teller, const v1::Device& device) {
  if (device.owner().empty()) {
    teller.Fact("owner", "nobody");
  } else {
    const absl::StatusOr<Fetched> fetched = FetchOne(session, Kind::kVdevice, device.owner());
    teller.Fact("owner", fetched.ok()
                             ? fmt::format("VM {}, as {}, StreamID {} for the guest", As<v1::Vdevice>(*fetched).vm(),
                                           device.owner(), HexAndDecimal(As<v1::Vdevice>(*fetched).vdev_id()))
                             : device.owner());
    if (fetched.ok()) {
      const std::string& domain = As<v1::Vdevice>(*fetched).nested_domain();
      teller.Fact("attached", domain.empty() ? "to the stage 2 alone" : "to " + domain);
      teller.Rows("Vdevice", Kind::kVdevice, {fetched->resource.get()});
    }
  }
  teller.Fact("StreamID", HexAndDecimal(device.stream_id()));
  teller.Fact("ATS", device.ats() ? "yes" : "no");
  teller.Fact("PASIDs", device.max_pasid_log2() == 0 ? "none" : fmt::format("2^{}", device.max_pasid_log2()));
  teller.Fact("group", fmt::format("{} (of this boot){}", device.iommu_group(),
                                   device.iommu_group_shared() ? ", with other devices: one VM has them all" : ""));
  teller.SmmuSays(device.smmu());
  const std::vector<std::string> segments = Split(device.name(), '/');
  teller.HostSays(segments[0] + "/" + segments[1]);
}

void TellStage2Domain(Teller& teller, const v1::Stage2Domain& domain) {
  teller.Fact("owner", "VM " + domain.vm());
  teller.Fact("serves", domain.smmu().empty() ? "viommus on all SMMUs of its host" : "viommus on " + domain.smmu());
  teller.HostSays(domain.host());
  teller.List("Viommus", Kind::kViommu, "stage2_domain=" + domain.name());
}

void TellViommu(Teller& teller, const v1::Viommu& viommu) {
  teller.Fact("owner", "VM " + viommu.vm());
  teller.Fact("stage 2", viommu.stage2_domain());
  teller.Fact("type", EnumWord(*v1::ViommuType_descriptor(), viommu.type()));
  if (viommu.vmid() != 0) teller.Fact("VMID", HexAndDecimal(viommu.vmid()));
  teller.SmmuSays(viommu.smmu());
  teller.HostSays(viommu.host());
  teller.List("Vdevices", Kind::kVdevice, "viommu=" + viommu.name());
  teller.List("Nested domains", Kind::kNestedDomain, "viommu=" + viommu.name());
  if (viommu.type() == v1::VIOMMU_TYPE_TEGRA241_CMDQV) {
    teller.List("Hardware queues", Kind::kHwQueue, "viommu=" + viommu.name());
  }
}

void TellVdevice(Teller& teller, const v1::Vdevice& vdevice) {
  teller.Fact("owner", fmt::format("VM {}, through {}", vdevice.vm(), vdevice.viommu()));
  teller.Fact("vdev_id", HexAndDecimal(vdevice.vdev_id()) + ", the StreamID that the guest uses");
  if (vdevice.has_previous_vdev_id()) {
    teller.Fact(
        "rebind",
        fmt::format("from {}, which stays taken until the host confirms", HexAndDecimal(vdevice.previous_vdev_id())),
        Style::kBusy);
  }
  teller.Fact("device", fmt::format("{}, StreamID {}", vdevice.device(), HexAndDecimal(vdevice.stream_id())));
  teller.Fact("attached", vdevice.nested_domain().empty() ? "to the stage 2 alone" : "to " + vdevice.nested_domain());
  teller.HostSays(vdevice.host());
}

void TellNestedDomain(Teller& teller, const v1::NestedDomain& domain) {
  teller.Fact("owner", fmt::format("VM {}, through {}", domain.vm(), domain.viommu()));
  teller.Fact("does", FormatNestedKind(domain.config()));
  if (domain.config().has_translate()) {
    teller.Fact("vSTE", FormatVste(domain.config().translate()));
    teller.Fact("meaning", DescribeVste(domain.config().translate()));
  }
  teller.HostSays(domain.host());
  teller.List("Attached vdevices", Kind::kVdevice, "viommu=" + domain.viommu(), [&domain](const Message& vdevice) {
    return static_cast<const v1::Vdevice&>(vdevice).nested_domain() == domain.name();
  });
}

void TellHwQueue(Teller& teller, const v1::HwQueue& queue) {
  teller.Fact("owner", fmt::format("VM {}, through {}", queue.vm(), queue.viommu()));
  teller.Fact("index", fmt::format("{} in the interface of its viommu", queue.index()));
  teller.Fact("memory", fmt::format("{} bytes at guest-physical {}: {} commands", queue.length_bytes(),
                                    Hex(queue.nesting_parent_iova()), queue.length_bytes() / 16));
  teller.HostSays(queue.host());
}

void TellQuota(Teller& teller, const v1::Quota& quota) {
  const auto limit = [&](const char* what, bool limited, uint64_t total, uint64_t used) {
    std::string text = limited ? fmt::format("at most {}", total) : "no limit";
    if (quota.has_usage()) text += fmt::format(", {} used", used);
    teller.Fact(what, text, limited && used >= total && quota.has_usage() ? Style::kBusy : Style::kPlain);
  };
  limit("viommus", quota.has_max_viommus(), quota.max_viommus(), quota.usage().viommus());
  limit("vdevices", quota.has_max_vdevices(), quota.max_vdevices(), quota.usage().vdevices());
  teller.Fact("holds for", quota.has_usage() ? fmt::format("VMs whose stage-2 domains have the label owner={}",
                                                           LastSegment(quota.name()))
                                             : "every owner that has no quota of its own");
}

}  // namespace

std::string StandingOf(const CommonFields& common) {
  const bool confirmed = common.observed_generation >= common.generation;
  if (common.state == "PENDING") return "PENDING: recorded; the host has not confirmed it yet";
  if (common.state == "READY") return confirmed ? "READY: in effect on the host" : "READY";
  if (common.state == "DORMANT") {
    return "DORMANT: accepted by the host, which makes the kernel object along with its first vdevice";
  }
  if (common.state == "FAILED") return "FAILED: the host tried and could not; it tries again by itself";
  if (common.state == "DELETING") return "DELETING: what it holds stays held until the host confirms that it is gone";
  if (common.state == "CONNECTED") return "CONNECTED: its agent's session is up";
  if (common.state == "DISCONNECTED") return "DISCONNECTED: no session with its agent; what runs there goes on running";
  if (common.state == "FREE") return "FREE: it can be assigned";
  if (common.state == "ASSIGNED") return "ASSIGNED: in a vdevice";
  if (common.state == "RELEASING") return "RELEASING: its vdevice is on its way out; the host has not confirmed";
  if (common.state == "MISSING") return "MISSING: its host does not list it any more";
  return common.state;
}

absl::StatusOr<Story> TellStory(Session& session, Kind kind, const Fetched& fetched) {
  Story story;
  Teller teller(session, story);
  teller.Begin(kind, *fetched.resource);
  switch (kind) {
    case Kind::kHost:
      TellHost(teller, As<v1::Host>(fetched));
      break;
    case Kind::kSmmu:
      TellSmmu(teller, As<v1::Smmu>(fetched));
      break;
    case Kind::kDevice:
      TellDevice(session, teller, As<v1::Device>(fetched));
      break;
    case Kind::kStage2Domain:
      TellStage2Domain(teller, As<v1::Stage2Domain>(fetched));
      break;
    case Kind::kViommu:
      TellViommu(teller, As<v1::Viommu>(fetched));
      break;
    case Kind::kVdevice:
      TellVdevice(teller, As<v1::Vdevice>(fetched));
      break;
    case Kind::kNestedDomain:
      TellNestedDomain(teller, As<v1::NestedDomain>(fetched));
      break;
    case Kind::kHwQueue:
      TellHwQueue(teller, As<v1::HwQueue>(fetched));
      break;
    case Kind::kQuota:
      TellQuota(teller, As<v1::Quota>(fetched));
      break;
  }
  teller.End(*fetched.resource);
  if (session.terminal().interrupted->load()) return InterruptedError("interrupted");
  return story;
}

}  // namespace viommu::cli
