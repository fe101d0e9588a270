#include "agent/local/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/guest_command.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

using smmuv3::Opcode;

// Collects the first field that is too wide.
class Fields {
 public:
  explicit Fields(size_t index) : index_(index) {}

  uint32_t Checked(std::string_view name, uint32_t value, uint32_t max) {
    if (value > max && status_.ok()) {
      status_ = InvalidField(fmt::format("commands[{}].{}", index_, name),
                             "{} is above {}, the widest value of this field", value, max);
    }
    return value;
  }

  const absl::Status& status() const { return status_; }

 private:
  const size_t index_;
  absl::Status status_;
};

constexpr uint32_t kMaxAsid = 0xffff;
constexpr uint32_t kMaxSsid = 0xfffff;
constexpr uint64_t kPageMask = 0xfff;

void FillRange(const v1::TlbiRange& range, std::string_view of, Fields& fields, smmuv3::Command& command) {
  const auto name = [of](const char* field) { return fmt::format("{}.range.{}", of, field); };
  command.num = static_cast<uint8_t>(fields.Checked(name("num"), range.num(), 31));
  command.scale = static_cast<uint8_t>(fields.Checked(name("scale"), range.scale(), 31));
  command.ttl = static_cast<uint8_t>(fields.Checked(name("ttl"), range.ttl(), 3));
  command.tg = static_cast<uint8_t>(fields.Checked(name("tg"), range.tg(), 3));
}

uint32_t SidOf(const smmuv3::RawCommand& raw) { return static_cast<uint32_t>(smmuv3::kSidField.Get(raw.dw0)); }

bool NamesStream(const smmuv3::RawCommand& raw) {
  const auto opcode = smmuv3::OpcodeOf(raw);
  return opcode == Opcode::kCfgiCd || opcode == Opcode::kCfgiCdAll || opcode == Opcode::kAtcInv;
}

// Why this command is not acceptable; nothing when it is.
std::optional<StopReason> Refusal(const smmuv3::RawCommand& command, size_t index, const smmuv3::Features& features,
                                  const std::function<bool(uint32_t)>& has_vdev_id) {
  const uint8_t opcode = smmuv3::OpcodeByte(command);
  const auto at = [index, opcode](std::string_view what) {
    return fmt::format("commands[{}], {}: {}", index, smmuv3::OpcodeName(opcode), what);
  };
  switch (smmuv3::CheckGuestOpcode(opcode)) {
    case smmuv3::GuestCommandRule::kNone:
      break;
    case smmuv3::GuestCommandRule::kOpcodeHost:
      return StopReason{v1::ERROR_REASON_OPCODE_FORBIDDEN, at(smmuv3::DescribeGuestOpcode(opcode))};
    default:
      return StopReason{v1::ERROR_REASON_OPCODE_FORBIDDEN,
                        fmt::format("commands[{}]: opcode {:#04x} is no command of an SMMUv3", index, opcode)};
  }
  if (NamesStream(command) && !has_vdev_id(SidOf(command))) {
    return StopReason{v1::ERROR_REASON_UNKNOWN_VDEV_ID,
                      at(fmt::format("this viommu has no vdevice with vdev_id {0} ({0:#x}); `viommuctl get vdevices` "
                                     "lists what it has",
                                     SidOf(command)))};
  }
  if (const auto rule = smmuv3::CheckGuestCommand(command, features); rule != smmuv3::GuestCommandRule::kNone) {
    return StopReason{v1::ERROR_REASON_COMMAND_ILLEGAL, at(smmuv3::DescribeGuestCommandRule(rule))};
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<smmuv3::RawCommand> ToRaw(const v1::Command& command, size_t index) {
  Fields fields(index);
  smmuv3::Command out;
  switch (command.kind_case()) {
    case v1::Command::kRaw: {
      smmuv3::RawCommand raw;
      if (command.raw().size() != sizeof(raw)) {
        return InvalidField(fmt::format("commands[{}].raw", index), "{} bytes, a command has {}", command.raw().size(),
                            sizeof(raw));
      }
      std::memcpy(&raw, command.raw().data(), sizeof(raw));
      return raw;
    }
    case v1::Command::kTlbiNhAll:
      out.opcode = Opcode::kTlbiNhAll;
      break;
    case v1::Command::kTlbiNsnhAll:
      out.opcode = Opcode::kTlbiNsnhAll;
      break;
    case v1::Command::kTlbiNhAsid:
      out.opcode = Opcode::kTlbiNhAsid;
      out.asid = static_cast<uint16_t>(fields.Checked("tlbi_nh_asid.asid", command.tlbi_nh_asid().asid(), kMaxAsid));
      break;
    case v1::Command::kTlbiNhVa: {
      const auto& in = command.tlbi_nh_va();
      out.opcode = Opcode::kTlbiNhVa;
      out.asid = static_cast<uint16_t>(fields.Checked("tlbi_nh_va.asid", in.asid(), kMaxAsid));
      out.address = in.address() & ~kPageMask;
      out.leaf = in.leaf();
      if (in.has_range()) FillRange(in.range(), "tlbi_nh_va", fields, out);
      break;
    }
    case v1::Command::kTlbiNhVaa: {
      const auto& in = command.tlbi_nh_vaa();
      out.opcode = Opcode::kTlbiNhVaa;
      out.address = in.address() & ~kPageMask;
      out.leaf = in.leaf();
      if (in.has_range()) FillRange(in.range(), "tlbi_nh_vaa", fields, out);
      break;
    }
    case v1::Command::kCfgiCd: {
      const auto& in = command.cfgi_cd();
      out.opcode = Opcode::kCfgiCd;
      out.sid = in.vdev_id();
      out.ssid = fields.Checked("cfgi_cd.ssid", in.ssid(), kMaxSsid);
      out.leaf = in.leaf();
      break;
    }
    case v1::Command::kCfgiCdAll:
      out.opcode = Opcode::kCfgiCdAll;
      out.sid = command.cfgi_cd_all().vdev_id();
      break;
    case v1::Command::kAtcInv: {
      const auto& in = command.atc_inv();
      out.opcode = Opcode::kAtcInv;
      out.sid = in.vdev_id();
      out.address = in.address() & ~kPageMask;
      out.size = static_cast<uint8_t>(fields.Checked("atc_inv.size", in.size(), smmuv3::kAtcSizeAll));
      out.ssv = in.has_ssid();
      out.ssid = fields.Checked("atc_inv.ssid", in.ssid(), kMaxSsid);
      out.global = in.global();
      break;
    }
    case v1::Command::KIND_NOT_SET:
      return InvalidField(fmt::format("commands[{}]", index), "is empty; give raw bytes or one of the typed commands");
  }
  if (!fields.status().ok()) return fields.status();
  return smmuv3::Encode(out);
}

StopReason ExplainStop(std::span<const smmuv3::RawCommand> commands, size_t handled, const absl::Status& status,
                       const smmuv3::Features& features, const std::function<bool(uint32_t)>& has_vdev_id) {
  const int error_number = StatusErrno(status);
  const std::string said(status.message());
  if (error_number == ETIMEDOUT) {
    return {v1::ERROR_REASON_SMMU_TIMEOUT,
            fmt::format("the SMMU did not complete a sync in time ({}); send the whole batch again", said)};
  }
  if (error_number == EOPNOTSUPP) {
    return {
        v1::ERROR_REASON_TARGET_NOT_SUPPORTED,
        fmt::format("this host's backend takes no invalidations for this kind of target ({}); name the viommu", said)};
  }
  if (error_number != EIO) return {v1::ERROR_REASON_BACKEND_FAILED, said};
  const size_t end = std::min<size_t>(commands.size(), handled + kCommandGroup);
  for (size_t i = handled; i < end; ++i) {
    if (auto reason = Refusal(commands[i], i, features, has_vdev_id)) return *std::move(reason);
  }
  return {v1::ERROR_REASON_BACKEND_FAILED, said};
}

}  // namespace viommu::agent
