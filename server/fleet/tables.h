// The published record in memory: every resource by name, and the relations between them.
//
// Not thread-safe; server/commit guards it (readers share, the writer excludes them only while it puts changes in place).
// Memory: about the serialized records plus 100 bytes each.

#ifndef VIOMMU_SERVER_FLEET_TABLES_H_
#define VIOMMU_SERVER_FLEET_TABLES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "server/fleet/view.h"

namespace viommu::server {

// Calls `visit` for every (relation, parent) that the record is a child in.
void ForEachEdge(Kind kind, const google::protobuf::Message& record,
                 absl::FunctionRef<void(Relation, const std::string& parent)> visit);

class Tables final : public View {
 public:
  RecordPtr FindRecord(Kind kind, const std::string& name) const override;
  void ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                   absl::FunctionRef<bool(const RecordPtr&)> visit) const override;
  int64_t Count(Relation relation, const std::string& parent) const override;
  std::vector<std::string> Children(Relation relation, const std::string& parent) const override;

  // Puts a change in place. change.before must be what is there.
  void Apply(const Change& change);

  int64_t size(Kind kind) const;

 private:
  using Edge = std::pair<std::string, std::string>;  // parent, child

  absl::flat_hash_map<Kind, absl::btree_map<std::string, RecordPtr>> records_;
  absl::flat_hash_map<Relation, absl::btree_set<Edge>> edges_;
  absl::flat_hash_map<std::pair<Relation, std::string>, int64_t> counts_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_TABLES_H_
