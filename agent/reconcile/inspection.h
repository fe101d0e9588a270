// One look at what the backend really holds, beside what the realizer has made.
//
// An object is known by its id and by what cannot change while it exists: its kind, what it stands on, its device. Ids
// are used again at once, so an object that has the id and not the rest is another one: ours is missing. Each context
// is listed once, when the first of its resources is looked at; the look is as good as that moment.
//
// Pure but for the listing. Not thread-safe; of one moment, between two steps of the realizer.

#ifndef VIOMMU_AGENT_RECONCILE_INSPECTION_H_
#define VIOMMU_AGENT_RECONCILE_INSPECTION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "agent/backend.h"
#include "agent/reconcile/held_state.h"
#include "agent/reconcile/objects.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::agent {

// What Finding::attached_to says of a device that is attached to an object of nobody's.
inline constexpr std::string_view kUnknownObject = "?";

// Of one resource.
struct Finding {
  v1::Presence presence = v1::PRESENCE_NOT_EXPECTED;
  // PRESENCE_DIFFERENT: what the backend has, by the field's name in the API.
  std::map<std::string, std::string> actual;

  // Of a vdevice, where the backend tells: what is left of it.
  bool bound = false;       // its device is
  bool there = false;       // its own object is
  uint64_t virt_id = 0;     // of its own object
  std::string attached_to;  // uid of what its device is attached to, kUnknownObject, or nothing
};

class Inspection {
 public:
  // All objects of a VM's context, and the IOAS that the realizer has made in it.
  struct Listing {
    std::vector<ObjectInfo> objects;
    ObjectId ioas = 0;
  };
  // Of a context that is open; nullopt: the backend cannot tell.
  using Lister = std::function<std::optional<Listing>(const std::string& vm)>;

  // Everything must outlive it, and stand still meanwhile.
  Inspection(const Objects& objects, const HeldState& held, Lister list)
      : objects_(objects), held_(held), list_(std::move(list)) {}

  Finding Look(const HeldItem& item);

  // Whether the IOAS that the realizer has made in an open context is gone.
  bool IoasIsMissing(const std::string& vm);

  // Objects of an open context that are nobody's, in the order in which they can go. Empty where the backend cannot
  // tell.
  std::vector<ObjectInfo> Strays(const std::string& vm);

 private:
  struct Context {
    bool told = false;
    ObjectId ioas = 0;
    absl::flat_hash_map<ObjectId, ObjectInfo> by_id;
  };

  const Context& ContextOf(const std::string& vm);
  // Whether the object is what the resource has made it; of a vdevice: its own, not its device.
  bool IsThere(const Context& context, const std::string& uid, const Made& made) const;
  // Whether `object` is one of those that were made for it, and stands where it should.
  bool IsItsOwn(const Context& context, const std::string& uid, const Made& made, const ObjectInfo& object) const;
  bool IsBound(const Context& context, const std::string& uid, const Made& made) const;
  Finding LookAtVdevice(const Context& context, const std::string& uid, const Made& made) const;
  // How people call the object.
  std::string NameOfObject(const Context& context, const std::string& vm, ObjectId id) const;

  const Objects& objects_;
  const HeldState& held_;
  const Lister list_;
  std::map<std::string, Context> contexts_;  // by VM name
};

// "vdevice 12 (on viommu 5, device 3, StreamID 0x7)": for reports.
std::string DescribeObject(const ObjectInfo& object);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_INSPECTION_H_
