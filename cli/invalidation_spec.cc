#include "cli/invalidation_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "cli/text.h"
#include "common/error.h"
#include "common/suggest.h"

namespace viommu::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::string_view kRaw = "raw";
constexpr size_t kWordBytes = 8;

std::string Dashes(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string Underscores(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// The fields of a kind as a person writes them; those of TlbiRange stand beside the others.
std::vector<const FieldDescriptor*> SpecFields(const Descriptor& type) {
  std::vector<const FieldDescriptor*> fields;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->message_type() == nullptr) {
      fields.push_back(field);
    } else {
      for (int j = 0; j < field->message_type()->field_count(); ++j) {
        fields.push_back(field->message_type()->field(j));
      }
    }
  }
  return fields;
}

std::string FieldList(const Descriptor& type) {
  std::vector<std::string> names;
  for (const FieldDescriptor* field : SpecFields(type)) names.push_back(field->name());
  return names.empty() ? "none" : Join(names, ", ");
}

absl::Status SetScalar(Message& message, const FieldDescriptor& field, std::string_view value, std::string_view spec) {
  const Reflection& reflection = *message.GetReflection();
  const std::string what = fmt::format("{}: {}", spec, field.name());
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: {
      VIOMMU_ASSIGN_OR_RETURN(const bool flag, ParseBool(value, what));
      reflection.SetBool(&message, &field, flag);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      VIOMMU_ASSIGN_OR_RETURN(const uint64_t number, ParseNumber(value, what, UINT32_MAX));
      reflection.SetUInt32(&message, &field, static_cast<uint32_t>(number));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      VIOMMU_ASSIGN_OR_RETURN(const uint64_t number, ParseNumber(value, what));
      reflection.SetUInt64(&message, &field, number);
      return absl::OkStatus();
    }
    default:
      return absl::InternalError(fmt::format("{} has a type that no spec can hold", what));
  }
}

absl::StatusOr<v1::Command> ParseRaw(std::string_view spec, std::string_view words) {
  const std::vector<std::string> parts = Split(words, ',');
  if (parts.size() != 2) {
    return UsageError(fmt::format("{}: a raw command is two 64-bit words: raw:0x10,0x0", spec));
  }
  std::string bytes;
  for (const std::string& part : parts) {
    VIOMMU_ASSIGN_OR_RETURN(uint64_t word, ParseNumber(part, spec));
    for (size_t i = 0; i < kWordBytes; ++i, word >>= 8) bytes.push_back(static_cast<char>(word & 0xff));
  }
  v1::Command command;
  command.set_raw(bytes);
  return command;
}

uint64_t WordAt(const std::string& bytes, size_t index) {
  uint64_t word = 0;
  for (size_t i = kWordBytes; i-- > 0;) word = (word << 8) | static_cast<unsigned char>(bytes[index * kWordBytes + i]);
  return word;
}

void AppendFields(const Message& message, std::vector<std::string>& parts) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> set;
  reflection.ListFields(message, &set);
  for (const FieldDescriptor* field : set) {
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_BOOL:
        parts.push_back(fmt::format("{}=true", field->name()));
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        parts.push_back(fmt::format("{}={}", field->name(), reflection.GetUInt32(message, field)));
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        parts.push_back(fmt::format("{}={:#x}", field->name(), reflection.GetUInt64(message, field)));
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE:
        AppendFields(reflection.GetMessage(message, field), parts);
        break;
      default:
        break;
    }
  }
}

}  // namespace

absl::StatusOr<v1::Command> ParseInvalidation(std::string_view spec) {
  const size_t colon = spec.find(':');
  const std::string name = Lower(spec.substr(0, colon));
  const std::string_view rest = colon == std::string_view::npos ? "" : spec.substr(colon + 1);
  if (name == kRaw) return ParseRaw(spec, rest);

  v1::Command command;
  const FieldDescriptor* kind = v1::Command::descriptor()->FindFieldByName(Underscores(name));
  if (kind == nullptr || kind->message_type() == nullptr) {
    return UsageError(fmt::format("{}: there is no invalidation \"{}\"; there are {}{}", spec, name,
                                  Join(InvalidationNames(), ", "), DidYouMean(name, InvalidationNames())));
  }
  Message& body = *command.GetReflection()->MutableMessage(&command, kind);
  std::vector<const FieldDescriptor*> seen;
  for (const std::string& part : Split(rest, ',')) {
    const size_t equals = part.find('=');
    const std::string key = Underscores(Lower(Trim(part.substr(0, equals))));
    const auto fields = SpecFields(*kind->message_type());
    const auto field =
        std::find_if(fields.begin(), fields.end(), [&key](const FieldDescriptor* f) { return f->name() == key; });
    if (equals == std::string::npos || field == fields.end()) {
      return UsageError(fmt::format("{}: \"{}\" is no field of {}; its fields are {}, each as FIELD=VALUE", spec, part,
                                    name, FieldList(*kind->message_type())));
    }
    if (std::find(seen.begin(), seen.end(), *field) != seen.end()) {
      return UsageError(fmt::format("{}: {} is given twice", spec, key));
    }
    seen.push_back(*field);
    Message* owner = &body;
    if ((*field)->containing_type() != body.GetDescriptor()) {
      owner = body.GetReflection()->MutableMessage(&body, body.GetDescriptor()->FindFieldByName("range"));
    }
    VIOMMU_RETURN_IF_ERROR(SetScalar(*owner, **field, Trim(std::string_view(part).substr(equals + 1)), spec));
  }
  return command;
}

std::string FormatInvalidation(const v1::Command& command) {
  if (command.kind_case() == v1::Command::kRaw) {
    if (command.raw().size() != 2 * kWordBytes) return fmt::format("raw ({} bytes)", command.raw().size());
    return fmt::format("raw:{:#018x},{:#018x}", WordAt(command.raw(), 0), WordAt(command.raw(), 1));
  }
  std::vector<const FieldDescriptor*> set;
  command.GetReflection()->ListFields(command, &set);
  if (set.empty()) return "(empty)";
  std::vector<std::string> parts;
  AppendFields(command.GetReflection()->GetMessage(command, set[0]), parts);
  return Dashes(set[0]->name()) + (parts.empty() ? "" : ":" + Join(parts, ","));
}

std::vector<std::string> InvalidationNames() {
  std::vector<std::string> names;
  const Descriptor& type = *v1::Command::descriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    if (type.field(i)->message_type() != nullptr) names.push_back(Dashes(type.field(i)->name()));
  }
  names.emplace_back(kRaw);
  return names;
}

std::vector<std::string> InvalidationForms() {
  std::vector<std::string> forms;
  const Descriptor& type = *v1::Command::descriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    if (type.field(i)->message_type() == nullptr) continue;
    std::string form = Dashes(type.field(i)->name());
    char before = ':';
    for (const FieldDescriptor* field : SpecFields(*type.field(i)->message_type())) {
      form += fmt::format("{}{}={}", before, field->name(),
                          field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL ? "BOOL" : "N");
      before = ',';
    }
    forms.push_back(form);
  }
  forms.emplace_back("raw:WORD0,WORD1");
  return forms;
}

}  // namespace viommu::cli
