// Watches the memory of a stream table entry between the steps of its changes. Whatever the SMMU may have put together
// from the words that were there since it was last told to forget must mean the old entry, the new one, or an abort.

#include "agent/smmuv3/vsmmu/ste_update.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "agent/smmuv3/spec/ste.h"

namespace viommu::agent {
namespace {

using smmuv3::RawSte;
using smmuv3::Ste;
using smmuv3::SteConfig;

// What an entry says about accesses, by the structure's meaning and not by its bits: nothing where it aborts them.
std::optional<Ste> MeaningOf(const RawSte& raw) {
  Ste entry = DecodeSte(raw);
  if (!entry.valid || entry.config == SteConfig::kAbort) return std::nullopt;
  const bool stage1 = entry.config == SteConfig::kStage1 || entry.config == SteConfig::kNested;
  const bool stage2 = entry.config == SteConfig::kStage2 || entry.config == SteConfig::kNested;
  const bool around = entry.config == SteConfig::kBypass || (stage1 && entry.s1_dss == smmuv3::S1Dss::kBypass);
  Ste meaning = {.valid = true, .config = entry.config};
  if (stage1) {
    meaning.s1_fmt = entry.s1_fmt;
    meaning.s1_context_ptr = entry.s1_context_ptr;
    meaning.s1_cd_max = entry.s1_cd_max;
    meaning.s1_dss = entry.s1_dss;
    meaning.s1_cir = entry.s1_cir;
    meaning.s1_cor = entry.s1_cor;
    meaning.s1_csh = entry.s1_csh;
    meaning.s1_stalld = entry.s1_stalld;
    meaning.strw = entry.strw;
  }
  if (stage2) {
    meaning.s2_t0sz = entry.s2_t0sz;
    meaning.s2_sl0 = entry.s2_sl0;
    meaning.s2_tg = entry.s2_tg;
    meaning.s2_ps = entry.s2_ps;
    meaning.s2_aa64 = entry.s2_aa64;
    meaning.s2_endi = entry.s2_endi;
    meaning.s2_affd = entry.s2_affd;
    meaning.s2_ptw = entry.s2_ptw;
    meaning.s2_stall = entry.s2_stall;
    meaning.s2_record = entry.s2_record;
    meaning.s2_fwb = entry.s2_fwb;
    meaning.s2_ttb = entry.s2_ttb;
  }
  if (stage1 || stage2) {
    meaning.s2_vmid = entry.s2_vmid;
    // MEV decides about numbers of events alone.
    meaning.eats = entry.eats;
  }
  if (around || stage2) {
    meaning.sh_cfg = entry.sh_cfg;
    meaning.mt_cfg = entry.mt_cfg;
    meaning.mem_attr = entry.mem_attr;
  }
  return meaning;
}

class WatchedSlot : public SteSlot {
 public:
  WatchedSlot(const RawSte& old_entry, const RawSte& new_entry)
      : now_(old_entry), old_(MeaningOf(old_entry)), new_(MeaningOf(new_entry)) {
    for (size_t i = 0; i < now_.dw.size(); ++i) seen_[i] = {now_.dw[i]};
    // EATS may be out of place where nothing hangs on it.
    ignore_eats_ = (SafeBits(old_entry, new_entry).dw[1] & smmuv3::ste::kEats.mask()) != 0;
  }

  uint64_t Read(size_t word) const override { return now_.dw[word]; }
  void Write(size_t word, uint64_t value) override {
    now_.dw[word] = value;
    if (std::find(seen_[word].begin(), seen_[word].end(), value) == seen_[word].end()) seen_[word].push_back(value);
    RawSte view;
    CheckViews(0, view);
  }
  void Sync() override {
    ++syncs;
    for (size_t i = 0; i < now_.dw.size(); ++i) seen_[i] = {now_.dw[i]};
  }

  const RawSte& now() const { return now_; }
  int syncs = 0;
  bool torn = false;
  bool aborted = false;  // some view means an abort

 private:
  void CheckViews(size_t word, RawSte& view) {
    if (word < seen_.size()) {
      for (const uint64_t value : seen_[word]) {
        view.dw[word] = value;
        CheckViews(word + 1, view);
      }
      return;
    }
    const std::optional<Ste> meaning = MeaningOf(view);
    aborted |= !meaning.has_value();
    if (meaning.has_value() && !Same(meaning, old_) && !Same(meaning, new_)) torn = true;
  }
  bool Same(std::optional<Ste> a, std::optional<Ste> b) const {
    if (!a.has_value() || !b.has_value()) return false;
    if (ignore_eats_) a->eats = b->eats = 0;
    return *a == *b;
  }

  RawSte now_;
  const std::optional<Ste> old_, new_;
  bool ignore_eats_ = false;
  std::array<std::vector<uint64_t>, 8> seen_;
};

// Entries of every kind out of few values, so that pairs differ in one word as well as in many.
rc::Gen<RawSte> AnySte() {
  return rc::gen::exec([] {
    const auto pick = [](int limit) { return static_cast<uint8_t>(*rc::gen::inRange(0, limit)); };
    Ste entry;
    entry.valid = pick(8) != 0;
    entry.config = *rc::gen::element(SteConfig::kAbort, SteConfig::kBypass, SteConfig::kStage1, SteConfig::kStage2,
                                     SteConfig::kNested);
    entry.s1_fmt = static_cast<smmuv3::S1Fmt>(pick(3));
    entry.s1_context_ptr = uint64_t{0x1000} * pick(3);
    entry.s1_cd_max = pick(3);
    entry.s1_dss = static_cast<smmuv3::S1Dss>(pick(3));
    entry.s1_csh = pick(2);
    entry.s1_stalld = pick(2) != 0;
    entry.mev = pick(2) != 0;
    entry.eats = pick(3);
    entry.sh_cfg = pick(2);
    entry.mt_cfg = pick(2) != 0;
    entry.s2_vmid = pick(3);
    entry.s2_t0sz = static_cast<uint8_t>(16 + 8 * pick(2));
    entry.s2_aa64 = pick(2) != 0;
    entry.s2_stall = pick(4) == 0;
    entry.s2_record = pick(2) != 0;
    entry.s2_fwb = pick(2) != 0;
    entry.s2_ttb = uint64_t{0x10000} * pick(3);
    RawSte raw = EncodeSte(entry);
    const RawSte used = UsedBits(raw);
    for (size_t i = 0; i < raw.dw.size(); ++i) raw.dw[i] &= used.dw[i];
    return raw;
  });
}

RC_GTEST_PROP(SteUpdateTest, NeverTorn, ()) {
  const RawSte from = *AnySte();
  const RawSte to = *AnySte();
  WatchedSlot slot(from, to);
  const SteChange change = UpdateSte(slot, to);
  RC_ASSERT(slot.now() == to);
  RC_ASSERT(!slot.torn);
  RC_ASSERT((change == SteChange::kNone) == (from == to));
  RC_ASSERT(slot.syncs <= 3);
  RC_ASSERT((slot.syncs == 0) == (from == to));
  if (change == SteChange::kHitless && MeaningOf(from).has_value() && MeaningOf(to).has_value()) {
    RC_ASSERT(!slot.aborted);
  }
  RC_CLASSIFY(change == SteChange::kHitless);
}

// Garbage in the bits that do not count, as a table may begin with.
RC_GTEST_PROP(SteUpdateTest, BitsThatDoNotCountAreCleared, (uint64_t garbage)) {
  RawSte from = *AnySte();
  const RawSte used = UsedBits(from);
  for (size_t i = 0; i < from.dw.size(); ++i) from.dw[i] |= garbage & ~used.dw[i];
  const RawSte to = *AnySte();
  WatchedSlot slot(from, to);
  UpdateSte(slot, to);
  RC_ASSERT(slot.now() == to);
  RC_ASSERT(!slot.torn);
}

const smmuv3::Stage2Config kStage2 = {.vmid = 7, .vtcr = 0x1234, .s2ttb = 0x8000'0000, .fwb = true};
const smmuv3::RawVste kTranslate = {smmuv3::kBypassVste.dw0 ^ (uint64_t{1} << 1) ^ 0x12'3000, 0x55};

SteChange Change(const RawSte& from, const RawSte& to) {
  WatchedSlot slot(from, to);
  const SteChange change = UpdateSte(slot, to);
  EXPECT_FALSE(slot.torn);
  EXPECT_EQ(slot.now(), to);
  return change;
}

TEST(SteUpdateTest, WhatAGuestDoesIsHitless) {
  const RawSte abort = smmuv3::MakeAbortSte();
  const RawSte bypass = smmuv3::MakeNestedSte(smmuv3::kBypassVste, kStage2, true);
  const RawSte translate = smmuv3::MakeNestedSte(kTranslate, kStage2, true);
  const RawSte with_ats = smmuv3::MakeNestedSte({kTranslate.dw0, kTranslate.dw1 | uint64_t{1} << 28}, kStage2, true);
  ASSERT_EQ(ConfigOf(translate), SteConfig::kNested);
  for (const RawSte& from : {abort, bypass, translate, with_ats}) {
    for (const RawSte& to : {abort, bypass, translate, with_ats}) {
      EXPECT_EQ(Change(from, to), from == to ? SteChange::kNone : SteChange::kHitless)
          << ToString(DecodeSte(from)) << " to " << ToString(DecodeSte(to));
    }
  }
  // Another table of context descriptors.
  EXPECT_EQ(Change(translate, smmuv3::MakeNestedSte({kTranslate.dw0 ^ 0x40'0000, kTranslate.dw1}, kStage2, true)),
            SteChange::kHitless);
  // Both words of the guest at once are more than one.
  EXPECT_EQ(Change(translate, smmuv3::MakeNestedSte({kTranslate.dw0 ^ 0x40'0000, kTranslate.dw1 ^ 1}, kStage2, true)),
            SteChange::kBreakThenMake);
}

TEST(SteUpdateTest, AnotherStage2IsNot) {
  smmuv3::Stage2Config other = kStage2;
  other.vmid = 8;
  EXPECT_EQ(Change(smmuv3::MakeStage2Ste(kStage2, true), smmuv3::MakeStage2Ste(other, true)), SteChange::kHitless);
  other.s2ttb = 0x9000'0000;
  EXPECT_EQ(Change(smmuv3::MakeStage2Ste(kStage2, true), smmuv3::MakeStage2Ste(other, true)),
            SteChange::kBreakThenMake);
}

// The very steps of a change that takes the entry away first.
TEST(SteUpdateTest, BreaksBeforeItMakes) {
  class Recorder : public SteSlot {
   public:
    explicit Recorder(const RawSte& entry) : entry_(entry) {}
    uint64_t Read(size_t word) const override { return entry_.dw[word]; }
    void Write(size_t word, uint64_t value) override {
      entry_.dw[word] = value;
      steps.push_back(word == 0 && value == 0 ? "break" : word == 0 ? "make" : "write");
    }
    void Sync() override { steps.push_back("sync"); }
    std::vector<std::string> steps;

   private:
    RawSte entry_;
  };
  smmuv3::Stage2Config other = kStage2;
  other.vmid = 8;
  other.s2ttb = 0x9000'0000;
  Recorder slot(smmuv3::MakeStage2Ste(kStage2, false));
  UpdateSte(slot, smmuv3::MakeStage2Ste(other, false));
  EXPECT_EQ(slot.steps, (std::vector<std::string>{"break", "sync", "write", "write", "sync", "make", "sync"}));
}

}  // namespace
}  // namespace viommu::agent
