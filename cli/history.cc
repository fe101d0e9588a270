#include "cli/history.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/output/resources.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Fields that change with every change and say nothing by themselves.
bool IsBookkeeping(const std::string& field) {
  return field == "etag" || field == "revision" || field == "update_time" || field == "generation" ||
         field == "observed_generation" || field == "smmus" || field == "capabilities";
}

std::string FieldText(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (field.is_repeated()) return fmt::format("({} entries)", reflection.FieldSize(message, &field));
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text = reflection.GetString(message, &field);
      return text.empty() ? "none" : ShortName(text);
    }
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumWord(*field.enum_type(), reflection.GetEnumValue(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "yes" : "no";
    case FieldDescriptor::CPPTYPE_UINT32:
      return std::to_string(reflection.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.HasField(message, &field) ? Hex(reflection.GetUInt64(message, &field)) : "none";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (field.message_type() == v1::StateReason::descriptor()) {
        const auto& reason = static_cast<const v1::StateReason&>(reflection.GetMessage(message, &field));
        if (reason.reason().empty() && reason.message().empty()) return "none";
        return fmt::format("{} {}", reason.reason(), reason.message());
      }
      return "changed";
    default:
      return "changed";
  }
}

bool Same(const Message& a, const Message& b, const FieldDescriptor& field) {
  // Only the one field is left to tell them apart.
  const auto only = [&field](const Message& message) {
    std::unique_ptr<Message> copy(message.New());
    copy->CopyFrom(message);
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor* other = message.GetDescriptor()->field(i);
      if (other != &field) copy->GetReflection()->ClearField(copy.get(), other);
    }
    return copy;
  };
  return only(a)->ShortDebugString() == only(b)->ShortDebugString();
}

absl::StatusOr<v1::ResourceKind> WatchedKind(const Message& resource) {
  // The oneof of Resource and the enum ResourceKind have the same numbers.
  const auto* type = v1::Resource::descriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    if (type->field(i)->message_type() == resource.GetDescriptor()) {
      return static_cast<v1::ResourceKind>(type->field(i)->number());
    }
  }
  return absl::NotFoundError("this kind has no history of its own");
}

}  // namespace

std::string Difference(const Message* before, const Message& after) {
  const CommonFields now = CommonOf(after);
  if (before == nullptr) return now.state;
  std::vector<std::string> parts;
  const auto* type = after.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor& field = *type->field(i);
    if (IsBookkeeping(field.name()) || Same(*before, after, field)) continue;
    parts.push_back(fmt::format("{}: {} -> {}", field.name(), FieldText(*before, field), FieldText(after, field)));
  }
  const CommonFields then = CommonOf(*before);
  if (now.generation != then.generation) parts.push_back(fmt::format("generation {}", now.generation));
  if (now.observed_generation != then.observed_generation) {
    parts.push_back(fmt::format("the host confirmed generation {}", now.observed_generation));
  }
  return parts.empty() ? "no visible change" : Join(parts, ", ");
}

absl::StatusOr<History> ReadHistory(Session& session, const Message& resource) {
  const CommonFields common = CommonOf(resource);
  v1::WatchRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const v1::ResourceKind kind, WatchedKind(resource));
  VIOMMU_ASSIGN_OR_RETURN(const auto server, session.Call<v1::GetServerStatusResponse>(v1::GetServerStatusRequest()));
  History history;
  // A watch from revision 0 would bring what is there now instead.
  history.after = std::max({server.oldest_revision(), server.revision() - kHistoryRevisions, int64_t{1}});
  // The resource itself tells at which revision it last changed: there is no need to wait for anything newer.
  history.complete = common.revision <= history.after;
  if (history.complete) return history;
  request.set_start_revision(history.after);
  request.add_kinds(kind);
  VIOMMU_ASSIGN_OR_RETURN(Client* const client, session.Connect());
  v1::WatchResponse response;
  const auto take = [&] {
    for (const v1::Event& event : response.events().events()) {
      const Message* changed = Inside(event.resource());
      if (changed == nullptr || CommonOf(*changed).uid != common.uid) continue;
      // A rebind deletes one name and puts another one, at once: to the resource that is one change.
      const bool renamed = !history.changes.empty() && history.changes.back().revision == event.revision();
      if (renamed && event.type() == v1::EVENT_TYPE_DELETED) continue;
      if (renamed) history.changes.pop_back();
      history.changes.push_back({event.revision(), event});
    }
    history.complete = response.revision() >= common.revision && !response.events().more();
    return !history.complete;
  };
  VIOMMU_RETURN_IF_ERROR(client->Stream(request, response, take, std::min(kHistoryTime, session.settings().timeout)));
  return history;
}

}  // namespace viommu::cli
