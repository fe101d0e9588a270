// Completion: what may come next on a command line, from the tree of commands and the server. The scripts for the
// shells only hand the words over (`viommuctl __complete WORD...`), so that they know nothing that could grow old.

#ifndef VIOMMU_CLI_COMPLETE_H_
#define VIOMMU_CLI_COMPLETE_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/command.h"

namespace viommu::cli {

struct Candidate {
  std::string word;
  std::string meaning;  // may be empty
};

// Names of resources of a kind; empty when they cannot be read.
using NameSource = std::function<std::vector<std::string>(Kind kind)>;

// What may stand in place of the last word, of which a part (or nothing) is typed already. The candidate
// kFilesCandidate asks the shell for files.
std::vector<Candidate> Complete(const Command& root, const std::vector<std::string>& words, const NameSource& names);

// The word of a candidate that asks for files.
inline constexpr std::string_view kFilesCandidate = ":files";

// The script for a shell: bash, zsh or fish; usage error for others.
absl::StatusOr<std::string> CompletionScript(std::string_view shell);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_COMPLETE_H_
