#include "cli/filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <optional>

#include "cli/names.h"
#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::string_view kState = "state";
constexpr std::string_view kStates = "states";

// Fields of list requests that are no filters, or have flags of their own.
bool IsFilter(const FieldDescriptor& field) {
  static const auto& kOthers = *new std::vector<std::string>{"page_size",      "page_token", "labels", "kinds",
                                                             "start_revision", "progress",   "origin"};
  return std::find(kOthers.begin(), kOthers.end(), field.name()) == kOthers.end();
}

std::string KeyOf(const FieldDescriptor& field) { return field.name() == kStates ? std::string(kState) : field.name(); }

// "STATE" for State, "DEVICE_STATE" for DeviceState: what the names of an enum's values begin with.
std::string EnumPrefix(const EnumDescriptor& type) {
  const std::string& zero = type.FindValueByNumber(0)->name();
  return zero.substr(0, zero.size() - std::string_view("UNSPECIFIED").size());
}

absl::StatusOr<int> ParseEnum(const EnumDescriptor& type, std::string_view key, std::string_view word) {
  const std::string prefix = EnumPrefix(type);
  std::string upper(word);
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  std::vector<std::string> words;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() == 0) continue;
    words.push_back(type.value(i)->name().substr(prefix.size()));
    if (upper == words.back()) return type.value(i)->number();
  }
  return UsageError(fmt::format("--field {}: \"{}\" is none of {}", key, word, Join(words, ", ")));
}

std::optional<Kind> KindOfKey(std::string_view key) {
  if (key == "host") return Kind::kHost;
  if (key == "smmu") return Kind::kSmmu;
  if (key == "device") return Kind::kDevice;
  if (key == "viommu") return Kind::kViommu;
  if (key == "stage2_domain") return Kind::kStage2Domain;
  return std::nullopt;
}

absl::Status SetFilter(Message& request, const FieldDescriptor& field, const std::string& value) {
  const Reflection& reflection = *request.GetReflection();
  const std::string key = KeyOf(field);
  if (!field.is_repeated() && reflection.HasField(request, &field)) {
    return UsageError(fmt::format("--field {}: given twice", key));
  }
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_ENUM: {
      VIOMMU_ASSIGN_OR_RETURN(const int number, ParseEnum(*field.enum_type(), key, value));
      reflection.AddEnumValue(&request, &field, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      VIOMMU_ASSIGN_OR_RETURN(const bool flag, ParseBool(value, fmt::format("--field {}", key)));
      reflection.SetBool(&request, &field, flag);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text = value;
      if (const std::optional<Kind> kind = KindOfKey(key); kind.has_value()) {
        VIOMMU_ASSIGN_OR_RETURN(text, FullName(*kind, value));
      }
      reflection.SetString(&request, &field, text);
      return absl::OkStatus();
    }
    default:
      return absl::InternalError(fmt::format("the filter {} has a type that no flag can hold", key));
  }
}

}  // namespace

absl::Status ApplyFilters(const Filters& filters, Message& request) {
  const Descriptor& type = *request.GetDescriptor();
  for (const std::string& piece : filters.fields) {
    for (const std::string& part : Split(piece, ',')) {
      const size_t equals = part.find('=');
      if (equals == std::string::npos) {
        return UsageError(fmt::format("--field: \"{}\" is not of the form KEY=VALUE", part));
      }
      std::string key = Lower(part.substr(0, equals));
      std::replace(key.begin(), key.end(), '-', '_');
      if (key == "stage2domain") key = "stage2_domain";
      const FieldDescriptor* field = type.FindFieldByName(key == kState ? std::string(kStates) : key);
      if (field == nullptr || !IsFilter(*field)) {
        return UsageError(fmt::format("--field {}: cannot filter these by {}; the fields are {}", key, key,
                                      Join(FilterKeys(request), ", ")));
      }
      VIOMMU_RETURN_IF_ERROR(SetFilter(request, *field, part.substr(equals + 1)));
    }
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs(filters.labels, "-l"));
  if (labels.empty()) return absl::OkStatus();
  const FieldDescriptor* field = type.FindFieldByName("labels");
  if (field == nullptr) return UsageError("-l: these cannot be filtered by label");
  const Reflection& reflection = *request.GetReflection();
  for (const auto& [key, value] : labels) {
    Message& entry = *reflection.AddMessage(&request, field);
    entry.GetReflection()->SetString(&entry, field->message_type()->map_key(), key);
    entry.GetReflection()->SetString(&entry, field->message_type()->map_value(), value);
  }
  return absl::OkStatus();
}

std::vector<std::string> FilterKeys(const Message& request) {
  std::vector<std::string> keys;
  const Descriptor& type = *request.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    if (IsFilter(*type.field(i))) keys.push_back(KeyOf(*type.field(i)));
  }
  return keys;
}

}  // namespace viommu::cli
