#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "cli/exit_code.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

// One line of a list: what is typed, and what it means.
struct Entry {
  std::string left;
  std::string right;
};

void AppendEntries(std::string& out, const std::string& heading, const std::vector<Entry>& entries) {
  if (entries.empty()) return;
  size_t width = 0;
  for (const Entry& entry : entries) width = std::max(width, entry.left.size());
  out += fmt::format("\n{}:\n", heading);
  for (const Entry& entry : entries) out += fmt::format("  {:<{}}  {}\n", entry.left, width, entry.right);
}

std::string PositionalForm(const Argument& argument) {
  const std::string name = argument.names + (argument.IsRepeated() ? "..." : "");
  return argument.required ? name : "[" + name + "]";
}

std::string FlagForm(const Argument& argument) {
  std::string form = argument.names;
  const size_t comma = form.find(',');
  if (comma == std::string::npos) {
    form.insert(0, "    ");
  } else {
    form.insert(comma + 1, " ");
  }
  return argument.IsSwitch() ? form : form + " " + argument.value_name;
}

std::string FlagHelp(const Argument& argument) {
  std::string help = argument.help;
  if (argument.values.only_words) help += fmt::format(" ({})", Join(argument.values.words, ", "));
  if (argument.required && !argument.positional) help += " (required)";
  return help;
}

std::string UsageLine(const Command& command) {
  std::string line = "viommuctl";
  if (!command.Path().empty()) line += " " + command.Path();
  if (!command.children().empty()) return line + " COMMAND";
  for (const Argument& argument : command.arguments()) {
    if (argument.positional) line += " " + PositionalForm(argument);
  }
  for (const Argument& argument : command.arguments()) {
    if (!argument.positional && argument.required) line += " " + argument.LongName() + " " + argument.value_name;
  }
  return line + " [flags]";
}

void AppendFlags(std::string& out, const Command& command) {
  std::vector<std::string> groups;
  for (const Argument& argument : command.arguments()) {
    if (!argument.positional && std::find(groups.begin(), groups.end(), argument.group) == groups.end()) {
      groups.push_back(argument.group);
    }
  }
  for (const std::string& group : groups) {
    std::vector<Entry> entries;
    for (const Argument& argument : command.arguments()) {
      if (!argument.positional && argument.group == group) entries.push_back({FlagForm(argument), FlagHelp(argument)});
    }
    AppendEntries(out, group.empty() ? "Flags" : group, entries);
  }
}

// Flags that changes share are the root's; a page that hides them would leave out what matters most.
void AppendChangeFlags(std::string& out, const Command& command) {
  const Command* root = &command;
  while (root->parent() != nullptr) root = root->parent();
  std::vector<Entry> entries;
  for (const Argument& argument : root->arguments()) {
    if (argument.group == kChangeGroup && command.Takes(argument))
      entries.push_back({FlagForm(argument), FlagHelp(argument)});
  }
  AppendEntries(out, "Flags of changes", entries);
}

void AppendExitCodes(std::string& out) {
  std::vector<Entry> entries;
  for (const ExitCodeRow& row : kExitCodes) {
    entries.push_back({std::to_string(static_cast<int>(row.code)), std::string(row.meaning)});
  }
  AppendEntries(out, "Exit codes", entries);
}

}  // namespace

std::string HelpFor(const Command& command) {
  std::string out = command.summary() + "\n";
  out += fmt::format("\nUsage: {}\n", UsageLine(command));
  if (!command.details().empty()) out += "\n" + command.details() + "\n";
  std::vector<Entry> examples;
  for (const Example& example : command.examples()) {
    examples.push_back({"viommuctl " + example.command, "# " + example.meaning});
  }
  AppendEntries(out, "Examples", examples);
  std::vector<Entry> children;
  for (const auto& child : command.children()) children.push_back({child->name(), child->summary()});
  AppendEntries(out, "Commands", children);
  std::vector<Entry> positionals;
  for (const Argument& argument : command.arguments()) {
    if (argument.positional) positionals.push_back({argument.names, FlagHelp(argument)});
  }
  AppendEntries(out, "Arguments", positionals);
  AppendFlags(out, command);
  if (command.changes()) AppendChangeFlags(out, command);
  if (command.parent() == nullptr) {
    AppendExitCodes(out);
    out += "\nMore about a command: viommuctl COMMAND --help\n";
  } else {
    out += "\nFlags of every command (server, context, output, …): viommuctl --help\n";
  }
  return out;
}

}  // namespace viommu::cli
