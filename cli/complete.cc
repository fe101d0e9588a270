#include "cli/complete.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/text.h"

namespace viommu::cli {
namespace {

// "-l,--label" -> {"-l", "--label"}.
std::vector<std::string> NamesOf(const Argument& argument) { return Split(argument.names, ','); }

// The flag of that name, of the command or of those above it.
const Argument* FindFlag(const Command& command, std::string_view name) {
  for (const Command* c = &command; c != nullptr; c = c->parent()) {
    for (const Argument& argument : c->arguments()) {
      if (argument.positional) continue;
      const auto names = NamesOf(argument);
      if (std::find(names.begin(), names.end(), name) != names.end()) return &argument;
    }
  }
  return nullptr;
}

// The n-th positional argument; a repeated one takes all that follow.
const Argument* FindPositional(const Command& command, size_t index) {
  for (const Argument& argument : command.arguments()) {
    if (!argument.positional) continue;
    if (index == 0 || argument.IsRepeated()) return &argument;
    --index;
  }
  return nullptr;
}

class Completer {
 public:
  Completer(const Command& root, const NameSource& names) : command_(&root), names_(names) {}

  std::vector<Candidate> Run(const std::vector<std::string>& words) {
    if (words.empty()) return {};
    for (size_t i = 0; i + 1 < words.size(); ++i) Pass(words[i]);
    const std::string& last = words.back();
    if (awaited_ != nullptr) {
      AddValues(awaited_->values, last, "");
    } else if (const size_t equals = last.find('='); last.starts_with("--") && equals != std::string::npos) {
      const Argument* flag = FindFlag(*command_, last.substr(0, equals));
      if (flag != nullptr) AddValues(flag->values, last.substr(equals + 1), last.substr(0, equals + 1));
    } else if (last.starts_with("-")) {
      AddFlags(last);
    } else {
      for (const auto& child : command_->children()) Add(child->name(), child->summary(), last);
      if (const Argument* positional = FindPositional(*command_, positionals_.size()); positional != nullptr) {
        AddValues(positional->values, last, "");
      }
    }
    return std::move(candidates_);
  }

 private:
  // Takes in a word that is complete.
  void Pass(const std::string& word) {
    if (awaited_ != nullptr) {
      awaited_ = nullptr;
    } else if (word.starts_with("-")) {
      const Argument* flag = FindFlag(*command_, word);
      if (flag != nullptr && !flag->IsSwitch()) awaited_ = flag;
    } else if (const Command* child = command_->Child(word); child != nullptr) {
      command_ = child;
    } else {
      positionals_.push_back(word);
    }
  }

  void Add(const std::string& word, const std::string& meaning, std::string_view typed) {
    if (word.starts_with(typed)) candidates_.push_back({word, meaning});
  }

  void AddFlags(const std::string& typed) {
    for (const Command* c = command_; c != nullptr; c = c->parent()) {
      for (const Argument& argument : c->arguments()) {
        if (argument.positional || !command_->Takes(argument)) continue;
        Add(argument.LongName(), argument.help, typed);
      }
    }
    Add("--help", "what this command does", typed);
  }

  void AddValues(const Values& values, std::string_view typed, const std::string& before) {
    for (const std::string& word : values.words) {
      if (word.starts_with(typed)) candidates_.push_back({before + word, ""});
    }
    std::optional<Kind> kind = values.names_of;
    if (values.names_of_kind_before && !positionals_.empty()) {
      if (const auto parsed = ParseKind(positionals_[0]); parsed.ok()) kind = *parsed;
    }
    if (kind.has_value()) {
      for (const std::string& name : names_(*kind)) {
        // Both forms of a name are good; the one that is being typed is completed, the short one to begin with.
        const std::string short_name = ShortName(name);
        if (short_name.starts_with(typed)) {
          candidates_.push_back({before + short_name, ""});
        } else if (name.starts_with(typed)) {
          candidates_.push_back({before + name, ""});
        }
      }
    }
    if (values.files) candidates_.push_back({std::string(kFilesCandidate), ""});
  }

  const Command* command_;
  const NameSource& names_;
  const Argument* awaited_ = nullptr;  // the flag whose value comes next
  std::vector<std::string> positionals_;
  std::vector<Candidate> candidates_;
};

constexpr std::string_view kBash = R"(# bash completion of viommuctl. To use it: source <(viommuctl completion bash)
_viommuctl() {
  local line="${COMP_LINE:0:COMP_POINT}" words word cur prefix
  read -r -a words <<<"$line"
  [[ "$line" == *[[:space:]] ]] && words+=("")
  cur="${words[${#words[@]}-1]}"
  # Bash splits at ':' and '=' and replaces only what follows them.
  prefix="${cur%"${cur##*[:=]}"}"
  COMPREPLY=()
  while IFS=$'\t' read -r word _; do
    if [[ "$word" == ":files" ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "${cur#"$prefix"}")
    elif [[ "$word" == --*= ]]; then
      compopt -o nospace 2>/dev/null
      COMPREPLY+=("${word#"$prefix"}")
    elif [[ -n "$word" ]]; then
      COMPREPLY+=("${word#"$prefix"}")
    fi
  done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _viommuctl viommuctl
)";

constexpr std::string_view kZsh = R"(#compdef viommuctl
# zsh completion of viommuctl. To use it: source <(viommuctl completion zsh)
_viommuctl() {
  local -a candidates
  local word meaning
  while IFS=$'\t' read -r word meaning; do
    if [[ "$word" == ":files" ]]; then
      _files
    elif [[ -n "$word" ]]; then
      candidates+=("${word//:/\\:}${meaning:+:$meaning}")
    fi
  done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
  (( ${#candidates} )) && _describe 'viommuctl' candidates
}
if [[ "$funcstack[1]" == "_viommuctl" ]]; then
  _viommuctl "$@"
else
  compdef _viommuctl viommuctl
fi
)";

constexpr std::string_view kFish = R"(# fish completion of viommuctl. To use it: viommuctl completion fish | source
function __viommuctl_complete
  set -l words (commandline -opc) (commandline -ct)
  for candidate in (command $words[1] __complete $words[2..-1] 2>/dev/null)
    if test "$candidate" = ":files"
      __fish_complete_path (commandline -ct)
    else
      echo $candidate
    end
  end
end
complete -c viommuctl -f -a '(__viommuctl_complete)'
)";

}  // namespace

std::vector<Candidate> Complete(const Command& root, const std::vector<std::string>& words, const NameSource& names) {
  return Completer(root, names).Run(words);
}

absl::StatusOr<std::string> CompletionScript(std::string_view shell) {
  if (shell == "bash") return std::string(kBash);
  if (shell == "zsh") return std::string(kZsh);
  if (shell == "fish") return std::string(kFish);
  return UsageError(fmt::format("there is no completion for \"{}\"; there is one for bash, zsh and fish", shell));
}

}  // namespace viommu::cli
