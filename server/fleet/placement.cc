#include "server/fleet/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "common/error.h"
#include "server/fleet/names.h"
#include "server/fleet/quota.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

using Wishes = std::bitset<kMaxDeviceWishes>;

int CountOf(const v1::DeviceWish& wish) { return std::max(wish.count(), 1); }

bool HasAll(const Labels& labels, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& pair) {
    const auto found = labels.find(pair.first);
    return found != labels.end() && found->second == pair.second;
  });
}

bool Grants(const v1::Device& device, const v1::DeviceWish& wish) {
  return (!wish.ats() || device.ats()) && device.max_pasid_log2() >= wish.min_pasid_log2() &&
         HasAll(device.labels(), wish.labels());
}

v1::Refusal Because(const std::string& name, v1::ErrorReason reason, std::string message) {
  v1::Refusal refusal;
  refusal.set_name(name);
  refusal.set_reason(ReasonName(reason));
  refusal.set_message(std::move(message));
  return refusal;
}

v1::Refusal Because(const std::string& name, const absl::Status& status) {
  return Because(name, ReasonOf(status), std::string(status.message()));
}

// Gives each wish its devices. Devices that grant the same wishes are alike, so they are matched by such class: the
// classes are few where the devices are many. A wish that finds every class used up makes another wish go elsewhere
// (augmenting paths), so that what can be had is had.
class Matching {
 public:
  explicit Matching(int wishes) : wishes_(static_cast<size_t>(wishes)) {}

  void Add(const Wishes& granted, const std::string& device) { classes_[granted.to_ulong()].free.push_back(device); }

  // One more device for wish `w`; false when there is none, whatever the others take.
  bool Take(size_t w) {
    for (auto& [mask, klass] : classes_) klass.visited = false;
    return Augment(w);
  }

  // The devices, wish by wish.
  std::vector<std::string> Devices() {
    std::vector<std::string> devices;
    for (size_t w = 0; w < wishes_; ++w) {
      for (auto& [mask, klass] : classes_) {
        for (int n = klass.taken[w]; n > 0; --n) devices.push_back(klass.free[klass.given++]);
      }
    }
    return devices;
  }

 private:
  struct Class {
    std::vector<std::string> free;
    std::array<int, kMaxDeviceWishes> taken = {};  // by wish
    int all_taken = 0;
    size_t given = 0;
    bool visited = false;
  };

  bool Augment(size_t w) {
    for (auto& [mask, klass] : classes_) {
      if (klass.visited || !Wishes(mask).test(w)) continue;
      klass.visited = true;
      if (klass.all_taken < static_cast<int>(klass.free.size())) {
        ++klass.taken[w];
        ++klass.all_taken;
        return true;
      }
      for (size_t other = 0; other < wishes_; ++other) {
        if (other == w || klass.taken[other] == 0 || !Augment(other)) continue;
        --klass.taken[other];
        ++klass.taken[w];
        return true;
      }
    }
    return false;
  }

  const size_t wishes_;
  std::map<unsigned long, Class> classes_;  // NOLINT(google-runtime-int): std::bitset's
};

// What the viommu itself needs; `stage2` is the one that it is to share, null: it may be any one.
std::optional<v1::Refusal> RefuseSmmu(const View& view, const v1::FindPlacementRequest& request, const v1::Host& host,
                                      const v1::Smmu& smmu, const v1::Stage2Domain* stage2, int wanted) {
  const std::string& name = smmu.name();
  if (stage2 != nullptr) {
    if (const absl::Status serves = CheckStage2(*stage2, host, smmu); !serves.ok()) return Because(name, serves);
    const std::string& owner = OwnerOf(*stage2);
    if (const absl::Status room = CheckViommuQuota(view, owner); !room.ok()) return Because(name, room);
    if (const absl::Status room = CheckVdeviceQuota(view, owner); !room.ok()) return Because(name, room);
  }
  if (const absl::Status can = CheckCanNest(smmu); !can.ok()) return Because(name, can);
  if (request.type() == v1::VIOMMU_TYPE_TEGRA241_CMDQV) {
    if (const absl::Status free = CheckInterfaceFree(view, smmu); !free.ok()) return Because(name, free);
    if (wanted > static_cast<int64_t>(smmu.hw_queue().sid_slots())) {
      return Because(name, v1::ERROR_REASON_HW_QUEUE_EXHAUSTED,
                     fmt::format("a hardware queue interface translates {} StreamIDs, and {} devices are wanted",
                                 smmu.hw_queue().sid_slots(), wanted));
    }
  }
  // Where stage 2 belongs to one SMMU, it has brought the VMID along.
  if (stage2 == nullptr || host.stage2_sharing() != v1::STAGE2_SHARING_PER_SMMU) {
    if (const absl::Status free = CheckVmidFree(view, host, smmu); !free.ok()) return Because(name, free);
  }
  const uint32_t bits = VdevIdBits(request.type(), smmu);
  if (request.max_vdev_id() >> bits != 0) {
    return Because(name, v1::ERROR_REASON_VDEV_ID_TOO_WIDE,
                   fmt::format("vdev_id {} is wider than {} bits", request.max_vdev_id(), bits));
  }
  return std::nullopt;
}

// Stage-2 domains.
using Stage2s = std::set<std::string>;

// Those that devices of an IOMMU group are on: no other one may get a device of it (SetVdevId). Asks the view and not
// the devices that the caller has read before: those may have been let go of meanwhile.
class GroupHolders {
 public:
  GroupHolders(const View& view, const v1::Host& host) : view_(view), host_(host) {}

  const Stage2s& Of(const v1::Device& device) {
    const auto [found, is_new] = by_group_.try_emplace(device.iommu_group_shared() ? device.iommu_group() : kNone);
    if (!is_new || !device.iommu_group_shared()) return found->second;
    const std::string group = IommuGroupName(host_.name(), device.iommu_group());
    for (const std::string& mate : view_.Children(Relation::kGroupTakenDevices, group)) {
      const auto holder = MustFind<v1::Vdevice>(view_, MustFind<v1::Device>(view_, mate)->owner());
      found->second.insert(MustFind<v1::Viommu>(view_, holder->viommu())->stage2_domain());
    }
    return found->second;
  }

 private:
  static constexpr int64_t kNone = -1;  // stands for all groups of one device

  const View& view_;
  const v1::Host& host_;
  std::map<int64_t, Stage2s> by_group_;
};

// A device that nobody has.
struct FreeDevice {
  std::string name;
  Wishes granted;
  const Stage2s& holders;  // of its group

  // For a viommu on that stage-2 domain; "": whichever it is on.
  bool UsableOn(const std::string& stage2) const {
    return std::all_of(holders.begin(), holders.end(), [&](const std::string& holder) { return holder == stage2; });
  }
};

// Finds devices for all wishes; or returns the wish for which there is none.
std::optional<int> Match(const v1::FindPlacementRequest& request, Matching& matching) {
  for (int w = 0; w < request.devices_size(); ++w) {
    for (int n = 0; n < CountOf(request.devices(w)); ++n) {
      if (!matching.Take(static_cast<size_t>(w))) return w;
    }
  }
  return std::nullopt;
}

// The stage-2 domains that a viommu of the VM on that SMMU can be on and have more of the devices for it.
Stage2s ChoicesOf(const View& view, const v1::FindPlacementRequest& request, const v1::Host& host, const v1::Smmu& smmu,
                  const std::vector<FreeDevice>& free) {
  Stage2s choices;
  if (request.vm().empty()) return choices;
  for (const FreeDevice& device : free) {
    for (const std::string& holder : device.holders) {
      const auto stage2 = MustFind<v1::Stage2Domain>(view, holder);
      if (stage2->vm() == request.vm() && CheckStage2(*stage2, host, smmu).ok()) choices.insert(holder);
    }
  }
  return choices;
}

// `devices` would do for a viommu on that stage-2 domain ("": whichever), if it were not for the groups of some.
v1::Refusal RefuseGroups(const std::string& smmu, const std::vector<FreeDevice>& free, const std::string& stage2,
                         const std::vector<std::string>& devices) {
  for (const std::string& name : devices) {
    const auto device = std::find_if(free.begin(), free.end(), [&](const FreeDevice& one) { return one.name == name; });
    if (device->UsableOn(stage2)) continue;
    const auto holder = std::find_if(device->holders.begin(), device->holders.end(),
                                     [&](const std::string& one) { return one != stage2; });
    return Because(
        smmu, v1::ERROR_REASON_IOMMU_GROUP_TAKEN,
        fmt::format("enough devices are free, but not for {}: {} is in an IOMMU group with one that is on {}",
                    stage2.empty() ? "one stage 2" : stage2, name, *holder));
  }
  return Because(smmu, v1::ERROR_REASON_IOMMU_GROUP_TAKEN, "enough devices are free, but not for one stage 2");
}

// How many of the devices that a wish could have are held by somebody, for the words of the refusal.
v1::Refusal RefuseDevices(const std::string& smmu, const v1::DeviceWish& wish, int index, int64_t fitting,
                          int64_t free) {
  if (fitting < CountOf(wish)) {
    return Because(
        smmu, v1::ERROR_REASON_DEVICE_NOT_FOUND,
        fmt::format("devices[{}]: {} wanted, and only {} of its devices are such", index, CountOf(wish), fitting));
  }
  return Because(smmu, v1::ERROR_REASON_DEVICE_TAKEN,
                 fmt::format("devices[{}]: {} wanted; of the {} that are such {} are free, and other wishes take from "
                             "those",
                             index, CountOf(wish), fitting, free));
}

}  // namespace

absl::Status CheckFindPlacement(const v1::FindPlacementRequest& request) {
  if (request.devices().empty()) return InvalidField("devices", "at least one wish is needed");
  const auto too_many = [](std::string_view field, int limit) {
    const std::string what = fmt::format("at most {} are taken", limit);
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("{}: {}", field, what)
        .Meta("field", field)
        .Meta("limit", std::to_string(limit))
        .Field(field, what);
  };
  if (request.devices_size() > kMaxDeviceWishes) return too_many("devices", kMaxDeviceWishes);
  int64_t all = 0;
  for (int i = 0; i < request.devices_size(); ++i) {
    const v1::DeviceWish& wish = request.devices(i);
    const std::string at = fmt::format("devices[{}]", i);
    if (wish.count() < 0) return InvalidField(at + ".count", "{} is negative", wish.count());
    if (wish.labels_size() > kMaxLabels) return too_many(at + ".labels", kMaxLabels);
    all += CountOf(wish);
  }
  if (all > kMaxWishedDevices) return too_many("devices.count", kMaxWishedDevices);
  if (!v1::ViommuType_IsValid(request.type())) {
    return InvalidField("type", "{} is no type of viommu that this server knows", static_cast<int>(request.type()));
  }
  if (request.host_labels_size() > kMaxLabels) return too_many("host_labels", kMaxLabels);
  if (!request.host().empty()) VIOMMU_RETURN_IF_ERROR(CheckName(Kind::kHost, "host", request.host()));
  if (!request.vm().empty()) VIOMMU_RETURN_IF_ERROR(CheckVm("vm", request.vm()));
  if (!request.stage2_domain().empty()) {
    VIOMMU_RETURN_IF_ERROR(CheckName(Kind::kStage2Domain, "stage2_domain", request.stage2_domain()));
  }
  if (request.max_placements() < 0) {
    return InvalidField("max_placements", "{} is negative", request.max_placements());
  }
  return absl::OkStatus();
}

absl::Status NarrowToStage2(const View& view, v1::FindPlacementRequest& request) {
  if (request.stage2_domain().empty()) return absl::OkStatus();
  VIOMMU_ASSIGN_OR_RETURN(const auto stage2, Get<v1::Stage2Domain>(view, "stage2_domain", request.stage2_domain()));
  if (!request.host().empty() && request.host() != stage2->host()) {
    return Refusal(v1::ERROR_REASON_HOST_MISMATCH, stage2->name(),
                   "{} is on {}, and {} is asked for; leave one of them out", stage2->name(), stage2->host(),
                   request.host())
        .Meta("stage2_domain", stage2->name())
        .Meta("host", request.host());
  }
  if (!request.vm().empty() && request.vm() != stage2->vm()) {
    return InvalidField("vm", "'{}' is not the VM of {}, which is '{}'; leave one of them out", request.vm(),
                        stage2->name(), stage2->vm());
  }
  request.set_host(stage2->host());
  return absl::OkStatus();
}

bool IsCandidate(const v1::FindPlacementRequest& request, const v1::Host& host) {
  return (request.host().empty() || request.host() == host.name()) && HasAll(host.labels(), request.host_labels());
}

std::optional<v1::Refusal> RefuseHost(const v1::Host& host) {
  if (const absl::Status open = CheckNotCordoned(host); !open.ok()) return Because(host.name(), open);
  if (host.state() != v1::HOST_STATE_CONNECTED) {
    return Because(host.name(), v1::ERROR_REASON_HOST_DISCONNECTED,
                   "its agent is not connected: what is put there waits until it is");
  }
  for (const v1::Capability& capability : host.capabilities()) {
    if (capability.name() == "viommu" && !capability.available()) {
      return Because(host.name(), v1::ERROR_REASON_SMMU_INCAPABLE, "no viommus: " + capability.reason());
    }
  }
  return std::nullopt;
}

void PlaceOnHost(const View& view, const v1::FindPlacementRequest& request, const v1::Host& host,
                 absl::Span<const std::shared_ptr<const v1::Device>> devices, std::vector<v1::Placement>& placements,
                 std::vector<v1::Refusal>& refusals) {
  const int wishes = request.devices_size();
  int wanted = 0;
  for (const v1::DeviceWish& wish : request.devices()) wanted += CountOf(wish);
  GroupHolders holders(view, host);
  const std::string& shared = request.stage2_domain();
  const auto shared_stage2 = shared.empty() ? nullptr : MustFind<v1::Stage2Domain>(view, shared);
  for (const v1::Smmu& smmu : host.smmus()) {
    if (auto refused = RefuseSmmu(view, request, host, smmu, shared_stage2.get(), wanted); refused.has_value()) {
      refusals.push_back(*std::move(refused));
      continue;
    }
    std::array<int64_t, kMaxDeviceWishes> fitting = {};
    std::array<int64_t, kMaxDeviceWishes> free_of = {};
    std::vector<FreeDevice> free;
    for (const auto& device : devices) {
      if (device->smmu() != smmu.name() || device->missing()) continue;
      Wishes granted;
      for (int w = 0; w < wishes; ++w) granted.set(static_cast<size_t>(w), Grants(*device, request.devices(w)));
      const bool is_free = device->state() == v1::DEVICE_STATE_FREE;
      for (size_t w = 0; w < static_cast<size_t>(wishes); ++w) {
        if (!granted.test(w)) continue;
        ++fitting[w];
        if (is_free) ++free_of[w];
      }
      if (is_free) free.push_back({device->name(), granted, holders.Of(*device)});
    }
    // A place for whatever stage 2 is the better one: it comes first.
    Stage2s choices;
    if (shared.empty()) choices = ChoicesOf(view, request, host, smmu, free);
    choices.insert(shared);
    const auto fits = [&](const std::string& stage2) {
      Matching matching(wishes);
      int64_t usable = 0;
      for (const FreeDevice& device : free) {
        if (!device.UsableOn(stage2)) continue;
        ++usable;
        if (device.granted.any()) matching.Add(device.granted, device.name);
      }
      if (Match(request, matching).has_value()) return false;
      v1::Placement& placement = placements.emplace_back();
      placement.set_smmu(smmu.name());
      placement.set_stage2_domain(stage2);
      for (std::string& device : matching.Devices()) placement.add_devices(std::move(device));
      placement.set_vmids_free(static_cast<uint64_t>(TotalVmids(smmu) - UsedVmids(view, host, smmu.name())));
      placement.set_devices_left(static_cast<uint64_t>(usable - wanted));
      return true;
    };
    if (std::any_of(choices.begin(), choices.end(), fits)) continue;
    Matching regardless(wishes);  // of groups
    for (const FreeDevice& device : free) {
      if (device.granted.any()) regardless.Add(device.granted, device.name);
    }
    if (const std::optional<int> unmet = Match(request, regardless); unmet.has_value()) {
      const auto at = static_cast<size_t>(*unmet);
      refusals.push_back(RefuseDevices(smmu.name(), request.devices(*unmet), *unmet, fitting[at], free_of[at]));
    } else {
      refusals.push_back(RefuseGroups(smmu.name(), free, shared, regardless.Devices()));
    }
  }
}

void RankPlacements(const v1::FindPlacementRequest& request, std::vector<v1::Placement>& placements) {
  const auto limit = static_cast<size_t>(
      request.max_placements() == 0 ? kDefaultPlacements : std::min(request.max_placements(), kMaxPlacements));
  std::sort(placements.begin(), placements.end(), [](const v1::Placement& a, const v1::Placement& b) {
    return std::forward_as_tuple(a.devices_left(), a.vmids_free(), a.smmu()) <
           std::forward_as_tuple(b.devices_left(), b.vmids_free(), b.smmu());
  });
  if (placements.size() > limit) placements.resize(limit);
}

}  // namespace viommu::server
