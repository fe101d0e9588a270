// The record as the rules see it: resources by name, and the relations between them that a rule asks for.
//
// A View is either the published Tables or a Draft: changes on top of another View. The writer judges a batch against a
// draft on top of the tables, so a rule sees every change accepted before it, and takes back what a refused command put
// there.
//
// Records are immutable and shared: a change puts another record in the old one's place.

#ifndef VIOMMU_SERVER_FLEET_VIEW_H_
#define VIOMMU_SERVER_FLEET_VIEW_H_

#include <google/protobuf/message.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::server {

using RecordPtr = std::shared_ptr<const google::protobuf::Message>;

// Kinds of records; the numbers are part of the store's format.
enum class Kind : uint8_t {
  kHost = 1,
  kDevice = 2,
  kStage2Domain = 3,
  kViommu = 4,
  kVdevice = 5,
  kNestedDomain = 6,
  kHwQueue = 7,
  kQuota = 8,
};
inline constexpr Kind kKinds[] = {Kind::kHost,    Kind::kDevice,       Kind::kStage2Domain, Kind::kViommu,
                                  Kind::kVdevice, Kind::kNestedDomain, Kind::kHwQueue,      Kind::kQuota};

template <typename T>
struct KindOf;
template <>
struct KindOf<v1::Host> {
  static constexpr Kind value = Kind::kHost;
};
template <>
struct KindOf<v1::Device> {
  static constexpr Kind value = Kind::kDevice;
};
template <>
struct KindOf<v1::Stage2Domain> {
  static constexpr Kind value = Kind::kStage2Domain;
};
template <>
struct KindOf<v1::Viommu> {
  static constexpr Kind value = Kind::kViommu;
};
template <>
struct KindOf<v1::Vdevice> {
  static constexpr Kind value = Kind::kVdevice;
};
template <>
struct KindOf<v1::NestedDomain> {
  static constexpr Kind value = Kind::kNestedDomain;
};
template <>
struct KindOf<v1::HwQueue> {
  static constexpr Kind value = Kind::kHwQueue;
};
template <>
struct KindOf<v1::Quota> {
  static constexpr Kind value = Kind::kQuota;
};

// "hosts", "devices", "stage2Domains", …: for messages and metrics.
std::string_view KindName(Kind kind);

// A broken promise of the program itself: says what on stderr and ends the process.
[[noreturn]] void BrokenInvariant(std::string_view what);

// Relations that a rule asks for, from a parent's name to the names of its children. They follow from the records.
// Devices of a host, and what is in a viommu, need none: their names begin with their parent's.
enum class Relation : uint8_t {
  kHostStage2s,         // host -> its stage-2 domains
  kSmmuStage2s,         // SMMU -> stage-2 domains that belong to it alone
  kSmmuViommus,         // SMMU -> its viommus
  kSmmuHwQueueViommus,  // SMMU -> those of its viommus that take a hardware queue interface
  kStage2Viommus,       // stage-2 domain -> viommus on it
  kNestedVdevices,      // nested domain -> vdevices attached to it
  kGroupTakenDevices,   // IOMMU group of several devices -> those of them that a vdevice holds
  kReservedNames,       // name a vdevice had before a rebind that is not confirmed -> its present name
  kSmmuDevices,         // SMMU -> devices behind it; counted only
  kSmmuTakenDevices,    // SMMU -> devices behind it that a vdevice holds; counted only
  kOwnerViommus,        // owner -> viommus that count against its quota; counted only
  kOwnerVdevices,       // owner -> vdevices that count against its quota; counted only
};
inline constexpr size_t kRelations = 12;

// Relations of which only Count is kept: there may be as many children as devices in the fleet.
constexpr bool IsCountedOnly(Relation relation) { return relation >= Relation::kSmmuDevices; }

class View {
 public:
  virtual ~View() = default;

  // nullptr when there is none.
  virtual RecordPtr FindRecord(Kind kind, const std::string& name) const = 0;

  // Visits the records of a kind whose names begin with `prefix` and are greater than `after`, in the order of their
  // names, until `visit` returns false.
  virtual void ScanRecords(Kind kind, const std::string& prefix, const std::string& after,
                           absl::FunctionRef<bool(const RecordPtr&)> visit) const = 0;

  // Likewise, for whoever keeps none of them: a record is there only while it is visited.
  virtual void VisitRecords(Kind kind, const std::string& prefix, const std::string& after,
                            absl::FunctionRef<bool(const google::protobuf::Message&)> visit) const {
    ScanRecords(kind, prefix, after, [&](const RecordPtr& record) { return visit(*record); });
  }

  // How many children. Constant time.
  virtual int64_t Count(Relation relation, const std::string& parent) const = 0;

  // The children, ordered. Not for relations that are counted only.
  virtual std::vector<std::string> Children(Relation relation, const std::string& parent) const = 0;

  template <typename T>
  std::shared_ptr<const T> Find(const std::string& name) const {
    return std::static_pointer_cast<const T>(FindRecord(KindOf<T>::value, name));
  }

  template <typename T>
  std::vector<std::shared_ptr<const T>> Scan(const std::string& prefix, const std::string& after = "",
                                             size_t limit = std::numeric_limits<size_t>::max()) const {
    std::vector<std::shared_ptr<const T>> found;
    ScanRecords(KindOf<T>::value, prefix, after, [&](const RecordPtr& record) {
      if (found.size() == limit) return false;
      found.push_back(std::static_pointer_cast<const T>(record));
      return true;
    });
    return found;
  }
};

// What happened to one record. `before` is null for a new one, `after` for one that is gone.
struct Change {
  Kind kind;
  std::string name;
  RecordPtr before;
  RecordPtr after;
  // `after`, serialized, once somebody has needed it; empty until then.
  std::string bytes = {};
};

// Everything that one accepted command changed.
struct ChangeSet {
  int64_t revision = 0;
  std::vector<Change> changes;
};

// hosts/{host} that a record lives on; empty for a quota.
std::string HostOf(Kind kind, const google::protobuf::Message& record);

// The common fields, whatever the kind.
const std::string& NameOf(Kind kind, const google::protobuf::Message& record);
const std::string& UidOf(Kind kind, const google::protobuf::Message& record);
int64_t GenerationOf(Kind kind, const google::protobuf::Message& record);
int64_t RevisionOf(Kind kind, const google::protobuf::Message& record);
// The number of its state in the enum of its kind; 0 of a quota, which has none.
int StateOf(Kind kind, const google::protobuf::Message& record);

// The record as an API union, and back. `record` must be of that kind.
v1::Resource ToResource(Kind kind, const google::protobuf::Message& record);

// An empty record of that kind; nullptr when there is no such kind.
std::shared_ptr<google::protobuf::Message> NewRecord(Kind kind);

// A record of that kind from its serialized bytes; nullptr when they do not parse.
RecordPtr ParseRecord(Kind kind, std::string_view bytes);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_VIEW_H_
