// Help: one page for each command, examples first; and the whole reference for docs/cli.md.

#ifndef VIOMMU_CLI_HELP_H_
#define VIOMMU_CLI_HELP_H_

#include <string>

#include "cli/command.h"

namespace viommu::cli {

// What `viommuctl COMMAND --help` prints.
std::string HelpFor(const Command& command);

// docs/cli.md: conventions, exit codes, every command with its help, every reason with what to try.
std::string Reference(const Command& root);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_HELP_H_
