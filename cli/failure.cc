#include "cli/failure.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "absl/strings/cord.h"
#include "cli/output/style.h"
#include "cli/text.h"
#include "common/error.h"
#include "google/rpc/error_details.pb.h"

namespace viommu::cli {
namespace {

using google::protobuf::FieldDescriptor;
using Json = nlohmann::ordered_json;

constexpr char kFailedMark[] = "viommuctl/failed-on-host";

// Something that the error says about one place: a field of the request, or something that stands in the way.
struct Violation {
  std::string where;
  std::string what;
};

std::vector<Violation> ViolationsOf(const absl::Status& status) {
  std::vector<Violation> violations;
  const auto bad_request = DetailOf<google::rpc::BadRequest>(status);
  for (const auto& field : bad_request.field_violations()) {
    violations.push_back({field.field(), field.description()});
  }
  const auto failure = DetailOf<google::rpc::PreconditionFailure>(status);
  for (const auto& precondition : failure.violations()) {
    violations.push_back({precondition.subject(), precondition.description()});
  }
  return violations;
}

Facts FactsOf(const absl::Status& status, const Facts& known) {
  Facts facts;
  const auto resource = DetailOf<google::rpc::ResourceInfo>(status);
  if (!resource.resource_name().empty()) facts["resource"] = resource.resource_name();
  if (!resource.owner().empty()) facts["owner"] = resource.owner();
  const auto preconditions = DetailOf<google::rpc::PreconditionFailure>(status);
  if (preconditions.violations_size() > 0) facts["subject"] = preconditions.violations(0).subject();
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  for (const auto& [key, value] : info.metadata()) facts.emplace(key, value);
  // Servers may name the holder as metadata instead of a ResourceInfo.
  if (const auto holder = facts.find("holder"); holder != facts.end()) facts.emplace("owner", holder->second);
  for (const auto& [key, value] : known) facts.emplace(key, value);
  DeriveFacts(facts);
  return facts;
}

std::vector<std::string> HintsOf(const absl::Status& status, const Facts& facts) {
  const v1::ErrorReason reason = ReasonOf(status);
  const auto request_id = facts.find("request_id");
  // Whatever was said last, an earlier try of this call may have been carried out without its answer coming back.
  const auto repeat = [&request_id](std::string_view when) {
    return fmt::format("the same with --request-id {}{}: it is carried out only once", request_id->second, when);
  };
  if (reason != v1::ERROR_REASON_UNSPECIFIED) {
    std::vector<std::string> hints = HintsFor(reason, facts);
    if (reason == v1::ERROR_REASON_SHUTTING_DOWN && request_id != facts.end()) {
      hints = {repeat(" once the server is back")};
    }
    return hints;
  }
  switch (ExitCodeOf(status)) {
    case ExitCode::kUsage: {
      const auto command = facts.find("command");
      const bool known = command != facts.end() && !command->second.empty();
      return {known ? fmt::format("viommuctl {} --help", command->second) : "viommuctl --help"};
    }
    case ExitCode::kUnreachable: {
      if (const auto peer = facts.find("peer"); peer != facts.end() && peer->second == "agent") {
        return {"on this host: systemctl status viommu-agent   # does it run, and where does it listen (--socket)?"};
      }
      std::vector<std::string> hints = {
          "viommuctl config current   # which server is meant (--server, VIOMMUCTL_SERVER, --context)"};
      if (request_id != facts.end()) hints.push_back(repeat(""));
      return hints;
    }
    case ExitCode::kInterrupted:
      if (request_id == facts.end()) return {};
      return {repeat("")};
    case ExitCode::kNotYet:
      if (request_id != facts.end()) return {repeat(" and a longer --timeout")};
      return {"the same with a longer --timeout"};
    default:
      return {};
  }
}

}  // namespace

absl::Status FailedOnHost(const std::string& name, const v1::StateReason& reason) {
  const std::string why = reason.message().empty() ? "its host gave no reason" : reason.message();
  absl::Status status = Error(absl::StatusCode::kFailedPrecondition, ReasonFromName(reason.reason()))
                            .Message("{} is recorded, but FAILED on its host: {}", name, why)
                            .Meta("errno", std::to_string(reason.error_number()))
                            .Resource("", name);
  status.SetPayload(kFailedMark, absl::Cord());
  return status;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return ExitCode::kOk;
  if (status.GetPayload(kFailedMark).has_value()) return ExitCode::kFailedOnHost;
  if (IsUsageError(status)) return ExitCode::kUsage;
  if (IsInterrupted(status)) return ExitCode::kInterrupted;
  switch (ReasonOf(status)) {
    case v1::ERROR_REASON_ETAG_MISMATCH:
    case v1::ERROR_REASON_REQUEST_ID_REUSED:
      return ExitCode::kConflict;
    case v1::ERROR_REASON_NOT_YET_APPLIED:
      return ExitCode::kNotYet;
    case v1::ERROR_REASON_STORE_UNAVAILABLE:
    case v1::ERROR_REASON_OVERLOADED:
    case v1::ERROR_REASON_SHUTTING_DOWN:
      return ExitCode::kUnreachable;
    case v1::ERROR_REASON_UNSPECIFIED:
      if (status.code() == absl::StatusCode::kUnavailable) return ExitCode::kUnreachable;
      break;
    default:
      break;
  }
  if (status.code() == absl::StatusCode::kNotFound) return ExitCode::kNotFound;
  if (status.code() == absl::StatusCode::kDeadlineExceeded) return ExitCode::kNotYet;
  return ExitCode::kRefused;
}

void AddRequestFacts(const google::protobuf::Message& request, Facts& facts) {
  std::vector<const FieldDescriptor*> fields;
  request.GetReflection()->ListFields(request, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !field->is_repeated()) {
      facts[field->name()] = request.GetReflection()->GetString(request, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated()) {
      AddRequestFacts(request.GetReflection()->GetMessage(request, field), facts);
    }
  }
}

std::string DescribeFailure(const absl::Status& status, const Facts& known, bool colour) {
  const Facts facts = FactsOf(status, known);
  const std::string message(status.message());
  std::string out = Styled("error: ", Style::kBad, colour) + message;
  const v1::ErrorReason reason = ReasonOf(status);
  if (reason != v1::ERROR_REASON_UNSPECIFIED) {
    out += fmt::format(" ({})", ReasonName(reason));
  } else if (const auto info = DetailOf<google::rpc::ErrorInfo>(status); !info.reason().empty()) {
    out += fmt::format(" ({})", info.reason());  // of a newer server
  }
  out += "\n";
  const auto owner = facts.find("owner");
  if (owner != facts.end() && message.find(owner->second) == std::string::npos) {
    out += fmt::format("  held by: {}\n", owner->second);
  }
  for (const Violation& violation : ViolationsOf(status)) {
    if (message.find(violation.what) == std::string::npos) {
      out += fmt::format("  {}: {}\n", violation.where, violation.what);
    }
  }
  for (const std::string& hint : HintsOf(status, facts)) {
    out += fmt::format("  {} {}\n", Styled("try:", Style::kBold, colour), hint);
  }
  return out;
}

Json FailureToJson(const absl::Status& status, const Facts& known) {
  const Facts facts = FactsOf(status, known);
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  Json error = Json::object();
  error["code"] = absl::StatusCodeToString(status.code());
  error["reason"] = info.reason();
  error["message"] = std::string(status.message());
  if (const auto resource = DetailOf<google::rpc::ResourceInfo>(status); !resource.resource_name().empty()) {
    error["resource"] = {
        {"type", resource.resource_type()}, {"name", resource.resource_name()}, {"owner", resource.owner()}};
  }
  Json metadata = Json::object();
  for (const auto& [key, value] : std::map<std::string, std::string>(info.metadata().begin(), info.metadata().end())) {
    metadata[key] = value;
  }
  error["metadata"] = std::move(metadata);
  Json violations = Json::array();
  for (const Violation& violation : ViolationsOf(status)) {
    violations.push_back({{"where", violation.where}, {"what", violation.what}});
  }
  error["violations"] = std::move(violations);
  error["try"] = HintsOf(status, facts);
  error["exitCode"] = static_cast<int>(ExitCodeOf(status));
  Json document = Json::object();
  document["error"] = std::move(error);
  return document;
}

}  // namespace viommu::cli
