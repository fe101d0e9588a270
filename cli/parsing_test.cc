// What people type: names, numbers, filters, invalidations, stream table entries, lists of vdev_ids.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/filters.h"
#include "cli/invalidation_spec.h"
#include "cli/names.h"
#include "cli/text.h"
#include "cli/vdev_id_list.h"
#include "cli/vste.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(Names, FullAndShortFormsGiveTheSameName) {
  const struct {
    Kind kind;
    std::string typed;
    std::string full;
  } kCases[] = {
      {Kind::kHost, "a", "hosts/a"},
      {Kind::kHost, "hosts/a", "hosts/a"},
      {Kind::kSmmu, "a/smmu0", "hosts/a/smmus/smmu0"},
      {Kind::kDevice, "a/0000:01:00.0", "hosts/a/devices/0000:01:00.0"},
      {Kind::kDevice, "a/0002:AB:00.1", "hosts/a/devices/0002:ab:00.1"},
      {Kind::kDevice, "a/01:00.0", "hosts/a/devices/0000:01:00.0"},
      {Kind::kDevice, "hosts/a/devices/01:00.0", "hosts/a/devices/0000:01:00.0"},
      {Kind::kStage2Domain, "web", "stage2Domains/web"},
      {Kind::kViommu, "v1", "viommus/v1"},
      {Kind::kVdevice, "v1/16", "viommus/v1/vdevices/16"},
      {Kind::kVdevice, "v1/0x10", "viommus/v1/vdevices/16"},
      {Kind::kVdevice, "viommus/v1/vdevices/0x10", "viommus/v1/vdevices/16"},
      {Kind::kNestedDomain, "v1/n", "viommus/v1/nestedDomains/n"},
  };
  for (const auto& c : kCases) {
    const auto full = FullName(c.kind, c.typed);
    ASSERT_TRUE(full.ok()) << c.typed << ": " << full.status();
    EXPECT_EQ(*full, c.full);
    EXPECT_EQ(KindOfFullName(*full), c.kind);
  }
}

TEST(Names, WhatIsNoNameOfTheKindIsRefusedWithAnExample) {
  for (const auto& [kind, typed] :
       std::vector<std::pair<Kind, std::string>>{{Kind::kHost, ""},
                                                 {Kind::kHost, "a/b"},
                                                 {Kind::kDevice, "0000:01:00.0"},
                                                 {Kind::kDevice, "hosts/a"},
                                                 {Kind::kViommu, "hosts/a"},
                                                 {Kind::kVdevice, "v1/x"},
                                                 {Kind::kVdevice, "viommus/v1/nestedDomains/n"},
                                                 {Kind::kNestedDomain, "v1//n"}}) {
    const auto full = FullName(kind, typed);
    EXPECT_TRUE(IsUsageError(full.status())) << typed;
    EXPECT_THAT(MessageOf(full.status()), HasSubstr("; write ")) << typed;
  }
}

TEST(Names, KindsHaveAliasesAndSuggestions) {
  for (const KindInfo& info : AllKinds()) {
    EXPECT_EQ(ParseKind(info.plural).value(), info.kind);
    EXPECT_EQ(ParseKind(info.singular).value(), info.kind);
    for (const auto alias : info.aliases) EXPECT_EQ(ParseKind(alias).value(), info.kind) << alias;
    EXPECT_EQ(&InfoOf(info.kind), &info);
  }
  EXPECT_EQ(ParseKind("vIOMMU").value(), Kind::kViommu);
  EXPECT_THAT(MessageOf(ParseKind("devises").status()), HasSubstr("did you mean \"devices\""));
}

TEST(Names, InvalidationTargetsAreViommusOrNestedDomains) {
  EXPECT_EQ(InvalidationTarget("v1").value(), "viommus/v1");
  EXPECT_EQ(InvalidationTarget("v1/n").value(), "viommus/v1/nestedDomains/n");
  EXPECT_EQ(InvalidationTarget("viommus/v1").value(), "viommus/v1");
  EXPECT_TRUE(IsUsageError(InvalidationTarget("viommus/v1/vdevices/16").status()));
  EXPECT_TRUE(IsUsageError(InvalidationTarget("").status()));
}

TEST(Names, ShortNamesAreForColumns) {
  EXPECT_EQ(ShortName("viommus/v1/vdevices/16"), "v1/16");
  EXPECT_EQ(ShortName("hosts/a"), "a");
  EXPECT_EQ(ShortName("web-1"), "web-1");
  EXPECT_EQ(HostOf("hosts/a/devices/0000:01:00.0"), "hosts/a");
  EXPECT_EQ(HostOf("viommus/v1"), "viommus/v1");
}

TEST(Text, NumbersAreDecimalOrHex) {
  EXPECT_EQ(ParseNumber("16", "n").value(), 16U);
  EXPECT_EQ(ParseNumber("0x10", "n").value(), 16U);
  EXPECT_EQ(ParseNumber("0xffffffffffffffff", "n").value(), UINT64_MAX);
  for (const char* bad : {"", "0x", "-1", "1 ", "1g", "0x1g", "18446744073709551616"}) {
    EXPECT_TRUE(IsUsageError(ParseNumber(bad, "n").status())) << bad;
  }
  EXPECT_THAT(MessageOf(ParseNumber("5", "n", 4).status()), HasSubstr("largest is 0x4"));
}

TEST(Text, AgesHaveTwoUnitsAtMost) {
  const WallTime start{};
  const auto age = [start](std::chrono::seconds s) { return FormatAge(start, start + s); };
  using std::chrono::hours;
  using std::chrono::minutes;
  using std::chrono::seconds;
  EXPECT_EQ(age(seconds(-5)), "0s");
  EXPECT_EQ(age(seconds(119)), "119s");
  EXPECT_EQ(age(minutes(3) + seconds(12)), "3m12s");
  EXPECT_EQ(age(minutes(59)), "59m");
  EXPECT_EQ(age(hours(3) + minutes(5)), "3h5m");
  EXPECT_EQ(age(hours(47)), "47h");
  EXPECT_EQ(age(hours(24 * 12)), "12d");
}

TEST(Text, PairsMustNotContradictThemselves) {
  EXPECT_THAT(ParsePairs({"a=1,b=x=y", "a=1"}, "-l").value(), ElementsAre(Pair("a", "1"), Pair("b", "x=y")));
  EXPECT_TRUE(IsUsageError(ParsePairs({"a=1", "a=2"}, "-l").status()));
  EXPECT_TRUE(IsUsageError(ParsePairs({"a"}, "-l").status()));
  EXPECT_TRUE(IsUsageError(ParsePairs({"=1"}, "-l").status()));
}

TEST(Text, TimeoutsAreBounded) {
  EXPECT_EQ(ParseTimeout("1m30s", "--timeout").value(), std::chrono::seconds(90));
  for (const char* bad : {"0s", "10", "-1s", "25h", ""}) {
    EXPECT_TRUE(IsUsageError(ParseTimeout(bad, "--timeout").status())) << bad;
  }
}

TEST(Invalidations, EachFormOfTheHelpIsUnderstood) {
  const auto forms = InvalidationForms();
  EXPECT_EQ(forms.size(), InvalidationNames().size());
  for (std::string form : forms) {
    for (const auto& [word, value] :
         std::vector<std::pair<std::string, std::string>>{{"=N", "=3"}, {"=BOOL", "=true"}, {"WORD", "0x"}}) {
      for (size_t at = form.find(word); at != std::string::npos; at = form.find(word))
        form.replace(at, word.size(), value);
    }
    const auto command = ParseInvalidation(form);
    ASSERT_TRUE(command.ok()) << form << ": " << command.status();
    // What is printed of a command reads back as the same command.
    const auto again = ParseInvalidation(FormatInvalidation(*command));
    ASSERT_TRUE(again.ok()) << FormatInvalidation(*command);
    EXPECT_EQ(again->SerializeAsString(), command->SerializeAsString()) << form;
  }
}

TEST(Invalidations, FieldsGoWhereTheyBelong) {
  const auto va = ParseInvalidation("tlbi-nh-va:asid=5,address=0x1000,leaf=true,num=3,tg=1").value();
  EXPECT_EQ(va.tlbi_nh_va().asid(), 5U);
  EXPECT_EQ(va.tlbi_nh_va().address(), 0x1000U);
  EXPECT_TRUE(va.tlbi_nh_va().leaf());
  EXPECT_EQ(va.tlbi_nh_va().range().num(), 3U);
  EXPECT_EQ(va.tlbi_nh_va().range().tg(), 1U);
  EXPECT_FALSE(ParseInvalidation("tlbi-nh-va:asid=5").value().tlbi_nh_va().has_range());
  const auto atc = ParseInvalidation("ATC-INV:vdev-id=0x10,size=52").value();
  EXPECT_EQ(atc.atc_inv().vdev_id(), 16U);
  EXPECT_FALSE(atc.atc_inv().has_ssid());
  EXPECT_TRUE(ParseInvalidation("atc-inv:vdev_id=16,ssid=0").value().atc_inv().has_ssid());
  EXPECT_TRUE(ParseInvalidation("tlbi-nh-all").value().has_tlbi_nh_all());
  EXPECT_EQ(ParseInvalidation("raw:0x11,0x0102030405060708").value().raw(),
            std::string("\x11\0\0\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01", 16));
}

TEST(Invalidations, WhatIsWrongIsNamed) {
  const struct {
    std::string spec;
    std::string said;
  } kCases[] = {
      {"", "there is no invalidation"},
      {"tlbi-nh-asd:asid=5", "did you mean \"tlbi-nh-asid\""},
      {"raw", "two 64-bit words"},
      {"raw:1", "two 64-bit words"},
      {"raw:1,x", "not a number"},
      {"tlbi-nh-asid:vmid=1", "its fields are asid"},
      {"tlbi-nh-asid:asid", "as FIELD=VALUE"},
      {"tlbi-nh-asid:asid=1,asid=2", "given twice"},
      {"tlbi-nh-asid:asid=0x100000000", "too large"},
      {"cfgi-cd:leaf=maybe", "neither true nor false"},
      {"tlbi-nh-all:asid=1", "its fields are none"},
  };
  for (const auto& c : kCases) {
    const auto command = ParseInvalidation(c.spec);
    EXPECT_TRUE(IsUsageError(command.status())) << c.spec;
    EXPECT_THAT(MessageOf(command.status()), HasSubstr(c.said)) << c.spec;
  }
}

TEST(Vste, TwoWords) {
  const auto vste = ParseVste("0x8000100b, 2").value();
  EXPECT_EQ(vste.word0(), 0x8000100bU);
  EXPECT_EQ(vste.word1(), 2U);
  EXPECT_EQ(FormatVste(vste), "0x000000008000100b,0x0000000000000002");
  for (const char* bad : {"", "1", "1,2,3", "1,y"}) EXPECT_TRUE(IsUsageError(ParseVste(bad).status())) << bad;
}

TEST(Vste, IsTold) {
  EXPECT_THAT(DescribeVste(ParseVste("0x8000100b,0x10000000").value()),
              testing::AllOf(HasSubstr("0x80001000"), HasSubstr("linear"), HasSubstr("ATS on")));
  EXPECT_THAT(DescribeVste(ParseVste("0x0,0").value()), HasSubstr("V=0"));
  EXPECT_EQ(DescribeVste(ParseVste("0x1,0").value()), "abort");
  EXPECT_THAT(DescribeVste(ParseVste("0x9,0").value()), HasSubstr("bypass"));
  EXPECT_THAT(DescribeVste(ParseVste("0xd,0").value()), HasSubstr("may not"));
}

TEST(VdevIdList, LinesCommentsAndLabels) {
  const auto list = ParseVdevIdList("# of web-1\na/01:00.0=0x10 tier=gold\n\n  a/0000:02:00.0=17\t# second\r\n", "f");
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2U);
  EXPECT_EQ((*list)[0].device(), "hosts/a/devices/0000:01:00.0");
  EXPECT_EQ((*list)[0].vdev_id(), 16U);
  EXPECT_EQ((*list)[0].labels().at("tier"), "gold");
  EXPECT_EQ((*list)[1].vdev_id(), 17U);
}

TEST(VdevIdList, ErrorsNameTheLine) {
  EXPECT_THAT(MessageOf(ParseVdevIdList("a/01:00.0=1\nbroken\n", "f").status()), HasSubstr("f, line 2"));
  EXPECT_THAT(MessageOf(ParseVdevIdList("nohost=1\n", "f").status()), HasSubstr("f, line 1"));
  EXPECT_TRUE(IsUsageError(ParseVdevIdList("# nothing\n", "f").status()));
}

TEST(Filters, BecomeFieldsOfTheRequest) {
  v1::ListVdevicesRequest request;
  ASSERT_TRUE(ApplyFilters(
                  {{"host=a,state=ready", "state=FAILED", "smmu=a/smmu0,viommu=v1", "device=a/01:00.0"}, {"tier=gold"}},
                  request)
                  .ok());
  EXPECT_EQ(request.host(), "hosts/a");
  EXPECT_THAT(request.states(), ElementsAre(v1::STATE_READY, v1::STATE_FAILED));
  EXPECT_EQ(request.smmu(), "hosts/a/smmus/smmu0");
  EXPECT_EQ(request.viommu(), "viommus/v1");
  EXPECT_EQ(request.device(), "hosts/a/devices/0000:01:00.0");
  EXPECT_EQ(request.labels().at("tier"), "gold");
  v1::ListDevicesRequest devices;
  ASSERT_TRUE(ApplyFilters({{"free=false,state=assigned"}, {}}, devices).ok());
  EXPECT_TRUE(devices.has_free());
  EXPECT_FALSE(devices.free());
  EXPECT_THAT(devices.states(), ElementsAre(v1::DEVICE_STATE_ASSIGNED));
  v1::ListViommusRequest viommus;
  ASSERT_TRUE(ApplyFilters({{"stage2domain=web"}, {}}, viommus).ok());
  EXPECT_EQ(viommus.stage2_domain(), "stage2Domains/web");
}

TEST(Filters, WrongOnesAreRefused) {
  v1::ListHostsRequest request;
  EXPECT_THAT(MessageOf(ApplyFilters({{"vm=web"}, {}}, request)), HasSubstr("the fields are state, cordoned"));
  EXPECT_THAT(MessageOf(ApplyFilters({{"state=ready"}, {}}, request)), HasSubstr("CONNECTED, DISCONNECTED"));
  EXPECT_THAT(MessageOf(ApplyFilters({{"page_size=1"}, {}}, request)), HasSubstr("cannot filter"));
  EXPECT_THAT(MessageOf(ApplyFilters({{"cordoned"}, {}}, request)), HasSubstr("KEY=VALUE"));
  v1::ListDevicesRequest devices;
  EXPECT_THAT(MessageOf(ApplyFilters({{"host=a,host=b"}, {}}, devices)), HasSubstr("given twice"));
}

}  // namespace
}  // namespace viommu::cli
