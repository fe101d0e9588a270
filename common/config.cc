#include "common/config.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <set>
#include <sstream>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config_file.h"
#include "common/suggest.h"
#include "common/units.h"
#include "common/version.h"

namespace viommu {
namespace {

std::string FlagName(std::string_view name) {
  std::string flag = "--";
  for (const char c : name) flag += c == '.' || c == '_' ? '-' : c;
  return flag;
}

// One YAML scalar or flow sequence, quoted where YAML needs it.
std::string ToYaml(const std::vector<std::string>& items, bool many) {
  YAML::Emitter out;
  if (!many) {
    out << items.at(0);
    return out.c_str();
  }
  out << YAML::Flow << items;
  return out.c_str();
}

absl::Status OutOfRange(std::string_view text, std::string_view min, std::string_view max) {
  return absl::InvalidArgumentError(fmt::format("{} is not between {} and {}", text, min, max));
}

}  // namespace

Config::Config(ConfigSpec spec) : spec_(std::move(spec)) {}
Config::~Config() = default;

void Config::Add(Option option) { options_.push_back(std::make_unique<Option>(std::move(option))); }

absl::StatusOr<std::string> Config::OnlyItem(const RawValue& raw) {
  if (raw.list) return absl::InvalidArgumentError("takes one value, not a list");
  return raw.items.at(0);
}

absl::StatusOr<int64_t> Config::ParseInt(const std::string& text, int64_t min, int64_t max) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is not a whole number", text));
  }
  if (error != std::errc() || value < min || value > max) {
    return OutOfRange(text, std::to_string(min), std::to_string(max));
  }
  return value;
}

absl::Status Config::NotOneOf(const std::string& text, const std::vector<std::string>& words) {
  return absl::InvalidArgumentError(fmt::format("\"{}\" is not one of {}", text, absl::StrJoin(words, ", ")));
}

void Config::String(std::string name, std::string* value, std::string help) {
  Scalar<std::string>(
      std::move(name), "TEXT", value, [](const std::string& text) { return text; },
      [](const std::string& text) { return text; }, std::move(help));
}

void Config::Bool(std::string name, bool* value, std::string help) {
  Scalar<bool>(
      std::move(name), "", value,
      [](const std::string& text) -> absl::StatusOr<bool> {
        if (text == "true") return true;
        if (text == "false") return false;
        return absl::InvalidArgumentError(fmt::format("\"{}\" is neither true nor false", text));
      },
      [](const bool& v) { return v ? "true" : "false"; }, std::move(help));
  options_.back()->flag = true;
}

void Config::Duration(std::string name, std::chrono::nanoseconds* value, std::chrono::nanoseconds min,
                      std::chrono::nanoseconds max, std::string help) {
  Scalar<std::chrono::nanoseconds>(
      std::move(name), "DURATION", value,
      [min, max](const std::string& text) -> absl::StatusOr<std::chrono::nanoseconds> {
        auto parsed = ParseDuration(text);
        if (parsed.ok() && (*parsed < min || *parsed > max)) {
          return OutOfRange(text, FormatDuration(min), FormatDuration(max));
        }
        return parsed;
      },
      [](const std::chrono::nanoseconds& v) { return FormatDuration(v); }, std::move(help));
}

void Config::Bytes(std::string name, uint64_t* value, uint64_t min, uint64_t max, std::string help) {
  Scalar<uint64_t>(
      std::move(name), "SIZE", value,
      [min, max](const std::string& text) -> absl::StatusOr<uint64_t> {
        auto parsed = ParseByteSize(text);
        if (parsed.ok() && (*parsed < min || *parsed > max)) {
          return OutOfRange(text, FormatByteSize(min), FormatByteSize(max));
        }
        return parsed;
      },
      [](const uint64_t& v) { return FormatByteSize(v); }, std::move(help));
}

void Config::Address(std::string name, viommu::Address* value, std::string help) {
  Scalar<viommu::Address>(
      std::move(name), "ADDRESS", value, [](const std::string& text) { return ParseAddress(text); },
      [](const viommu::Address& v) { return v.ToString(); }, std::move(help));
}

void Config::Address(std::string name, std::optional<viommu::Address>* value, std::string help) {
  using MaybeAddress = std::optional<viommu::Address>;
  Scalar<MaybeAddress>(
      std::move(name), "ADDRESS", value,
      [](const std::string& text) -> absl::StatusOr<MaybeAddress> {
        if (text.empty()) return MaybeAddress();
        auto parsed = ParseAddress(text);
        if (!parsed.ok()) return parsed.status();
        return MaybeAddress(*std::move(parsed));
      },
      [](const MaybeAddress& v) { return v ? v->ToString() : ""; }, std::move(help));
}

void Config::StringList(std::string name, std::vector<std::string>* value, std::string help) {
  Option option;
  option.name = std::move(name);
  option.type = "TEXT";
  option.help = std::move(help);
  option.many = true;
  option.set = [value](const RawValue& raw, bool store) {
    if (store) *value = raw.items;
    return absl::OkStatus();
  };
  option.show = [value] { return *value; };
  Add(std::move(option));
}

void Config::StringMap(std::string name, std::map<std::string, std::string>* value, std::string help) {
  Option option;
  option.name = std::move(name);
  option.type = "KEY=VALUE";
  option.help = std::move(help);
  option.many = true;
  option.set = [value](const RawValue& raw, bool store) -> absl::Status {
    std::map<std::string, std::string> parsed;
    for (const std::string& item : raw.items) {
      const size_t equals = item.find('=');
      if (equals == std::string::npos || equals == 0) {
        return absl::InvalidArgumentError(fmt::format("\"{}\" is not of the form key=value", item));
      }
      if (!parsed.emplace(item.substr(0, equals), item.substr(equals + 1)).second) {
        return absl::InvalidArgumentError(fmt::format("the key \"{}\" is given twice", item.substr(0, equals)));
      }
    }
    if (store) *value = std::move(parsed);
    return absl::OkStatus();
  };
  option.show = [value] {
    std::vector<std::string> items;
    for (const auto& [key, v] : *value) items.push_back(key + "=" + v);
    return items;
  };
  Add(std::move(option));
}

void Config::Check(std::function<absl::Status()> check) { checks_.push_back(std::move(check)); }

Config::Option* Config::Find(std::string_view name) {
  const auto found = std::ranges::find_if(options_, [&](const auto& option) { return option->name == name; });
  return found == options_.end() ? nullptr : found->get();
}

std::vector<std::string> Config::Names() const {
  std::vector<std::string> names;
  for (const auto& option : options_) names.push_back(option->name);
  return names;
}

std::string Config::SourceOf(std::string_view name) const {
  return (*std::ranges::find_if(options_, [&](const auto& option) { return option->name == name; }))->source;
}

std::string Config::EnvironmentName(std::string_view name) const {
  std::string result;
  for (const char c : spec_.program + "_" + std::string(name)) {
    result += c == '.' || c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return result;
}

void Config::AddFlags(CLI::App& app) {
  config_flag_ = app.add_option("--config")
                     ->description(fmt::format("Read options from this YAML file [{}]", EnvironmentName("config")))
                     ->type_name("FILE")
                     ->default_str(spec_.default_file);
  for (const auto& option : options_) {
    const std::string help = fmt::format("{} [{}]", option->help, EnvironmentName(option->name));
    // Values are kept as text here: all sources go through the same checks later, with the same messages.
    if (option->flag) {
      option->parsed = app.add_flag(FlagName(option->name))->description(help);
    } else {
      option->parsed = app.add_option(FlagName(option->name))->description(help)->type_name(option->type);
      option->parsed->default_str(absl::StrJoin(option->show(), ","));
      if (option->many) {
        option->parsed->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
      }
    }
    const size_t dot = option->name.find('.');
    option->parsed->group(dot == std::string::npos ? "Options" : "Options: " + option->name.substr(0, dot));
  }
}

void Config::Apply(Option& option, const RawValue& raw, const std::string& source) {
  if (const absl::Status status = option.set(raw, /*store=*/true); !status.ok()) {
    errors_.push_back(fmt::format("{}: {}: {}", source, option.name, std::string(status.message())));
    return;
  }
  option.source = source;
}

void Config::ApplyFile() {
  std::error_code ignored;
  if (config_flag_->count() > 0) {
    file_ = config_flag_->results().back();
  } else if (const char* path = std::getenv(EnvironmentName("config").c_str())) {
    file_ = path;
  } else if (std::filesystem::exists(spec_.default_file, ignored)) {
    file_ = spec_.default_file;
  }
  if (file_.empty()) return;
  const ConfigFile file = ReadConfigFile(file_, Names());
  errors_.insert(errors_.end(), file.errors.begin(), file.errors.end());
  for (const ConfigEntry& entry : file.entries) Apply(*Find(entry.name), entry.value, entry.where);
}

void Config::ApplyEnvironment() {
  for (const auto& option : options_) {
    const std::string name = EnvironmentName(option->name);
    const char* text = std::getenv(name.c_str());
    if (text == nullptr) continue;
    RawValue raw;
    raw.list = option->many;
    if (!option->many) {
      raw.items.emplace_back(text);
    } else {
      raw.items = absl::StrSplit(text, ',', absl::SkipEmpty());
    }
    Apply(*option, raw, name);
  }
}

void Config::ApplyFlags() {
  for (const auto& option : options_) {
    if (option->parsed->count() == 0) continue;
    RawValue raw;
    raw.list = option->many;
    raw.items = option->parsed->results();
    if (!option->many) raw.items = {raw.items.back()};
    Apply(*option, raw, FlagName(option->name));
  }
}

absl::Status Config::Resolve() {
  errors_.clear();
  ApplyFile();
  ApplyEnvironment();
  ApplyFlags();
  if (errors_.empty()) {
    for (const auto& check : checks_) {
      if (const absl::Status status = check(); !status.ok()) errors_.emplace_back(std::string(status.message()));
    }
  }
  if (errors_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
}

std::string Config::Print() const {
  std::string out = fmt::format("# {} {}, effective configuration\n", spec_.program, std::string(Version()));
  // YAML knows each section once: the options without one first, then section by section, as declared.
  std::vector<std::string> sections = {""};
  const auto section_of = [](const Option& option) {
    const size_t dot = option.name.find('.');
    return dot == std::string::npos ? std::string() : option.name.substr(0, dot);
  };
  for (const auto& option : options_) {
    const std::string section = section_of(*option);
    if (std::ranges::find(sections, section) == sections.end()) sections.push_back(section);
  }
  for (const std::string& section : sections) {
    if (!section.empty()) out += section + ":\n";
    for (const auto& option : options_) {
      if (section_of(*option) != section) continue;
      const std::string key = section.empty() ? option->name : option->name.substr(section.size() + 1);
      out += fmt::format("{}{}: {}  # {}\n", section.empty() ? "" : "  ", key, ToYaml(option->show(), option->many),
                         option->source);
    }
  }
  return out;
}

std::optional<int> Config::Load(int argc, const char* const* argv) {
  CLI::App app(spec_.summary, spec_.program);
  app.set_version_flag("--version", fmt::format("{} {}", spec_.program, std::string(Version())));
  app.footer(spec_.footer);
  app.allow_extras();  // said better below
  const CLI::Option* print =
      app.add_flag("--print-config")->description("Print the effective configuration and its sources, and exit");
  const CLI::Option* check =
      app.add_flag("--check-config")->description("Check the configuration, and exit with 0 (good) or 1");
  AddFlags(app);

  absl::Status status;
  try {
    app.parse(argc, argv);
    std::vector<std::string> flags = {"--config", "--print-config", "--check-config", "--version", "--help"};
    for (const auto& option : options_) flags.push_back(FlagName(option->name));
    std::vector<std::string> unknown;
    for (const std::string& extra : app.remaining()) {
      const std::string word = extra.substr(0, extra.find('='));
      unknown.push_back(fmt::format("{}: no such option{}", word, DidYouMean(word, flags)));
    }
    status = Resolve();
    if (!unknown.empty()) {
      if (!status.ok()) unknown.emplace_back(std::string(status.message()));
      status = absl::InvalidArgumentError(absl::StrJoin(unknown, "\n"));
    }
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    status = absl::InvalidArgumentError(error.what());
  }
  if (!status.ok()) {
    std::cerr << std::string(status.message()) << "\n";
    return check->count() > 0 ? 1 : kExitBadConfig;
  }
  if (print->count() > 0) std::cout << Print();
  if (check->count() > 0) std::cout << (file_.empty() ? spec_.program : file_) << ": the configuration is good\n";
  if (print->count() > 0 || check->count() > 0) return 0;
  return std::nullopt;
}

}  // namespace viommu
