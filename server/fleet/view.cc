#include "server/fleet/view.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace viommu::server {
namespace {

// Calls `f` with the record as its own type.
template <typename F>
decltype(auto) Visit(Kind kind, const google::protobuf::Message& record, F&& f) {
  switch (kind) {
    case Kind::kHost:
      return f(static_cast<const v1::Host&>(record));
    case Kind::kDevice:
      return f(static_cast<const v1::Device&>(record));
    case Kind::kStage2Domain:
      return f(static_cast<const v1::Stage2Domain&>(record));
    case Kind::kViommu:
      return f(static_cast<const v1::Viommu&>(record));
    case Kind::kVdevice:
      return f(static_cast<const v1::Vdevice&>(record));
    case Kind::kNestedDomain:
      return f(static_cast<const v1::NestedDomain&>(record));
    case Kind::kHwQueue:
      return f(static_cast<const v1::HwQueue&>(record));
    case Kind::kQuota:
      return f(static_cast<const v1::Quota&>(record));
  }
  BrokenInvariant(fmt::format("there is no kind {} of records", static_cast<int>(kind)));
}

std::string HostOfRecord(const v1::Host& host) { return host.name(); }
std::string HostOfRecord(const v1::Device& device) {
  // hosts/{host}/devices/{device}
  const size_t end = device.name().find('/', device.name().find('/') + 1);
  return device.name().substr(0, end);
}
std::string HostOfRecord(const v1::Quota& /*quota*/) { return ""; }
template <typename T>
std::string HostOfRecord(const T& record) {
  return record.host();
}

int StateOfRecord(const v1::Quota& /*quota*/) { return 0; }
template <typename T>
int StateOfRecord(const T& record) {
  return record.state();
}

}  // namespace

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kHost:
      return "hosts";
    case Kind::kDevice:
      return "devices";
    case Kind::kStage2Domain:
      return "stage2Domains";
    case Kind::kViommu:
      return "viommus";
    case Kind::kVdevice:
      return "vdevices";
    case Kind::kNestedDomain:
      return "nestedDomains";
    case Kind::kHwQueue:
      return "hwQueues";
    case Kind::kQuota:
      return "quotas";
  }
  return "unknown";
}

void BrokenInvariant(std::string_view what) {
  const std::string line = fmt::format("server/fleet: broken invariant: {}\n", what);
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  std::abort();
}

std::string HostOf(Kind kind, const google::protobuf::Message& record) {
  return Visit(kind, record, [](const auto& typed) { return HostOfRecord(typed); });
}

const std::string& NameOf(Kind kind, const google::protobuf::Message& record) {
  return Visit(kind, record, [](const auto& typed) -> const std::string& { return typed.name(); });
}

const std::string& UidOf(Kind kind, const google::protobuf::Message& record) {
  return Visit(kind, record, [](const auto& typed) -> const std::string& { return typed.uid(); });
}

int64_t GenerationOf(Kind kind, const google::protobuf::Message& record) {
  return Visit(kind, record, [](const auto& typed) -> int64_t { return typed.generation(); });
}

int64_t RevisionOf(Kind kind, const google::protobuf::Message& record) {
  return Visit(kind, record, [](const auto& typed) -> int64_t { return typed.revision(); });
}

int StateOf(Kind kind, const google::protobuf::Message& record) {
  return Visit(kind, record, [](const auto& typed) -> int { return StateOfRecord(typed); });
}

v1::Resource ToResource(Kind kind, const google::protobuf::Message& record) {
  v1::Resource resource;
  switch (kind) {
    case Kind::kHost:
      *resource.mutable_host() = static_cast<const v1::Host&>(record);
      break;
    case Kind::kDevice:
      *resource.mutable_device() = static_cast<const v1::Device&>(record);
      break;
    case Kind::kStage2Domain:
      *resource.mutable_stage2_domain() = static_cast<const v1::Stage2Domain&>(record);
      break;
    case Kind::kViommu:
      *resource.mutable_viommu() = static_cast<const v1::Viommu&>(record);
      break;
    case Kind::kVdevice:
      *resource.mutable_vdevice() = static_cast<const v1::Vdevice&>(record);
      break;
    case Kind::kNestedDomain:
      *resource.mutable_nested_domain() = static_cast<const v1::NestedDomain&>(record);
      break;
    case Kind::kHwQueue:
      *resource.mutable_hw_queue() = static_cast<const v1::HwQueue&>(record);
      break;
    case Kind::kQuota:
      *resource.mutable_quota() = static_cast<const v1::Quota&>(record);
      break;
  }
  return resource;
}

std::shared_ptr<google::protobuf::Message> NewRecord(Kind kind) {
  switch (kind) {
    case Kind::kHost:
      return std::make_shared<v1::Host>();
    case Kind::kDevice:
      return std::make_shared<v1::Device>();
    case Kind::kStage2Domain:
      return std::make_shared<v1::Stage2Domain>();
    case Kind::kViommu:
      return std::make_shared<v1::Viommu>();
    case Kind::kVdevice:
      return std::make_shared<v1::Vdevice>();
    case Kind::kNestedDomain:
      return std::make_shared<v1::NestedDomain>();
    case Kind::kHwQueue:
      return std::make_shared<v1::HwQueue>();
    case Kind::kQuota:
      return std::make_shared<v1::Quota>();
  }
  return nullptr;
}

RecordPtr ParseRecord(Kind kind, std::string_view bytes) {
  std::shared_ptr<google::protobuf::Message> record = NewRecord(kind);
  if (record == nullptr || !record->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return nullptr;
  return record;
}

}  // namespace viommu::server
