// Tables, documents and styles, to the letter.

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/style.h"
#include "cli/output/table.h"
#include "common/timestamp.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::cli {
namespace {

using Json = nlohmann::ordered_json;

const WallTime kNow{std::chrono::hours(1000)};

v1::Vdevice SomeVdevice() {
  v1::Vdevice vdevice;
  vdevice.set_name("viommus/v1/vdevices/16");
  vdevice.set_uid("u-1");
  vdevice.set_etag("e-1");
  vdevice.set_generation(7);
  vdevice.set_observed_generation(6);
  vdevice.set_state(v1::STATE_FAILED);
  vdevice.mutable_state_reason()->set_reason("BACKEND_FAILED");
  vdevice.mutable_state_reason()->set_message("the kernel said EBUSY");
  vdevice.mutable_state_reason()->set_error_number(16);
  for (const char* key : {"zone", "app", "tier", "b"}) (*vdevice.mutable_labels())[key] = "x";
  *vdevice.mutable_create_time() = ToTimestamp(kNow - std::chrono::seconds(90));
  *vdevice.mutable_update_time() = ToTimestamp(kNow);
  vdevice.set_viommu("viommus/v1");
  vdevice.set_device("hosts/a/devices/0000:01:00.0");
  vdevice.set_vdev_id(16);
  vdevice.set_stream_id(256);
  vdevice.set_vm("web-1");
  return vdevice;
}

TEST(Table, ColumnsAreAlignedWithoutTrailingSpaces) {
  Table table({{"NAME"}, {"COUNT", Align::kRight}, {"LAST"}});
  table.Add({"a", "1", "x"});
  table.Add({"längere", "100", ""});
  table.Add({"c\nd", "20", "end"});
  EXPECT_EQ(table.Print(false),
            "NAME     COUNT  LAST\n"
            "a            1  x\n"
            "längere    100  -\n"
            "c d         20  end\n");
  EXPECT_EQ(table.Print(false, 2).substr(0, 6), "  NAME");
}

TEST(Table, ColourTakesNoRoomAndOnlyWithColour) {
  Table table({{"STATE"}, {"NAME"}});
  table.Add({Cell("READY", Style::kGood), "a"});
  EXPECT_EQ(table.Print(false), "STATE  NAME\nREADY  a\n");
  EXPECT_EQ(table.Print(true),
            "\033[1mSTATE\033[0m  \033[1mNAME\033[0m\n"
            "\033[32mREADY\033[0m  a\n");
}

TEST(Style, OfStates) {
  EXPECT_EQ(StyleOfState("READY"), Style::kGood);
  EXPECT_EQ(StyleOfState("FAILED (BACKEND_FAILED)"), Style::kBad);
  EXPECT_EQ(StyleOfState("DELETING"), Style::kBusy);
  EXPECT_EQ(StyleOfState("DORMANT"), Style::kPlain);
}

TEST(ResourceTable, Vdevices) {
  const v1::Vdevice vdevice = SomeVdevice();
  EXPECT_EQ(
      ResourceTable(Kind::kVdevice, {&vdevice}, false, kNow).Print(false),
      "NAME                    STATE                    VDEV-ID  DEVICE          STREAMID  ATTACHED  VM     AGE\n"
      "viommus/v1/vdevices/16  FAILED (BACKEND_FAILED)     0x10  a/0000:01:00.0     0x100  stage 2   web-1  90s\n");
  const std::string wide = ResourceTable(Kind::kVdevice, {&vdevice}, true, kNow).Print(false);
  EXPECT_NE(wide.find("the kernel said EBUSY"), std::string::npos);
  EXPECT_NE(wide.find("6/7"), std::string::npos);
  EXPECT_NE(wide.find("app=x,b=x,tier=x,zone=x"), std::string::npos);
}

TEST(ResourceTable, EveryKindFillsItsColumns) {
  const v1::Host host;
  const v1::Smmu smmu;
  const v1::Device device;
  const v1::Stage2Domain stage2_domain;
  const v1::Viommu viommu;
  const v1::Vdevice vdevice;
  const v1::NestedDomain nested_domain;
  const v1::HwQueue hw_queue;
  const v1::Quota quota;
  for (const google::protobuf::Message* resource : std::vector<const google::protobuf::Message*>{
           &host, &smmu, &device, &stage2_domain, &viommu, &vdevice, &nested_domain, &hw_queue, &quota}) {
    for (const bool wide : {false, true}) {
      const std::string text = ResourceTable(KindOf(*resource), {resource}, wide, kNow).Print(false);
      EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
      EXPECT_EQ(text.find(" \n"), std::string::npos) << text;
    }
  }
}

TEST(Document, HasEveryScalarInTheOrderOfTheApi) {
  EXPECT_EQ(PrintJson(ToJson(SomeVdevice())), R"({
  "name": "viommus/v1/vdevices/16",
  "uid": "u-1",
  "etag": "e-1",
  "generation": "7",
  "observedGeneration": "6",
  "state": "STATE_FAILED",
  "stateReason": {
    "reason": "BACKEND_FAILED",
    "message": "the kernel said EBUSY",
    "errorNumber": 16
  },
  "labels": {
    "app": "x",
    "b": "x",
    "tier": "x",
    "zone": "x"
  },
  "createTime": "1970-02-11T15:58:30Z",
  "updateTime": "1970-02-11T16:00:00Z",
  "revision": "0",
  "viommu": "viommus/v1",
  "device": "hosts/a/devices/0000:01:00.0",
  "vdevId": "16",
  "streamId": 256,
  "host": "",
  "vm": "web-1",
  "nestedDomain": "",
  "owner": ""
}
)");
}

TEST(Document, JsonLinesAreOneLine) {
  EXPECT_EQ(PrintJsonLine(Json{{"a", 1}, {"b", "x\ny"}}), "{\"a\":1,\"b\":\"x\\ny\"}\n");
}

TEST(Document, Yaml) {
  Json document = Json::object();
  document["items"] =
      Json::array({Json{{"name", "hosts/a"}, {"labels", Json{{"tier", "gold"}}}}, Json{{"name", "12"}}});
  document["empty"] = Json::array();
  document["none"] = Json::object();
  document["words"] = Json::array({"plain", "yes", "a: b", "", "0x10", "null"});
  document["nested"] = Json::array({Json::array({1, 2}), true});
  document["revision"] = 42;
  EXPECT_EQ(PrintYaml(document), R"(items:
  - name: hosts/a
    labels:
      tier: gold
  - name: "12"
empty: []
none: {}
words:
  - plain
  - "yes"
  - "a: b"
  - ""
  - "0x10"
  - "null"
nested:
  -
    - 1
    - 2
  - true
revision: 42
)");
}

// A reader of YAML gets back what a reader of JSON gets.
void ExpectSame(const Json& json, const YAML::Node& yaml) {
  if (json.is_object()) {
    ASSERT_TRUE(yaml.IsMap());
    EXPECT_EQ(json.size(), yaml.size());
    for (const auto& [key, value] : json.items()) ExpectSame(value, yaml[key]);
  } else if (json.is_array()) {
    ASSERT_TRUE(yaml.IsSequence());
    ASSERT_EQ(json.size(), yaml.size());
    for (size_t i = 0; i < json.size(); ++i) ExpectSame(json[i], yaml[i]);
  } else {
    EXPECT_EQ(json.is_string() ? json.get<std::string>() : json.dump(), yaml.Scalar());
  }
}

TEST(Document, YamlReadsBack) {
  Json document = ToJson(SomeVdevice());
  document["more"] =
      Json::array({Json{{"k", Json::array()}}, Json::array({Json{{"a", 1}, {"b", Json{{"c", 2}}}}}), "ä \"q\"\t\\"});
  ExpectSame(document, YAML::Load(PrintYaml(document)));
  // Words that look like something else carry the tag of quoted text.
  EXPECT_EQ(YAML::Load(PrintYaml(document))["generation"].Tag(), "!");
}

}  // namespace
}  // namespace viommu::cli
