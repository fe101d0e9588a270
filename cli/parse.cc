#include "cli/parse.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "cli/text.h"
#include "common/error.h"
#include "common/suggest.h"

namespace viommu::cli {
namespace {

// The CLI11 counterpart of the tree.
struct Built {
  CLI::App app;
  std::map<const Command*, CLI::App*> apps;
  std::map<const Argument*, CLI::Option*> options;
};

void Build(const Command& command, CLI::App& app, Built& built) {
  built.apps[&command] = &app;
  for (const Argument& argument : command.arguments()) {
    CLI::Option* option = std::visit(
        [&](auto* target) -> CLI::Option* {
          if constexpr (std::is_same_v<decltype(target), bool*>) {
            return app.add_flag(argument.names, *target, argument.help);
          } else {
            return app.add_option(argument.names, *target, argument.help);
          }
        },
        argument.target);
    option->required(argument.required);
    // Else a repeated flag would take the positional arguments that follow it.
    if (argument.IsRepeated() && !argument.positional) option->allow_extra_args(false);
    built.options[&argument] = option;
  }
  for (const auto& child : command.children()) {
    CLI::App* sub = app.add_subcommand(child->name(), child->summary());
    sub->fallthrough();
    Build(*child, *sub, built);
  }
  if (!command.children().empty()) app.require_subcommand(1);
}

// The deepest command that was recognised.
const Command& Deepest(const Command& command, const Built& built) {
  for (const auto& child : command.children()) {
    if (built.apps.at(child.get())->parsed()) return Deepest(*child, built);
  }
  return command;
}

std::string Unexpected(const Command& command, const std::string& word) {
  std::vector<std::string> known;
  if (word.starts_with("-")) {
    for (const Command* c = &command; c != nullptr; c = c->parent()) {
      for (const Argument& argument : c->arguments()) {
        if (!argument.positional) known.push_back(argument.LongName());
      }
    }
    return fmt::format("there is no flag {}{}", word, DidYouMean(word, known));
  }
  if (command.children().empty()) return fmt::format("\"{}\" is one argument too many", word);
  for (const auto& child : command.children()) known.push_back(child->name());
  std::string there = DidYouMean(word, known);
  // Of all there are it would be a page.
  if (there.empty() && command.parent() != nullptr) {
    there = fmt::format("; there is {} {}", command.Path(), Join(known, ", "));
  }
  return fmt::format("there is no command \"{}\"{}", Trim(command.Path() + " " + word), there);
}

absl::Status CheckWords(const Command& command, const Built& built) {
  for (const Command* c = &command; c != nullptr; c = c->parent()) {
    for (const Argument& argument : c->arguments()) {
      if (!argument.values.only_words || built.options.at(&argument)->count() == 0) continue;
      const auto& words = argument.values.words;
      for (const std::string& value : built.options.at(&argument)->results()) {
        if (value.empty() || std::find(words.begin(), words.end(), value) != words.end()) continue;
        return UsageError(fmt::format("{}: \"{}\" is none of {}{}", argument.LongName(), value, Join(words, ", "),
                                      DidYouMean(value, words)));
      }
    }
  }
  return absl::OkStatus();
}

// CLI11 takes "-o json" and "-ojson"; for "-o=json" the value would begin with the '='.
std::vector<std::string> WithoutShortEquals(const std::vector<std::string>& words) {
  std::vector<std::string> plain;
  for (const std::string& word : words) {
    if (word.size() > 2 && word[0] == '-' && word[1] != '-' && word[2] == '=') {
      plain.push_back(word.substr(0, 2));
      plain.push_back(word.substr(3));
    } else {
      plain.push_back(word);
    }
  }
  return plain;
}

}  // namespace

absl::StatusOr<Parsed> ParseCommandLine(const Command& root, const std::vector<std::string>& words,
                                        const Command** reached) {
  Built built;
  built.app.name("viommuctl");
  Build(root, built.app, built);
  *reached = &root;
  try {
    std::vector<std::string> line = WithoutShortEquals(words);
    std::reverse(line.begin(), line.end());  // as CLI11 wants it
    built.app.parse(line);
  } catch (const CLI::CallForHelp&) {
    return Parsed{&Deepest(root, built), true, {}};
  } catch (const CLI::ParseError& error) {
    const Command& deepest = Deepest(root, built);
    *reached = &deepest;
    const std::vector<std::string> extra = built.app.remaining(true);
    if (!extra.empty()) return UsageError(Unexpected(deepest, extra.front()));
    if (!deepest.children().empty() && !deepest.action()) {
      std::vector<std::string> names;
      for (const auto& child : deepest.children()) names.push_back(child->name());
      return UsageError(
          fmt::format("say what to {}: {}", deepest.parent() == nullptr ? "do" : deepest.Path(), Join(names, ", ")));
    }
    return UsageError(error.what());
  }
  Parsed parsed{&Deepest(root, built), false, {}};
  *reached = parsed.command;
  VIOMMU_RETURN_IF_ERROR(CheckWords(*parsed.command, built));
  for (const Argument& argument : root.arguments()) {
    const CLI::Option* option = built.options.at(&argument);
    if (option->count() == 0) continue;
    const std::string name = argument.LongName().substr(2);
    if (!argument.IsSwitch() && option->count() > 1) {
      return UsageError(fmt::format("{} is given {} times", argument.LongName(), option->count()));
    }
    parsed.global_flags[name] = argument.IsSwitch() ? "true" : option->results().front();
  }
  return parsed;
}

}  // namespace viommu::cli
