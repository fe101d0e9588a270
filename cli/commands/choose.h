// Which kind, and which names of it: "KIND NAME...", or full names alone, which tell their kind.

#ifndef VIOMMU_CLI_COMMANDS_CHOOSE_H_
#define VIOMMU_CLI_COMMANDS_CHOOSE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/command.h"
#include "cli/names.h"

namespace viommu::cli {

struct Choice {
  Kind kind;
  std::vector<std::string> names;  // full; empty: all of the kind
};

// All names are of one kind; anything else is a usage error.
absl::StatusOr<Choice> Choose(const std::string& kind_or_name, const std::vector<std::string>& names);

// The words of all kinds, for completion.
Values KindWords();

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_COMMANDS_CHOOSE_H_
