#include "agent/reconcile/held_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/mutation.h"

namespace viommu::agent {

using journal::Record;

Verdict HeldState::Judge(const v1::Resource& item) const {
  const int64_t generation = GenerationOf(item);
  if (const HeldItem* held = Find(UidOf(item))) {
    if (generation > held->generation()) return Verdict::kAccept;
    if (generation < held->generation()) return Verdict::kStale;
    // A deletion under the same generation can only mean more of the same: towards gone is always the safe way.
    return IsDeleting(item) && !held->deleting ? Verdict::kAccept : Verdict::kSame;
  }
  if (IsDeleting(item)) return Verdict::kGone;
  if (generation <= floor_ || generation <= ReleasedGeneration(UidOf(item))) return Verdict::kReleased;
  const auto named = released_name_generation_.find(NameOf(item));
  if (named != released_name_generation_.end() && generation <= named->second) return Verdict::kReleased;
  return Verdict::kAccept;
}

absl::Status HeldState::Check(const Record& record) const {
  switch (record.kind_case()) {
    case Record::kIdentity:
    case Record::kReleased:
    case Record::kSynced:
    case Record::kVmUser:
      return absl::OkStatus();
    case Record::kIntent:
      for (const auto& item : record.intent().items()) {
        if (!IsHeldKind(item) || UidOf(item).empty() || NameOf(item).empty()) {
          return absl::FailedPreconditionError("an intent without a resource that an agent can hold");
        }
      }
      return absl::OkStatus();
    case Record::kAct:
      if (items_.contains(record.act().uid())) return absl::OkStatus();
      return absl::FailedPreconditionError(fmt::format("an act for {}, which is not held", record.act().uid()));
    case Record::kDone:
      if (record.done().released() || items_.contains(record.done().uid())) return absl::OkStatus();
      return absl::FailedPreconditionError(fmt::format("an end for {}, which is not held", record.done().uid()));
    case Record::kKept:
      if (record.kept().change_case() == journal::Kept::kOpened || kept_.contains(record.kept().vm())) {
        return absl::OkStatus();
      }
      return absl::FailedPreconditionError(
          fmt::format("a change of the context of {}, which is not kept", record.kept().vm()));
    case Record::KIND_NOT_SET:
      break;
  }
  return absl::FailedPreconditionError("a record of an unknown kind");
}

absl::Status HeldState::Apply(const Record& record) {
  if (absl::Status status = Check(record); !status.ok()) return status;
  switch (record.kind_case()) {
    case Record::kIdentity:
      identity_ = record.identity();
      break;
    case Record::kIntent:
      ApplyIntent(record.intent());
      break;
    case Record::kAct: {
      HeldItem& item = items_.at(record.act().uid());
      if (item.generation() == record.act().generation()) item.acted = true;
      break;
    }
    case Record::kDone:
      ApplyDone(record.done());
      break;
    case Record::kReleased:
      floor_ = std::max(floor_, record.released().floor_generation());
      for (const auto& tombstone : record.released().tombstones()) {
        AddTombstone(tombstone.uid(), tombstone.name(), tombstone.generation());
      }
      break;
    case Record::kSynced:
      synced_ = record.synced();
      Collapse();
      break;
    case Record::kKept:
      ApplyKept(record.kept());
      break;
    case Record::kVmUser:
      vm_users_.erase(record.vm_user().vm());
      if (!record.vm_user().nobody()) vm_users_.emplace(record.vm_user().vm(), record.vm_user());
      break;
    case Record::KIND_NOT_SET:
      break;
  }
  return absl::OkStatus();
}

void HeldState::ApplyDone(const journal::Done& done) {
  const auto it = items_.find(done.uid());
  if (!done.released()) {
    if (it->second.generation() != done.generation()) return;
    it->second.done = true;
    it->second.kernel_ids = {done.kernel_ids().begin(), done.kernel_ids().end()};
    return;
  }
  const std::string name = it != items_.end() ? it->second.name() : done.name();
  const int64_t generation =
      it != items_.end() ? std::max(done.generation(), it->second.generation()) : done.generation();
  Erase(done.uid());
  AddTombstone(done.uid(), name, generation);
}

void HeldState::ApplyKept(const journal::Kept& kept) {
  using journal::Kept;
  if (kept.change_case() == Kept::kClosed) {
    kept_.erase(kept.vm());
    return;
  }
  KeptState& state = kept_[kept.vm()];
  // Ends with any other record, but for what is mapped in an IOAS that is being made: that comes last.
  if (kept.change_case() != Kept::kMapped || state.ioas != 0) state.changing = kept.changing();
  switch (kept.change_case()) {
    case Kept::kOpened:
      state = {.key = kept.opened().key(), .boot_id = kept.opened().boot_id()};
      break;
    case Kept::kIoas:
      state.ioas = kept.ioas();
      if (state.ioas == 0) state.ranges.clear();
      break;
    case Kept::kObject:
      state.objects[kept.object().uid()] = kept.object();
      break;
    case Kept::kGone:
      state.objects.erase(kept.gone());
      break;
    case Kept::kMapped:
      state.ranges[kept.mapped().iova()] = kept.mapped();
      break;
    case Kept::kUnmapped:
      state.ranges.erase(kept.unmapped());
      break;
    case Kept::kChanging:
    case Kept::kSettled:
    case Kept::kClosed:
    case Kept::CHANGE_NOT_SET:
      break;
  }
}

void HeldState::SnapshotKept(std::vector<Record>& records) const {
  for (const auto& [vm, state] : kept_) {
    const auto add = [&records, &vm = vm]() -> journal::Kept& {
      journal::Kept& kept = *records.emplace_back().mutable_kept();
      kept.set_vm(vm);
      return kept;
    };
    journal::KeptOpened& opened = *add().mutable_opened();
    opened.set_key(state.key);
    opened.set_boot_id(state.boot_id);
    if (state.ioas != 0) add().set_ioas(state.ioas);
    for (const auto& [uid, object] : state.objects) *add().mutable_object() = object;
    for (const auto& [iova, range] : state.ranges) *add().mutable_mapped() = range;
    if (!state.changing.empty()) add().set_changing(state.changing);
  }
}

void HeldState::ApplyIntent(const journal::Intent& intent) {
  for (const auto& item : intent.items()) Put(item);
  for (const auto& uid : intent.orphans()) {
    const auto it = items_.find(uid);
    if (it == items_.end() || it->second.deleting) continue;
    v1::Resource resource = it->second.resource;
    SetDeleting(resource);
    Put(resource);
  }
}

void HeldState::Put(const v1::Resource& resource) {
  const std::string& uid = UidOf(resource);
  HeldItem& item = items_[uid];
  // A rebind changes the name and keeps the uid.
  if (item.resource.kind_case() != v1::Resource::KIND_NOT_SET) {
    OutdateKept(item.resource, resource);
    const auto live = live_uid_.find(item.name());
    if (live != live_uid_.end() && live->second == uid) live_uid_.erase(live);
  }
  item.resource = resource;
  item.kind = KindOf(resource);
  item.deleting = IsDeleting(resource);
  item.acted = false;
  item.done = false;
  if (!item.deleting) live_uid_[NameOf(resource)] = uid;
}

void HeldState::OutdateKept(const v1::Resource& held, const v1::Resource& next) {
  if (held.kind_case() == next.kind_case() && ChangedImmutableField(held, next).empty()) return;
  for (auto& [vm, state] : kept_) {
    const auto object = state.objects.find(UidOf(next));
    if (object != state.objects.end()) object->second.set_outdated(true);
  }
}

void HeldState::Erase(const std::string& uid) {
  const auto it = items_.find(uid);
  if (it == items_.end()) return;
  const auto live = live_uid_.find(it->second.name());
  if (live != live_uid_.end() && live->second == uid) live_uid_.erase(live);
  items_.erase(it);
}

void HeldState::AddTombstone(const std::string& uid, const std::string& name, int64_t generation) {
  if (Mutated(Mutation::kForgetTombstone)) return;
  auto& tombstone = tombstones_[uid];
  if (!tombstone.uid().empty()) {
    tombstones_by_generation_.erase({tombstone.generation(), uid});
    generation = std::max(generation, tombstone.generation());
  }
  tombstone.set_uid(uid);
  tombstone.set_name(name);
  tombstone.set_generation(generation);
  tombstones_by_generation_.insert({generation, uid});
  auto& named = released_name_generation_[name];
  named = std::max(named, generation);
  Collapse();
}

void HeldState::Collapse() {
  while (tombstones_by_generation_.size() > kMaxTombstones) {
    const auto oldest = *tombstones_by_generation_.begin();
    if (oldest.first > synced_.revision() && tombstones_by_generation_.size() <= kMaxUnsyncedTombstones) return;
    floor_ = std::max(floor_, oldest.first);
    const auto it = tombstones_.find(oldest.second);
    const auto named = released_name_generation_.find(it->second.name());
    if (named != released_name_generation_.end() && named->second <= floor_) released_name_generation_.erase(named);
    tombstones_.erase(it);
    tombstones_by_generation_.erase(tombstones_by_generation_.begin());
  }
}

std::vector<Record> HeldState::Snapshot() const {
  // Frames stay far below the journal's limit on them.
  constexpr int kPerRecord = 256;
  std::vector<Record> records(1);
  *records.back().mutable_identity() = identity_;
  if (floor_ > 0) records.emplace_back().mutable_released()->set_floor_generation(floor_);
  journal::Released* released = nullptr;
  for (const auto& [generation, uid] : tombstones_by_generation_) {
    if (released == nullptr || released->tombstones_size() == kPerRecord) {
      released = records.emplace_back().mutable_released();
    }
    *released->add_tombstones() = tombstones_.at(uid);
  }
  journal::Intent* intent = nullptr;
  for (const auto& [uid, item] : items_) {
    if (intent == nullptr || intent->items_size() == kPerRecord) intent = records.emplace_back().mutable_intent();
    *intent->add_items() = item.resource;
  }
  for (const auto& [uid, item] : items_) {
    if (item.acted) {
      auto* act = records.emplace_back().mutable_act();
      act->set_uid(uid);
      act->set_generation(item.generation());
    }
    if (item.done) {
      auto* done = records.emplace_back().mutable_done();
      done->set_uid(uid);
      done->set_generation(item.generation());
      done->mutable_kernel_ids()->insert(item.kernel_ids.begin(), item.kernel_ids.end());
    }
  }
  SnapshotKept(records);
  for (const auto& [vm, user] : vm_users_) *records.emplace_back().mutable_vm_user() = user;
  // Last, because it is what lets tombstones collapse.
  *records.emplace_back().mutable_synced() = synced_;
  return records;
}

const HeldItem* HeldState::Find(std::string_view uid) const {
  const auto it = items_.find(std::string(uid));
  return it == items_.end() ? nullptr : &it->second;
}

const HeldItem* HeldState::FindLive(std::string_view name) const {
  const auto it = live_uid_.find(std::string(name));
  return it == live_uid_.end() ? nullptr : Find(it->second);
}

int64_t HeldState::ReleasedGeneration(std::string_view uid) const {
  const auto it = tombstones_.find(std::string(uid));
  return it == tombstones_.end() ? 0 : it->second.generation();
}

int64_t HeldState::newest_release() const {
  return tombstones_by_generation_.empty() ? floor_ : tombstones_by_generation_.rbegin()->first;
}

int64_t HeldState::told_revision() const { return std::max(synced_.revision(), newest_release()); }

}  // namespace viommu::agent
