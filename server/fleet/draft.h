// Changes on top of another View, not yet part of it: those of several commands, one after the other, of which each can
// be taken back while it is the last. Not thread-safe, reading included.

#ifndef VIOMMU_SERVER_FLEET_DRAFT_H_
#define VIOMMU_SERVER_FLEET_DRAFT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "server/fleet/view.h"

namespace viommu::server {

class Draft final : public View {
 public:
  // `base` must outlive the draft and must not change while the draft is in use.
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

  // Ends a command: what was put so far stays, and the next three are about what comes from now on.
  void Keep();

  // Takes back what was put since the last Keep.
  void Undo();

  // Every record that differs from what it was at the last Keep, in the order of the first touch; records touched
  // without effect (new and gone again) are left out.
  std::vector<Change> Changes() const;

  // How many records were touched since the last Keep.
  size_t size() const { return order_.size(); }

 private:
  // Names under a number (a kind, a relation), to be looked up without a copy of the name.
  template <typename Number, typename Text>
  struct Key {
    Number number;
    Text name;
  };
  struct ByKey {
    using is_transparent = void;
    template <typename Number, typename A, typename B>
    bool operator()(const Key<Number, A>& a, const Key<Number, B>& b) const {
      return a.number != b.number ? a.number < b.number : std::string_view(a.name) < std::string_view(b.name);
    }
  };
  using KindAndName = Key<Kind, std::string_view>;
  using RelationAndParent = Key<Relation, std::string_view>;

  struct Entry {
    RecordPtr before;   // at the last Keep before it was touched; null: not there
    RecordPtr after;    // null: gone
    int64_t command{};  // that touched it last
  };
  using Entries = std::map<Key<Kind, std::string>, Entry, ByKey>;

  // How a parent's children differ from the base: by +1 or -1 each, and in sum.
  struct EdgeChange {
    int64_t sum = 0;
    std::map<std::string, int, std::less<>> children;  // stays empty for relations that are counted only
  };

  void Set(Kind kind, std::string name, RecordPtr after);
  void ChangeEdges(Kind kind, const std::string& name, const RecordPtr& before, const RecordPtr& after);
  RecordPtr FindInBase(Kind kind, const std::string& name) const;

  const View& base_;
  // What was found in the base last, by kind, and what was not found: a rule that changes a record has looked it up
  // just before, calls come in runs for one viommu, and tables take a microsecond to parse a record.
  mutable std::array<RecordPtr, std::size(kKinds) + 1> last_found_;
  mutable Kind missing_kind_ = Kind::kHost;
  mutable std::string missing_name_;
  Entries records_;
  int64_t command_ = 1;
  std::vector<Entries::iterator> order_;  // of the first touch since the last Keep
  std::map<Key<Relation, std::string>, EdgeChange, ByKey> edges_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_DRAFT_H_
