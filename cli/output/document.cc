#include "cli/output/document.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

namespace viommu::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using Json = nlohmann::ordered_json;

Json Arranged(Json value, const Descriptor& type);

Json ArrangedField(Json value, const FieldDescriptor& field) {
  if (field.is_map()) {
    std::map<std::string, Json> entries;
    for (auto& [key, entry] : value.items()) entries[key] = std::move(entry);
    Json sorted = Json::object();
    for (auto& [key, entry] : entries) sorted[key] = std::move(entry);
    return sorted;
  }
  if (field.message_type() == nullptr) return value;
  if (!field.is_repeated()) return Arranged(std::move(value), *field.message_type());
  for (Json& item : value) item = Arranged(std::move(item), *field.message_type());
  return value;
}

// The fields in the order of the message. json_util puts those it fills in before those it finds.
Json Arranged(Json value, const Descriptor& type) {
  if (!value.is_object()) return value;  // well-known types print as plain values
  Json arranged = Json::object();
  for (int i = 0; i < type.field_count(); ++i) {
    const auto found = value.find(type.field(i)->json_name());
    if (found != value.end()) arranged[found.key()] = ArrangedField(std::move(*found), *type.field(i));
  }
  return arranged;
}

// Whether YAML readers of any age take the word for text without quotes.
bool IsPlainYaml(std::string_view text) {
  static constexpr std::array<std::string_view, 10> kReserved = {"true", "false", "null", "yes", "no",
                                                                 "on",   "off",   "y",    "n",   "~"};
  if (text.empty()) return false;
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (std::find(kReserved.begin(), kReserved.end(), lower) != kReserved.end()) return false;
  if (std::isalpha(static_cast<unsigned char>(text[0])) == 0) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.' || c == '/';
  });
}

std::string YamlScalar(const Json& value) {
  if (value.is_string() && IsPlainYaml(value.get_ref<const std::string&>())) return value.get<std::string>();
  return value.dump();  // a JSON string is a double-quoted YAML string; numbers and words are alike
}

// Appends `value` after "key:" or "-", whose children stand `indent` deep.
void AppendYaml(std::string& out, const Json& value, size_t indent, bool in_sequence) {
  const std::string margin(indent, ' ');
  if (value.is_object() && !value.empty()) {
    bool first = true;
    for (const auto& [key, child] : value.items()) {
      if (in_sequence && first) {
        out += " ";
      } else {
        out += (out.empty() || out.back() == '\n' ? "" : "\n") + margin;
      }
      first = false;
      out += YamlScalar(Json(key)) + ":";
      AppendYaml(out, child, indent + 2, false);
    }
  } else if (value.is_array() && !value.empty()) {
    for (const Json& child : value) {
      out += (out.empty() || out.back() == '\n' ? "" : "\n") + margin + "-";
      AppendYaml(out, child, indent + 2, true);
    }
  } else {
    out += (out.empty() || out.back() == '\n' ? "" : " ") + YamlScalar(value) + "\n";
  }
}

}  // namespace

Json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) {
    return Json::object();  // only a message with a foreign Any inside cannot be printed; ours hold none
  }
  return Arranged(Json::parse(text), *message.GetDescriptor());
}

std::string PrintJson(const Json& document) {
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string PrintJsonLine(const Json& document) {
  return document.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string PrintYaml(const Json& document) {
  std::string out;
  AppendYaml(out, document, 0, false);
  return out;
}

}  // namespace viommu::cli
