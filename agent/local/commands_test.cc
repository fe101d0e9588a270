#include "agent/local/commands.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

v1::Command Parse(const std::string& text) {
  v1::Command command;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &command)) << text;
  return command;
}

smmuv3::RawCommand Raw(const std::string& text) {
  const auto raw = ToRaw(Parse(text), 0);
  EXPECT_TRUE(raw.ok()) << raw.status();
  return raw.value_or(smmuv3::RawCommand{});
}

TEST(CommandsTest, TypedCommandsBecomeTheBytesOfTheManual) {
  EXPECT_EQ(Raw("tlbi_nh_all {}"), (smmuv3::RawCommand{0x10, 0}));
  EXPECT_EQ(Raw("tlbi_nsnh_all {}"), (smmuv3::RawCommand{0x30, 0}));
  EXPECT_EQ(Raw("tlbi_nh_asid {asid: 0xabcd}"), (smmuv3::RawCommand{0xabcd'0000'0000'0011, 0}));
  EXPECT_EQ(Raw("tlbi_nh_va {asid: 1 address: 0x12345fff leaf: true}"),
            (smmuv3::RawCommand{0x0001'0000'0000'0012, 0x12345001}));
  EXPECT_EQ(Raw("tlbi_nh_vaa {address: 0x7000 range {num: 3 scale: 2 ttl: 3 tg: 1}}"),
            (smmuv3::RawCommand{0x13 | (3 << 12) | (2 << 20), 0x7000 | (3 << 8) | (1 << 10)}));
  EXPECT_EQ(Raw("cfgi_cd {vdev_id: 0x80 ssid: 5 leaf: true}"),
            (smmuv3::RawCommand{0x0000'0080'0000'0005 | (5 << 12), 1}));
  EXPECT_EQ(Raw("cfgi_cd_all {vdev_id: 0xffffffff}").dw0 >> 32, 0xffffffffu);
  EXPECT_EQ(Raw("cfgi_cd_all {vdev_id: 7}").dw0 & 0xff, 0x06u);
  EXPECT_EQ(Raw("atc_inv {vdev_id: 9 address: 0x3000 size: 52 ssid: 0}"),
            (smmuv3::RawCommand{0x0000'0009'0000'0840, 0x3000 | 52}));
  EXPECT_EQ(Raw("atc_inv {vdev_id: 9 global: true}").dw0, 0x0000'0009'0000'0240u);
}

TEST(CommandsTest, RawCommandsGoThroughAsTheyAre) {
  v1::Command command;
  command.set_raw(std::string("\x46\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00\x00\x00\x40", 16));
  EXPECT_EQ(ToRaw(command, 0).value(), (smmuv3::RawCommand{0x8000'0000'0000'0046, 0x4000'0000'0000'0001}));
}

TEST(CommandsTest, WhatDoesNotFitIsNamed) {
  const auto check = [](const std::string& text, const std::string& field) {
    const auto raw = ToRaw(Parse(text), 3);
    EXPECT_EQ(ReasonOf(raw.status()), v1::ERROR_REASON_INVALID_FIELD) << text;
    EXPECT_EQ(DetailOf<google::rpc::BadRequest>(raw.status()).field_violations(0).field(), "commands[3]" + field);
  };
  check("", "");
  check("raw: 'short'", ".raw");
  check("tlbi_nh_asid {asid: 0x10000}", ".tlbi_nh_asid.asid");
  check("tlbi_nh_va {asid: 0x10000}", ".tlbi_nh_va.asid");
  check("tlbi_nh_va {range {num: 32}}", ".tlbi_nh_va.range.num");
  check("tlbi_nh_vaa {range {scale: 32}}", ".tlbi_nh_vaa.range.scale");
  check("tlbi_nh_va {range {ttl: 4}}", ".tlbi_nh_va.range.ttl");
  check("tlbi_nh_va {range {tg: 4}}", ".tlbi_nh_va.range.tg");
  check("cfgi_cd {ssid: 0x100000}", ".cfgi_cd.ssid");
  check("atc_inv {ssid: 0x100000}", ".atc_inv.ssid");
  check("atc_inv {size: 53}", ".atc_inv.size");
}

TEST(CommandsTest, AStopIsExplainedByItsCommand) {
  smmuv3::Features features;
  features.ats = true;
  features.asid_bits = 16;
  features.ssid_bits = 8;
  const auto why = [&features](const smmuv3::RawCommand& raw, int error_number) {
    // In the middle of a group; the group before it is done.
    std::vector<smmuv3::RawCommand> commands(130, smmuv3::RawCommand{0x10, 0});
    commands[0] = {0x46, 0};
    commands[70] = raw;
    return ExplainStop(commands, 63, ErrnoStatus(error_number, "HWPT_INVALIDATE", "no"), features,
                       [](uint32_t id) { return id == 1; });
  };
  EXPECT_EQ(why(Raw("cfgi_cd_all {vdev_id: 7}"), EIO).reason, v1::ERROR_REASON_UNKNOWN_VDEV_ID);
  EXPECT_NE(why(Raw("cfgi_cd_all {vdev_id: 7}"), EIO).message.find("vdev_id 7"), std::string::npos);
  EXPECT_NE(why(Raw("cfgi_cd_all {vdev_id: 7}"), EIO).message.find("commands[70]"), std::string::npos);
  EXPECT_EQ(why(Raw("atc_inv {vdev_id: 7}"), EIO).reason, v1::ERROR_REASON_UNKNOWN_VDEV_ID);
  EXPECT_EQ(why({0x46, 0}, EIO).reason, v1::ERROR_REASON_OPCODE_FORBIDDEN);
  EXPECT_EQ(why({0x03, 0}, EIO).reason, v1::ERROR_REASON_OPCODE_FORBIDDEN);
  EXPECT_EQ(why({0xff, 0}, EIO).reason, v1::ERROR_REASON_OPCODE_FORBIDDEN);
  EXPECT_EQ(why({0x10, 1}, EIO).reason, v1::ERROR_REASON_COMMAND_ILLEGAL);
  EXPECT_EQ(why({0x1'0000'0040, 63}, EIO).reason, v1::ERROR_REASON_COMMAND_ILLEGAL);
  EXPECT_EQ(why({0x10, 0}, EIO).reason, v1::ERROR_REASON_BACKEND_FAILED);
  EXPECT_EQ(why({0x10, 0}, ETIMEDOUT).reason, v1::ERROR_REASON_SMMU_TIMEOUT);
  EXPECT_EQ(why({0x10, 0}, EOPNOTSUPP).reason, v1::ERROR_REASON_TARGET_NOT_SUPPORTED);
  EXPECT_EQ(why({0x10, 0}, ENOMEM).reason, v1::ERROR_REASON_BACKEND_FAILED);
}

}  // namespace
}  // namespace viommu::agent
