// What the process ends with. The table is part of the interface: scripts branch on it.

#ifndef VIOMMU_CLI_EXIT_CODE_H_
#define VIOMMU_CLI_EXIT_CODE_H_

#include <array>
#include <string_view>

namespace viommu::cli {

enum class ExitCode : int {
  kOk = 0,
  kRefused = 1,
  kUsage = 2,
  kUnreachable = 3,
  kNotFound = 4,
  kNotYet = 5,
  kConflict = 6,
  kFailedOnHost = 7,
  kInterrupted = 130,
};

struct ExitCodeRow {
  ExitCode code;
  std::string_view meaning;
};

// Every code with its meaning, in the order of --help and docs/cli.md.
inline constexpr std::array<ExitCodeRow, 9> kExitCodes = {{
    {ExitCode::kOk, "done"},
    {ExitCode::kRefused,
     "refused by the rules, nothing changed; or invalidations that stopped (the output says how many took effect), "
     "drift "
     "that was found, or output that could not be written"},
    {ExitCode::kUsage, "the command line (or a file that it names) is wrong; nothing was sent"},
    {ExitCode::kUnreachable,
     "the server (with `local`: the agent) cannot be reached or cannot serve now; repeat a change with the "
     "--request-id that is printed"},
    {ExitCode::kNotFound, "there is no such thing"},
    {ExitCode::kNotYet, "the deadline came first; with --wait=applied the change may be recorded and not yet applied"},
    {ExitCode::kConflict, "conflict: the etag is not the current one, or the request id was used for another request"},
    {ExitCode::kFailedOnHost, "recorded, but the host could not apply it (state FAILED); it tries again by itself"},
    {ExitCode::kInterrupted, "interrupted (Ctrl-C)"},
}};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_EXIT_CODE_H_
