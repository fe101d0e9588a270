#include "cli/commands/ask.h"

#include <fmt/format.h>

#include "cli/text.h"

namespace viommu::cli {

absl::Status AskFirst(Session& session, std::string_view command, const std::string& question, std::string_view did) {
  if (session.settings().yes || session.settings().dry_run) return absl::OkStatus();
  const Terminal& terminal = session.terminal();
  if (!terminal.in_is_terminal || !terminal.err_is_terminal) {
    return UsageError(fmt::format("{} asks first, and this is no terminal to ask on; say --yes", command));
  }
  if (Confirm(terminal, question)) return absl::OkStatus();
  if (terminal.interrupted->load()) return InterruptedError(fmt::format("interrupted; nothing was {}", did));
  return absl::CancelledError(fmt::format("not confirmed; nothing was {}", did));
}

}  // namespace viommu::cli
