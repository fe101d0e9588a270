// JSON and YAML for programs. The order of the fields is that of the API's messages, entries of maps are sorted: the
// same resource always prints as the same text.

#ifndef VIOMMU_CLI_OUTPUT_DOCUMENT_H_
#define VIOMMU_CLI_OUTPUT_DOCUMENT_H_

#include <google/protobuf/message.h>

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace viommu::cli {

// The message in the JSON mapping of protocol buffers (64-bit numbers are strings, enums are names), with every scalar
// field there, set or not, so that readers need no "if there".
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

// Indented by two spaces, with a line end.
std::string PrintJson(const nlohmann::ordered_json& document);

// One line, with a line end: for streams.
std::string PrintJsonLine(const nlohmann::ordered_json& document);

// The same document as YAML. Words that a YAML reader would take for a number, a truth value or null are quoted.
std::string PrintYaml(const nlohmann::ordered_json& document);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_OUTPUT_DOCUMENT_H_
