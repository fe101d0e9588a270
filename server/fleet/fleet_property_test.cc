// Random histories of requests, hellos and answers (late, repeated, out of order), each step held against
//   - the invariants between the records;
//   - a ledger of its own of who holds what, kept from what was accepted and confirmed alone (promises 1, 2, 4, 5);
//   - budgets counted by hand (promise 3);
//   - tables rebuilt from the records, and drafts on drafts.

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

// One step: what, and with which of the few names and numbers there are.
using Step = std::array<uint8_t, 5>;

constexpr int kSteps = 120;
const std::array<std::string, 2> kHosts = {kGrace, kSmall};
const std::array<std::string, 4> kStage2s = {"s0", "s1", "s2", "s3"};
const std::array<std::string, 3> kViommus = {"v0", "v1", "v2"};

// Where each viommu is at first; most requests fit that, so that histories get somewhere.
const std::string& HomeHost(int viommu) { return viommu == 2 ? kSmall : kGrace; }
std::string HomeSmmu(int viommu) { return SmmuOf(HomeHost(viommu), viommu == 1 ? 1 : 0); }
// Two VMs, so that they meet in an IOMMU group.
std::string VmOf(int stage2) { return stage2 % 2 == 0 ? "vm" : "other"; }

// Everything that a view says about records and relations.
std::string Dump(const View& view) {
  std::string dump;
  std::set<std::pair<Relation, std::string>> parents;
  for (const Kind kind : kKinds) {
    view.ScanRecords(kind, "", "", [&](const RecordPtr& record) {
      const std::string& name = NameOf(kind, *record);
      const RecordPtr found = view.FindRecord(kind, name);
      RC_ASSERT(found != nullptr);
      RC_ASSERT(found->SerializeAsString() == record->SerializeAsString());
      dump += record->SerializeAsString() + "\n";
      // Every name is asked for as a parent: also those that nothing refers to.
      for (size_t i = 0; i < kRelations; ++i) parents.emplace(static_cast<Relation>(i), name);
      ForEachEdge(kind, *record,
                  [&](Relation relation, std::string_view parent) { parents.emplace(relation, std::string(parent)); });
      return true;
    });
  }
  for (const std::string& host : kHosts) {
    for (int smmu = 0; smmu < 2; ++smmu) {
      for (size_t i = 0; i < kRelations; ++i) parents.emplace(static_cast<Relation>(i), SmmuOf(host, smmu));
    }
  }
  for (const auto& [relation, parent] : parents) {
    const int64_t count = view.Count(relation, parent);
    if (count == 0) continue;
    dump += std::to_string(static_cast<int>(relation)) + " " + parent + " " + std::to_string(count);
    if (!IsCountedOnly(relation)) {
      const std::vector<std::string> children = view.Children(relation, parent);
      RC_ASSERT(static_cast<int64_t>(children.size()) == count);
      for (const std::string& child : children) dump += " " + child;
    }
    dump += "\n";
  }
  return dump;
}

std::unique_ptr<Tables> Rebuilt(const Tables& tables) {
  auto rebuilt = std::make_unique<Tables>();
  for (const Kind kind : kKinds) {
    tables.ScanRecords(kind, "", "", [&](const RecordPtr& record) {
      rebuilt->Apply({kind, NameOf(kind, *record), nullptr, record});
      return true;
    });
  }
  return rebuilt;
}

// Who holds devices and vdev_ids, as a bookkeeper would know it who sees requests, answers and nothing of the record.
class Ledger {
 public:
  void Assign(const v1::Vdevice& vdevice) {
    RC_ASSERT(devices_.emplace(vdevice.device(), vdevice.uid()).second);
    Take(vdevice.viommu(), vdevice.vdev_id(), vdevice.uid());
  }
  void Rebind(const v1::Vdevice& vdevice) { Take(vdevice.viommu(), vdevice.vdev_id(), vdevice.uid()); }
  // The host has confirmed what the vdevice is as of now.
  void Applied(const v1::Vdevice& vdevice) {
    std::erase_if(vdev_ids_, [&](const auto& entry) {
      return entry.second == vdevice.uid() && entry.first.second != vdevice.vdev_id();
    });
  }
  void Released(const std::string& uid) {
    dead_.insert(uid);
    std::erase_if(devices_, [&](const auto& entry) { return entry.second == uid; });
    std::erase_if(vdev_ids_, [&](const auto& entry) { return entry.second == uid; });
  }
  // The record and the ledger agree: nothing is free too early, nothing comes back.
  void Check(const View& view) const {
    size_t devices = 0;
    for (const auto& vdevice : view.Scan<v1::Vdevice>("")) {
      ++devices;
      RC_ASSERT(!dead_.contains(vdevice->uid()));
      RC_ASSERT(devices_.at(vdevice->device()) == vdevice->uid());
      RC_ASSERT(vdev_ids_.at({vdevice->viommu(), vdevice->vdev_id()}) == vdevice->uid());
    }
    RC_ASSERT(devices == devices_.size());
    for (const auto& [device, uid] : devices_) RC_ASSERT(!view.Find<v1::Device>(device)->owner().empty());
  }

 private:
  void Take(const std::string& viommu, uint64_t vdev_id, const std::string& uid) {
    RC_ASSERT(vdev_id < 1 << 24);
    RC_ASSERT((vdev_ids_.emplace(std::make_pair(viommu, vdev_id), uid).second));
  }

  std::map<std::string, std::string> devices_;                        // device -> uid of its vdevice
  std::map<std::pair<std::string, uint64_t>, std::string> vdev_ids_;  // (viommu, vdev_id) -> uid of who has it
  std::set<std::string> dead_;                                        // uids confirmed gone
};

class History {
 public:
  History() {
    HelloFrom(0, 0);
    HelloFrom(1, 0);
    for (const int i : {0, 1, 2}) {
      Do(CreateStage2(kStage2s[i], HomeHost(i), i == 2 ? HomeSmmu(i) : "", VmOf(i)));
      Do(CreateViommu(kViommus[i], HomeSmmu(i), kStage2s[i]));
    }
  }

  void Take(const Step& step);

 private:
  template <typename T>
  static T Pick(std::initializer_list<T> from, uint8_t which) {
    return *(from.begin() + which % from.size());
  }
  static std::string Pick(std::initializer_list<const char*> from, uint8_t which) {
    return *(from.begin() + which % from.size());
  }

  // Judges in a draft as the writer does, twice, and holds everything against everything.
  template <typename F>
  auto Run(F&& judge) {
    const std::string before = Dump(tables_);
    Draft draft(tables_);
    const auto new_uid = [this] { return "uid-" + std::to_string(++uids_); };
    const Context context{google::protobuf::Timestamp(), revision_ + 1, new_uid};
    const int64_t uids = uids_;
    static_cast<void>(judge(context, draft));
    draft.Undo();
    RC_ASSERT(Dump(draft) == before);
    RC_ASSERT(draft.Changes().empty());
    uids_ = uids;
    auto answer = judge(context, draft);
    changes_.clear();
    if (answer.ok()) {
      const std::string judged = Dump(draft);
      changes_ = draft.Changes();
      draft.Keep();
      RC_ASSERT(draft.Changes().empty());
      RC_ASSERT(Dump(draft) == judged);
      RC_ASSERT(Dump(tables_) == before);
      for (const Change& change : changes_) tables_.Apply(change);
      RC_ASSERT(Dump(tables_) == judged);
      RC_ASSERT(Dump(*Rebuilt(tables_)) == judged);
      if (!changes_.empty()) ++revision_;
    } else {
      draft.Undo();
      RC_ASSERT(Dump(draft) == before);
      RC_ASSERT(Dump(tables_) == before);
    }
    for (const Change& change : changes_) CheckChange(change);
    const absl::Status holds = CheckInvariants(tables_);
    if (!holds.ok()) RC_FAIL(holds.ToString());
    CheckBudgets();
    return answer;
  }

  template <typename Request>
  auto TryDo(const Request& request) {
    return Run([&](const Context& context, Draft& draft) { return Judge(request, context, draft); });
  }
  template <typename Request>
  void Do(const Request& request) {
    (void)TryDo(request);
    ledger_.Check(tables_);
  }

  // What every change owes, and what the host is sent.
  void CheckChange(const Change& change) {
    if (change.after == nullptr) return;
    const int64_t generation = GenerationOf(change.kind, *change.after);
    RC_ASSERT(generation <= revision_);
    if (change.before != nullptr) RC_ASSERT(generation >= GenerationOf(change.kind, *change.before));
    switch (change.kind) {
      case Kind::kStage2Domain:
        return Sent(static_cast<const v1::Stage2Domain&>(*change.after));
      case Kind::kViommu:
        return Sent(static_cast<const v1::Viommu&>(*change.after));
      case Kind::kVdevice:
        return Sent(static_cast<const v1::Vdevice&>(*change.after));
      case Kind::kNestedDomain:
        return Sent(static_cast<const v1::NestedDomain&>(*change.after));
      case Kind::kHwQueue:
        return Sent(static_cast<const v1::HwQueue&>(*change.after));
      case Kind::kHost:
      case Kind::kDevice:
      case Kind::kQuota:
        return;
    }
  }
  template <typename T>
  void Sent(const T& record) {
    if (record.generation() != revision_) return;
    sent_.emplace_back(record.host(), ResultFor(record, v1::OUTCOME_UNSPECIFIED));
  }

  // The VMIDs of each SMMU, counted from the records by hand.
  void CheckBudgets() {
    std::map<std::string, int> vmids;
    for (const auto& viommu : tables_.Scan<v1::Viommu>("")) {
      if (viommu->host() == kGrace) ++vmids[viommu->smmu()];
    }
    for (const auto& stage2 : tables_.Scan<v1::Stage2Domain>("")) {
      if (stage2->host() == kSmall) ++vmids[stage2->smmu()];
    }
    for (const auto& [smmu, used] : vmids) RC_ASSERT(used <= 1);
    for (const auto& vdevice : tables_.Scan<v1::Vdevice>("")) {
      const auto viommu = tables_.Find<v1::Viommu>(vdevice->viommu());
      RC_ASSERT(tables_.Find<v1::Device>(vdevice->device())->smmu() == viommu->smmu());
    }
  }

  // No other stage 2, and so no other VM, has a device of its IOMMU group.
  void CheckGroup(const v1::Vdevice& vdevice) {
    const auto stage2_of = [this](const v1::Vdevice& each) {
      return tables_.Find<v1::Viommu>(each.viommu())->stage2_domain();
    };
    const auto device = tables_.Find<v1::Device>(vdevice.device());
    for (const auto& other : tables_.Scan<v1::Device>(DevicePrefix(vdevice.host()))) {
      if (other->missing() || other->iommu_group() != device->iommu_group() || other->owner().empty()) continue;
      RC_ASSERT(stage2_of(*tables_.Find<v1::Vdevice>(other->owner())) == stage2_of(vdevice));
    }
  }

  void Assigned(const v1::Vdevice& vdevice) {
    ledger_.Assign(vdevice);
    CheckGroup(vdevice);
  }

  // A host comes back with some devices out of sight or behind another SMMU, holding nothing or everything.
  void HelloFrom(uint8_t which, uint8_t gone, uint8_t moved = 0) {
    v1::Hello hello = which % 2 == 0 ? GraceHello() : SmallHello();
    for (v1::Smmu& smmu : *hello.mutable_host()->mutable_smmus()) smmu.set_vmid_bits(1);
    hello.mutable_devices(2)->set_iommu_group(hello.devices(1).iommu_group());
    for (int i = hello.devices_size() - 1; i >= 0; --i) {
      if ((moved >> i & 1) != 0) {
        const bool first = hello.devices(i).smmu() == hello.host().smmus(0).name();
        hello.mutable_devices(i)->set_smmu(hello.host().smmus(first ? 1 : 0).name());
      }
      if ((gone >> i & 1) != 0) hello.mutable_devices()->DeleteSubrange(i, 1);
    }
    if (which % 4 < 2) {
      for (const auto& [host, result] : sent_) {
        v1::HeldItem& item = *hello.add_held();
        item.set_uid(result.uid());
        item.set_generation(result.generation());
        item.set_settled(which % 8 < 4);
      }
    }
    RC_ASSERT(Run([&](const Context& context, Draft& draft) { return JudgeHello(hello, context, draft); }).ok());
  }

  // Something that was sent at some time is answered now, in one way or another.
  void Answer(const Step& step) {
    if (sent_.empty()) return;
    // The latest ones come up more often, so that histories get on.
    const size_t back = step[1] % 2 == 0 ? step[2] % std::min<size_t>(sent_.size(), 4) : step[2] % sent_.size();
    auto [host, result] = sent_[sent_.size() - 1 - back];
    result.set_outcome(Pick({v1::OUTCOME_APPLIED, v1::OUTCOME_RELEASED, v1::OUTCOME_APPLIED, v1::OUTCOME_RELEASED,
                             v1::OUTCOME_DORMANT, v1::OUTCOME_FAILED},
                            step[3]));
    if (result.outcome() == v1::OUTCOME_FAILED) result.mutable_reason()->set_reason("BACKEND_FAILED");

    // What the bookkeeper makes of it.
    const auto vdevice = tables_.Find<v1::Vdevice>(result.name());
    if (vdevice != nullptr && vdevice->uid() == result.uid() && vdevice->generation() == result.generation()) {
      const bool deleting = vdevice->state() == v1::STATE_DELETING;
      if (deleting && result.outcome() == v1::OUTCOME_RELEASED) ledger_.Released(result.uid());
      if (!deleting && (result.outcome() == v1::OUTCOME_APPLIED || result.outcome() == v1::OUTCOME_DORMANT)) {
        ledger_.Applied(*vdevice);
      }
    }
    v1::Results results;
    *results.add_items() = result;
    RC_ASSERT(Run([&, &host = host](const Context& context, Draft& draft) {
                return JudgeResults(host, results, context, draft);
              }).ok());
    ledger_.Check(tables_);
  }

  Tables tables_;
  Ledger ledger_;
  int64_t revision_ = 0;
  int64_t uids_ = 0;
  std::vector<Change> changes_;                               // of the last step
  std::vector<std::pair<std::string, v1::ItemResult>> sent_;  // to which host what was sent, ever
};

void History::Take(const Step& step) {
  const int home = step[1] % 3;
  const bool at_home = step[2] % 4 != 0;
  const std::string& stage2 = kStage2s[step[1] % 4];
  const std::string& viommu = kViommus[static_cast<size_t>(home)];
  const std::string nested = Pick({"n0", "n1"}, step[2]);
  const std::string& host = at_home ? HomeHost(home) : kHosts[step[2] / 4 % 2];
  const std::string smmu = at_home ? HomeSmmu(home) : SmmuOf(host, step[3] % 2);
  const int first_device = at_home && home == 1 ? 2 : 0;
  const std::string device = DeviceOf(host, at_home ? first_device + step[3] % 2 : step[3] % 5);  // there are four
  const uint64_t vdev_id = Pick<uint64_t>({0, 1, 2, 0, 1, 2, 3, 1 << 24, uint64_t{1} << 32}, step[4]);
  const bool cascade = step[4] % 2 == 0;
  switch (step[0] % 22) {
    case 0:
      return Do(CreateStage2(stage2, host, step[4] % 3 == 0 ? "" : smmu, VmOf(step[1] % 4)));
    case 1:
      return Do(CreateViommu(viommu, smmu, kStage2s[at_home ? step[1] % 3 : step[4] % 4],
                             step[4] % 5 == 0 ? v1::VIOMMU_TYPE_TEGRA241_CMDQV : v1::VIOMMU_TYPE_UNSPECIFIED));
    case 2:
    case 3:
    case 4: {
      const auto set = TryDo(SetVdevId(viommu, device, vdev_id));
      if (set.ok()) Assigned(set->vdevice());
      return;
    }
    case 5: {
      v1::BatchSetVdevIdsRequest batch;
      batch.set_viommu(ViommuName(viommu));
      for (uint64_t i = 0; i < 2; ++i) {
        batch.add_assignments()->set_device(DeviceOf(host, (first_device + step[3] % 2 + static_cast<int>(i)) % 4));
        batch.mutable_assignments(static_cast<int>(i))->set_vdev_id(vdev_id + i);
      }
      const auto set = TryDo(batch);
      if (set.ok()) {
        for (const v1::Vdevice& vdevice : set->vdevices()) Assigned(vdevice);
      }
      return;
    }
    case 6:
      return Do(UnsetVdevId(viommu, vdev_id));
    case 7:
    case 8: {
      const auto rebound = TryDo(RebindVdevId(viommu, vdev_id, step[3] % 4));
      if (rebound.ok()) ledger_.Rebind(rebound->vdevice());
      return;
    }
    case 9:
      return Do(CreateNested(viommu, nested));
    case 10:
      return Do(AttachDevice(viommu, nested, device));
    case 11:
      return Do(DetachDevice(viommu, vdev_id));
    case 12:
      return Do(DeleteNested(viommu, nested));
    case 13:
      return Do(DeleteViommu(viommu, cascade));
    case 14:
      return Do(DeleteStage2(stage2, cascade));
    case 15:
      return HelloFrom(step[1], step[2], step[3] & step[4]);
    case 16:
      return Do(CreateHwQueue(viommu, step[3] % 3));
    case 17:
      return Do(DeleteHwQueue(viommu, step[3] % 2));
    default:
      return Answer(step);
  }
}

RC_GTEST_PROP(FleetProperty, EveryHistoryKeepsThePromises, ()) {
  // Every byte at once: left to itself, the generator begins with small ones, and histories with few kinds of steps.
  const auto steps =
      *rc::gen::container<std::vector<Step>>(kSteps, rc::gen::resize(rc::kNominalSize, rc::gen::arbitrary<Step>()));
  History history;
  for (const Step& step : steps) history.Take(step);
}

}  // namespace
}  // namespace viommu::server
