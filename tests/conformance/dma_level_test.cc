// Granules, levels of tables, blocks and contiguous entries.

#include <algorithm>
#include <vector>

#include "agent/smmuv3/spec/id_registers.h"
#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

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
    {"Contiguous64k", Granule::k64k, 3, true}, {"Contiguous1G", Granule::k4k, 1, true},
    {"Contiguous32M", Granule::k16k, 2, true}, {"Contiguous512M", Granule::k64k, 2, true},
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
  memory().Write(kMemoryBase + kMemoryBytes - 8, kOld);
  EXPECT_EQ(Read(base + kMemoryBytes - 8), kOld);
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

}  // namespace
}  // namespace viommu::conformance
