// Changes on top of another View, not yet part of it.

#ifndef VIOMMU_SERVER_FLEET_DRAFT_H_
#define VIOMMU_SERVER_FLEET_DRAFT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "server/fleet/view.h"

namespace viommu::server {

class Draft final : public View {
 public:
  // `base` must outlive the draft and must not change while the draft is in use.
  explicit Draft(const View& base) : base_(base) {}

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

  // Takes over the changes of a draft that was made on top of this one.
  void Absorb(const std::vector<Change>& changes);

 private:
  using Key = std::pair<Kind, std::string>;

  void Set(Kind kind, std::string name, RecordPtr after);

  const View& base_;
  std::map<Key, RecordPtr> records_;  // null: gone
  std::vector<Key> order_;            // of the first touch
  // (relation, parent, child) -> whether it is there, where that differs from the base.
  std::map<std::pair<Relation, std::string>, std::map<std::string, bool>> edges_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_DRAFT_H_
