#include <algorithm>
#include <variant>

#include "agent/smmuv3/emulator/permissions.h"
#include "agent/smmuv3/emulator/translation_run.h"
#include "agent/smmuv3/spec/descriptor.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSelectBit = 55;  // of a VA: which table, and what TBI repeats above

constexpr uint64_t LowBits(uint32_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// `base` is where an aligned block begins that `address` lies in, seen from the other side.
constexpr uint64_t Within(uint64_t base, uint64_t address, uint32_t span_log2) {
  return base | (address & LowBits(span_log2));
}

TlbEntry NewEntry(const TlbTag& tag, Granule granule, uint64_t address) {
  TlbEntry entry;
  entry.regime = tag.regime;
  entry.stage = tag.stage;
  entry.vmid = tag.vmid;
  entry.asid = tag.asid;
  entry.aset = tag.aset;
  entry.granule_log2 = static_cast<uint8_t>(GranuleLog2(granule));
  entry.address = address;
  return entry;
}

// The entry of a walk cache for a table that a descriptor has led to.
TlbEntry TableEntry(const TlbTag& tag, Granule granule, uint64_t address, const WalkPosition& reached) {
  TlbEntry entry = NewEntry(tag, granule, address);
  entry.leaf = false;
  entry.level = static_cast<uint8_t>(reached.level - 1);
  entry.lookup_log2 = entry.scope_log2 = static_cast<uint8_t>(LevelShift(granule, reached.level - 1));
  entry.output = reached.table;
  entry.limits = reached.limits;
  return entry;
}

// Where a walk can begin, given what the walk cache has.
WalkPosition StartOf(const TableTree& tree, const TlbEntry* cached) {
  if (cached == nullptr || cached->granule_log2 != GranuleLog2(tree.granule)) return RootOf(tree);
  return {cached->level + 1u, cached->output, cached->limits};
}

}  // namespace

const CdTable* TranslationRun::SelectTable(const Cd& cd, StreamWorld world) const {
  const uint64_t address = transaction_.address;
  const bool high = (address >> kSelectBit & 1) != 0;
  if (high && world == StreamWorld::kEl2) return nullptr;
  const CdTable& table = high ? cd.ttb1 : cd.ttb0;
  // All bits above the input are alike, but for a top byte that is ignored (3.4.1).
  const uint64_t seen = table.tbi ? WithoutTopByte(address) : address;
  // A table that is disabled may have any size, also one that leaves nothing above.
  const uint64_t above = table.tsz == 0 ? 0 : seen >> (64u - table.tsz);
  return above == (high ? LowBits(table.tsz) : 0) ? &table : nullptr;
}

Stage1Reading TranslationRun::Stage1ReadingOf(StreamWorld world) const {
  return {.two_privileges = world != StreamWorld::kEl2, .wxn = cd_->cd.wxn, .pan = cd_->cd.pan};
}

bool TranslationRun::Allows(const Rights& rights) const {
  if (instruction_) return rights.execute;
  return transaction_.write ? rights.write : rights.read;
}

// What an ATS request gets of what there is: it always asks to read; there is no right to execute alone (13.7).
Rights TranslationRun::Asked(const Rights& rights) const {
  return {rights.read, rights.write && transaction_.write, rights.execute && rights.read && transaction_.instruction};
}

bool TranslationRun::Grant(const TlbEntry& entry, const Rights& stage1, const Rights& stage2) {
  const uint64_t address = transaction_.address;
  Rights rights = stage1 & stage2;
  if (purpose_ == Purpose::kAccess) {
    if (!Allows(stage1)) return FailStage1(EventId::kFPermission);
    if (!Allows(stage2)) {
      const uint64_t ipa = route_.stage1 ? Within(entry.ipa, address, entry.lookup_log2) : address;
      return FailStage2(EventId::kFPermission, EventClass::kInput, ipa);
    }
  } else {
    rights = Asked(rights);
    if (!rights.any()) {
      Abort(std::nullopt);
      result_.kind = TranslateResult::Kind::kTranslationFault;
      return false;
    }
  }
  result_.translation = {.output = Within(entry.output, address, entry.lookup_log2),
                         .span_log2 = entry.lookup_log2,
                         .readable = rights.read,
                         .writable = rights.write,
                         .executable = rights.execute,
                         .global = entry.global};
  return true;
}

bool TranslationRun::TranslateStage2Only() {
  if (!hit_.has_value()) {
    translator_.walks_.fetch_add(1, std::memory_order_relaxed);
    const TlbTag tag = TagOf(TlbStage::kStage2Only, ste_->ste, nullptr);
    if (!WalkStage2(transaction_.address, EventClass::kInput, tag, hit_.emplace())) return false;
  }
  return Grant(*hit_, Rights{}, Stage2Rights(hit_->permissions, privileged_));
}

bool TranslationRun::TranslateBothStages() {
  const Cd& cd = cd_->cd;
  const StreamWorld world = StreamWorldOf(ste_->ste, settings_.e2h, features_);
  const CdTable* table = SelectTable(cd, world);
  if (table == nullptr) return FailStage1(EventId::kFTranslation);
  if (!hit_.has_value()) {
    // EPDx: only what is cached translates. EL2 alone has no such switch.
    if (table->disabled && world != StreamWorld::kEl2) return FailStage1(EventId::kFTranslation);
    translator_.walks_.fetch_add(1, std::memory_order_relaxed);
    if (!WalkStage1(*table, world, hit_.emplace())) return false;
  }
  const Rights stage2 = route_.stage2 ? Stage2Rights(hit_->permissions, privileged_) : Rights{};
  return Grant(*hit_, Stage1Rights(hit_->permissions, Stage1ReadingOf(world), privileged_), stage2);
}

bool TranslationRun::WalkStage1(const CdTable& table, StreamWorld world, TlbEntry& entry) {
  const TableTree tree = Stage1Tree(table, cd_->cd, features_);
  const TlbTag tag = TagOf(TlbStage::kStage1, ste_->ste, &cd_->cd);
  const uint64_t va = WithoutTopByte(transaction_.address);
  WalkPosition from;
  {
    MutexLock lock(caches_.mu());
    from = StartOf(tree, caches_.tlb().LookupTable(tag, va));
  }
  uint64_t physical = 0;
  std::vector<TlbEntry> tables;
  const auto read = [&](uint64_t address, RawDescriptor& raw) {
    return ReadWords(address, EventClass::kTable, {&raw, 1}, physical);
  };
  const auto reached = [&](const WalkPosition& position) {
    tables.push_back(TableEntry(tag, tree.granule, va, position));
  };
  const std::variant<WalkLeaf, WalkFault> end = Walk(tree, va, from, read, reached);
  if (const auto* fault = std::get_if<WalkFault>(&end)) {
    const WalkFault at_physical{fault->error, fault->level, physical};
    return FailWalk(at_physical, false, EventClass::kInput, 0);
  }
  const WalkLeaf& leaf = std::get<WalkLeaf>(end);
  const Stage1Leaf attributes = DecodeStage1Leaf(leaf.descriptor);
  entry = NewEntry(tag, tree.granule, va);
  entry.global = world == StreamWorld::kEl2 || !attributes.ng;
  entry.level = static_cast<uint8_t>(leaf.level);
  entry.lookup_log2 = entry.scope_log2 = static_cast<uint8_t>(leaf.span_log2);
  entry.output = leaf.output;
  SetStage1(attributes, leaf.limits, entry.permissions);
  if (route_.stage2) {
    // Stage 2 is not asked about what stage 1 forbids (3.9.1.2, and the order of faults in the VMSA).
    const Rights rights = Stage1Rights(entry.permissions, Stage1ReadingOf(world), privileged_);
    const bool pointless = purpose_ == Purpose::kAccess ? !Allows(rights) : !Asked(rights).any();
    if (pointless) return Grant(entry, rights, Rights{});
    const uint64_t ipa = Within(leaf.output, va, leaf.span_log2);
    Stage2Page page;
    if (!TranslateIpa(ipa, EventClass::kInput, page)) return false;
    entry.lookup_log2 = static_cast<uint8_t>(std::min(leaf.span_log2, page.span_log2));
    entry.ipa = ipa & ~LowBits(entry.lookup_log2);
    entry.output = page.output & ~LowBits(entry.lookup_log2);
    entry.permissions = page.permissions;
    SetStage1(attributes, leaf.limits, entry.permissions);
  }
  Fill(entry, tables);
  return true;
}

bool TranslationRun::TranslateIpa(uint64_t ipa, EventClass cls, Stage2Page& page) {
  const TlbTag tag = TagOf(TlbStage::kStage2Only, ste_->ste, nullptr);
  TlbEntry entry;
  bool found = false;
  {
    MutexLock lock(caches_.mu());
    if (const TlbEntry* cached = caches_.tlb().Lookup(tag, ipa)) {
      entry = *cached;
      found = true;
    }
  }
  if (!found && !WalkStage2(ipa, cls, tag, entry)) return false;
  page.output = Within(entry.output, ipa, entry.lookup_log2);
  page.span_log2 = entry.lookup_log2;
  page.permissions = entry.permissions;
  if (cls == EventClass::kInput) return true;
  // The SMMU's own reads are data; S2PTW keeps them off devices.
  const bool forbidden = !page.permissions.s2_read || (ste_->ste.s2_ptw && page.permissions.s2_device);
  return !forbidden || FailStage2(EventId::kFPermission, cls, ipa);
}

bool TranslationRun::WalkStage2(uint64_t ipa, EventClass cls, const TlbTag& tag, TlbEntry& entry) {
  const Ste& ste = ste_->ste;
  const TableTree tree = Stage2Tree(ste, features_);
  if ((ipa & ~LowBits(tree.input_bits)) != 0) return FailStage2(EventId::kFTranslation, cls, ipa);
  WalkPosition from;
  {
    MutexLock lock(caches_.mu());
    from = StartOf(tree, caches_.tlb().LookupTable(tag, ipa));
  }
  std::vector<TlbEntry> tables;
  const auto read = [&](uint64_t address, RawDescriptor& raw) {
    return ReadPhysical(address, {&raw, 1}) ? ReadResult::kDone : ReadResult::kAbort;
  };
  const auto reached = [&](const WalkPosition& position) {
    tables.push_back(TableEntry(tag, tree.granule, ipa, position));
  };
  const std::variant<WalkLeaf, WalkFault> end = Walk(tree, ipa, from, read, reached);
  if (const auto* fault = std::get_if<WalkFault>(&end)) return FailWalk(*fault, true, cls, ipa);
  const WalkLeaf& leaf = std::get<WalkLeaf>(end);
  entry = NewEntry(tag, tree.granule, ipa);
  entry.level = static_cast<uint8_t>(leaf.level);
  entry.lookup_log2 = entry.scope_log2 = static_cast<uint8_t>(leaf.span_log2);
  entry.output = leaf.output;
  SetStage2(DecodeStage2Leaf(leaf.descriptor), features_.xnx, features_.fwb && ste.s2_fwb, entry.permissions);
  Fill(entry, tables);
  return true;
}

ReadResult TranslationRun::ReadWords(uint64_t address, EventClass cls, std::span<uint64_t> words, uint64_t& physical) {
  physical = address;
  if (route_.stage2) {
    Stage2Page page;
    if (!TranslateIpa(address, cls, page)) return ReadResult::kFault;
    physical = page.output;
  }
  return ReadPhysical(physical, words) ? ReadResult::kDone : ReadResult::kAbort;
}

bool TranslationRun::ReadPhysical(uint64_t address, std::span<uint64_t> words) {
  for (uint64_t& word : words) {
    if (!translator_.memory_->ReadWord(address, word)) return false;
    address += sizeof(word);
  }
  return true;
}

void TranslationRun::Fill(const TlbEntry& leaf, const std::vector<TlbEntry>& tables) {
  MutexLock lock(caches_.mu());
  if (!caches_.MayFill(epoch_)) return;
  for (const TlbEntry& table : tables) caches_.tlb().Insert(table);
  caches_.tlb().Insert(leaf);
}

}  // namespace viommu::smmuv3
