#include "agent/reconcile/resource.h"

#include <cstdlib>
#include <utility>

namespace viommu::agent {
namespace {

// Calls `f` with the message of a kind that is held. Others are a broken invariant: IsHeldKind() stands at the door.
template <typename Resource, typename F>
decltype(auto) Visit(Resource& resource, F&& f) {
  switch (resource.kind_case()) {
    case v1::Resource::kStage2Domain:
      if constexpr (std::is_const_v<Resource>)
        return f(resource.stage2_domain());
      else
        return f(*resource.mutable_stage2_domain());
    case v1::Resource::kViommu:
      if constexpr (std::is_const_v<Resource>)
        return f(resource.viommu());
      else
        return f(*resource.mutable_viommu());
    case v1::Resource::kVdevice:
      if constexpr (std::is_const_v<Resource>)
        return f(resource.vdevice());
      else
        return f(*resource.mutable_vdevice());
    case v1::Resource::kNestedDomain:
      if constexpr (std::is_const_v<Resource>)
        return f(resource.nested_domain());
      else
        return f(*resource.mutable_nested_domain());
    case v1::Resource::kHwQueue:
      if constexpr (std::is_const_v<Resource>)
        return f(resource.hw_queue());
      else
        return f(*resource.mutable_hw_queue());
    default:
      std::abort();
  }
}

}  // namespace

std::string_view ItemKindName(ItemKind kind) {
  switch (kind) {
    case ItemKind::kStage2Domain:
      return "stage2";
    case ItemKind::kViommu:
      return "viommu";
    case ItemKind::kNestedDomain:
      return "nested";
    case ItemKind::kVdevice:
      return "vdevice";
    case ItemKind::kHwQueue:
      return "hw_queue";
  }
  std::abort();
}

bool IsHeldKind(const v1::Resource& resource) {
  switch (resource.kind_case()) {
    case v1::Resource::kStage2Domain:
    case v1::Resource::kViommu:
    case v1::Resource::kVdevice:
    case v1::Resource::kNestedDomain:
    case v1::Resource::kHwQueue:
      return true;
    default:
      return false;
  }
}

ItemKind KindOf(const v1::Resource& resource) {
  switch (resource.kind_case()) {
    case v1::Resource::kStage2Domain:
      return ItemKind::kStage2Domain;
    case v1::Resource::kViommu:
      return ItemKind::kViommu;
    case v1::Resource::kVdevice:
      return ItemKind::kVdevice;
    case v1::Resource::kNestedDomain:
      return ItemKind::kNestedDomain;
    case v1::Resource::kHwQueue:
      return ItemKind::kHwQueue;
    default:
      std::abort();
  }
}

const std::string& UidOf(const v1::Resource& resource) {
  return Visit(resource, [](const auto& m) -> const std::string& { return m.uid(); });
}

const std::string& NameOf(const v1::Resource& resource) {
  return Visit(resource, [](const auto& m) -> const std::string& { return m.name(); });
}

int64_t GenerationOf(const v1::Resource& resource) {
  return Visit(resource, [](const auto& m) { return m.generation(); });
}

bool IsDeleting(const v1::Resource& resource) {
  return Visit(resource, [](const auto& m) { return m.state() == v1::STATE_DELETING; });
}

void SetDeleting(v1::Resource& resource) {
  Visit(resource, [](auto& m) { m.set_state(v1::STATE_DELETING); });
}

bool ChangesIdentity(const v1::Resource& held, const v1::Resource& next) {
  if (held.kind_case() != next.kind_case()) return true;
  return KindOf(held) != ItemKind::kVdevice && NameOf(held) != NameOf(next);
}

std::string_view ChangedImmutableField(const v1::Resource& held, const v1::Resource& next) {
  switch (KindOf(held)) {
    case ItemKind::kStage2Domain: {
      const auto& a = held.stage2_domain();
      const auto& b = next.stage2_domain();
      if (a.host() != b.host()) return "host";
      if (a.vm() != b.vm()) return "vm";
      if (a.smmu() != b.smmu()) return "smmu";
      return "";
    }
    case ItemKind::kViommu: {
      const auto& a = held.viommu();
      const auto& b = next.viommu();
      if (a.smmu() != b.smmu()) return "smmu";
      if (a.stage2_domain() != b.stage2_domain()) return "stage2_domain";
      if (a.type() != b.type()) return "type";
      return "";
    }
    case ItemKind::kVdevice: {
      const auto& a = held.vdevice();
      const auto& b = next.vdevice();
      if (a.viommu() != b.viommu()) return "viommu";
      if (a.device() != b.device()) return "device";
      return "";
    }
    case ItemKind::kNestedDomain: {
      const auto& a = held.nested_domain();
      const auto& b = next.nested_domain();
      if (a.viommu() != b.viommu()) return "viommu";
      if (a.config().SerializeAsString() != b.config().SerializeAsString()) return "config";
      return "";
    }
    case ItemKind::kHwQueue: {
      const auto& a = held.hw_queue();
      const auto& b = next.hw_queue();
      if (a.viommu() != b.viommu()) return "viommu";
      if (a.index() != b.index()) return "index";
      if (a.nesting_parent_iova() != b.nesting_parent_iova()) return "nesting_parent_iova";
      if (a.length_bytes() != b.length_bytes()) return "length_bytes";
      return "";
    }
  }
  return "";
}

}  // namespace viommu::agent
