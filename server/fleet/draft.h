// Changes on top of another View, not yet part of it. Not thread-safe, reading included.

#ifndef VIOMMU_SERVER_FLEET_DRAFT_H_
#define VIOMMU_SERVER_FLEET_DRAFT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "server/fleet/view.h"

namespace viommu::server {

class Draft final : public View {
 public:
  // `base` must outlive the draft and must not change while the draft is in use. A draft on top of a draft is asked for
  // with Draft(static_cast<const View&>(other)): a copy is never wanted.
  explicit Draft(const View& base) : base_(base) {}
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  RecordPtr FindRecord(Kind kind, const std::string& name) const override;
  void ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                   absl::FunctionRef<bool(const RecordPtr&)> visit) const override;
  int64_t Count(Relation relation, const std::string& parent) const override;
  std::vector<std::string> Children(Relation relation, const std::string& parent) const override;

  // Puts a record in the place of the one with its name, or as a new one.
  template <typename T>
  void Put(T record) {
    std::string name = record.name();
    Set(KindOf<T>::value, std::move(name), std::make_shared<const T>(std::move(record)));
  }

  // Takes a record away; it must be there.
  void Erase(Kind kind, const std::string& name) { Set(kind, name, nullptr); }

  // Every record that differs from the base, in the order of the first touch; records touched without effect (new and
  // gone again) are left out.
  std::vector<Change> Changes() const;

  // How many records were touched.
  size_t size() const { return records_.size(); }

  // Takes over the changes of a draft that was made on top of this one.
  void Absorb(const std::vector<Change>& changes);

 private:
  struct Key {
    Kind kind;
    std::string name;
    friend bool operator<(const Key& a, const Key& b) { return std::tie(a.kind, a.name) < std::tie(b.kind, b.name); }
  };
  struct Entry {
    RecordPtr before;  // in the base; null: not there
    RecordPtr after;   // null: gone
  };
  using Entries = std::map<Key, Entry>;

  // How a parent's children differ from the base: by +1 or -1 each, and in sum.
  struct EdgeChange {
    int64_t sum = 0;
    std::map<std::string, int> children;  // stays empty for relations that are counted only
  };

  void Set(Kind kind, std::string name, RecordPtr after);
  RecordPtr FindInBase(Kind kind, const std::string& name) const;

  const View& base_;
  // What was found in the base last: a rule that changes a record has looked it up just before, and tables take a
  // microsecond to parse one.
  mutable Kind last_kind_ = Kind::kHost;
  mutable RecordPtr last_found_;
  Entries records_;
  std::vector<Entries::const_iterator> order_;  // of the first touch
  std::map<std::pair<Relation, std::string>, EdgeChange> edges_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_DRAFT_H_
