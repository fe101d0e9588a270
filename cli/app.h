// The whole program but its main(): from words to an exit code.

#ifndef VIOMMU_CLI_APP_H_
#define VIOMMU_CLI_APP_H_

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/terminal.h"

namespace viommu::cli {

// The tree of all commands, with the global flags at its root.
std::unique_ptr<Command> MakeCommands();

// Runs one command line (without the program's name) and answers what the process ends with.
int RunViommuctl(const std::vector<std::string>& words, const Terminal& terminal);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_APP_H_
