#include "server/fleet/draft.h"

#include <fmt/format.h>

#include <algorithm>

#include "server/fleet/tables.h"

namespace viommu::server {

RecordPtr Draft::FindRecord(Kind kind, const std::string& name) const {
  const auto found = records_.find(Key{kind, name});
  return found != records_.end() ? found->second.after : FindInBase(kind, name);
}

RecordPtr Draft::FindInBase(Kind kind, const std::string& name) const {
  if (last_found_ != nullptr && last_kind_ == kind && NameOf(kind, *last_found_) == name) return last_found_;
  RecordPtr found = base_.FindRecord(kind, name);
  if (found != nullptr) {
    last_kind_ = kind;
    last_found_ = found;
  }
  return found;
}

void Draft::ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                        absl::FunctionRef<bool(const RecordPtr&)> visit) const {
  auto own = after < prefix ? records_.lower_bound(Key{kind, prefix}) : records_.upper_bound(Key{kind, after});
  const auto own_left = [&] {
    return own != records_.end() && own->first.kind == kind && own->first.name.compare(0, prefix.size(), prefix) == 0;
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
  const auto found = edges_.find({relation, parent});
  return found == edges_.end() ? count : count + found->second.sum;
}

std::vector<std::string> Draft::Children(Relation relation, const std::string& parent) const {
  std::vector<std::string> children = base_.Children(relation, parent);
  const auto found = edges_.find({relation, parent});
  if (found == edges_.end()) return children;
  const std::map<std::string, int>& changed = found->second.children;
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
  for (const Entries::const_iterator& it : order_) {
    const auto& [key, entry] = *it;
    if (entry.before == nullptr && entry.after == nullptr) continue;
    changes.push_back({key.kind, key.name, entry.before, entry.after});
  }
  return changes;
}

void Draft::Absorb(const std::vector<Change>& changes) {
  for (const Change& change : changes) Set(change.kind, change.name, change.after);
}

void Draft::Set(Kind kind, std::string name, RecordPtr after) {
  const auto [it, first_touch] = records_.try_emplace(Key{kind, std::move(name)});
  const std::string& child = it->first.name;
  Entry& entry = it->second;
  if (first_touch) {
    entry.before = FindInBase(kind, child);
    order_.push_back(it);
  }
  const RecordPtr& present = first_touch ? entry.before : entry.after;
  if (present == nullptr && after == nullptr) {
    BrokenInvariant(fmt::format("{} was to be taken away and is not there", child));
  }
  ForEachEdgeChange(kind, present, after, [&](Relation relation, const std::string& parent, int by) {
    const auto edge = edges_.try_emplace({relation, parent}).first;
    edge->second.sum += by;
    if (!IsCountedOnly(relation)) {
      const auto changed = edge->second.children.try_emplace(child, 0).first;
      changed->second += by;
      if (changed->second == 0) edge->second.children.erase(changed);
    }
    if (edge->second.sum == 0 && edge->second.children.empty()) edges_.erase(edge);
  });
  entry.after = std::move(after);
}

}  // namespace viommu::server
