// What must hold between the records, whatever hosts report. Budgets and widths are checked when something is recorded
// and not here: a host may come back with smaller ones.

#include <memory>
#include <string>
#include <utility>

#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

// Remembers the last record that was looked up: children of one parent come one after the other.
template <typename T>
class Parents {
 public:
  explicit Parents(const View& view) : view_(view) {}
  const T* Find(const std::string& name) {
    if (last_ == nullptr || last_->name() != name) last_ = view_.Find<T>(name);
    return last_.get();
  }

 private:
  const View& view_;
  std::shared_ptr<const T> last_;
};

template <typename... Args>
absl::Status Broken(const std::string& name, fmt::format_string<Args...> format, Args&&... args) {
  return absl::InternalError(fmt::format("{}: {}", name, fmt::format(format, std::forward<Args>(args)...)));
}

template <typename T>
absl::Status CheckCommon(const T& record) {
  if (!WordsOf(KindOf<T>::value).is_name(record.name())) return Broken(record.name(), "is no valid name");
  if (record.uid().empty()) return Broken(record.name(), "has no uid");
  if (record.observed_generation() > record.generation() || record.generation() > record.revision()) {
    return Broken(record.name(), "observed generation {}, generation {} and revision {} do not rise in this order",
                  record.observed_generation(), record.generation(), record.revision());
  }
  return absl::OkStatus();
}

// Calls `check` with each record of a kind, after the checks of all kinds, until one fails.
template <typename T, typename F>
absl::Status ForEach(const View& view, F&& check) {
  absl::Status status;
  view.VisitRecords(KindOf<T>::value, "", "", [&](const google::protobuf::Message& record) {
    const T& typed = static_cast<const T&>(record);
    status = CheckCommon(typed);
    if (status.ok()) status = check(typed);
    return status.ok();
  });
  return status;
}

class Checker {
 public:
  explicit Checker(const View& view) : view_(view), hosts_(view), stage2s_(view), viommus_(view), nested_(view) {}

  absl::Status Check(Kind kind) {
    switch (kind) {
      case Kind::kHost:
        return ForEach<v1::Host>(view_, [](const auto&) { return absl::OkStatus(); });
      case Kind::kDevice:
        return ForEach<v1::Device>(view_, [this](const auto& record) { return CheckDevice(record); });
      case Kind::kStage2Domain:
        return ForEach<v1::Stage2Domain>(view_, [this](const auto& record) { return CheckStage2(record); });
      case Kind::kViommu:
        return ForEach<v1::Viommu>(view_, [this](const auto& record) { return CheckViommu(record); });
      case Kind::kVdevice:
        return ForEach<v1::Vdevice>(view_, [this](const auto& record) { return CheckVdevice(record); });
      case Kind::kNestedDomain:
        return ForEach<v1::NestedDomain>(view_, [this](const auto& record) { return CheckNested(record); });
      case Kind::kHwQueue:
        return ForEach<v1::HwQueue>(view_, [this](const auto& record) { return CheckHwQueue(record); });
      case Kind::kQuota:
        return ForEach<v1::Quota>(view_, [](const auto&) { return absl::OkStatus(); });
    }
    return absl::OkStatus();
  }

 private:
  absl::Status CheckDevice(const v1::Device& device) {
    if (hosts_.Find(std::string(ParentName(device.name()))) == nullptr) return Broken(device.name(), "has no host");
    v1::DeviceState state = v1::DEVICE_STATE_FREE;
    if (!device.owner().empty()) {
      const auto owner = view_.Find<v1::Vdevice>(device.owner());
      if (owner == nullptr) return Broken(device.name(), "its owner {} is not recorded", device.owner());
      if (owner->device() != device.name()) {
        return Broken(device.name(), "its owner {} has {} instead", device.owner(), owner->device());
      }
      state = owner->state() == v1::STATE_DELETING ? v1::DEVICE_STATE_RELEASING : v1::DEVICE_STATE_ASSIGNED;
    } else if (device.missing()) {
      return Broken(device.name(), "is missing, holds nothing, and is recorded");
    }
    if (device.missing()) state = v1::DEVICE_STATE_MISSING;
    if (device.state() != state) {
      return Broken(device.name(), "is {} and should be {}", v1::DeviceState_Name(device.state()),
                    v1::DeviceState_Name(state));
    }
    return absl::OkStatus();
  }

  absl::Status CheckStage2(const v1::Stage2Domain& stage2) {
    if (hosts_.Find(stage2.host()) == nullptr) return Broken(stage2.name(), "has no host");
    if (!stage2.smmu().empty() && ParentName(stage2.smmu()) != stage2.host()) {
      return Broken(stage2.name(), "its SMMU {} is not on its host {}", stage2.smmu(), stage2.host());
    }
    if (IsReleaseConfirmed(stage2) && view_.Count(Relation::kStage2Viommus, stage2.name()) == 0) {
      return Broken(stage2.name(), "is confirmed gone, nothing is left on it, and it is recorded");
    }
    return absl::OkStatus();
  }

  absl::Status CheckViommu(const v1::Viommu& viommu) {
    if (hosts_.Find(viommu.host()) == nullptr) return Broken(viommu.name(), "has no host");
    if (ParentName(viommu.smmu()) != viommu.host()) {
      return Broken(viommu.name(), "its SMMU {} is not on its host {}", viommu.smmu(), viommu.host());
    }
    const v1::Stage2Domain* stage2 = stage2s_.Find(viommu.stage2_domain());
    if (stage2 == nullptr) return Broken(viommu.name(), "its {} is not recorded", viommu.stage2_domain());
    if (stage2->host() != viommu.host() || stage2->vm() != viommu.vm()) {
      return Broken(viommu.name(), "is not of the same host and VM as {}", stage2->name());
    }
    if (!stage2->smmu().empty() && stage2->smmu() != viommu.smmu()) {
      return Broken(viommu.name(), "is on {}, but {} serves {} only", viommu.smmu(), stage2->name(), stage2->smmu());
    }
    if (stage2->state() == v1::STATE_DELETING && viommu.state() != v1::STATE_DELETING) {
      return Broken(viommu.name(), "outlives {}", stage2->name());
    }
    if (IsReleaseConfirmed(viommu) && view_.Scan<v1::Vdevice>(VdevicePrefix(viommu.name()), "", 1).empty() &&
        view_.Scan<v1::NestedDomain>(NestedDomainPrefix(viommu.name()), "", 1).empty() &&
        view_.Scan<v1::HwQueue>(HwQueuePrefix(viommu.name()), "", 1).empty()) {
      return Broken(viommu.name(), "is confirmed gone, nothing is left in it, and it is recorded");
    }
    return absl::OkStatus();
  }

  // What a vdevice and a nested domain have in common.
  template <typename T>
  absl::Status CheckInViommu(const T& record) {
    const v1::Viommu* viommu = viommus_.Find(record.viommu());
    if (viommu == nullptr || ParentName(record.name()) != record.viommu()) {
      return Broken(record.name(), "its viommu '{}' is not recorded or not its own", record.viommu());
    }
    if (record.host() != viommu->host() || record.vm() != viommu->vm()) {
      return Broken(record.name(), "is not of the same host and VM as {}", viommu->name());
    }
    if (viommu->state() == v1::STATE_DELETING && record.state() != v1::STATE_DELETING) {
      return Broken(record.name(), "outlives {}", viommu->name());
    }
    if (IsReleaseConfirmed(record)) return Broken(record.name(), "is confirmed gone and recorded");
    return absl::OkStatus();
  }

  absl::Status CheckVdevice(const v1::Vdevice& vdevice) {
    VIOMMU_RETURN_IF_ERROR(CheckInViommu(vdevice));
    if (vdevice.name() != VdeviceName(vdevice.viommu(), vdevice.vdev_id())) {
      return Broken(vdevice.name(), "its vdev_id is {}", vdevice.vdev_id());
    }
    if (vdevice.vdev_id() >> 32 != 0) return Broken(vdevice.name(), "its vdev_id does not fit in 32 bits");
    const auto device = view_.Find<v1::Device>(vdevice.device());
    if (device == nullptr) return Broken(vdevice.name(), "its {} is not recorded", vdevice.device());
    if (device->owner() != vdevice.name()) {
      return Broken(vdevice.name(), "its {} belongs to '{}'", device->name(), device->owner());
    }
    if (ParentName(vdevice.device()) != vdevice.host()) {
      return Broken(vdevice.name(), "its {} is not on its host {}", vdevice.device(), vdevice.host());
    }
    if (const v1::Viommu& viommu = *viommus_.Find(vdevice.viommu()); device->smmu() != viommu.smmu()) {
      return Broken(vdevice.name(), "its {} is behind {}, and its viommu on {}", device->name(), device->smmu(),
                    viommu.smmu());
    }
    if (vdevice.has_previous_vdev_id()) VIOMMU_RETURN_IF_ERROR(CheckReserved(vdevice));
    if (vdevice.nested_domain().empty()) return absl::OkStatus();
    if (vdevice.state() == v1::STATE_DELETING) return Broken(vdevice.name(), "is DELETING and attached");
    const v1::NestedDomain* nested = nested_.Find(vdevice.nested_domain());
    if (nested == nullptr || nested->viommu() != vdevice.viommu() || nested->state() == v1::STATE_DELETING) {
      return Broken(vdevice.name(), "is attached to {}, which is not there for it", vdevice.nested_domain());
    }
    return absl::OkStatus();
  }

  absl::Status CheckReserved(const v1::Vdevice& vdevice) {
    const std::string reserved = VdeviceName(vdevice.viommu(), vdevice.previous_vdev_id());
    if (view_.FindRecord(Kind::kVdevice, reserved) != nullptr || view_.Count(Relation::kReservedNames, reserved) != 1) {
      return Broken(vdevice.name(), "{}, which it had before and keeps reserved, is taken", reserved);
    }
    return absl::OkStatus();
  }

  absl::Status CheckNested(const v1::NestedDomain& nested) {
    VIOMMU_RETURN_IF_ERROR(CheckInViommu(nested));
    if (nested.config().kind_case() == v1::NestedConfig::KIND_NOT_SET) return Broken(nested.name(), "has no config");
    return absl::OkStatus();
  }

  absl::Status CheckHwQueue(const v1::HwQueue& queue) {
    VIOMMU_RETURN_IF_ERROR(CheckInViommu(queue));
    if (queue.name() != HwQueueName(queue.viommu(), queue.index())) {
      return Broken(queue.name(), "has the index {}", queue.index());
    }
    return absl::OkStatus();
  }

  const View& view_;
  Parents<v1::Host> hosts_;
  Parents<v1::Stage2Domain> stage2s_;
  Parents<v1::Viommu> viommus_;
  Parents<v1::NestedDomain> nested_;
};

}  // namespace

absl::Status CheckInvariants(const View& view, Kind kind) { return Checker(view).Check(kind); }

absl::Status CheckInvariants(const View& view) {
  Checker checker(view);
  for (const Kind kind : kKinds) VIOMMU_RETURN_IF_ERROR(checker.Check(kind));
  return absl::OkStatus();
}

}  // namespace viommu::server
