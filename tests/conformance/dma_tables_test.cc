// Accesses through tables: bypass, abort, granules and levels, permissions, context descriptors.

#include <cstring>
#include <vector>

#include "agent/smmuv3/spec/id_registers.h"
#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

using smmuv3::S1Fmt;

// ---- Without stage 1 ------------------------------------------------------------------------------------------------

class DmaStage2 : public DmaSuite {};
CONFORMANCE_RIGS(DmaStage2);

TEST_P(DmaStage2, BoundAndNotAttachedIsBlocked) {
  vm().Bind(A0());
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, AttachedToAnIoas) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t page = memory().Filled(kOld);
  ASSERT_OK(vm()->Attach(device, vm().ioas()));
  EXPECT_EQ(Read(page), kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(memory().Read(page), kNew);
}

TEST_P(DmaStage2, AttachedToAStage2) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t page = memory().Filled(kOld);
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  EXPECT_EQ(Read(page + 8), kOld);
  EXPECT_TRUE(Write(page + 8, kNew));
  EXPECT_EQ(memory().Read(page + 8), kNew);
  EXPECT_EQ(memory().Read(page), kOld);
}

TEST_P(DmaStage2, AWholePage) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t from = memory().Filled(kOld);
  const uint64_t to = memory().Filled(kNew);
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  std::vector<std::byte> bytes(4096);
  EXPECT_TRUE(rig().dma()->Read({.device = A0(), .address = from}, bytes).ok);
  EXPECT_TRUE(rig().dma()->Write({.device = A0(), .address = to}, bytes).ok);
  for (uint64_t at = 0; at < 4096; at += 8) ASSERT_EQ(memory().Read(to + at), kOld) << at;
}

TEST_P(DmaStage2, AcrossAPage) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t pages = memory().Filled(kOld, 8192);
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  std::vector<std::byte> bytes(4096);
  EXPECT_TRUE(rig().dma()->Read({.device = A0(), .address = pages + 2048}, bytes).ok);
  uint64_t last = 0;
  std::memcpy(&last, &bytes[4088], 8);
  EXPECT_EQ(last, kOld);
}

TEST_P(DmaStage2, WhereNothingIsMapped) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  EXPECT_EQ(Read(kMemoryBase - 4096), kRefused);
  EXPECT_EQ(Read(kMemoryBase + kMemoryBytes), kRefused);
  EXPECT_EQ(Read(0), kRefused);
  EXPECT_FALSE(Write(kMemoryBase + kMemoryBytes, 1));
}

TEST_P(DmaStage2, MappedReadableAlone) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(4096);
  MemoryHandle handle = file.handle();
  handle.writable = false;
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, handle));
  EXPECT_EQ(Read(0x8000'0000), 0u);
  EXPECT_FALSE(Write(0x8000'0000, kNew));
  EXPECT_EQ(Read(0x8000'0000), 0u);
}

TEST_P(DmaStage2, AMappingMadeWhileAttached) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
  MemoryFile file(4096);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  EXPECT_EQ(Read(0x8000'0000), 0u);
}

TEST_P(DmaStage2, AMappingAtAnOffsetOfItsFile) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(4 * 4096);
  std::memcpy(file.data() + 3 * 4096, &kNew, 8);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle(3 * 4096)));
  EXPECT_EQ(Read(0x8000'0000), kNew);
}

TEST_P(DmaStage2, AMappingWhoseFileIsClosed) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  {
    MemoryFile file(4096);
    std::memcpy(file.data(), &kOld, 8);
    ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  }
  EXPECT_EQ(Read(0x8000'0000), kOld);
  EXPECT_TRUE(Write(0x8000'0000, kNew));
  EXPECT_EQ(Read(0x8000'0000), kNew);
}

TEST_P(DmaStage2, UnmapIsSeenAtOnce) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(4096);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_EQ(Read(0x8000'0000), 0u);
  ASSERT_OK(vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 4096));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
}

TEST_P(DmaStage2, OtherMemoryAtTheSameAddress) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(2 * 4096);
  std::memcpy(file.data(), &kOld, 8);
  std::memcpy(file.data() + 4096, &kNew, 8);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_EQ(Read(0x8000'0000), kOld);
  ASSERT_OK(vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 4096));
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle(4096)));
  EXPECT_EQ(Read(0x8000'0000), kNew);
}

TEST_P(DmaStage2, DetachBlocks) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  ASSERT_EQ(Read(kMemoryBase), 0u);
  ASSERT_OK(vm()->Detach(device));
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, UnbindBlocks) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  ASSERT_EQ(Read(kMemoryBase), 0u);
  ASSERT_OK(vm()->UnbindDevice(A0()));
  vm().Bind(A0());
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, CloseBlocks) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  ASSERT_EQ(Read(kMemoryBase), 0u);
  vm().Close();
  Vm next(Open());
  next.Bind(A0());
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, EachVmHasItsOwnMemory) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  Vm other(Open());
  GuestMemory others(other.memory());
  const ObjectId theirs = other.Bind(a1);
  ASSERT_OK(other->Attach(theirs, other.Stage2(theirs)));
  const uint64_t page = memory().Filled(kOld);
  ASSERT_EQ(others.Filled(kNew), page);
  EXPECT_EQ(Read(page), kOld);
  EXPECT_EQ(Read({.device = a1, .address = page}), kNew);
}

TEST_P(DmaStage2, TwoDevicesShareOneVm) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  const ObjectId one = vm().Bind(A0());
  const ObjectId other = vm().Bind(a1);
  const ObjectId stage2 = vm().Stage2(one);
  ASSERT_OK(vm()->Attach(one, stage2));
  ASSERT_OK(vm()->Attach(other, stage2));
  const uint64_t page = memory().Filled(kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(Read({.device = a1, .address = page}), kNew);
}

TEST_P(DmaStage2, TwoSmmusShareOneVm) {
  NEED_DEVICE(b0, Role::kB0);
  NEED_DMA(b0);
  const ObjectId one = vm().Bind(A0());
  const ObjectId other = vm().Bind(b0);
  const ObjectId stage2 = vm().Stage2(one);
  ASSERT_OK(vm()->Attach(one, stage2));
  ASSERT_OK(vm()->Attach(other, expect().foreign_stage2 == 0 ? stage2 : vm().Stage2(other)));
  const uint64_t page = memory().Filled(kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(Read({.device = b0, .address = page}), kNew);
}

TEST_P(DmaStage2, UnmapReachesEverySmmu) {
  NEED_DEVICE(b0, Role::kB0);
  NEED_DMA(b0);
  const ObjectId one = vm().Bind(A0());
  const ObjectId other = vm().Bind(b0);
  const ObjectId stage2 = vm().Stage2(one);
  ASSERT_OK(vm()->Attach(one, stage2));
  ASSERT_OK(vm()->Attach(other, expect().foreign_stage2 == 0 ? stage2 : vm().Stage2(other)));
  MemoryFile file(4096);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_EQ(Read(0x8000'0000), 0u);
  ASSERT_EQ(Read({.device = b0, .address = 0x8000'0000}), 0u);
  ASSERT_OK(vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 4096));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
  EXPECT_EQ(Read({.device = b0, .address = 0x8000'0000}), kRefused);
}

TEST_P(DmaStage2, GroupMovesTogether) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  NEED_DMA(second);
  const ObjectId one = vm().Bind(first);
  vm().Bind(second);
  ASSERT_OK(vm()->Attach(one, vm().Stage2(one)));
  const uint64_t page = memory().Filled(kOld);
  EXPECT_EQ(Read({.device = second, .address = page}), kOld);
  ASSERT_OK(vm()->Detach(one));
  EXPECT_EQ(Read({.device = second, .address = page}), kRefused);
}

// ---- What a vSTE asks for -------------------------------------------------------------------------------------------

class DmaVste : public DmaSuite {};
CONFORMANCE_RIGS(DmaVste);

TEST_P(DmaVste, AbortRefuses) {
  memory().Filled(kOld);
  guest().Attach(smmuv3::kAbortVste);
  EXPECT_EQ(Read(kMemoryBase), kRefused);
  EXPECT_FALSE(Write(kMemoryBase, kNew));
}

TEST_P(DmaVste, A8_InvalidRefuses) {
  guest().Attach(RawVste{~uint64_t{1}, ~uint64_t{0}});
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaVste, BypassIsTheGuestsPhysicalMemory) {
  const uint64_t page = memory().Filled(kOld);
  guest().Attach(smmuv3::kBypassVste);
  EXPECT_EQ(Read(page), kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(memory().Read(page), kNew);
  EXPECT_EQ(Read(kMemoryBase + kMemoryBytes), kRefused);
}

TEST_P(DmaVste, A19_BypassWithoutVdevice) {
  const uint64_t page = memory().Filled(kOld);
  const Function function = vm().PlugWithoutVdevice(A0());
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kBypassVste)));
  EXPECT_EQ(Read(page), kOld);
}

TEST_P(DmaVste, Translate) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa + 4088), kOld);
  EXPECT_EQ(Read(kVa + 4096), kRefused);
  EXPECT_EQ(Read(kVa - 8), kRefused);
}

TEST_P(DmaVste, TranslateWrites) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  EXPECT_TRUE(Write(kVa + 16, kNew));
  EXPECT_EQ(memory().Read(page + 16), kNew);
}

TEST_P(DmaVste, TranslateAcrossPagesThatAreApart) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  memory().Alloc(4096);
  guest().tables().Map(kVa + 4096, memory().Filled(kNew));
  guest().Start();
  std::array<uint64_t, 2> words = {};
  EXPECT_TRUE(rig().dma()->Read({.device = A0(), .address = kVa + 4088}, std::as_writable_bytes(std::span(words))).ok);
  EXPECT_EQ(words[0], kOld);
  EXPECT_EQ(words[1], kNew);
}

TEST_P(DmaVste, AnAccessThatRunsIntoAHoleIsRefused) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  std::array<uint64_t, 2> words = {};
  EXPECT_FALSE(rig().dma()->Read({.device = A0(), .address = kVa + 4088}, std::as_writable_bytes(std::span(words))).ok);
}

TEST_P(DmaVste, GuestPhysicalAddressesMeanNothingBehindStage1) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaVste, FromTranslateToBypassToAbortAndBack) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  const RawVste translate = guest().cds().Vste();
  for (int i = 0; i < 3; ++i) {
    guest().Attach(smmuv3::kBypassVste);
    EXPECT_EQ(Read(page), kOld);
    EXPECT_EQ(Read(kVa), kRefused);
    guest().Attach(smmuv3::kAbortVste);
    EXPECT_EQ(Read(page), kRefused);
    guest().Attach(translate);
    EXPECT_EQ(Read(kVa), kOld);
    EXPECT_EQ(Read(page), kRefused);
  }
}

TEST_P(DmaVste, ToStage2AndBack) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(vm()->Attach(guest().function().device, guest().function().stage2));
  EXPECT_EQ(Read(page), kOld);
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaVste, DetachBlocksAndAttachUnblocks) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(vm()->Detach(guest().function().device));
  EXPECT_EQ(Read(kVa), kRefused);
  guest().Attach(guest().cds().Vste());
  EXPECT_EQ(Read(kVa), kOld);
}

TEST_P(DmaVste, AnotherVsteTakesEffectAtOnce) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  Stage1 tables(memory(), Granule::k4k);
  tables.Map(kVa, memory().Filled(kNew));
  CdTable cds(memory(), S1Fmt::kLinear, 0);
  cds.Set(0, MakeCd(kAsid + 1, tables, Ips()));
  guest().Attach(cds.Vste());
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaVste, DestroyingTheVdeviceWhileAttachedChangesNothing) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().tables().Map(kVa + 4096, memory().Filled(kNew));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(vm()->Destroy(guest().function().vdevice));
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa + 4096), kNew);  // walks go on, too
}

TEST_P(DmaVste, StreamsOfATwoStreamDeviceFollowTogether) {
  NEED_DEVICE(pci, Role::kTwoStreams);
  NEED_DMA(pci);
  const uint64_t page = memory().Filled(kOld);
  const Function function = vm().PlugWithoutVdevice(pci);
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kBypassVste)));
  EXPECT_EQ(Read({.device = pci, .address = page}), kOld);
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kAbortVste)));
  EXPECT_EQ(Read({.device = pci, .address = page}), kRefused);
}

TEST_P(DmaVste, ARefusedReplaceLeavesTheOldTranslation) {
  const uint64_t page = memory().Filled(kOld);
  const Function function = vm().PlugWithoutVdevice(A0());
  ASSERT_OK(vm()->Attach(function.device, vm().Nested(function, smmuv3::kBypassVste)));
  ASSERT_ERRNO(ENOENT, vm()->Attach(function.device, vm().Nested(function, kTranslateVste)));
  EXPECT_EQ(Read(page), kOld);
}

// ---- Granules and levels --------------------------------------------------------------------------------------------

struct LevelRow {
  const char* name;
  Granule granule;
  uint32_t level;
  bool contiguous;
};

const LevelRow kLevels[] = {
    {"Page4k", Granule::k4k, 3, false},        {"Block2M", Granule::k4k, 2, false},
    {"Block1G", Granule::k4k, 1, false},       {"Page16k", Granule::k16k, 3, false},
    {"Block32M", Granule::k16k, 2, false},     {"Page64k", Granule::k64k, 3, false},
    {"Block512M", Granule::k64k, 2, false},    {"Contiguous4k", Granule::k4k, 3, true},
    {"Contiguous2M", Granule::k4k, 2, true},   {"Contiguous16k", Granule::k16k, 3, true},
    {"Contiguous64k", Granule::k64k, 3, true},
};

class DmaLevel : public DmaRows<LevelRow> {
 protected:
  void SetUp() override {
    DmaRows::SetUp();
    if (IsSkipped()) return;
    const smmuv3::Features features = smmuv3::DecodeIdRegisters(SmmuOf(A0()).idr);
    const bool has = row().granule == Granule::k4k    ? features.gran4k
                     : row().granule == Granule::k16k ? features.gran16k
                                                      : features.gran64k;
    if (!has) GTEST_SKIP() << "SMMU A has not all granules";
    ril_ = features.ril;
  }

  // Invalidates num + 1 granules from `va` on, as what this row maps them with.
  smmuv3::Command Range(uint64_t va, uint8_t num) const {
    smmuv3::Command command = NhVa(kAsid, va);
    command.num = num;
    command.ttl = static_cast<uint8_t>(row().level);
    command.tg = static_cast<uint8_t>(smmuv3::CommandTgCodec::Encode(row().granule));
    return command;
  }
  uint64_t granule() const { return uint64_t{1} << smmuv3::GranuleLog2(row().granule); }
  uint64_t span() const { return uint64_t{1} << smmuv3::LevelShift(row().granule, row().level); }

  // Maps the VM's memory from kMemoryBase on, with as many descriptors as it takes; returns the input address for
  // kMemoryBase. Blocks may reach beyond the memory.
  uint64_t MapMemory(Stage1& tables, uint64_t high = 0) {
    const uint32_t joined = row().contiguous ? smmuv3::ContiguousEntries(row().granule, row().level) : 1;
    const uint64_t base = high | 0x40'0000'0000;  // aligned to every span
    const uint64_t first = kMemoryBase / (span() * joined) * (span() * joined);
    const uint64_t bytes = kMemoryBase + kMemoryBytes - first;
    const uint64_t whole = std::max<uint64_t>(joined, (bytes + span() - 1) / span());
    for (uint64_t i = 0; i < (whole + joined - 1) / joined * joined; ++i) {
      tables.Map(base + i * span(), first + i * span(), {.contiguous = row().contiguous}, row().level);
    }
    return base + (kMemoryBase - first);
  }

  bool ril_ = false;
};
CONFORMANCE_ROWS(DmaLevel, kLevels);

TEST_P(DmaLevel, LowerTables) {
  const uint64_t page = memory().Filled(kOld);
  const uint64_t base = MapMemory(guest(row().granule).tables());
  guest().Start();
  EXPECT_EQ(Read(base + (page - kMemoryBase)), kOld);
  EXPECT_EQ(Read(base + (page - kMemoryBase) + 4088), kOld);
  EXPECT_TRUE(Write(base + (page - kMemoryBase), kNew));
  EXPECT_EQ(memory().Read(page), kNew);
  EXPECT_EQ(Read(base + kMemoryBytes - 8), 0u);
}

TEST_P(DmaLevel, UpperTables) {
  const uint64_t page = memory().Filled(kOld);
  Stage1 upper(memory(), row().granule);
  const uint64_t base = MapMemory(upper, 0xffff'0000'0000'0000);
  guest(row().granule).cds().Set(0, MakeCd(kAsid, guest().tables(), Ips(), &upper));
  guest().Attach(guest().cds().Vste());
  EXPECT_EQ(Read(base + (page - kMemoryBase)), kOld);
  EXPECT_EQ(Read((base + (page - kMemoryBase)) & 0xffff'ffff'ffff), kRefused);
}

TEST_P(DmaLevel, InvalidationByAddressReachesAllOfIt) {
  const uint64_t page = memory().Filled(kOld);
  const uint64_t base = MapMemory(guest(row().granule).tables());
  guest().Start();
  const uint64_t va = base + (page - kMemoryBase);
  ASSERT_EQ(Read(va), kOld);
  ASSERT_EQ(Read(va + 2048), kOld);
  // Everything that maps the page goes.
  const uint32_t joined = row().contiguous ? smmuv3::ContiguousEntries(row().granule, row().level) : 1;
  const uint64_t start = va / (span() * joined) * (span() * joined);
  std::vector<smmuv3::Command> commands;
  for (uint32_t i = 0; i < joined; ++i) {
    guest().tables().Unmap(start + i * span(), row().level);
    commands.push_back(NhVa(kAsid, start + i * span()));
  }
  ExpectStale(va, kOld, kRefused);
  guest().Send(commands);
  EXPECT_EQ(Read(va), kRefused);
}

TEST_P(DmaLevel, RangeThatBeginsInItReachesIt) {
  if (!ril_) GTEST_SKIP() << "SMMU A has no range invalidation";
  const uint64_t page = memory().Filled(kOld);
  const uint64_t base = MapMemory(guest(row().granule).tables());
  guest().Start();
  const uint64_t va = base + (page - kMemoryBase);
  ASSERT_EQ(Read(va), kOld);
  guest().tables().Unmap(va, row().level);
  guest().Send(Range(va / granule() * granule(), 0));
  EXPECT_EQ(Read(va), kRefused);
}

TEST_P(DmaLevel, RangeThatEndsBeforeLeavesIt) {
  if (!ril_) GTEST_SKIP() << "SMMU A has no range invalidation";
  const uint64_t base = MapMemory(guest(row().granule).tables());
  memory().Write(kMemoryBase, kOld);
  guest().Start();
  ASSERT_EQ(Read(base), kOld);
  const uint64_t joined = row().contiguous ? smmuv3::ContiguousEntries(row().granule, row().level) : 1;
  const uint64_t start = base / (span() * joined) * (span() * joined);
  for (uint64_t i = 0; i < joined; ++i) guest().tables().Unmap(start + i * span(), row().level);
  guest().Send(Range(start - 4 * granule(), 3));
  ExpectStale(base, kOld, kRefused);
  guest().Send(Range(start - 4 * granule(), 4));
  if (joined == 1) {
    EXPECT_EQ(Read(base), kRefused);
  }
}

TEST_P(DmaLevel, SmallerInputs) {
  const uint32_t bits = row().granule == Granule::k4k ? 40 : row().granule == Granule::k16k ? 40 : 42;
  const uint64_t page = memory().Filled(kOld);
  Stage1 tables(memory(), row().granule, bits);
  const uint64_t base = MapMemory(tables);
  guest(row().granule).cds().Set(0, MakeCd(kAsid, tables, Ips()));
  guest().Attach(guest().cds().Vste());
  EXPECT_EQ(Read(base + (page - kMemoryBase)), kOld);
  EXPECT_EQ(Read((base + (page - kMemoryBase)) | (uint64_t{1} << bits)), kRefused);
}

// ---- Permissions and context descriptors ----------------------------------------------------------------------------

class DmaStage1 : public DmaSuite {
 protected:
  // Starts the guest with this change to its context descriptor.
  template <typename Change>
  void StartWith(Change change) {
    guest().tables().Map(kVa, memory().Filled(kOld));
    smmuv3::Cd descriptor = MakeCd(kAsid, guest().tables(), Ips());
    change(descriptor);
    guest().cds().Set(0, descriptor);
    guest().Attach(guest().cds().Vste());
  }
};
CONFORMANCE_RIGS(DmaStage1);

TEST_P(DmaStage1, ReadOnlyPage) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page, {.writable = false});
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_FALSE(Write(kVa, kNew));
  EXPECT_EQ(memory().Read(page), kOld);
}

TEST_P(DmaStage1, WithoutAccessFlag) {
  guest().tables().Map(kVa, memory().Filled(kOld), {.accessed = false});
  guest().Start();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, AccessFlagFaultsDisabled) {
  guest().tables().Map(kVa + 4096, memory().Filled(kNew), {.accessed = false});
  StartWith([](smmuv3::Cd& descriptor) { descriptor.affd = true; });
  EXPECT_EQ(Read(kVa + 4096), kNew);
}

TEST_P(DmaStage1, Stage2LimitsWhatStage1Allows) {
  MemoryFile file(4096);
  MemoryHandle handle = file.handle();
  handle.writable = false;
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, handle));
  guest().tables().Map(kVa, 0x8000'0000);
  guest().Start();
  EXPECT_EQ(Read(kVa), 0u);
  EXPECT_FALSE(Write(kVa, kNew));
}

TEST_P(DmaStage1, APageThatStage2DoesNotHave) {
  guest().tables().Map(kVa, kMemoryBase + kMemoryBytes);
  guest().Start();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, TablesThatStage2DoesNotHave) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ttb0.ttb = kMemoryBase + kMemoryBytes; });
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, DescriptorsThatStage2DoesNotHave) {
  RawVste vste = guest().cds().Vste();
  vste.dw0 = (vste.dw0 & ~smmuv3::ste::kS1ContextPtr.mask()) | (kMemoryBase + kMemoryBytes);
  guest().Attach(vste);
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, InvalidDescriptor) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.valid = false; });
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, DisabledTables) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ttb0.disabled = true; });
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, AddressBetweenTheTables) {
  StartWith([](smmuv3::Cd&) {});
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa | (uint64_t{1} << 48)), kRefused);
  EXPECT_EQ(Read(kVa | (uint64_t{1} << 55)), kRefused);
}

TEST_P(DmaStage1, TopByte) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ttb0.tbi = true; });
  EXPECT_EQ(Read(kVa | (uint64_t{0x5a} << 56)), kOld);
}

TEST_P(DmaStage1, TopByteThatIsNotIgnored) {
  StartWith([](smmuv3::Cd&) {});
  EXPECT_EQ(Read(kVa | (uint64_t{0x5a} << 56)), kRefused);
}

TEST_P(DmaStage1, OutputBeyondTheIntermediateSize) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ips = 0; });  // 32 bits
  guest().tables().Map(kVa + 4096, uint64_t{1} << 33);
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa + 4096), kRefused);
}

TEST_P(DmaStage1, TableThatForbidsWriting) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  const uint64_t slot = guest().tables().Slot(kVa, 2);
  memory().Write(slot, smmuv3::descriptor::kApTable.Set(memory().Read(slot), smmuv3::kApTableReadOnly));
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_FALSE(Write(kVa, kNew));
}

TEST_P(DmaStage1, ABlockWhereThereMayBeNone) {
  guest().tables().Map(kVa, kMemoryBase & ~((uint64_t{1} << 39) - 1), {}, 0);
  guest().Start();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, TwoGuestsWithTheSameAsid) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Vm other(Open());
  GuestMemory others(other.memory());
  Guest theirs(other, others, a1, 0x10, Ips());
  theirs.tables().Map(kVa, others.Filled(kNew));
  theirs.Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kNew);
  EXPECT_EQ(Read(kVa), kOld);
}

TEST_P(DmaStage1, TwoDevicesOfAGuestWithTwoAsids) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Guest second(vm(), memory(), a1, 0x20, Ips(), Granule::k4k, &guest().function());
  second.tables().Map(kVa, memory().Filled(kNew));
  second.Start(kAsid + 1);
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kNew);
}

TEST_P(DmaStage1, TwoDevicesOfAGuestWithOneAddressSpace) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Guest second(vm(), memory(), a1, 0x20, Ips(), Granule::k4k, &guest().function());
  second.Attach(guest().cds().Vste());
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kOld);
  // One command invalidates for both.
  guest().tables().Map(kVa, memory().Filled(kNew));
  guest().Send(NhVa(kAsid, kVa));
  EXPECT_EQ(Read(kVa), kNew);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kNew);
}

}  // namespace
}  // namespace viommu::conformance
