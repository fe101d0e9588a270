#include "server/fleet/draft.h"

#include <fmt/format.h>

#include <algorithm>

#include "server/fleet/tables.h"

namespace viommu::server {

RecordPtr Draft::FindRecord(Kind kind, const std::string& name) const {
  const auto found = records_.find(KindAndName{kind, name});
  return found != records_.end() ? found->second.after : FindInBase(kind, name);
}

RecordPtr Draft::FindInBase(Kind kind, const std::string& name) const {
  RecordPtr& last = last_found_[static_cast<size_t>(kind)];
  if (last != nullptr && NameOf(kind, *last) == name) return last;
  if (missing_kind_ == kind && missing_name_ == name) return nullptr;
  RecordPtr found = base_.FindRecord(kind, name);
  if (found != nullptr) {
    last = found;
  } else {
    missing_kind_ = kind;
    missing_name_ = name;
  }
  return found;
}

void Draft::ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                        absl::FunctionRef<bool(const RecordPtr&)> visit) const {
  auto own =
      after < prefix ? records_.lower_bound(KindAndName{kind, prefix}) : records_.upper_bound(KindAndName{kind, after});
  const auto own_left = [&] {
    return own != records_.end() && own->first.number == kind && own->first.name.compare(0, prefix.size(), prefix) == 0;
  };
  bool wanted = true;
  base_.ScanRecords(kind, prefix, after, [&](const RecordPtr& record) {
    const std::string& name = NameOf(kind, *record);
    for (; wanted && own_left() && own->first.name < name; ++own) {
      if (own->second.after != nullptr) wanted = visit(own->second.after);
    }
    if (!wanted) return false;
    if (own_left() && own->first.name == name) {
      if (own->second.after != nullptr) wanted = visit(own->second.after);
      ++own;
    } else {
      wanted = visit(record);
    }
    return wanted;
  });
  for (; wanted && own_left(); ++own) {
    if (own->second.after != nullptr) wanted = visit(own->second.after);
  }
}

int64_t Draft::Count(Relation relation, const std::string& parent) const {
  const int64_t count = base_.Count(relation, parent);
  const auto found = edges_.find(RelationAndParent{relation, parent});
  return found == edges_.end() ? count : count + found->second.sum;
}

std::vector<std::string> Draft::Children(Relation relation, const std::string& parent) const {
  std::vector<std::string> children = base_.Children(relation, parent);
  const auto found = edges_.find(RelationAndParent{relation, parent});
  if (found == edges_.end()) return children;
  const auto& changed = found->second.children;
  std::erase_if(children, [&](const std::string& child) { return changed.contains(child); });
  for (const auto& [child, by] : changed) {
    if (by > 0) children.push_back(child);
  }
  std::sort(children.begin(), children.end());
  return children;
}

std::vector<Change> Draft::Changes() const {
  std::vector<Change> changes;
  changes.reserve(order_.size());
  for (const Entries::iterator& it : order_) {
    const auto& [key, entry] = *it;
    if (entry.before == nullptr && entry.after == nullptr) continue;
    changes.push_back({key.number, key.name, entry.before, entry.after});
  }
  return changes;
}

void Draft::Keep() {
  ++command_;
  order_.clear();
}

void Draft::Undo() {
  // In whatever order: each goes back to where it was. The entries stay; they are as the base, or what was kept.
  for (const Entries::iterator& it : order_) {
    Entry& entry = it->second;
    ChangeEdges(it->first.number, it->first.name, entry.after, entry.before);
    entry.after = entry.before;
  }
  Keep();
}

void Draft::Set(Kind kind, std::string name, RecordPtr after) {
  auto it = records_.lower_bound(KindAndName{kind, name});
  if (it == records_.end() || it->first.number != kind || it->first.name != name) {
    RecordPtr present = FindInBase(kind, name);
    it = records_.emplace_hint(it, Key<Kind, std::string>{kind, std::move(name)}, Entry{nullptr, std::move(present)});
  }
  Entry& entry = it->second;
  if (entry.command != command_) {
    entry.command = command_;
    entry.before = entry.after;
    order_.push_back(it);
  }
  if (entry.after == nullptr && after == nullptr) {
    BrokenInvariant(fmt::format("{} was to be taken away and is not there", it->first.name));
  }
  ChangeEdges(kind, it->first.name, entry.after, after);
  entry.after = std::move(after);
}

void Draft::ChangeEdges(Kind kind, const std::string& name, const RecordPtr& before, const RecordPtr& after) {
  ForEachEdgeChange(kind, before, after, [&](Relation relation, std::string_view parent, int by) {
    auto edge = edges_.find(RelationAndParent{relation, parent});
    if (edge == edges_.end()) {
      edge = edges_.emplace(Key<Relation, std::string>{relation, std::string(parent)}, EdgeChange()).first;
    }
    edge->second.sum += by;
    if (!IsCountedOnly(relation)) {
      const auto changed = edge->second.children.try_emplace(name, 0).first;
      changed->second += by;
      if (changed->second == 0) edge->second.children.erase(changed);
    }
    if (edge->second.sum == 0 && edge->second.children.empty()) edges_.erase(edge);
  });
}

}  // namespace viommu::server
