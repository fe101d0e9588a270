#include "cli/vdev_id_list.h"

#include <fmt/format.h>

#include <string>

#include "cli/names.h"
#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {

absl::StatusOr<v1::VdevIdAssignment> ParseVdevIdAssignment(std::string_view text, std::string_view where) {
  std::vector<std::string> words;
  for (const std::string& word : Split(text, ' ')) {
    if (!Trim(word).empty()) words.emplace_back(Trim(word));
  }
  const size_t equals = words.empty() ? std::string::npos : words[0].find('=');
  if (equals == std::string::npos) {
    return UsageError(fmt::format("{}: \"{}\" is not of the form DEVICE=VDEV_ID", where, text));
  }
  v1::VdevIdAssignment assignment;
  const absl::StatusOr<std::string> device = FullName(Kind::kDevice, words[0].substr(0, equals));
  if (!device.ok()) return UsageError(fmt::format("{}: {}", where, std::string(device.status().message())));
  assignment.set_device(*device);
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t vdev_id, ParseNumber(words[0].substr(equals + 1), where));
  assignment.set_vdev_id(vdev_id);
  words.erase(words.begin());
  VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs(words, where));
  for (const auto& [key, value] : labels) (*assignment.mutable_labels())[key] = value;
  return assignment;
}

absl::StatusOr<std::vector<v1::VdevIdAssignment>> ParseVdevIdList(std::string_view text, std::string_view file) {
  std::vector<v1::VdevIdAssignment> assignments;
  int number = 0;
  for (const std::string& line : Split(text, '\n')) {
    ++number;
    std::string words = line.substr(0, line.find('#'));
    for (char& c : words) c = c == '\t' || c == '\r' ? ' ' : c;
    if (Trim(words).empty()) continue;
    VIOMMU_ASSIGN_OR_RETURN(v1::VdevIdAssignment assignment,
                            ParseVdevIdAssignment(Trim(words), fmt::format("{}, line {}", file, number)));
    assignments.push_back(std::move(assignment));
  }
  if (assignments.empty()) return UsageError(fmt::format("{} holds no assignments", file));
  return assignments;
}

}  // namespace viommu::cli
