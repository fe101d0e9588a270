#include "common/config_file.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "common/suggest.h"

namespace viommu {
namespace {

class Reader {
 public:
  Reader(const std::string& path, const std::vector<std::string>& names, ConfigFile& out)
      : path_(path), names_(names), out_(out) {}

  void Read(const YAML::Node& root) {
    if (root.IsNull()) return;
    if (!root.IsMap()) return Fail(root, "", "the file must be a mapping of options");
    Walk(root, "");
  }

 private:
  std::string Where(const YAML::Node& node) const { return fmt::format("{}:{}", path_, node.Mark().line + 1); }

  void Fail(const YAML::Node& node, std::string_view key, std::string_view reason) {
    out_.errors.push_back(key.empty() ? fmt::format("{}: {}", Where(node), reason)
                                      : fmt::format("{}: {}: {}", Where(node), key, reason));
  }

  bool IsOption(const std::string& name) const { return std::ranges::find(names_, name) != names_.end(); }
  bool IsSection(const std::string& name) const {
    return std::ranges::any_of(names_, [&](const std::string& option) { return option.starts_with(name + "."); });
  }

  void Walk(const YAML::Node& map, const std::string& section) {
    std::set<std::string> seen;
    for (const auto& item : map) {
      if (!item.first.IsScalar()) {
        Fail(item.first, section, "a key must be a word");
        continue;
      }
      const std::string key = item.first.Scalar();
      const std::string name = section.empty() ? key : section + "." + key;
      if (!seen.insert(key).second) {
        Fail(item.first, name, "is given twice");
      } else if (IsOption(name)) {
        AddEntry(item.first, item.second, name);
      } else if (IsSection(name) && item.second.IsMap()) {
        Walk(item.second, name);
      } else if (IsSection(name)) {
        // A section whose lines are all commented out is no mistake.
        if (!item.second.IsNull()) Fail(item.first, name, "is a section: its options go below it, indented");
      } else {
        Fail(item.first, name, "no such option" + DidYouMean(name, names_));
      }
    }
  }

  void AddEntry(const YAML::Node& key, const YAML::Node& node, const std::string& name) {
    ConfigEntry entry{name, {}, Where(key)};
    if (node.IsScalar()) {
      entry.value.items.push_back(node.Scalar());
    } else if (node.IsSequence()) {
      entry.value.list = true;
      for (const auto& item : node) {
        if (!item.IsScalar()) return Fail(item, name, "a list here holds plain values");
        entry.value.items.push_back(item.Scalar());
      }
    } else if (node.IsMap()) {
      entry.value.list = true;
      for (const auto& item : node) {
        if (!item.first.IsScalar() || !item.second.IsScalar()) {
          return Fail(item.first, name, "a mapping here holds plain values");
        }
        entry.value.items.push_back(item.first.Scalar() + "=" + item.second.Scalar());
      }
    } else {
      return Fail(key, name, "has no value");
    }
    out_.entries.push_back(std::move(entry));
  }

  const std::string& path_;
  const std::vector<std::string>& names_;
  ConfigFile& out_;
};

}  // namespace

ConfigFile ReadConfigFile(const std::string& path, const std::vector<std::string>& names) {
  ConfigFile file;
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (in) {
    text.resize(kMaxConfigFileBytes + 1);
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(in.gcount()));
  }
  // A directory opens but does not read.
  if (!in.is_open() || in.bad()) {
    file.errors.push_back(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
    return file;
  }
  if (text.size() > kMaxConfigFileBytes) {
    file.errors.push_back(fmt::format("{}: is larger than {} bytes", path, kMaxConfigFileBytes));
    return file;
  }
  try {
    Reader(path, names, file).Read(YAML::Load(text));
  } catch (const YAML::Exception& error) {
    file.errors.push_back(fmt::format("{}:{}: is not YAML: {}", path, error.mark.line + 1, error.msg));
  }
  return file;
}

}  // namespace viommu
