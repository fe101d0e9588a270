#include "server/fleet/names.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace viommu::server {
namespace {

constexpr std::string_view kHosts = "hosts/";
constexpr std::string_view kSmmus = "/smmus/";
constexpr std::string_view kDevices = "/devices/";
constexpr std::string_view kStage2Domains = "stage2Domains/";
constexpr std::string_view kViommus = "viommus/";
constexpr std::string_view kVdevices = "/vdevices/";
constexpr std::string_view kNestedDomains = "/nestedDomains/";
constexpr std::string_view kHwQueues = "/hwQueues/";
constexpr std::string_view kQuotas = "quotas/";

bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsHex(char c) { return IsDigit(c) || (c >= 'a' && c <= 'f'); }

bool IsHostId(std::string_view text) {
  const auto letter_or_digit = [](char c) { return IsLower(c) || IsDigit(c); };
  return !text.empty() && text.size() <= kMaxHostIdBytes && letter_or_digit(text.front()) &&
         letter_or_digit(text.back()) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return letter_or_digit(c) || c == '-' || c == '.'; });
}

bool IsSmmuId(std::string_view text) {
  return !text.empty() && text.size() <= kMaxSmmuIdBytes && std::all_of(text.begin(), text.end(), [](char c) {
    return IsLower(c) || IsDigit(c) || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

// segment:bus:device.function
bool IsPciAddress(std::string_view text) {
  const size_t segment = text.find(':');
  if (segment == std::string_view::npos || segment < 4 || segment > 8) return false;
  const std::string_view rest = text.substr(segment + 1);
  return rest.size() == 7 && std::all_of(text.begin(), text.begin() + static_cast<ptrdiff_t>(segment), IsHex) &&
         IsHex(rest[0]) && IsHex(rest[1]) && rest[2] == ':' && (rest[3] == '0' || rest[3] == '1') && IsHex(rest[4]) &&
         rest[5] == '.' && rest[6] >= '0' && rest[6] <= '7';
}

bool IsDecimal(std::string_view text) {
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return false;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// What follows `prefix`; nothing when the text does not begin with it.
std::optional<std::string_view> After(std::string_view text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return std::nullopt;
  return text.substr(prefix.size());
}

// Whether the name is "{collection}{id}" with an id that `is_id` likes.
template <typename IsOne>
bool Is(std::string_view name, std::string_view collection, IsOne is_id) {
  const auto id = After(name, collection);
  return id.has_value() && is_id(*id);
}

// Whether the name is "{collection}{id}{below}{id}" with ids that the two like.
template <typename IsParent, typename IsChild>
bool Is(std::string_view name, std::string_view collection, IsParent is_parent, std::string_view below,
        IsChild is_child) {
  const auto path = After(name, collection);
  if (!path.has_value()) return false;
  const size_t end = path->find('/');
  if (end == std::string_view::npos || !is_parent(path->substr(0, end))) return false;
  return Is(path->substr(end), below, is_child);
}

}  // namespace

bool IsId(std::string_view text) {
  return !text.empty() && text.size() <= kMaxIdBytes && IsLower(text.front()) &&
         std::all_of(text.begin(), text.end(), [](char c) { return IsLower(c) || IsDigit(c) || c == '-'; });
}

bool IsOwner(std::string_view text) { return IsSmmuId(text); }

bool IsHostName(std::string_view name) { return Is(name, kHosts, IsHostId); }
bool IsSmmuName(std::string_view name) { return Is(name, kHosts, IsHostId, kSmmus, IsSmmuId); }
bool IsDeviceName(std::string_view name) { return Is(name, kHosts, IsHostId, kDevices, IsPciAddress); }
bool IsStage2DomainName(std::string_view name) { return Is(name, kStage2Domains, IsId); }
bool IsViommuName(std::string_view name) { return Is(name, kViommus, IsId); }
bool IsVdeviceName(std::string_view name) { return Is(name, kViommus, IsId, kVdevices, IsDecimal); }
bool IsNestedDomainName(std::string_view name) { return Is(name, kViommus, IsId, kNestedDomains, IsId); }
bool IsHwQueueName(std::string_view name) { return Is(name, kViommus, IsId, kHwQueues, IsDecimal); }
bool IsQuotaName(std::string_view name) { return Is(name, kQuotas, IsOwner); }

std::optional<Kind> KindOfName(std::string_view name) {
  if (IsVdeviceName(name)) return Kind::kVdevice;
  if (IsNestedDomainName(name)) return Kind::kNestedDomain;
  if (IsHwQueueName(name)) return Kind::kHwQueue;
  if (IsViommuName(name)) return Kind::kViommu;
  if (IsStage2DomainName(name)) return Kind::kStage2Domain;
  if (IsDeviceName(name)) return Kind::kDevice;
  if (IsHostName(name)) return Kind::kHost;
  if (IsQuotaName(name)) return Kind::kQuota;
  return std::nullopt;
}

std::string_view ParentName(std::string_view name) {
  const size_t first = name.find('/');
  if (first == std::string_view::npos) return {};
  const size_t second = name.find('/', first + 1);
  return second == std::string_view::npos ? std::string_view() : name.substr(0, second);
}

std::string DevicePrefix(std::string_view host) { return fmt::format("{}{}", host, kDevices); }
std::string VdevicePrefix(std::string_view viommu) { return fmt::format("{}{}", viommu, kVdevices); }
std::string NestedDomainPrefix(std::string_view viommu) { return fmt::format("{}{}", viommu, kNestedDomains); }
std::string HwQueuePrefix(std::string_view viommu) { return fmt::format("{}{}", viommu, kHwQueues); }

std::string Stage2DomainName(std::string_view id) { return fmt::format("{}{}", kStage2Domains, id); }
std::string ViommuName(std::string_view id) { return fmt::format("{}{}", kViommus, id); }
std::string VdeviceName(std::string_view viommu, uint64_t vdev_id) {
  return fmt::format("{}{}{}", viommu, kVdevices, vdev_id);
}
std::string NestedDomainName(std::string_view viommu, std::string_view id) {
  return fmt::format("{}{}{}", viommu, kNestedDomains, id);
}
std::string HwQueueName(std::string_view viommu, uint32_t index) {
  return fmt::format("{}{}{}", viommu, kHwQueues, index);
}
std::string QuotaName(std::string_view owner) { return fmt::format("{}{}", kQuotas, owner); }

std::string IommuGroupName(std::string_view host, uint32_t group) {
  return fmt::format("{}/iommuGroups/{}", host, group);
}

}  // namespace viommu::server
