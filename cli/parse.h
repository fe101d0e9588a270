// From the words of a command line to a command and its values, by CLI11.

#ifndef VIOMMU_CLI_PARSE_H_
#define VIOMMU_CLI_PARSE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/command.h"
#include "cli/settings.h"

namespace viommu::cli {

struct Parsed {
  // What to run, or whose help to show.
  const Command* command;
  bool help = false;
  // Which of the root's flags were given.
  GivenFlags global_flags;
};

// Fills the targets of the arguments. The root's flags may stand anywhere. Errors are usage errors; `reached` is the
// command that was recognised before.
absl::StatusOr<Parsed> ParseCommandLine(const Command& root, const std::vector<std::string>& words,
                                        const Command** reached);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_PARSE_H_
