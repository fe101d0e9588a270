// Guests' memory, and the hardware queues in it.

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "agent/errno_status.h"
#include "agent/reconcile/realizer.h"
#include "common/error.h"
#include "common/log.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kPageMask = VmMemory::kPageBytes - 1;

absl::Status BackendFailed(absl::StatusCode code, Operation operation, const absl::Status& status) {
  return Error(code, v1::ERROR_REASON_BACKEND_FAILED)
      .Message("{}", std::string(status.message()))
      .Meta("errno", std::to_string(StatusErrno(status)))
      .Meta("operation", OperationName(operation));
}

bool IsUsers(const journal::VmUser& whose, VmMemory::User user) {
  return user.has_value() ? whose.has_uid() && whose.uid() == *user : whose.privileged();
}

// A range as the journal knows it. Without a file that can be told from others it is no range's like.
journal::KeptRange DescribeRange(uint64_t iova, const VmMemory::Range& range) {
  journal::KeptRange kept;
  kept.set_iova(iova);
  kept.set_length(range.length);
  kept.set_offset(range.offset);
  kept.set_readable(range.readable);
  kept.set_writable(range.writable);
  struct stat file = {};
  if (::fstat(range.file->get(), &file) == 0) {
    kept.set_file_device(file.st_dev);
    kept.set_file_inode(file.st_ino);
  }
  return kept;
}

bool SameRange(const journal::KeptRange& kept, const VmMemory::Range& range) {
  const journal::KeptRange now = DescribeRange(kept.iova(), range);
  return now.file_inode() != 0 && now.file_inode() == kept.file_inode() && now.file_device() == kept.file_device() &&
         now.length() == kept.length() && now.offset() == kept.offset() && now.readable() == kept.readable() &&
         now.writable() == kept.writable();
}

absl::StatusOr<FileDescriptor> Duplicate(int fd) {
  FileDescriptor duplicate(::dup(fd));
  if (duplicate.valid()) return duplicate;
  return ErrnoStatus(errno, "dup", "the queue's memory cannot be handed out");
}

}  // namespace

absl::Status Realizer::CheckUser(VmMemory::User user, const std::string& vm) const {
  const auto whose = held_.vm_users().find(vm);
  if (!user.has_value() || whose == held_.vm_users().end() || IsUsers(whose->second, user)) return absl::OkStatus();
  return Error(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_AUTHORIZED)
      .Message(
          "VM '{}' is not user {}'s: another one has handed memory of it over first; VMMs of one VM run as one user",
          vm, *user)
      .Meta("uid", std::to_string(*user));
}

absl::Status Realizer::CheckReaderOf(VmMemory::User user, const std::string& vm) const {
  VIOMMU_RETURN_IF_ERROR(CheckUser(user, vm));
  const auto memory = memory_.find(vm);
  return memory == memory_.end() ? VmMemory().CheckReader(user) : memory->second.CheckReader(user);
}

absl::Status Realizer::NoteUser(VmMemory::User user, const std::string& vm) {
  if (held_.vm_users().contains(vm)) return absl::OkStatus();
  journal::VmUser note;
  note.set_vm(vm);
  if (user.has_value()) {
    note.set_uid(*user);
  } else {
    note.set_privileged(true);
  }
  const absl::Status status = hooks_.note_user(std::move(note));
  if (status.ok()) return status;
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE)
      .Message("it cannot be written down whose VM '{}' is: {}", vm, std::string(status.message()));
}

bool Realizer::Knows(const std::string& vm) const {
  if (contexts_.contains(vm)) return true;
  return std::any_of(held_.items().begin(), held_.items().end(), [&](const auto& entry) {
    const HeldItem& item = entry.second;
    return item.kind == ItemKind::kStage2Domain && !item.deleting && item.resource.stage2_domain().vm() == vm;
  });
}

void Realizer::NoteNobody(const std::string& vm) {
  journal::VmUser note;
  note.set_vm(vm);
  note.set_nobody(true);
  // Unwritten, it stays whose it was.
  if (const absl::Status status = hooks_.note_user(std::move(note)); !status.ok()) {
    VIOMMU_LOG(kWarning, "journal write failed", {{"record", "vm_user"}, {"vm", vm}, {"status", status}});
  }
}

void Realizer::ForgetUserIfGone(const std::string& vm, std::optional<VmMemory::User> last) {
  const auto whose = held_.vm_users().find(vm);
  if (whose == held_.vm_users().end()) return;
  if (const auto memory = memory_.find(vm); memory != memory_.end() && memory->second.HandedOver()) return;
  if ((last.has_value() && IsUsers(whose->second, *last)) || !Knows(vm)) NoteNobody(vm);
}

void Realizer::ForgetUsers(const std::string& boot_id) {
  std::vector<std::string> gone;
  for (const auto& [vm, user] : held_.vm_users()) {
    if (user.boot_id() != boot_id || !Knows(vm)) gone.push_back(vm);
  }
  for (const std::string& vm : gone) NoteNobody(vm);
}

absl::Status Realizer::MapMemory(const std::string& vm, uint64_t iova, VmMemory::Range range,
                                 std::vector<std::string>& ended) {
  if (!memory_.contains(vm) && memory_.size() >= kMaxVms) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("the memory of {} VMs is known already, and no more are taken", memory_.size())
        .Meta("limit", std::to_string(kMaxVms));
  }
  VIOMMU_RETURN_IF_ERROR(CheckUser(range.user, vm));
  // What one who is gone has left would be in the way.
  if (const auto found = memory_.find(vm); found != memory_.end() && !found->second.Leaving().empty()) TidyMemory(vm);
  if (ReasonOf(memory_[vm].Check(iova, range)) == v1::ERROR_REASON_MEMORY_TAKEN) {
    MakeWay(vm, iova, range.length, ended);
  }
  VmMemory& memory = memory_[vm];
  VIOMMU_RETURN_IF_ERROR(memory.Check(iova, range));
  const bool first = !held_.vm_users().contains(vm);
  VIOMMU_RETURN_IF_ERROR(NoteUser(range.user, vm));
  const auto found = contexts_.find(vm);
  if (found != contexts_.end() && found->second.ioas != 0) {
    const absl::StatusOr<bool> claimed = Claim(vm, iova, range);
    const absl::Status mapped = !claimed.ok() ? claimed.status() : *claimed ? absl::OkStatus() : Map(vm, iova, range);
    if (!mapped.ok()) {
      if (first) ForgetUserIfGone(vm, range.user);
      return BackendFailed(absl::StatusCode::kInvalidArgument, Operation::kMapMemory, mapped);
    }
    ++changes_;
  }
  memory.Add(iova, std::move(range));
  return absl::OkStatus();
}

void Realizer::MakeWay(const std::string& vm, uint64_t iova, uint64_t length, std::vector<std::string>& ended) {
  std::vector<std::string> in_the_way;
  for (const auto& [start, range] : memory_.at(vm).ranges()) {
    const bool apart = start < iova ? iova - start >= range.length : start - iova >= length;
    if (apart) continue;
    if (range.owner != VmMemory::kAgent && !range.leaving) return;  // somebody's, who is there
    for (const auto& [uid, queue] : queues_) {
      if (queue.vm == vm && queue.iova < start + range.length && start < queue.iova + queue.length) {
        in_the_way.push_back(uid);
      }
    }
  }
  for (const std::string& uid : in_the_way) EndQueue(uid, ended);
}

void Realizer::EndQueue(const std::string& uid, std::vector<std::string>& ended) {
  const HeldItem* item = held_.Find(uid);
  if (item == nullptr || Find(uid) == nullptr) return;
  const std::set<std::string> above = objects_.StandingOn(uid);
  for (const std::string& next : above) EndQueue(next, ended);
  if (Release(*item).kind == Step::Kind::kReleased) ended.push_back(uid);
}

std::map<std::string, uint64_t> Realizer::UnclaimedBytes() const {
  std::map<std::string, uint64_t> bytes;
  for (const auto& [name, vm] : contexts_) {
    for (const auto& [iova, range] : vm.unclaimed) bytes[name] += range.length();
  }
  return bytes;
}

absl::StatusOr<bool> Realizer::Claim(const std::string& vm, uint64_t iova, const VmMemory::Range& range) {
  auto& unclaimed = contexts_.at(vm).unclaimed;
  if (const auto same = unclaimed.find(iova); same != unclaimed.end() && SameRange(same->second, range)) {
    unclaimed.erase(same);
    return true;
  }
  // From the first that ends behind the beginning; VmMemory::Check() has seen that nothing overflows.
  for (auto it = unclaimed.begin(); it != unclaimed.end() && it->first < iova + range.length;) {
    const auto [start, length] = std::pair(it->first, it->second.length());
    ++it;
    if (start + length <= iova) continue;
    VIOMMU_RETURN_IF_ERROR(Unmap(vm, start, length));
    unclaimed.erase(start);
  }
  return false;
}

absl::Status Realizer::Map(const std::string& vm, uint64_t iova, const VmMemory::Range& range) {
  const Vm& context = contexts_.at(vm);
  VIOMMU_RETURN_IF_ERROR(NoteChanging(vm, Operation::kMapMemory));
  if (absl::Status status = context.context->MapIoas(context.ioas, iova, range.length, range.handle()); !status.ok()) {
    NoteSettled(vm);
    return status;
  }
  NoteMapped(vm, iova, range);
  return absl::OkStatus();
}

void Realizer::NoteMapped(const std::string& vm, uint64_t iova, const VmMemory::Range& range) {
  if (!contexts_.at(vm).kept) return;
  journal::Kept note;
  *note.mutable_mapped() = DescribeRange(iova, range);
  Note(vm, std::move(note));
}

void Realizer::NoteMemory(const std::string& vm) {
  if (!contexts_.at(vm).kept) return;
  if (const auto memory = memory_.find(vm); memory != memory_.end()) {
    for (const auto& [iova, range] : memory->second.ranges()) NoteMapped(vm, iova, range);
  }
  journal::Kept note;
  note.set_ioas(contexts_.at(vm).ioas);
  Note(vm, std::move(note));
}

absl::Status Realizer::MapEverything(Context& context, ObjectId ioas, const std::string& vm) {
  const auto memory = memory_.find(vm);
  if (memory == memory_.end()) return absl::OkStatus();
  for (const auto& [iova, range] : memory->second.ranges()) {
    VIOMMU_RETURN_IF_ERROR(context.MapIoas(ioas, iova, range.length, range.handle()));
  }
  return absl::OkStatus();
}

absl::Status Realizer::Unmap(const std::string& vm, uint64_t iova, uint64_t length) {
  const auto found = contexts_.find(vm);
  if (found == contexts_.end() || found->second.ioas == 0) return absl::OkStatus();
  VIOMMU_RETURN_IF_ERROR(NoteChanging(vm, Operation::kMapMemory));
  ++changes_;
  if (absl::Status status = found->second.context->UnmapIoas(found->second.ioas, iova, length).status(); !status.ok()) {
    NoteSettled(vm);
    return status;
  }
  journal::Kept note;
  note.set_unmapped(iova);
  Note(vm, std::move(note));
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Realizer::UnmapMemory(VmMemory::Owner owner, const std::string& vm, uint64_t iova,
                                               uint64_t length) {
  const auto memory = memory_.find(vm);
  if (memory == memory_.end()) return VmMemory().Inside(owner, iova, length).status();
  VIOMMU_ASSIGN_OR_RETURN(const std::vector<uint64_t> inside, memory->second.Inside(owner, iova, length));
  const VmMemory::User user = memory->second.ranges().at(inside.front()).user;
  uint64_t bytes = 0;
  for (const uint64_t start : inside) {
    const uint64_t of_this = memory->second.ranges().at(start).length;
    if (const absl::Status status = Unmap(vm, start, of_this); !status.ok()) {
      return BackendFailed(absl::StatusCode::kFailedPrecondition, Operation::kMapMemory, status);
    }
    memory->second.Erase(start);
    bytes += of_this;
  }
  ForgetUserIfGone(vm, user);
  return bytes;
}

void Realizer::ForgetOwner(VmMemory::Owner owner) {
  for (const OpenVintf& open : std::exchange(open_vintfs_[owner], {})) {
    // A viommu that was made anew knows nothing of it.
    const Made* viommu = Find(open.viommu);
    if (viommu == nullptr || viommu->id != open.id) continue;
    static_cast<void>(contexts_.at(open.vm).context->UnmapVintf(open.id));
    ++changes_;
  }
  open_vintfs_.erase(owner);
  std::map<std::string, VmMemory::User> vms;
  for (auto& [vm, memory] : memory_) {
    for (const uint64_t iova : memory.Of(owner)) {
      memory.SetLeaving(iova);
      vms[vm] = memory.ranges().at(iova).user;
    }
  }
  for (const auto& [vm, user] : vms) {
    TidyMemory(vm);
    ForgetUserIfGone(vm, user);
  }
}

void Realizer::TidyMemory(const std::string& vm) {
  const auto found = memory_.find(vm);
  if (found == memory_.end()) return;
  VmMemory& memory = found->second;
  std::vector<uint64_t> gone = memory.Leaving();
  for (const uint64_t iova : memory.Of(VmMemory::kAgent)) {
    const uint64_t length = memory.ranges().at(iova).length;
    bool used = false;
    for (const auto& [uid, queue] : queues_) {
      used = used || (queue.vm == vm && queue.iova >= iova && queue.iova - iova < length);
    }
    if (!used) gone.push_back(iova);
  }
  // What the backend does not let go of, because a queue lies in it, is tried again when that goes, or when somebody
  // hands memory of the VM over.
  for (const uint64_t iova : gone) {
    if (Unmap(vm, iova, memory.ranges().at(iova).length).ok()) memory.Erase(iova);
  }
  if (memory.ranges().empty()) memory_.erase(found);
}

absl::Status Realizer::SupplyMemory(Vm& vm, VmMemory& memory, uint64_t iova, uint64_t length) {
  const uint64_t start = iova & ~kPageMask;
  VmMemory::Range range;
  range.length = ((iova - start + length - 1) | kPageMask) + 1;
  if (!memory.IsFree(start, range.length)) return absl::OkStatus();
  FileDescriptor file(::memfd_create("viommu-hw-queue", MFD_CLOEXEC));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(range.length)) != 0) {
    return ErrnoStatus(errno, "memfd_create", "there is no memory for the queue");
  }
  range.file = std::make_shared<const FileDescriptor>(std::move(file));
  VIOMMU_RETURN_IF_ERROR(memory.Check(start, range));
  VIOMMU_RETURN_IF_ERROR(vm.context->MapIoas(vm.ioas, start, range.length, range.handle()));
  // Not noted: a context with hardware queues is in doubt in any case (kept.h).
  memory.Add(start, std::move(range));
  return absl::OkStatus();
}

Step Realizer::AdvanceHwQueue(const HeldItem& item) {
  if (Find(item.uid()) != nullptr) return {.kind = Step::Kind::kApplied};
  const auto& queue = item.resource.hw_queue();
  const HeldItem* viommu = held_.FindLive(queue.viommu());
  if (viommu == nullptr) return WaitFor(nullptr, queue.viommu());
  if (auto step = WaitForEnd(viommu)) return *step;
  const Made* below = Find(viommu->uid());
  if (below == nullptr) {
    if (DeviceOfViommu(viommu->uid()) == 0) return {.kind = Step::Kind::kDormant};
    return WaitFor(viommu, queue.viommu());
  }
  // A queue stands on the one with the next lower index, so that they go in the reverse order.
  std::string parent = viommu->uid();
  if (queue.index() > 0) {
    const std::string lower_name = fmt::format("{}/hwQueues/{}", queue.viommu(), queue.index() - 1);
    const HeldItem* lower = held_.FindLive(lower_name);
    if (lower == nullptr || FindCurrent(lower->uid()) == nullptr) return WaitFor(lower, lower_name);
    parent = lower->uid();
  }
  Made made = {.kind = ItemKind::kHwQueue, .vm = below->vm, .parent = parent};
  Vm& vm = contexts_.at(made.vm);
  const auto supplied = Try(item, made.vm, Operation::kMapMemory, [&] {
    return SupplyMemory(vm, memory_[made.vm], queue.nesting_parent_iova(), queue.length_bytes());
  });
  if (supplied) return *supplied;
  const auto failure = Try(item, made.vm, Operation::kAllocHwQueue, [&]() -> absl::Status {
    auto id = vm.context->AllocHwQueue(below->id, HwQueueType::kTegra241Cmdqv, queue.index(),
                                       queue.nesting_parent_iova(), queue.length_bytes());
    if (!id.ok()) return id.status();
    made.id = *id;
    return absl::OkStatus();
  });
  if (failure) {
    TidyMemory(made.vm);
    return *failure;
  }
  queues_[item.uid()] = {made.vm, queue.nesting_parent_iova(), queue.length_bytes()};
  objects_.Add(item.uid(), made);
  NoteObjects(made.vm, item.uid());
  return {.kind = Step::Kind::kApplied};
}

absl::StatusOr<OpenedHwQueue> Realizer::OpenHwQueue(VmMemory::Owner owner, VmMemory::User user,
                                                    const std::string& name) {
  const HeldItem* item = held_.FindLive(name);
  if (item == nullptr || item->kind != ItemKind::kHwQueue) {
    return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_HW_QUEUE_NOT_FOUND)
        .Message("this host holds no hardware queue {}", name)
        .Meta("name", name);
  }
  const auto& queue = item->resource.hw_queue();
  const Made* made = Find(item->uid());
  const HeldItem* viommu = held_.FindLive(queue.viommu());
  const Made* below = viommu == nullptr ? nullptr : Find(viommu->uid());
  if (made == nullptr || below == nullptr) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_NOT_REALIZED)
        .Message("{} is not made yet; it is, along with its viommu's first vdevice", name)
        .Meta("name", name);
  }
  VIOMMU_RETURN_IF_ERROR(CheckReaderOf(user, made->vm));
  uint64_t start = 0;
  const VmMemory::Range* range = memory_[made->vm].Covering(queue.nesting_parent_iova(), queue.length_bytes(), start);
  if (range == nullptr) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_MEMORY_NOT_MAPPED)
        .Message("the memory of {} lies in more than one range, and can be handed out in one piece only", name);
  }
  OpenedHwQueue opened;
  VIOMMU_ASSIGN_OR_RETURN(opened.memory, Duplicate(range->file->get()));
  const auto mapping = contexts_.at(made->vm).context->MapVintf(below->id);
  if (!mapping.ok()) {
    return BackendFailed(absl::StatusCode::kUnavailable, Operation::kAllocHwQueue, mapping.status());
  }
  open_vintfs_[owner].push_back({made->vm, viommu->uid(), below->id});
  opened.registers = FileDescriptor(mapping->fd);
  opened.registers_offset = mapping->offset;
  opened.registers_length = mapping->length;
  opened.memory_offset = range->offset + (queue.nesting_parent_iova() - start);
  opened.memory_length = queue.length_bytes();
  opened.index = queue.index();
  return opened;
}

}  // namespace viommu::agent
