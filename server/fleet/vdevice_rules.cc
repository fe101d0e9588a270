// Rules of vdevices: who has a device, and under which guest StreamID.

#include <memory>
#include <string>
#include <utility>

#include "common/mutation.h"
#include "server/fleet/deletion.h"
#include "server/fleet/quota.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

constexpr uint64_t kVdevIdEnd = uint64_t{1} << 32;  // commands and events carry 32 bits

// Where a vdev_id is to be set: everything that is the same for all devices of a viommu.
struct Target {
  std::shared_ptr<const v1::Viommu> viommu;
  std::shared_ptr<const v1::Host> host;
  const v1::Smmu* smmu = nullptr;  // in *host
};

// Where in a request something is; put together only to complain about it.
struct Place {
  int assignment;  // of a batch; -1: of the only one
  std::string_view field;

  std::string Name() const {
    return assignment < 0 ? std::string(field) : fmt::format("assignments[{}].{}", assignment, field);
  }
};

// One assignment as it stands in a request.
struct Wanted {
  int assignment;  // as Place's
  const std::string& device;
  uint64_t vdev_id;
  const Labels& labels;

  Place At(std::string_view field) const { return {assignment, field}; }
};

absl::StatusOr<Target> FindTarget(const View& view, std::shared_ptr<const v1::Viommu> viommu) {
  Target target;
  target.host = MustFind<v1::Host>(view, viommu->host());
  target.smmu = FindSmmu(*target.host, viommu->smmu());
  if (target.smmu == nullptr) return SmmuNotFound(viommu->smmu());
  target.viommu = std::move(viommu);
  return target;
}

absl::StatusOr<Target> FindTargetForNew(const View& view, const std::string& name) {
  VIOMMU_ASSIGN_OR_RETURN(auto viommu, Get<v1::Viommu>(view, "viommu", name));
  if (viommu->state() == v1::STATE_DELETING) return BeingDeleted(Kind::kViommu, name);
  VIOMMU_RETURN_IF_ERROR(CheckNotCordoned(*MustFind<v1::Host>(view, viommu->host())));
  return FindTarget(view, std::move(viommu));
}

absl::Status CheckVdevId(const Target& target, const Place& place, uint64_t vdev_id) {
  if (vdev_id >= kVdevIdEnd) {
    const std::string field = place.Name();
    const std::string what = fmt::format("{} does not fit in 32 bits, which is what an SMMU's commands carry", vdev_id);
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE)
        .Message("{}: {}", field, what)
        .Meta("field", field)
        .Meta("vdev_id", std::to_string(vdev_id))
        .Field(field, what);
  }
  const uint32_t sid_bits = target.smmu->sid_bits();
  const uint32_t bits = VdevIdBits(target.viommu->type(), *target.smmu);
  if (vdev_id >> bits == 0) return absl::OkStatus();
  const std::string field = place.Name();
  const std::string what = fmt::format(
      "{} is wider than the {} bits of {}; choose a vdev_id below {}", vdev_id, bits,
      bits < sid_bits ? "a TEGRA241_CMDQV viommu" : "the StreamIDs of " + target.smmu->name(), uint64_t{1} << bits);
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_TOO_WIDE)
      .Message("{}: {}", field, what)
      .Meta("field", field)
      .Meta("vdev_id", std::to_string(vdev_id))
      .Meta("bits", std::to_string(bits))
      .Field(field, what);
}

// `name` is what a vdevice would have with `vdev_id`.
absl::Status CheckNameFree(const View& view, const Place& place, const std::string& name, uint64_t vdev_id) {
  const auto taken = [&](const std::string& holder, const std::string& device, const std::string& why) {
    const std::string field = place.Name();
    return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN)
        .Message("{}: {} {}", field, vdev_id, why)
        .Meta("field", field)
        .Meta("vdev_id", std::to_string(vdev_id))
        .Meta("holder", holder)
        .Meta("device", device)
        .Resource("viommu.v1.Vdevice", name, device);
  };
  if (const auto holder = view.Find<v1::Vdevice>(name); holder != nullptr) {
    if (holder->state() == v1::STATE_DELETING) {
      return taken(name, holder->device(),
                   fmt::format("is held by {} ({}) until its host has confirmed the release; wait for that, or choose "
                               "another one",
                               name, holder->device()));
    }
    return taken(
        name, holder->device(),
        fmt::format("belongs to {} ({}); choose another one, or unset that one first", name, holder->device()));
  }
  if (view.Count(Relation::kReservedNames, name) == 0) return absl::OkStatus();
  const std::string holder = view.Children(Relation::kReservedNames, name).front();
  return taken(holder, MustFind<v1::Vdevice>(view, holder)->device(),
               fmt::format("was given up by a rebind to {} that its host has not confirmed; wait for that, or choose "
                           "another one",
                           holder));
}

// The hardware cannot keep the devices of an IOMMU group apart, and Linux gives a group to one iommufd context and
// attaches it as a whole: to one stage 2.
absl::Status CheckGroup(const View& view, const Target& target, const Wanted& wanted, const v1::Device& device) {
  if (!device.iommu_group_shared() || Mutated(Mutation::kIgnoreGroups)) return absl::OkStatus();
  const std::string group = IommuGroupName(target.viommu->host(), device.iommu_group());
  for (const std::string& mate : view.Children(Relation::kGroupTakenDevices, group)) {
    const auto holder = MustFind<v1::Vdevice>(view, MustFind<v1::Device>(view, mate)->owner());
    const std::string stage2 = MustFind<v1::Viommu>(view, holder->viommu())->stage2_domain();
    if (stage2 == target.viommu->stage2_domain()) continue;
    const std::string field = wanted.At("device").Name();
    const bool releasing = holder->state() == v1::STATE_DELETING;
    const bool same_vm = holder->vm() == target.viommu->vm();
    return Refusal(v1::ERROR_REASON_IOMMU_GROUP_TAKEN, device.name(),
                   "{}: {} is in IOMMU group {} with {}, which {} {} of VM '{}'{}{}", field, device.name(),
                   device.iommu_group(), mate, releasing ? "is still held by" : "belongs to", holder->name(),
                   holder->vm(), same_vm ? " on " + stage2 : "",
                   releasing ? ", whose host has not confirmed the release; wait for that, or use another device"
                   : same_vm ? "; a group is attached to one stage 2: use a viommu on that one, or unset that vdevice"
                             : "; a group goes to one VM: use another device, or unset that vdevice first")
        .Meta("field", field)
        .Meta("device", device.name())
        .Meta("holder", holder->name())
        .Resource("viommu.v1.Device", mate, holder->name());
  }
  return absl::OkStatus();
}

absl::Status CheckDevice(const View& view, const Target& target, const Wanted& wanted, const v1::Device& device) {
  const auto field_name = [&wanted] { return wanted.At("device").Name(); };
  const v1::Viommu& viommu = *target.viommu;
  if (ParentName(device.name()) != viommu.host()) {
    const std::string field = field_name();
    return Refusal(v1::ERROR_REASON_HOST_MISMATCH, device.name(),
                   "{}: {} is not on {}, the host of {}; use a device of that host", field, device.name(),
                   viommu.host(), viommu.name())
        .Meta("field", field)
        .Meta("device", device.name())
        .Meta("viommu", viommu.name());
  }
  if (device.smmu() != viommu.smmu()) {
    const std::string field = field_name();
    return Refusal(v1::ERROR_REASON_SMMU_MISMATCH, device.name(),
                   "{}: {} is behind {}, but {} is on {}; use a viommu on the device's SMMU", field, device.name(),
                   device.smmu(), viommu.name(), viommu.smmu())
        .Meta("field", field)
        .Meta("device", device.name())
        .Meta("device_smmu", device.smmu())
        .Meta("viommu_smmu", viommu.smmu());
  }
  // Only while a vdevice still holds it: without one its host would have had it erased. That it is gone says more than
  // who has it: waiting for the release would be in vain.
  if (device.missing()) {
    const std::string field = field_name();
    return Refusal(v1::ERROR_REASON_DEVICE_MISSING, device.name(),
                   "{}: {} is not listed by its host any more; use another device", field, device.name())
        .Meta("field", field)
        .Meta("device", device.name());
  }
  if (!device.owner().empty()) {
    const std::string field = field_name();
    const auto holder = MustFind<v1::Vdevice>(view, device.owner());
    const bool releasing = holder->state() == v1::STATE_DELETING;
    return Error(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN)
        .Message("{}: {} {} {} of VM '{}'{}", field, device.name(), releasing ? "is still held by" : "belongs to",
                 holder->name(), holder->vm(),
                 releasing ? ", whose host has not confirmed the release; wait for that" : "; unset that vdevice first")
        .Meta("field", field)
        .Meta("device", device.name())
        .Meta("holder", holder->name())
        .Resource("viommu.v1.Device", device.name(), holder->name());
  }
  return CheckGroup(view, target, wanted, device);
}

// A hardware queue interface translates a fixed number of StreamIDs.
absl::Status CheckSidSlotFree(const View& view, const Target& target) {
  if (target.viommu->type() != v1::VIOMMU_TYPE_TEGRA241_CMDQV) return absl::OkStatus();
  const size_t total = target.smmu->hw_queue().sid_slots();
  const size_t used = view.Scan<v1::Vdevice>(VdevicePrefix(target.viommu->name()), "", total).size();
  if (used < total) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_HW_QUEUE_EXHAUSTED)
      .Message("the hardware queue interface of {} translates {} StreamIDs, and all are taken; use another viommu",
               target.viommu->name(), total)
      .Meta("viommu", target.viommu->name())
      .Meta("used", std::to_string(used))
      .Meta("total", std::to_string(total));
}

absl::StatusOr<v1::Vdevice> Assign(const Target& target, const Wanted& wanted, const Context& context, Draft& draft) {
  if (!wanted.labels.empty()) VIOMMU_RETURN_IF_ERROR(CheckLabels(wanted.At("labels").Name(), wanted.labels));
  const auto found = draft.Find<v1::Device>(wanted.device);
  if (found == nullptr) return Get<v1::Device>(draft, wanted.At("device").Name(), wanted.device).status();
  VIOMMU_RETURN_IF_ERROR(CheckVdevId(target, wanted.At("vdev_id"), wanted.vdev_id));
  VIOMMU_RETURN_IF_ERROR(CheckDevice(draft, target, wanted, *found));
  const v1::Viommu& viommu = *target.viommu;
  const std::string name = VdeviceName(viommu.name(), wanted.vdev_id);
  VIOMMU_RETURN_IF_ERROR(CheckNameFree(draft, wanted.At("vdev_id"), name, wanted.vdev_id));
  VIOMMU_RETURN_IF_ERROR(CheckSidSlotFree(draft, target));
  VIOMMU_RETURN_IF_ERROR(CheckVdeviceQuota(draft, viommu.owner()));

  v1::Vdevice vdevice;
  vdevice.set_name(name);
  *vdevice.mutable_labels() = wanted.labels;
  vdevice.set_viommu(viommu.name());
  vdevice.set_device(found->name());
  vdevice.set_vdev_id(wanted.vdev_id);
  vdevice.set_stream_id(found->stream_id());
  vdevice.set_host(viommu.host());
  vdevice.set_vm(viommu.vm());
  vdevice.set_owner(viommu.owner());
  Begin(vdevice, context);
  Desire(vdevice, v1::STATE_PENDING, context);
  draft.Put(vdevice);

  v1::Device device = *found;
  device.set_owner(name);
  SetDeviceState(device, /*releasing=*/false);
  DesireSettled(device, context);
  draft.Put(std::move(device));
  return vdevice;
}

}  // namespace

absl::StatusOr<v1::SetVdevIdResponse> Judge(const v1::SetVdevIdRequest& request, const Context& context, Draft& draft) {
  VIOMMU_RETURN_IF_ERROR(CheckName(Kind::kDevice, "device", request.device()));
  VIOMMU_ASSIGN_OR_RETURN(const Target target, FindTargetForNew(draft, request.viommu()));
  const Wanted wanted{-1, request.device(), request.vdev_id(), request.labels()};
  v1::SetVdevIdResponse response;
  VIOMMU_ASSIGN_OR_RETURN(*response.mutable_vdevice(), Assign(target, wanted, context, draft));
  return response;
}

absl::StatusOr<v1::BatchSetVdevIdsResponse> Judge(const v1::BatchSetVdevIdsRequest& request, const Context& context,
                                                  Draft& draft) {
  if (request.assignments().empty()) return InvalidField("assignments", "at least one is required");
  if (request.assignments_size() > kMaxBatchVdevIds) {
    const std::string what =
        fmt::format("has {} entries, and at most {} are taken; split it", request.assignments_size(), kMaxBatchVdevIds);
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("assignments: {}", what)
        .Meta("field", "assignments")
        .Meta("limit", std::to_string(kMaxBatchVdevIds))
        .Field("assignments", what);
  }
  VIOMMU_ASSIGN_OR_RETURN(const Target target, FindTargetForNew(draft, request.viommu()));
  v1::BatchSetVdevIdsResponse response;
  for (int i = 0; i < request.assignments_size(); ++i) {
    const v1::VdevIdAssignment& assignment = request.assignments(i);
    const Wanted wanted{i, assignment.device(), assignment.vdev_id(), assignment.labels()};
    VIOMMU_ASSIGN_OR_RETURN(*response.add_vdevices(), Assign(target, wanted, context, draft));
  }
  return response;
}

absl::StatusOr<v1::UnsetVdevIdResponse> Judge(const v1::UnsetVdevIdRequest& request, const Context& context,
                                              Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto vdevice, Get<v1::Vdevice>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*vdevice, request.etag()));
  v1::UnsetVdevIdResponse response;
  *response.mutable_vdevice() = Release(*vdevice, context, draft);
  return response;
}

absl::StatusOr<v1::RebindVdevIdResponse> Judge(const v1::RebindVdevIdRequest& request, const Context& context,
                                               Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto present, Get<v1::Vdevice>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, request.etag()));
  if (present->state() == v1::STATE_DELETING) return BeingDeleted(Kind::kVdevice, present->name());
  if (request.new_vdev_id() == present->vdev_id()) {
    return InvalidField("new_vdev_id", "{} is what {} has already", request.new_vdev_id(), present->name());
  }
  if (present->has_previous_vdev_id()) {
    return Refusal(
               v1::ERROR_REASON_REBIND_PENDING, present->name(),
               "the rebind of {} from {} is not confirmed by its host yet; wait for that, or unset it and set it anew",
               present->name(), present->previous_vdev_id())
        .Meta("name", present->name())
        .Meta("previous_vdev_id", std::to_string(present->previous_vdev_id()));
  }
  VIOMMU_ASSIGN_OR_RETURN(const Target target, FindTarget(draft, MustFind<v1::Viommu>(draft, present->viommu())));
  VIOMMU_RETURN_IF_ERROR(CheckVdevId(target, {-1, "new_vdev_id"}, request.new_vdev_id()));
  const std::string name = VdeviceName(present->viommu(), request.new_vdev_id());
  VIOMMU_RETURN_IF_ERROR(CheckNameFree(draft, {-1, "new_vdev_id"}, name, request.new_vdev_id()));

  v1::Vdevice next = *present;
  next.set_name(name);
  next.set_vdev_id(request.new_vdev_id());
  if (!Mutated(Mutation::kRebindFreesIdEarly)) next.set_previous_vdev_id(present->vdev_id());
  Desire(next, v1::STATE_PENDING, context);
  draft.Erase(Kind::kVdevice, present->name());
  draft.Put(next);

  v1::Device device = *MustFind<v1::Device>(draft, present->device());
  device.set_owner(name);
  DesireSettled(device, context);
  draft.Put(std::move(device));

  v1::RebindVdevIdResponse response;
  *response.mutable_vdevice() = std::move(next);
  return response;
}

}  // namespace viommu::server
