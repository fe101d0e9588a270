#include <fmt/format.h>

#include <string_view>

#include "cli/exit_code.h"
#include "cli/help.h"
#include "cli/hints.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

constexpr std::string_view kPreface = R"(# viommuctl

<!-- Written by `bazel run //cli:write_reference > docs/cli.md`; a test compares it with the program. -->

`viommuctl` is the operator's hand: it shows what the fleet's hosts, devices and viommus are, changes what is recorded,
carries invalidations and follows changes. It talks to the server; `viommuctl local` talks to the agent of the host that
it runs on.

## Conventions

**Names.** Every command takes full names and, where the kind is clear, short ones:

| kind | full | short |
|---|---|---|
| host | `hosts/a` | `a` |
| smmu | `hosts/a/smmus/smmu0` | `a/smmu0` |
| device | `hosts/a/devices/0000:01:00.0` | `a/0000:01:00.0`, `a/01:00.0` |
| stage2domain | `stage2Domains/web` | `web` |
| viommu | `viommus/v1` | `v1` |
| vdevice | `viommus/v1/vdevices/16` | `v1/16`, `v1/0x10` |
| nesteddomain | `viommus/v1/nestedDomains/n` | `v1/n` |

Numbers are decimal or `0x` hex.

**Output.** Data goes to stdout, words go to stderr. `-o table` (as if not given), `wide` (more columns), `json`, `yaml` or
`name` (full names, one a line). Documents are the JSON mapping of the API's messages: 64-bit numbers are strings, all
scalar fields are always there, their order never changes. A list is one object, `{"items": [...], "revision": N}`: a watch
from that revision misses nothing. It has `"truncated": true` when `--limit` left something out. Changes print one line for
each resource unless an output format is asked for. Colour only on a terminal, and not with `NO_COLOR` or `TERM=dumb`.

**Changes.** Each change carries a fresh request id, and is tried up to three times under it when the server cannot be
reached or asks for patience, within `--timeout`. `--wait=accepted` answers when the change is recorded durably,
`--wait=applied` when the host has answered. `--dry-run` only asks the server whether it would. When the answer got lost
(exit codes 3, 5 and 130), the same command with the `--request-id` that is printed is carried out at most once.

**Settings.** Flags stand above the environment (`VIOMMUCTL_SERVER`, `VIOMMUCTL_CONTEXT`, `VIOMMUCTL_CONFIG`,
`VIOMMUCTL_TIMEOUT`, `VIOMMUCTL_OUTPUT`, `VIOMMUCTL_WAIT`, `VIOMMUCTL_SOCKET`, `VIOMMUCTL_TLS_CA`, `VIOMMUCTL_TLS_CERT`,
`VIOMMUCTL_TLS_KEY`, `VIOMMUCTL_INSECURE`), the environment above the current context. A context that is chosen with
`--context` stands above the environment. Contexts live in `$XDG_CONFIG_HOME/viommuctl/config.yaml`:

```yaml
current-context: lab
contexts:
  - name: lab
    server: server.example:7070
    tls-ca: /etc/viommu/ca.pem
    timeout: 20s
```

**Errors** say what is wrong, the reason in capitals (docs/errors.md), who holds what is in the way, and what to try next:

```text
error: device hosts/a/devices/0000:01:00.0 belongs to viommus/x/vdevices/16; unset that vdevice first (DEVICE_TAKEN)
  try: viommuctl unset vdev-id viommus/x/vdevices/16 --wait=applied
```

With `-o json` or `-o yaml` an error is a JSON object on stderr: `{"error": {"code", "reason", "message", "resource",
"metadata", "violations", "try", "exitCode"}}`.

**Completion.** `source <(viommuctl completion bash)`, likewise for zsh; `viommuctl completion fish | source`. It completes
commands, flags and the names that the server has.
)";

void AppendCommand(std::string& out, const Command& command) {
  if (command.parent() != nullptr && command.action()) {
    out += fmt::format("\n### viommuctl {}\n\n```text\n{}```\n", command.Path(), HelpFor(command));
  }
  for (const auto& child : command.children()) AppendCommand(out, *child);
}

// A bar inside a table's cell would end it.
std::string CellText(std::string_view text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? std::string("\\|") : std::string(1, c);
  return cell;
}

}  // namespace

std::string Reference(const Command& root) {
  std::string out(kPreface);
  out += "\n## Exit codes\n\n| code | meaning |\n|---|---|\n";
  for (const ExitCodeRow& row : kExitCodes) {
    out += fmt::format("| {} | {} |\n", static_cast<int>(row.code), CellText(row.meaning));
  }
  out += fmt::format("\n## Flags of every command\n\n```text\n{}```\n", HelpFor(root));
  out += "\n## Commands\n";
  AppendCommand(out, root);
  out += "\n## What to try\n\nNames in capitals stand for what the error names.\n\n| reason | try |\n|---|---|\n";
  const auto* reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(reasons->value(i)->number());
    std::string cell;
    for (const std::string& hint : HintsFor(reason, {})) {
      cell += fmt::format("{}{}", cell.empty() ? "" : "; ", CellText(hint));
    }
    if (!cell.empty()) out += fmt::format("| {} | {} |\n", ReasonName(reason), cell);
  }
  return out;
}

}  // namespace viommu::cli
