// Stream tables and context descriptors: where they are looked for, what is wrong with them, and in which order that is
// found out.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "agent/smmuv3/emulator/config_checks.h"
#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr uint16_t kAsid = 5;
constexpr uint64_t kVa = 0x12'3456'7000;

// The event of an access that must be aborted.
std::optional<Event> EventOf(TestMachine& machine, const Transaction& transaction) {
  uint64_t value = 0;
  const Outcome outcome = machine.Read(transaction, value);
  EXPECT_EQ(outcome.result, TransactionResult::kAborted);
  const std::vector<Event> events = machine.TakeEvents();
  EXPECT_LE(events.size(), 1u);
  if (events.empty()) return std::nullopt;
  EXPECT_EQ(events[0], outcome.event);
  return events[0];
}

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() : tables_(&machine_.host, Granule::k4k, 48) {
    page_ = machine_.host.AllocatePage();
    machine_.host.Write(page_, 0x1111);
    tables_.Map(kVa, page_, kUserPage);
    cds_ = machine_.host.Allocate(64 * kCdBytes, 64 * kCdBytes);
    cd_ = TestMachine::MakeCd(tables_, kAsid);
    machine_.SetCd(machine_.host, cds_, cd_);
    ste_ = TestMachine::Stage1Ste(cds_);
  }
  void Apply() {
    machine_.SetSte(kSid, ste_);
    machine_.InvalidateAll();
  }
  EventId IdOf(const Transaction& transaction) {
    const std::optional<Event> event = EventOf(machine_, transaction);
    EXPECT_TRUE(event.has_value());
    return event.has_value() ? event->id : EventId{0};
  }
  static Transaction With(std::optional<uint32_t> ssid) { return {.sid = kSid, .ssid = ssid, .address = kVa}; }

  TestMachine machine_;
  TestTables tables_;
  uint64_t page_ = 0;
  uint64_t cds_ = 0;
  Cd cd_;
  Ste ste_;
};

TEST_F(ConfigTest, AbortBypassAndInvalid) {
  EXPECT_EQ(EventOf(machine_, {.sid = kSid, .address = page_}), (Event{.id = EventId::kCBadSte, .sid = kSid}));
  machine_.SetSte(kSid, TestMachine::AbortSte());
  machine_.InvalidateConfig();
  EXPECT_EQ(EventOf(machine_, {.sid = kSid, .address = page_}), std::nullopt);
  ste_ = TestMachine::AbortSte();
  ste_.config = static_cast<SteConfig>(3);  // behaves likewise
  Apply();
  EXPECT_EQ(EventOf(machine_, {.sid = kSid, .address = page_}), std::nullopt);
  ste_ = TestMachine::BypassSte();
  Apply();
  EXPECT_EQ(machine_.Read(kSid, page_), 0x1111u);
  EXPECT_TRUE(machine_.smmu.Translate({.sid = kSid, .address = page_}, kNever).translation.bypassed);
  EXPECT_EQ(IdOf({.sid = kSid, .address = uint64_t{1} << 48}), EventId::kFAddrSize);
}

TEST_F(ConfigTest, WhileOffTheSmmuAbortsOrLetsPass) {
  Apply();
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0 & ~uint32_t{1});
  EXPECT_EQ(EventOf(machine_, {.sid = kSid, .address = page_}), std::nullopt);
  machine_.smmu.WriteRegister(Register::kGbpa, 0);  // without UPDATE
  EXPECT_EQ(EventOf(machine_, {.sid = kSid, .address = page_}), std::nullopt);
  machine_.smmu.WriteRegister(Register::kGbpa, gbpa::kUpdate.mask());
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kGbpa), 0u);
  EXPECT_EQ(machine_.Read(kSid, page_), 0x1111u);
  EXPECT_EQ(EventOf(machine_, {.sid = kSid, .address = uint64_t{1} << 48}), std::nullopt);
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0);
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
}

TEST_F(ConfigTest, StreamIdsOutOfRange) {
  const Event expected{.id = EventId::kCBadStreamId, .sid = 256, .ssv = true, .ssid = 3};
  EXPECT_EQ(EventOf(machine_, {.sid = 256, .ssid = 3, .address = kVa}), expected);
  EXPECT_EQ(IdOf({.sid = 0xffff'ffff, .address = kVa}), EventId::kCBadStreamId);
  machine_.smmu.WriteRegister(Register::kCr0, 0);
  machine_.smmu.WriteRegister(Register::kCr2, 0);  // RECINVSID off
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0);
  EXPECT_EQ(EventOf(machine_, {.sid = 256, .address = kVa}), std::nullopt);
}

TEST_F(ConfigTest, TheTableMayLieInAHole) {
  machine_.smmu.WriteRegister(Register::kCr0, 0);
  machine_.smmu.WriteRegister(Register::kStrtabBase, TestMachine::kHole);
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0);
  EXPECT_EQ(EventOf(machine_, With(std::nullopt)),
            (Event{.id = EventId::kFSteFetch, .sid = kSid, .fetch_address = TestMachine::kHole + kSid * 64}));
}

TEST_F(ConfigTest, WhatTranslationDependsOnIsLockedWhileOn) {
  const uint64_t base = machine_.smmu.ReadRegister(Register::kStrtabBase);
  machine_.smmu.WriteRegister(Register::kStrtabBase, 0);
  machine_.smmu.WriteRegister(Register::kStrtabBaseCfg, 0);
  machine_.smmu.WriteRegister(Register::kCr2, 0);
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kStrtabBase), base);
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kStrtabBaseCfg), TestMachine::kLog2Streams);
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kCr2), cr2::kRecInvSid.mask());
}

class TwoLevelStreamTableTest : public testing::TestWithParam<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Splits, TwoLevelStreamTableTest, testing::Values(6, 8, 10));

TEST_P(TwoLevelStreamTableTest, SpansSplitsAndLimits) {
  const uint32_t split = GetParam();
  const auto owner = std::make_unique<TestMachine>();
  TestMachine& machine = *owner;
  const uint64_t l1 = machine.host.AllocatePage(4096);
  const uint64_t l2 = machine.host.AllocatePage(uint64_t{kSteBytes} << split);
  machine.smmu.WriteRegister(Register::kCr0, 0);
  machine.smmu.WriteRegister(Register::kStrtabBase, l1);
  machine.smmu.WriteRegister(Register::kStrtabBaseCfg, 14 | split << 6 | 1 << 16);
  machine.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0);
  const uint64_t page = machine.host.AllocatePage();
  machine.host.Write(page, 0x1111);
  const uint32_t sid = (3u << split) + 5;
  const RawSte bypass = EncodeSte(TestMachine::BypassSte());
  machine.host.Write(l2 + 5 * kSteBytes, bypass.dw[0]);
  const auto event = [&](uint32_t of) { return EventOf(machine, {.sid = of, .address = page})->id; };
  EXPECT_EQ(event(sid), EventId::kCBadStreamId);  // Span 0: that is not cached
  machine.host.Write(l1 + 3 * kSteL1Bytes, EncodeSteL1({static_cast<uint8_t>(split + 1), l2}));
  EXPECT_EQ(machine.Read(sid, page), 0x1111u);
  EXPECT_EQ(event(sid + 1), EventId::kCBadSte);
  EXPECT_EQ(event(1 << 14), EventId::kCBadStreamId);
  // A descriptor that is cached stays until a command that is not for the leaf alone.
  machine.host.Write(l1 + 3 * kSteL1Bytes, EncodeSteL1({3, l2}));  // four entries
  machine.Issue({{.opcode = Opcode::kCfgiSte, .sid = sid, .leaf = true}});
  EXPECT_EQ(machine.Read(sid, page), 0x1111u);
  machine.Issue({{.opcode = Opcode::kCfgiSte, .sid = sid}});
  EXPECT_EQ(event(sid), EventId::kCBadStreamId);
  EXPECT_EQ(event(sid - 5), EventId::kCBadSte);
  for (const uint32_t span : {split + 2, 31u}) {
    machine.host.Write(l1 + 3 * kSteL1Bytes, EncodeSteL1({static_cast<uint8_t>(span), l2}));
    machine.InvalidateConfig();
    EXPECT_EQ(event(sid), EventId::kCBadStreamId) << span;
  }
  machine.host.Write(l1 + 3 * kSteL1Bytes, EncodeSteL1({1, TestMachine::kHole}));
  machine.InvalidateConfig();
  EXPECT_EQ(EventOf(machine, {.sid = 3u << split, .address = page})->fetch_address, TestMachine::kHole);
}

TEST_F(ConfigTest, UnusableEntriesStayCachedToo) {
  EXPECT_EQ(IdOf(With(std::nullopt)), EventId::kCBadSte);
  machine_.SetSte(kSid, ste_);
  EXPECT_EQ(IdOf(With(std::nullopt)), EventId::kCBadSte);
  machine_.Issue({{.opcode = Opcode::kCfgiSte, .sid = kSid, .leaf = true}});
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  machine_.host.Write(cds_, 0);
  machine_.Issue({{.opcode = Opcode::kCfgiCd, .sid = kSid, .leaf = true}});
  EXPECT_EQ(IdOf(With(std::nullopt)), EventId::kCBadCd);
  machine_.SetCd(machine_.host, cds_, cd_);
  EXPECT_EQ(IdOf(With(std::nullopt)), EventId::kCBadCd);
  machine_.Issue({{.opcode = Opcode::kCfgiCdAll, .sid = kSid}});
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
}

// ---- Substreams ---------------------------------------------------------------------------------------------------

TEST_F(ConfigTest, SubstreamsWhereThereAreNone) {
  Apply();
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  const Event expected{.id = EventId::kCBadSubstreamId, .sid = kSid, .ssid = 0};
  std::optional<Event> event = EventOf(machine_, With(0));
  event->ssv = false;  // the record has no such bit
  EXPECT_EQ(event, expected);
  ste_ = TestMachine::BypassSte();
  Apply();
  EXPECT_EQ(IdOf(With(1)), EventId::kCBadSubstreamId);
}

TEST_F(ConfigTest, SubstreamsInALinearTable) {
  ste_.s1_cd_max = 2;
  cd_.asid = kAsid + 1;
  machine_.SetCd(machine_.host, cds_ + 3 * kCdBytes, cd_);
  Apply();
  EXPECT_EQ(machine_.Read(With(0)), 0x1111u);
  EXPECT_EQ(machine_.Read(With(3)), 0x1111u);
  const std::optional<Event> bad_cd = EventOf(machine_, With(2));
  EXPECT_EQ(bad_cd, (Event{.id = EventId::kCBadCd, .sid = kSid, .ssv = true, .ssid = 2}));
  EXPECT_EQ(IdOf(With(4)), EventId::kCBadSubstreamId);
  // S1DSS: what becomes of transactions without a SubstreamID.
  EXPECT_EQ(IdOf(With(std::nullopt)), EventId::kFStreamDisabled);
  ste_.s1_dss = S1Dss::kReserved;
  Apply();
  EXPECT_EQ(IdOf(With(std::nullopt)), EventId::kFStreamDisabled);
  ste_.s1_dss = S1Dss::kBypass;
  Apply();
  EXPECT_EQ(machine_.Read(Transaction{.sid = kSid, .address = page_}), 0x1111u);
  EXPECT_EQ(machine_.Read(With(3)), 0x1111u);
  EXPECT_EQ(machine_.Read(With(0)), 0x1111u);
  ste_.s1_dss = S1Dss::kSsid0;
  Apply();
  EXPECT_EQ(machine_.Read(With(std::nullopt)), 0x1111u);
  EXPECT_EQ(IdOf(With(0)), EventId::kFStreamDisabled);
  EXPECT_EQ(machine_.Read(With(3)), 0x1111u);
}

TEST_F(ConfigTest, SubstreamsInTwoLevels) {
  for (const S1Fmt format : {S1Fmt::kTwoLevel4k, S1Fmt::kTwoLevel64k}) {
    const uint32_t split = format == S1Fmt::kTwoLevel4k ? 6 : 10;
    const uint64_t l1 = machine_.host.AllocatePage(4096);
    const uint64_t leaf = machine_.host.AllocatePage(uint64_t{kCdBytes} << split);
    ste_.s1_fmt = format;
    ste_.s1_cd_max = static_cast<uint8_t>(split + 2);
    ste_.s1_context_ptr = l1;
    ste_.s1_dss = S1Dss::kSsid0;
    Apply();
    const uint32_t ssid = (2u << split) + 9;
    machine_.SetCd(machine_.host, leaf + 9 * kCdBytes, cd_);
    EXPECT_EQ(IdOf(With(ssid)), EventId::kCBadSubstreamId);  // L1CD.V = 0, which is cached
    machine_.host.Write(l1 + 2 * kCdL1Bytes, EncodeCdL1({true, leaf}));
    EXPECT_EQ(IdOf(With(ssid)), EventId::kCBadSubstreamId);
    machine_.Issue({{.opcode = Opcode::kCfgiCd, .sid = kSid, .ssid = ssid, .leaf = true}});
    EXPECT_EQ(IdOf(With(ssid)), EventId::kCBadSubstreamId);
    machine_.Issue({{.opcode = Opcode::kCfgiCd, .sid = kSid, .ssid = ssid}});
    EXPECT_EQ(machine_.Read(With(ssid)), 0x1111u);
    // No SubstreamID in the transaction, index 0 in the table.
    const std::optional<Event> event = EventOf(machine_, With(std::nullopt));
    EXPECT_EQ(event->id, EventId::kCBadSubstreamId);
    EXPECT_EQ(event->ssid, 0u);
    machine_.host.Write(l1 + 3 * kCdL1Bytes, EncodeCdL1({true, TestMachine::kHole}));
    EXPECT_EQ(EventOf(machine_, With(3u << split))->fetch_address, TestMachine::kHole);
    machine_.host.Write(l1 + 3 * kCdL1Bytes, EncodeCdL1({true, uint64_t{1} << 48}));
    machine_.InvalidateConfig();
    EXPECT_EQ(IdOf(With(3u << split)), EventId::kCBadSubstreamId);
  }
}

TEST_F(ConfigTest, S1DssBypassGoesToStage2) {
  TestTables stage2(&machine_.host, Granule::k4k, 40, 1, false);
  const uint64_t ipa = 0x5000'0000;
  stage2.Map(ipa, page_, kGuestPage);
  ste_ = TestMachine::NestedSte(0x1000, stage2, 3);
  ste_.s1_cd_max = 2;
  ste_.s1_dss = S1Dss::kBypass;
  Apply();
  EXPECT_EQ(machine_.Read(kSid, ipa), 0x1111u);
  // The table of context descriptors is for those with a SubstreamID.
  const std::optional<Event> event = EventOf(machine_, With(1));
  EXPECT_EQ(event->id, EventId::kFTranslation);
  EXPECT_EQ(event->cls, EventClass::kCd);
}

TEST_F(ConfigTest, CdFetchAborts) {
  ste_.s1_context_ptr = TestMachine::kHole;
  Apply();
  EXPECT_EQ(EventOf(machine_, With(std::nullopt)),
            (Event{.id = EventId::kFCdFetch, .sid = kSid, .fetch_address = TestMachine::kHole}));
}

TEST_F(ConfigTest, TheFirstErrorOnTheWayCounts) {
  // Everything is wrong; it is mended from the outside in.
  ste_ = {};
  ste_.s1_cd_max = 2;
  Apply();
  EXPECT_EQ(IdOf({.sid = 256, .ssid = 9, .address = kVa}), EventId::kCBadStreamId);
  EXPECT_EQ(IdOf(With(9)), EventId::kCBadSte);
  ste_ = TestMachine::Stage1Ste(TestMachine::kHole);
  ste_.s1_cd_max = 2;
  Apply();
  EXPECT_EQ(IdOf(With(9)), EventId::kCBadSubstreamId);
  EXPECT_EQ(IdOf(With(1)), EventId::kFCdFetch);
  ste_.s1_context_ptr = cds_;
  Apply();
  EXPECT_EQ(IdOf(With(1)), EventId::kCBadCd);
  cd_.ttb0.ttb = TestMachine::kHole;
  machine_.SetCd(machine_.host, cds_ + kCdBytes, cd_);
  machine_.InvalidateAll();
  EXPECT_EQ(IdOf(With(1)), EventId::kFWalkEabt);
}

TEST_F(ConfigTest, AccessesThatWrapAroundAreUnsupported) {
  Apply();
  std::vector<std::byte> data(16);
  const Outcome outcome = machine_.smmu.Read({.sid = kSid, .address = ~uint64_t{7}}, data, kNever);
  EXPECT_EQ(outcome.result, TransactionResult::kAborted);
  EXPECT_EQ(machine_.TakeEvents().at(0).id, EventId::kFUut);
}

// ---- Checks -------------------------------------------------------------------------------------------------------

Ste LegalNested() {
  Ste ste{.valid = true, .config = SteConfig::kNested, .s1_context_ptr = 0x1000, .s2_vmid = 3};
  ste.s2_t0sz = 24;
  ste.s2_sl0 = 1;
  ste.s2_ps = 5;
  ste.s2_aa64 = true;
  ste.s2_ttb = 0x2000;
  return ste;
}

Cd LegalCd() {
  Cd cd{.valid = true, .ips = 5, .aa64 = true, .record = true, .abort = true, .asid = 5};
  cd.ttb0 = {.tsz = 16, .granule = Granule::k4k, .ttb = 0x3000};
  cd.ttb1 = {.tsz = 16, .granule = Granule::k4k, .ttb = 0x4000};
  return cd;
}

bool SteIsLegal(const std::function<void(Ste&, Features&)>& change) {
  Ste ste = LegalNested();
  Features features = kFullFeatures;
  change(ste, features);
  return CheckSte(ste, features) == nullptr;
}

TEST(CheckSteTest, WhatIsIllegal) {
  using S = Ste;
  using F = Features;
  EXPECT_TRUE(SteIsLegal([](S&, F&) {}));
  const std::vector<std::function<void(S&, F&)>> illegal = {
      [](S& s, F&) { s.valid = false; },
      [](S&, F& f) { f.stage1 = false; },
      [](S&, F& f) { f.stage2 = false; },
      [](S& s, F&) { s.s1_cd_max = 17; },
      [](S& s, F& f) { s.s1_cd_max = 4, s.s1_fmt = S1Fmt::kTwoLevel4k, f.two_level_cd = false; },
      [](S& s, F& f) { s.s1_stalld = true, f.stall_model = StallModel::kTerminate; },
      [](S& s, F&) { s.config = SteConfig::kStage1, s.strw = Strw::kReserved; },
      [](S& s, F&) { s.config = SteConfig::kStage1, s.s1_context_ptr = uint64_t{1} << 48; },
      [](S& s, F&) { s.s2_aa64 = false; },
      [](S&, F& f) { f.aarch64 = false; },
      [](S& s, F&) { s.s2_tg = 3; },
      [](S& s, F& f) { s.s2_tg = 1, s.s2_sl0 = 1, f.gran64k = false; },
      [](S& s, F&) { s.s2_t0sz = 40; },
      [](S& s, F&) { s.s2_t0sz = 15; },
      [](S&, F& f) { f.oas_bits = 36; },
      [](S& s, F&) { s.s2_sl0 = 3; },
      [](S& s, F&) { s.s2_sl0 = 0; },
      [](S& s, F&) { s.s2_t0sz = 26, s.s2_sl0 = 2; },
      [](S& s, F&) { s.s2_ps = 1, s.s2_ttb = uint64_t{1} << 36; },
      [](S& s, F& f) { s.s2_endi = true, f.table_endianness = TableEndianness::kLittle; },
      [](S&, F& f) { f.table_endianness = TableEndianness::kBig; },
      [](S& s, F&) { s.s2_ha = true; },
      [](S& s, F&) { s.s2_hd = true; },
      [](S& s, F& f) { s.s2_stall = true, f.stall_model = StallModel::kTerminate; },
      [](S&, F& f) { f.stall_model = StallModel::kStall; },
      [](S& s, F&) { s.s2_stall = true, s.eats = 1; },
      [](S& s, F&) { s.eats = 2; },
      [](S& s, F& f) { s.s2_vmid = 256, f.vmid_bits = 8; },
  };
  for (size_t i = 0; i < illegal.size(); ++i) EXPECT_FALSE(SteIsLegal(illegal[i])) << i;
  const std::vector<std::function<void(S&, F&)>> legal = {
      [](S& s, F&) { s.config = SteConfig::kAbort, s.s2_tg = 3, s.eats = 2; },
      [](S& s, F&) { s.config = SteConfig::kBypass, s.s1_cd_max = 31, s.eats = 2; },
      [](S& s, F&) { s.config = static_cast<SteConfig>(2), s.s2_tg = 3; },
      [](S& s, F&) { s.config = SteConfig::kStage2, s.s1_cd_max = 31; },
      [](S& s, F&) { s.config = SteConfig::kStage1, s.s2_tg = 3, s.s2_aa64 = false; },
      [](S& s, F&) { s.strw = Strw::kReserved; },  // ignored with a stage 2
      [](S& s, F& f) { s.config = SteConfig::kStage1, s.strw = Strw::kReserved, f.hyp = false; },
      [](S& s, F& f) { s.eats = 2, f.ats = false; },
      [](S& s, F&) { s.eats = 3; },
      [](S& s, F&) { s.eats = 1; },
      [](S& s, F&) { s.s1_fmt = S1Fmt::kReserved, s.s1_cd_max = 4; },
      [](S& s, F& f) { s.s1_cd_max = 31, f.ssid_bits = 0; },
      [](S& s, F&) { s.s2_t0sz = 16, s.s2_sl0 = 2; },
      [](S& s, F&) { s.s1_context_ptr = uint64_t{1} << 50; },  // an IPA: stage 2 will say so
      [](S& s, F& f) { s.config = SteConfig::kStage1, s.strw = Strw::kNsEl2, s.s2_vmid = 999, f.vmid_bits = 8; },
  };
  for (size_t i = 0; i < legal.size(); ++i) EXPECT_TRUE(SteIsLegal(legal[i])) << i;
}

bool CdIsLegal(const std::function<void(Cd&, Ste&, Features&)>& change, bool e2h = false) {
  Cd cd = LegalCd();
  Ste ste = LegalNested();
  Features features = kFullFeatures;
  change(cd, ste, features);
  return CheckCd(cd, ste, e2h, features) == nullptr;
}

TEST(CheckCdTest, WhatIsIllegal) {
  using C = Cd;
  using S = Ste;
  using F = Features;
  EXPECT_TRUE(CdIsLegal([](C&, S&, F&) {}));
  const std::vector<std::function<void(C&, S&, F&)>> illegal = {
      [](C& c, S&, F&) { c.valid = false; },
      [](C& c, S&, F&) { c.aa64 = false; },
      [](C&, S&, F& f) { f.gran4k = false; },
      [](C& c, S&, F&) { c.ttb0.granule = Granule::kReserved; },
      [](C& c, S&, F& f) { c.ttb1.granule = Granule::k16k, f.gran16k = false; },
      [](C& c, S&, F&) { c.ttb0.tsz = 40; },
      [](C& c, S&, F&) { c.ttb0.tsz = 15; },
      [](C& c, S&, F&) { c.ttb1.tsz = 12; },
      [](C& c, S&, F& f) { c.ttb1.tsz = 12, f.vax = true; },
      [](C& c, S&, F& f) { c.ttb0.granule = Granule::k64k, c.ttb0.tsz = 11, f.vax = true; },
      [](C& c, S&, F&) { c.ips = 1, c.ttb0.ttb = uint64_t{1} << 36; },
      [](C& c, S&, F&) { c.ips = 2, c.ttb1.ttb = uint64_t{1} << 40; },
      [](C& c, S&, F& f) { c.ttb0.ttb = uint64_t{1} << 40, f.oas_bits = 40; },
      [](C& c, S&, F& f) { c.big_endian = true, f.table_endianness = TableEndianness::kLittle; },
      [](C&, S&, F& f) { f.table_endianness = TableEndianness::kBig; },
      [](C& c, S&, F&) { c.ha = true; },
      [](C& c, S&, F&) { c.hd = true; },
      [](C& c, S& s, F&) { c.stall = true, s.s1_stalld = true; },
      [](C& c, S&, F& f) { c.stall = true, f.stall_model = StallModel::kTerminate; },
      [](C&, S&, F& f) { f.stall_model = StallModel::kStall; },
      [](C& c, S&, F& f) { c.abort = false, f.terminate_aborts = true; },
      [](C& c, S&, F& f) { c.asid = 256, f.asid_bits = 8; },
  };
  for (size_t i = 0; i < illegal.size(); ++i) EXPECT_FALSE(CdIsLegal(illegal[i])) << i;
  const std::vector<std::function<void(C&, S&, F&)>> legal = {
      [](C& c, S&, F&) { c.ttb0 = {.tsz = 63, .granule = Granule::kReserved, .disabled = true}; },
      [](C& c, S&, F&) { c.ttb1 = {.tsz = 63, .granule = Granule::kReserved, .disabled = true}; },
      [](C& c, S&, F& f) { c.ttb0.granule = Granule::k64k, c.ttb0.tsz = 12, f.vax = true; },
      [](C& c, S&, F&) { c.stall = true; },
      [](C& c, S&, F&) { c.ips = 7; },
      [](C& c, S& s, F&) { s.config = SteConfig::kStage1, s.strw = Strw::kNsEl2, c.ttb1.tsz = 0; },
      [](C& c, S& s, F& f) { s.config = SteConfig::kStage1, s.strw = Strw::kNsEl2, c.asid = 999, f.asid_bits = 8; },
  };
  for (size_t i = 0; i < legal.size(); ++i) EXPECT_TRUE(CdIsLegal(legal[i])) << i;
  // With E2H, EL2 has two tables and ASIDs.
  EXPECT_FALSE(
      CdIsLegal([](C& c, S& s, F&) { s.config = SteConfig::kStage1, s.strw = Strw::kNsEl2, c.ttb1.tsz = 0; }, true));
  // EL2 alone cannot switch its table off.
  EXPECT_FALSE(CdIsLegal([](C& c, S& s, F&) {
    s.config = SteConfig::kStage1, s.strw = Strw::kNsEl2, c.ttb0.disabled = true, c.ttb0.tsz = 0;
  }));
}

}  // namespace
}  // namespace viommu::smmuv3
