// The published record in memory: every resource by name, and the relations between them.
//
// Not thread-safe; server/commit guards it (readers share, the writer excludes them only while it puts changes in
// place). Records of different kinds have nothing in common here, though, so that each kind may be appended by a thread
// of its own.
//
// Memory. A parsed vdevice with its eight strings takes over 1 KiB, its serialized bytes a quarter of that. So records
// are kept serialized, each in one block, ordered by the name inside it; a record is parsed when it is asked for, which
// costs about a microsecond. Hosts alone are kept parsed: they are few, big, and every rule asks for one.

#ifndef VIOMMU_SERVER_FLEET_TABLES_H_
#define VIOMMU_SERVER_FLEET_TABLES_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "server/fleet/view.h"

namespace viommu::server {

// Calls `visit` for every (relation, parent) that the record is a child in. The parent's name is the record's, except
// that one that IsComposed is there only while it is visited.
void ForEachEdge(Kind kind, const google::protobuf::Message& record,
                 absl::FunctionRef<void(Relation, std::string_view parent)> visit);

// Whether the names of a relation's parents are no fields of their children, but put together.
constexpr bool IsComposed(Relation relation) {
  return relation == Relation::kGroupTakenDevices || relation == Relation::kReservedNames;
}

// The relations that a change takes its record out of (by = -1) and puts it into (by = +1).
void ForEachEdgeChange(Kind kind, const RecordPtr& before, const RecordPtr& after,
                       absl::FunctionRef<void(Relation, std::string_view parent, int by)> visit);

class Tables final : public View {
 public:
  Tables() = default;
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

  RecordPtr FindRecord(Kind kind, const std::string& name) const override;
  void ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                   absl::FunctionRef<bool(const RecordPtr&)> visit) const override;
  // Parses one record after the other into the same memory.
  void VisitRecords(Kind kind, const std::string& prefix, const std::string& after,
                    absl::FunctionRef<bool(const google::protobuf::Message&)> visit) const override;
  int64_t Count(Relation relation, const std::string& parent) const override;
  std::vector<std::string> Children(Relation relation, const std::string& parent) const override;

  // Puts a change in place. change.before must be what is there; a change that starts from something else ends the
  // process, for the record is then not what was written.
  void Apply(const Change& change);

  // Puts in a new record whose name comes after those of all others of its kind, as when they are read from the store.
  // `bytes` are its own. Only hosts are kept as they are given: any other record may be parsed into again.
  void Append(Kind kind, const RecordPtr& record, std::string_view bytes);

  int64_t size(Kind kind) const;

  // How many records are in each state, by Kind. States are small enums that begin at 0; a greater one counts as the
  // last.
  static constexpr size_t kStates = 8;
  using States = std::array<std::array<int64_t, kStates>, std::size(kKinds) + 1>;
  const States& states() const { return states_; }

 private:
  // A serialized record: its length, where in it the name is, its bytes.
  class Packed {
   public:
    explicit Packed(const Change& change);  // its `after`
    Packed(std::string_view bytes, const std::string& name);

    std::string_view name() const;
    std::string_view bytes() const;
    // Puts a record of the same name in place: the order of a set of these is as before.
    void Replace(Packed other) const { block_ = std::move(other.block_); }

   private:
    // A block with room for that many bytes.
    explicit Packed(size_t size) : block_(new char[sizeof(Header) + size]) {}
    char* begin() const { return block_.get() + sizeof(Header); }
    // Once the bytes are there.
    void WriteHeader(size_t size, const std::string& name);

    struct Header {
      uint32_t size;
      uint16_t name_offset;
      uint16_t name_size;
    };
    mutable std::unique_ptr<char[]> block_;
  };

  struct ByName {
    using is_transparent = void;
    static std::string_view Name(const Packed& packed) { return packed.name(); }
    static std::string_view Name(std::string_view name) { return name; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return Name(a) < Name(b);
    }
  };
  using PackedSet = absl::btree_set<Packed, ByName>;

  const PackedSet& packed(Kind kind) const { return packed_[static_cast<size_t>(kind)]; }
  void ApplyRecord(const Change& change);
  int64_t& InStateOf(Kind kind, const google::protobuf::Message& record);
  void ApplyEdge(Relation relation, std::string_view parent_name, const std::string& child, int by);

  std::map<std::string, RecordPtr, std::less<>> hosts_;
  std::array<PackedSet, std::size(kKinds) + 1> packed_;  // by Kind; that of hosts stays empty
  std::array<absl::flat_hash_map<std::string, absl::btree_set<std::string>>, kRelations> children_;
  std::array<absl::flat_hash_map<std::string, int64_t>, kRelations> counts_;  // of relations counted only
  States states_{};
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_TABLES_H_
