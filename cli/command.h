// The tree of commands as plain data: declared once by the command groups, read by the parser (parse.h), the help
// (help.h), the shells' completion (complete.h) and the reference in docs/cli.md. What is declared here is what there
// is.

#ifndef VIOMMU_CLI_COMMAND_H_
#define VIOMMU_CLI_COMMAND_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/exit_code.h"
#include "cli/names.h"

namespace viommu::cli {

class Session;

// The group of the root's flags that only changes take.
inline constexpr char kChangeGroup[] = "Flags of changes";

// What the value of an argument may be.
struct Values {
  // Words to offer when completing…
  std::vector<std::string> words = {};
  // …and whether all others are refused.
  bool only_words = false;
  // Names of this kind are offered when completing.
  std::optional<Kind> names_of = std::nullopt;
  // Names of the kind that the argument before names are offered ("get KIND NAME").
  bool names_of_kind_before = false;
  // Files are offered.
  bool files = false;
};

// One positional argument or flag. The target gets the value and outlives the parse; a switch needs none beyond it.
struct Argument {
  std::string names;  // "KIND" for a positional one, "-l,--label" for a flag
  bool positional = false;
  bool required = false;
  std::string value_name;  // of a flag with a value
  std::string help;
  Values values;
  std::string group;  // heading in the help of the root command
  std::variant<bool*, std::string*, std::vector<std::string>*> target;

  bool IsSwitch() const { return std::holds_alternative<bool*>(target); }
  bool IsRepeated() const { return std::holds_alternative<std::vector<std::string>*>(target); }
  // "--label" of "-l,--label".
  std::string LongName() const { return names.substr(names.rfind(',') + 1); }
};

struct Example {
  std::string command;  // without "viommuctl "
  std::string meaning;
};

class Command {
 public:
  using Action = std::function<absl::StatusOr<ExitCode>(Session&)>;

  Command(std::string name, std::string summary, const Command* parent = nullptr)
      : name_(std::move(name)), summary_(std::move(summary)), parent_(parent) {}
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // Declaring. Every call returns this command, but Sub(), which returns the new one.
  Command& Sub(std::string name, std::string summary);
  Command& Details(std::string text);
  Command& WithExample(std::string command, std::string meaning);
  // It changes something: --dry-run, --wait and the like have a meaning. Without `waits` no host has a part in it, and
  // --wait has none.
  Command& Changes(bool waits = true);
  // The same, of what makes something new: there is no etag yet, and --etag has no meaning.
  Command& MakesNew();
  // It changes what a host has, not the record: only --dry-run and --yes have a meaning.
  Command& ChangesHost();
  Command& Positional(std::string name, std::string* value, std::string help, Values values = {});
  Command& OptionalPositional(std::string name, std::string* value, std::string help, Values values = {});
  Command& Positionals(std::string name, std::vector<std::string>* value, std::string help, bool required,
                       Values values = {});
  Command& Switch(std::string names, bool* value, std::string help, std::string group = "");
  Command& Flag(std::string names, std::string* value, std::string value_name, std::string help, Values values = {},
                std::string group = "");
  Command& Flags(std::string names, std::vector<std::string>* value, std::string value_name, std::string help,
                 Values values = {});
  Command& RequiredFlag(std::string names, std::string* value, std::string value_name, std::string help,
                        Values values = {});
  Command& Runs(Action action);

  const std::string& name() const { return name_; }
  const std::string& summary() const { return summary_; }
  const std::string& details() const { return details_; }
  const Command* parent() const { return parent_; }
  bool changes() const { return changes_; }
  bool records() const { return records_; }
  // Whether one of the root's flags has a meaning for it.
  bool Takes(const Argument& root_flag) const;
  const Action& action() const { return action_; }
  const std::vector<Example>& examples() const { return examples_; }
  const std::vector<Argument>& arguments() const { return arguments_; }
  const std::vector<std::unique_ptr<Command>>& children() const { return children_; }
  // Null when there is none.
  const Command* Child(const std::string& name) const;
  // "set vdev-id"; empty for the root.
  std::string Path() const;

 private:
  Command& Add(Argument argument);

  const std::string name_;
  const std::string summary_;
  const Command* const parent_;
  std::string details_;
  bool changes_ = false;
  bool records_ = false;
  bool waits_ = false;
  bool guards_ = false;
  Action action_;
  std::vector<Example> examples_;
  std::vector<Argument> arguments_;
  std::vector<std::unique_ptr<Command>> children_;
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_COMMAND_H_
