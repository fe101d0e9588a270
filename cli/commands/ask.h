// Asks before something that cannot be taken back.

#ifndef VIOMMU_CLI_COMMANDS_ASK_H_
#define VIOMMU_CLI_COMMANDS_ASK_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "cli/session.h"

namespace viommu::cli {

// OK with --yes or --dry-run, or when the question is answered with yes. A usage error where nobody can be asked;
// CANCELLED, or InterruptedError(), else. `did`: what was then not done ("deleted").
absl::Status AskFirst(Session& session, std::string_view command, const std::string& question, std::string_view did);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_COMMANDS_ASK_H_
