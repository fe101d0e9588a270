#include "server/fleet/drift.h"

#include <fmt/format.h>

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "common/mutation.h"
#include "server/fleet/record.h"

namespace viommu::server {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// What an agent makes real of each kind; the rest is for people and other rules.
constexpr std::array kStage2Fields = {"vm", "smmu"};
constexpr std::array kViommuFields = {"smmu", "stage2_domain", "type"};
constexpr std::array kVdeviceFields = {"viommu", "device", "vdev_id", "nested_domain"};
constexpr std::array kNestedFields = {"viommu", "config"};
constexpr std::array kHwQueueFields = {"viommu", "index", "nesting_parent_iova", "length_bytes"};

std::span<const char* const> FieldsOf(Kind kind) {
  switch (kind) {
    case Kind::kStage2Domain:
      return kStage2Fields;
    case Kind::kViommu:
      return kViommuFields;
    case Kind::kVdevice:
      return kVdeviceFields;
    case Kind::kNestedDomain:
      return kNestedFields;
    case Kind::kHwQueue:
      return kHwQueueFields;
    case Kind::kHost:
    case Kind::kDevice:
    case Kind::kQuota:
      break;
  }
  return {};
}

std::string Text(const Message& message, const std::string& name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr) BrokenInvariant("drift: no field " + name);
  const auto* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text = reflection->GetString(message, field);
      // A device without a nested domain is attached to the stage 2 of its viommu.
      return text.empty() && name == "nested_domain" ? "stage 2" : text;
    }
    case FieldDescriptor::CPPTYPE_UINT64:
      return std::to_string(reflection->GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return std::to_string(reflection->GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return std::to_string(reflection->GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection->GetEnum(message, field)->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return reflection->GetMessage(message, field).ShortDebugString();
    default:
      BrokenInvariant("drift: a field of a type that no resource has: " + name);
  }
}

v1::State StateOf(const Message& message) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName("state");
  return static_cast<v1::State>(message.GetReflection()->GetEnumValue(message, field));
}

const Message& Inner(const v1::Resource& resource) {
  const auto* reflection = resource.GetReflection();
  const FieldDescriptor* field = reflection->GetOneofFieldDescriptor(resource, resource.GetDescriptor()->oneof_decl(0));
  if (field == nullptr) BrokenInvariant("drift: an empty resource");
  return reflection->GetMessage(resource, field);
}

// Where the record stands when the agent says this of the same generation.
v1::State StateAfter(v1::Outcome outcome) {
  switch (outcome) {
    case v1::OUTCOME_APPLIED:
      return v1::STATE_READY;
    case v1::OUTCOME_DORMANT:
      return v1::STATE_DORMANT;
    case v1::OUTCOME_FAILED:
      return v1::STATE_FAILED;
    default:
      return v1::STATE_PENDING;
  }
}

std::string Word(v1::State state) { return v1::State_Name(state).substr(std::string_view("STATE_").size()); }

// Of an object, as the agent found it.
std::string ActualPresence(const v1::InspectedItem& item) {
  switch (item.presence()) {
    case v1::PRESENCE_AS_BELIEVED:
    case v1::PRESENCE_DIFFERENT:
      return "yes";
    case v1::PRESENCE_MISSING:
    case v1::PRESENCE_NOT_EXPECTED:
      return "no";
    default:
      return "";
  }
}

// Whether two contents bear one generation: each has one content for good, so it is no change that is under way.
bool IsDamaged(Kind kind, const Message& record, const Message& believed) {
  if (GenerationOf(kind, record) != GenerationOf(kind, believed)) return false;
  for (const char* field : FieldsOf(kind)) {
    if (Text(record, field) != Text(believed, field)) return !Mutated(Mutation::kMissDrift);
  }
  return false;
}

template <typename T>
void DesireAnewAs(const Compared& compared, const Context& context, Draft& draft) {
  const auto present = draft.Find<T>(compared.name);
  if (present == nullptr || present->generation() != compared.generation) return;
  T next = *present;
  Desire(next, v1::STATE_PENDING, context);
  draft.Put(std::move(next));
}

}  // namespace

std::optional<Kind> KindOfBelieved(const v1::Resource& resource) {
  switch (resource.kind_case()) {
    case v1::Resource::kStage2Domain:
      return Kind::kStage2Domain;
    case v1::Resource::kViommu:
      return Kind::kViommu;
    case v1::Resource::kVdevice:
      return Kind::kVdevice;
    case v1::Resource::kNestedDomain:
      return Kind::kNestedDomain;
    case v1::Resource::kHwQueue:
      return Kind::kHwQueue;
    default:
      return std::nullopt;
  }
}

std::optional<v1::Drift> DriftOf(Kind kind, const Message* record, const v1::InspectedItem* item) {
  const Message* believed = item == nullptr ? nullptr : &Inner(item->believed());
  v1::Drift drift;
  const auto add = [&drift](std::string field, std::string recorded, std::string agents, std::string actual) {
    v1::DriftField& entry = *drift.add_fields();
    entry.set_field(std::move(field));
    entry.set_recorded(std::move(recorded));
    entry.set_believed(std::move(agents));
    entry.set_actual(std::move(actual));
  };
  const Message& named = record != nullptr ? *record : *believed;
  drift.set_name(Text(named, "name"));
  drift.set_uid(UidOf(kind, named));
  const v1::State state = record == nullptr ? v1::STATE_UNSPECIFIED : StateOf(*record);
  const bool settled = state == v1::STATE_READY || state == v1::STATE_DORMANT;

  if (record == nullptr) {
    // What the record does not know is being torn down, once the agent was told.
    add("presence", "no", "yes", ActualPresence(*item));
    drift.set_expected(StateOf(*believed) == v1::STATE_DELETING);
    return drift;
  }
  if (item == nullptr) {
    add("presence", "yes", "no", "");
    drift.set_expected(!settled);  // on its way there, or confirmed as gone a moment ago
    return drift;
  }
  const bool deleting = state == v1::STATE_DELETING && StateOf(*believed) == v1::STATE_DELETING;
  const bool same_generation = GenerationOf(kind, *record) == GenerationOf(kind, *believed);
  if (!same_generation) add("generation", Text(*record, "generation"), Text(*believed, "generation"), "");
  for (const char* field : FieldsOf(kind)) {
    const std::string recorded = Text(*record, field), agents = Text(*believed, field);
    const auto actual = item->actual().find(field);
    if (recorded == agents && actual == item->actual().end()) continue;
    add(field, recorded, agents, actual == item->actual().end() ? "" : actual->second);
  }
  if (same_generation && !deleting && StateAfter(item->outcome()) != state) {
    add("state", Word(state), Word(StateAfter(item->outcome())), "");
  }
  const bool failed = item->outcome() == v1::OUTCOME_FAILED && item->presence() == v1::PRESENCE_NOT_EXPECTED;
  if (item->presence() == v1::PRESENCE_MISSING) {
    add("presence", "yes", "yes", "no");
  } else if (failed) {
    add("presence", "yes", fmt::format("no: {}", item->reason().reason()), "no");
  }
  if (drift.fields().empty()) return std::nullopt;
  const bool as_believed = item->presence() != v1::PRESENCE_MISSING && item->presence() != v1::PRESENCE_DIFFERENT;
  const bool damaged = !deleting && IsDamaged(kind, *record, *believed);
  drift.set_expected(as_believed && !settled && !damaged);
  return drift;
}

bool GoesByOther(Kind kind, const Message& record, const v1::InspectedItem* item) {
  const v1::State state = StateOf(record);
  if (state == v1::STATE_DELETING) return false;
  if (state == v1::STATE_PENDING) return item != nullptr && IsDamaged(kind, record, Inner(item->believed()));
  // What has failed and is not held, the agent would not take: it remembers a release, and only who records it anew can
  // mean that it shall be there.
  if (item == nullptr) return state != v1::STATE_FAILED;
  const Message& believed = Inner(item->believed());
  if (GenerationOf(kind, record) != GenerationOf(kind, believed)) return true;
  if (IsDamaged(kind, record, believed)) return true;
  // What has failed there is tried again anyhow, and told.
  const v1::State agents = StateAfter(item->outcome());
  return (agents == v1::STATE_READY || agents == v1::STATE_DORMANT) && agents != state;
}

void DesireAnew(const std::vector<Compared>& records, const Context& context, Draft& draft) {
  for (const Compared& each : records) {
    switch (each.kind) {
      case Kind::kStage2Domain:
        DesireAnewAs<v1::Stage2Domain>(each, context, draft);
        break;
      case Kind::kViommu:
        DesireAnewAs<v1::Viommu>(each, context, draft);
        break;
      case Kind::kVdevice:
        DesireAnewAs<v1::Vdevice>(each, context, draft);
        break;
      case Kind::kNestedDomain:
        DesireAnewAs<v1::NestedDomain>(each, context, draft);
        break;
      case Kind::kHwQueue:
        DesireAnewAs<v1::HwQueue>(each, context, draft);
        break;
      case Kind::kHost:
      case Kind::kDevice:
      case Kind::kQuota:
        break;  // no agent holds these
    }
  }
}

}  // namespace viommu::server
