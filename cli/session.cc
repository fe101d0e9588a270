#include "cli/session.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/failure.h"
#include "cli/text.h"
#include "common/uuid.h"

namespace viommu::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;
using google::protobuf::Reflection;

// The empty reply to a List request, by their names.
std::unique_ptr<Message> ReplyTo(const Message& request) {
  std::string name = request.GetTypeName();
  name.replace(name.rfind("Request"), std::string_view("Request").size(), "Response");
  const Descriptor* type = DescriptorPool::generated_pool()->FindMessageTypeByName(name);
  return std::unique_ptr<Message>(MessageFactory::generated_factory()->GetPrototype(type)->New());
}

const FieldDescriptor* ItemsField(const Descriptor& type) {
  for (int i = 0; i < type.field_count(); ++i) {
    if (type.field(i)->is_repeated() && type.field(i)->message_type() != nullptr) return type.field(i);
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<Client*> Session::Connect() {
  if (client_ == nullptr) {
    Endpoint endpoint;
    if (agent_) {
      // The agent's own options write it as an address, people as a path.
      endpoint.address = settings_.socket.starts_with("unix:") ? settings_.socket : "unix:" + settings_.socket;
      endpoint.peer = "agent";
      endpoint.flag = "--socket";
    } else {
      VIOMMU_RETURN_IF_ERROR(settings_.context_problem);
      endpoint.address = settings_.server;
      endpoint.tls_ca = settings_.tls_ca;
      endpoint.tls_cert = settings_.tls_cert;
      endpoint.tls_key = settings_.tls_key;
      endpoint.insecure = settings_.insecure;
    }
    VIOMMU_ASSIGN_OR_RETURN(client_, Client::Create(endpoint, *terminal_.interrupted));
  }
  return client_.get();
}

absl::Status Session::CallInto(const Message& request, Message& response, std::string_view waiting_for) {
  facts_.clear();
  AddRequestFacts(request, facts_);
  if (agent_) facts_["peer"] = "agent";
  VIOMMU_ASSIGN_OR_RETURN(Client* const client, Connect());
  const std::string_view nothing_else = agent_ ? "waiting for the agent" : "waiting for the server";
  Progress progress(terminal_, std::string(waiting_for.empty() ? nothing_else : waiting_for));
  CallOptions options;
  options.timeout = settings_.timeout;
  options.on_tick = [&progress] { progress.Tick(); };
  return client->Call(request, response, options);
}

void Session::PrepareChange(Message& request, const std::string& etag) {
  const Descriptor& type = *request.GetDescriptor();
  const Reflection& reflection = *request.GetReflection();
  reflection.SetString(&request, type.FindFieldByName("request_id"),
                       settings_.request_id.empty() ? NewUuid() : settings_.request_id);
  reflection.SetBool(&request, type.FindFieldByName("validate_only"), settings_.dry_run);
  if (const FieldDescriptor* wait = type.FindFieldByName("wait"); wait != nullptr) {
    reflection.SetEnumValue(&request, wait, settings_.wait);
  }
  // Commands whose requests have none do not take the flag.
  if (!etag.empty()) reflection.SetString(&request, type.FindFieldByName("etag"), etag);
}

absl::StatusOr<Listing> ListAll(Session& session, Message& request, size_t limit) {
  const Descriptor& type = *request.GetDescriptor();
  const Reflection& reflection = *request.GetReflection();
  Listing listing;
  bool first = true;
  // One more than there is room for tells whether something was left out.
  reflection.SetInt32(&request, type.FindFieldByName("page_size"),
                      static_cast<int32_t>(std::min<size_t>(kPageSize, limit + 1)));
  while (true) {
    const std::unique_ptr<Message> reply = ReplyTo(request);
    VIOMMU_RETURN_IF_ERROR(session.CallInto(request, *reply, "reading the list"));
    const Descriptor& reply_type = *reply->GetDescriptor();
    const Reflection& reader = *reply->GetReflection();
    if (const FieldDescriptor* revision = reply_type.FindFieldByName("revision"); first && revision != nullptr) {
      listing.revision = reader.GetInt64(*reply, revision);
    }
    first = false;
    const FieldDescriptor* items = ItemsField(reply_type);
    for (int i = 0; i < reader.FieldSize(*reply, items); ++i) {
      if (listing.items.size() == limit) {
        listing.truncated = true;
        return listing;
      }
      const Message& item = reader.GetRepeatedMessage(*reply, items, i);
      listing.items.emplace_back(item.New())->CopyFrom(item);
    }
    const std::string token = reader.GetString(*reply, reply_type.FindFieldByName("next_page_token"));
    if (token.empty()) return listing;
    reflection.SetString(&request, type.FindFieldByName("page_token"), token);
  }
}

}  // namespace viommu::cli
