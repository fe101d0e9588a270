#include "server/fleet/tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "server/fleet/names.h"

namespace viommu::server {
namespace {

bool BeginsWith(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

size_t Index(Relation relation) { return static_cast<size_t>(relation); }

// Where a scan begins, given that names greater than `after` are wanted.
template <typename Container>
auto Begin(const Container& records, const std::string& prefix, const std::string& after) {
  return after < prefix ? records.lower_bound(std::string_view(prefix)) : records.upper_bound(std::string_view(after));
}

struct Edge {
  Relation relation;
  std::string_view parent;
};

// The relations that a record is in: at most four at a time, at most one of them with a composed name.
class Edges {
 public:
  Edges(Kind kind, const RecordPtr& record) {
    if (record == nullptr) return;
    ForEachEdge(kind, *record, [this](Relation relation, std::string_view parent) {
      if (IsComposed(relation)) parent = composed_ = parent;
      edges_[size_++] = {relation, parent};
    });
  }
  Edges(const Edges&) = delete;
  Edges& operator=(const Edges&) = delete;

  const Edge* begin() const { return edges_.data(); }
  const Edge* end() const { return edges_.data() + size_; }
  bool Has(const Edge& wanted) const {
    return std::any_of(begin(), end(), [&](const Edge& edge) {
      return edge.relation == wanted.relation && edge.parent == wanted.parent;
    });
  }

 private:
  std::array<Edge, 4> edges_;
  size_t size_ = 0;
  std::string composed_;
};

}  // namespace

void ForEachEdge(Kind kind, const google::protobuf::Message& record,
                 absl::FunctionRef<void(Relation, std::string_view parent)> visit) {
  switch (kind) {
    case Kind::kHost:
    case Kind::kNestedDomain:
    case Kind::kHwQueue:
    case Kind::kQuota:
      return;
    case Kind::kDevice: {
      const auto& device = static_cast<const v1::Device&>(record);
      visit(Relation::kSmmuDevices, device.smmu());
      if (device.owner().empty()) return;
      visit(Relation::kSmmuTakenDevices, device.smmu());
      // Most devices are alone in their group: those need no memory. Nobody knows the group of one that is missing.
      if (device.iommu_group_shared() && !device.missing()) {
        visit(Relation::kGroupTakenDevices, IommuGroupName(ParentName(device.name()), device.iommu_group()));
      }
      return;
    }
    case Kind::kStage2Domain: {
      const auto& stage2 = static_cast<const v1::Stage2Domain&>(record);
      visit(Relation::kHostStage2s, stage2.host());
      if (!stage2.smmu().empty()) visit(Relation::kSmmuStage2s, stage2.smmu());
      return;
    }
    case Kind::kViommu: {
      const auto& viommu = static_cast<const v1::Viommu&>(record);
      visit(Relation::kSmmuViommus, viommu.smmu());
      visit(Relation::kStage2Viommus, viommu.stage2_domain());
      if (viommu.type() == v1::VIOMMU_TYPE_TEGRA241_CMDQV) visit(Relation::kSmmuHwQueueViommus, viommu.smmu());
      if (!viommu.owner().empty()) visit(Relation::kOwnerViommus, viommu.owner());
      return;
    }
    case Kind::kVdevice: {
      const auto& vdevice = static_cast<const v1::Vdevice&>(record);
      if (!vdevice.nested_domain().empty()) visit(Relation::kNestedVdevices, vdevice.nested_domain());
      if (vdevice.has_previous_vdev_id()) {
        visit(Relation::kReservedNames, VdeviceName(vdevice.viommu(), vdevice.previous_vdev_id()));
      }
      if (!vdevice.owner().empty()) visit(Relation::kOwnerVdevices, vdevice.owner());
      return;
    }
  }
}

void ForEachEdgeChange(Kind kind, const RecordPtr& before, const RecordPtr& after,
                       absl::FunctionRef<void(Relation, std::string_view parent, int by)> visit) {
  const Edges old_edges(kind, before);
  const Edges new_edges(kind, after);
  for (const Edge& edge : old_edges) {
    if (!new_edges.Has(edge)) visit(edge.relation, edge.parent, -1);
  }
  for (const Edge& edge : new_edges) {
    if (!old_edges.Has(edge)) visit(edge.relation, edge.parent, +1);
  }
}

Tables::Packed::Packed(const Change& change)
    : Packed(change.bytes.empty() ? change.after->SerializeAsString() : change.bytes, change.name) {}

Tables::Packed::Packed(std::string_view bytes, const std::string& name) : Packed(bytes.size()) {
  std::copy(bytes.begin(), bytes.end(), begin());
  WriteHeader(bytes.size(), name);
}

void Tables::Packed::WriteHeader(size_t size, const std::string& name) {
  // The name is the first field, so it is found at once; any place with the same text would do.
  const size_t offset = std::string_view(begin(), size).find(name);
  constexpr size_t kMax = std::numeric_limits<uint16_t>::max();
  if (name.empty() || offset > kMax || name.size() > kMax || size > std::numeric_limits<uint32_t>::max()) {
    BrokenInvariant(fmt::format("a record named '{}' of {} bytes cannot be kept", name, size));
  }
  const Header header{static_cast<uint32_t>(size), static_cast<uint16_t>(offset), static_cast<uint16_t>(name.size())};
  std::memcpy(block_.get(), &header, sizeof(header));
}

std::string_view Tables::Packed::name() const {
  Header header;
  std::memcpy(&header, block_.get(), sizeof(header));
  return {block_.get() + sizeof(Header) + header.name_offset, header.name_size};
}

std::string_view Tables::Packed::bytes() const {
  Header header;
  std::memcpy(&header, block_.get(), sizeof(header));
  return {block_.get() + sizeof(Header), header.size};
}

RecordPtr Tables::FindRecord(Kind kind, const std::string& name) const {
  if (kind == Kind::kHost) {
    const auto found = hosts_.find(name);
    return found == hosts_.end() ? nullptr : found->second;
  }
  const PackedSet& records = packed(kind);
  const auto found = records.find(std::string_view(name));
  return found == records.end() ? nullptr : ParseRecord(kind, found->bytes());
}

void Tables::ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                         absl::FunctionRef<bool(const RecordPtr&)> visit) const {
  if (kind == Kind::kHost) {
    for (auto it = Begin(hosts_, prefix, after); it != hosts_.end() && BeginsWith(it->first, prefix); ++it) {
      if (!visit(it->second)) return;
    }
    return;
  }
  const PackedSet& records = packed(kind);
  for (auto it = Begin(records, prefix, after); it != records.end() && BeginsWith(it->name(), prefix); ++it) {
    if (!visit(ParseRecord(kind, it->bytes()))) return;
  }
}

void Tables::VisitRecords(Kind kind, const std::string& prefix, const std::string& after,
                          absl::FunctionRef<bool(const google::protobuf::Message&)> visit) const {
  if (kind == Kind::kHost) return View::VisitRecords(kind, prefix, after, visit);
  const PackedSet& records = packed(kind);
  const auto record = NewRecord(kind);
  for (auto it = Begin(records, prefix, after); it != records.end() && BeginsWith(it->name(), prefix); ++it) {
    record->ParseFromArray(it->bytes().data(), static_cast<int>(it->bytes().size()));
    if (!visit(*record)) return;
  }
}

int64_t Tables::Count(Relation relation, const std::string& parent) const {
  if (IsCountedOnly(relation)) {
    const auto& counts = counts_[Index(relation)];
    const auto found = counts.find(parent);
    return found == counts.end() ? 0 : found->second;
  }
  const auto& children = children_[Index(relation)];
  const auto found = children.find(parent);
  return found == children.end() ? 0 : static_cast<int64_t>(found->second.size());
}

std::vector<std::string> Tables::Children(Relation relation, const std::string& parent) const {
  const auto& children = children_[Index(relation)];
  const auto found = children.find(parent);
  if (found == children.end()) return {};
  return {found->second.begin(), found->second.end()};
}

void Tables::Apply(const Change& change) {
  ApplyRecord(change);
  if (change.before != nullptr) --InStateOf(change.kind, *change.before);
  if (change.after != nullptr) ++InStateOf(change.kind, *change.after);
  ForEachEdgeChange(change.kind, change.before, change.after, [&](Relation relation, std::string_view parent, int by) {
    ApplyEdge(relation, parent, change.name, by);
  });
}

void Tables::Append(Kind kind, const RecordPtr& record, std::string_view bytes) {
  const std::string& name = NameOf(kind, *record);
  const auto check = [&](std::string_view last) {
    if (last >= name) BrokenInvariant(fmt::format("{} is appended after {}", name, last));
  };
  if (kind == Kind::kHost) {
    if (!hosts_.empty()) check(hosts_.rbegin()->first);
    hosts_.emplace_hint(hosts_.end(), name, record);
  } else {
    PackedSet& records = packed_[static_cast<size_t>(kind)];
    if (!records.empty()) check(records.rbegin()->name());
    records.insert(records.end(), Packed(bytes, name));
  }
  ++InStateOf(kind, *record);
  ForEachEdge(kind, *record,
              [&](Relation relation, std::string_view parent) { ApplyEdge(relation, parent, name, +1); });
}

int64_t& Tables::InStateOf(Kind kind, const google::protobuf::Message& record) {
  return states_[static_cast<size_t>(kind)][std::min(static_cast<size_t>(StateOf(kind, record)), kStates - 1)];
}

void Tables::ApplyRecord(const Change& change) {
  const auto check = [&](bool there) {
    if (there != (change.before != nullptr)) {
      BrokenInvariant(fmt::format("a change of {} expects it {}, and it is {}", change.name,
                                  change.before != nullptr ? "there" : "absent", there ? "there" : "absent"));
    }
  };
  if (change.kind == Kind::kHost) {
    const auto found = hosts_.find(change.name);
    check(found != hosts_.end());
    if (change.after == nullptr) {
      if (found != hosts_.end()) hosts_.erase(found);
    } else {
      hosts_.insert_or_assign(change.name, change.after);
    }
    return;
  }
  PackedSet& records = packed_[static_cast<size_t>(change.kind)];
  const auto found = records.lower_bound(std::string_view(change.name));
  const bool there = found != records.end() && found->name() == change.name;
  check(there);
  if (change.after == nullptr) {
    if (there) records.erase(found);
  } else if (there) {
    found->Replace(Packed(change));
  } else {
    records.insert(found, Packed(change));
  }
}

void Tables::ApplyEdge(Relation relation, std::string_view parent_name, const std::string& child, int by) {
  const absl::string_view parent(parent_name.data(), parent_name.size());
  if (IsCountedOnly(relation)) {
    auto& counts = counts_[Index(relation)];
    const auto count = counts.try_emplace(parent, 0).first;
    count->second += by;
    if (count->second == 0) counts.erase(count);
    return;
  }
  auto& children = children_[Index(relation)];
  if (by > 0) {
    children[parent].insert(child);
    return;
  }
  const auto found = children.find(parent);
  if (found == children.end() || found->second.erase(child) == 0) {
    BrokenInvariant(fmt::format("{} is not recorded under {}", child, parent_name));
  }
  if (found->second.empty()) children.erase(found);
}

int64_t Tables::size(Kind kind) const {
  return static_cast<int64_t>(kind == Kind::kHost ? hosts_.size() : packed(kind).size());
}

}  // namespace viommu::server
