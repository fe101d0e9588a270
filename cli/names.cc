#include "cli/names.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/text.h"
#include "common/suggest.h"

namespace viommu::cli {
namespace {

// The collections that a full name alternates with ids: hosts/{}/smmus/{}.
struct Pattern {
  Kind kind;
  std::string_view parent;
  std::string_view child;  // empty for names of two segments
};

constexpr Pattern kPatterns[] = {
    {Kind::kHost, "hosts", ""},
    {Kind::kSmmu, "hosts", "smmus"},
    {Kind::kDevice, "hosts", "devices"},
    {Kind::kStage2Domain, "stage2Domains", ""},
    {Kind::kViommu, "viommus", ""},
    {Kind::kVdevice, "viommus", "vdevices"},
    {Kind::kNestedDomain, "viommus", "nestedDomains"},
    {Kind::kHwQueue, "viommus", "hwQueues"},
    {Kind::kQuota, "quotas", ""},
};

const Pattern& PatternOf(Kind kind) {
  return *std::find_if(std::begin(kPatterns), std::end(kPatterns), [kind](const Pattern& p) { return p.kind == kind; });
}

std::string Example(Kind kind) {
  switch (kind) {
    case Kind::kHost:
      return "hosts/a or a";
    case Kind::kSmmu:
      return "hosts/a/smmus/smmu0 or a/smmu0";
    case Kind::kDevice:
      return "hosts/a/devices/0000:01:00.0 or a/0000:01:00.0";
    case Kind::kStage2Domain:
      return "stage2Domains/web or web";
    case Kind::kViommu:
      return "viommus/v1 or v1";
    case Kind::kVdevice:
      return "viommus/v1/vdevices/16 or v1/16 or v1/0x10";
    case Kind::kNestedDomain:
      return "viommus/v1/nestedDomains/n or v1/n";
    case Kind::kHwQueue:
      return "viommus/v1/hwQueues/0 or v1/0";
    case Kind::kQuota:
      return "quotas/acme or acme";
  }
  return "";
}

absl::Status BadName(Kind kind, std::string_view name) {
  return UsageError(fmt::format("\"{}\" is not a name of a {}; write {}", name, InfoOf(kind).singular, Example(kind)));
}

// lspci leaves segment 0000 out; the API never does.
std::string PciAddress(std::string_view id) {
  std::string address = Lower(id);
  if (std::count(address.begin(), address.end(), ':') == 1) address.insert(0, "0000:");
  return address;
}

}  // namespace

const std::vector<KindInfo>& AllKinds() {
  static const auto& kinds = *new std::vector<KindInfo>{
      {Kind::kHost, "host", "hosts", {"ho"}},
      {Kind::kSmmu, "smmu", "smmus", {"sm"}},
      {Kind::kDevice, "device", "devices", {"dev", "devs"}},
      {Kind::kStage2Domain, "stage2domain", "stage2domains", {"s2", "stage2", "s2d"}},
      {Kind::kViommu, "viommu", "viommus", {"vi"}},
      {Kind::kVdevice, "vdevice", "vdevices", {"vd", "vdev", "vdevs"}},
      {Kind::kNestedDomain, "nesteddomain", "nesteddomains", {"nd", "nested"}},
      {Kind::kHwQueue, "hwqueue", "hwqueues", {"hq", "queue", "queues"}},
      {Kind::kQuota, "quota", "quotas", {"qu"}},
  };
  return kinds;
}

const KindInfo& InfoOf(Kind kind) { return AllKinds()[static_cast<size_t>(kind)]; }

absl::StatusOr<Kind> ParseKind(std::string_view word) {
  const std::string lower = Lower(word);
  std::vector<std::string> words;
  for (const KindInfo& info : AllKinds()) {
    if (lower == info.singular || lower == info.plural) return info.kind;
    if (std::find(info.aliases.begin(), info.aliases.end(), lower) != info.aliases.end()) return info.kind;
    words.emplace_back(info.plural);
  }
  return UsageError(
      fmt::format("there is no kind \"{}\"; the kinds are {}{}", word, Join(words, ", "), DidYouMean(lower, words)));
}

std::optional<Kind> KindOfFullName(std::string_view name) {
  const std::vector<std::string> segments = Split(name, '/');
  for (const std::string& segment : segments) {
    if (segment.empty()) return std::nullopt;
  }
  for (const Pattern& pattern : kPatterns) {
    if (segments.size() != (pattern.child.empty() ? 2U : 4U) || segments[0] != pattern.parent) continue;
    if (pattern.child.empty() || segments[2] == pattern.child) return pattern.kind;
  }
  return std::nullopt;
}

absl::StatusOr<std::string> FullName(Kind kind, std::string_view name) {
  const Pattern& pattern = PatternOf(kind);
  std::vector<std::string> segments = Split(name, '/');
  for (const std::string& segment : segments) {
    if (segment.empty()) return BadName(kind, name);
  }
  std::vector<std::string> ids;
  const std::optional<Kind> full = KindOfFullName(name);
  if (full == kind) {
    ids.push_back(segments[1]);
    if (!pattern.child.empty()) ids.push_back(segments[3]);
  } else if (segments.size() == (pattern.child.empty() ? 1U : 2U)) {
    // "hosts/a" as a device would read as the device a of a host called hosts: more likely a slip.
    if (full.has_value()) return BadName(kind, name);
    ids = segments;
  } else {
    return BadName(kind, name);
  }
  if (kind == Kind::kDevice) ids[1] = PciAddress(ids[1]);
  if (kind == Kind::kVdevice || kind == Kind::kHwQueue) {
    const absl::StatusOr<uint64_t> number = ParseNumber(ids[1], "the last part");
    if (!number.ok()) return BadName(kind, name);
    ids[1] = std::to_string(*number);
  }
  if (pattern.child.empty()) return fmt::format("{}/{}", pattern.parent, ids[0]);
  return fmt::format("{}/{}/{}/{}", pattern.parent, ids[0], pattern.child, ids[1]);
}

absl::StatusOr<std::string> InvalidationTarget(std::string_view name) {
  const std::optional<Kind> full = KindOfFullName(name);
  if (full == Kind::kViommu || full == Kind::kNestedDomain) return std::string(name);
  const auto slashes = std::count(name.begin(), name.end(), '/');
  if (!full.has_value() && slashes == 0 && !name.empty()) return FullName(Kind::kViommu, name);
  if (!full.has_value() && slashes == 1) return FullName(Kind::kNestedDomain, name);
  return UsageError(
      fmt::format("\"{}\" takes no invalidations; name a viommu (viommus/v1 or v1) or a nested domain "
                  "(viommus/v1/nestedDomains/n or v1/n)",
                  name));
}

std::string ShortName(std::string_view full_name) {
  if (!KindOfFullName(full_name).has_value()) return std::string(full_name);
  const std::vector<std::string> segments = Split(full_name, '/');
  return segments.size() == 2 ? segments[1] : segments[1] + "/" + segments[3];
}

std::string HostOf(std::string_view full_name) {
  const std::vector<std::string> segments = Split(full_name, '/');
  return segments.size() == 4 && segments[0] == "hosts" ? segments[0] + "/" + segments[1] : std::string(full_name);
}

std::string_view LastSegment(std::string_view name) {
  const size_t slash = name.rfind('/');
  return slash == std::string_view::npos ? name : name.substr(slash + 1);
}

}  // namespace viommu::cli
