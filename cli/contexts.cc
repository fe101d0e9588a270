#include "cli/contexts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

constexpr uintmax_t kMaxFileBytes = 1 << 20;
constexpr std::string_view kCurrent = "current-context";
constexpr std::string_view kContexts = "contexts";
constexpr std::string_view kName = "name";

absl::Status BadFile(const std::string& path, const YAML::Mark& mark, std::string_view what) {
  return UsageError(fmt::format("{}, line {}: {}", path, mark.line + 1, what));
}

absl::StatusOr<Context> ReadContext(const std::string& path, const YAML::Node& node) {
  if (!node.IsMap()) return BadFile(path, node.Mark(), "a context is a map that begins with its name");
  Context context;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar() || !entry.second.IsScalar()) {
      return BadFile(path, entry.first.Mark(), "a context holds words only");
    }
    const std::string& key = entry.first.Scalar();
    const auto& keys = ContextKeys();
    if (key == kName) {
      context.name = entry.second.Scalar();
    } else if (std::find(keys.begin(), keys.end(), key) != keys.end()) {
      context.values[key] = entry.second.Scalar();
    } else {
      return BadFile(path, entry.first.Mark(),
                     fmt::format("a context has no \"{}\"; it can have {}", key, Join(keys, ", ")));
    }
  }
  if (context.name.empty()) return BadFile(path, node.Mark(), "a context needs a name");
  return context;
}

absl::Status SystemError(std::string_view what, const std::string& path, int error) {
  return UsageError(fmt::format("{} {}: {}", what, path, std::strerror(error)));
}

absl::Status WriteAll(int fd, const std::string& path, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("cannot write", path, errno);
    text.remove_prefix(static_cast<size_t>(written));
  }
  return ::fsync(fd) == 0 ? absl::OkStatus() : SystemError("cannot write", path, errno);
}

}  // namespace

const std::vector<std::string>& ContextKeys() {
  static const auto& keys =
      *new std::vector<std::string>{"server", "tls-ca", "tls-cert", "tls-key", "insecure", "timeout", "output", "wait"};
  return keys;
}

absl::StatusOr<ContextFile> ContextFile::Load(const std::string& path) {
  ContextFile file(path);
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error == std::errc::no_such_file_or_directory) return file;
  if (error) return SystemError("cannot read", path, error.value());
  if (size > kMaxFileBytes) return UsageError(fmt::format("{} has more than {} bytes", path, kMaxFileBytes));
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (root.IsNull()) return file;
    if (!root.IsMap()) return BadFile(path, root.Mark(), "this is not a map of current-context and contexts");
    for (const auto& entry : root) {
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
      if (key == kCurrent && entry.second.IsScalar()) {
        file.current_ = entry.second.Scalar();
      } else if (key == kContexts && entry.second.IsSequence()) {
        for (const auto& node : entry.second) {
          VIOMMU_ASSIGN_OR_RETURN(Context context, ReadContext(path, node));
          if (file.Find(context.name) != nullptr) {
            return BadFile(path, node.Mark(), fmt::format("a second context called {}", context.name));
          }
          file.contexts_.push_back(std::move(context));
        }
      } else if (key != kContexts || !entry.second.IsNull()) {
        return BadFile(path, entry.first.Mark(), "expected current-context (a word) or contexts (a list)");
      }
    }
  } catch (const YAML::Exception& exception) {
    return BadFile(path, exception.mark, exception.msg);
  }
  return file;
}

absl::Status ContextFile::Save() const {
  YAML::Emitter out;
  out << YAML::BeginMap;
  if (!current_.empty()) out << YAML::Key << std::string(kCurrent) << YAML::Value << current_;
  out << YAML::Key << std::string(kContexts) << YAML::Value << YAML::BeginSeq;
  for (const Context& context : contexts_) {
    out << YAML::BeginMap << YAML::Key << std::string(kName) << YAML::Value << context.name;
    for (const std::string& key : ContextKeys()) {
      const auto value = context.values.find(key);
      if (value != context.values.end()) out << YAML::Key << key << YAML::Value << value->second;
    }
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;

  const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) return SystemError("cannot make the folder", folder.string(), error.value());
  std::string fresh = path_ + ".XXXXXX";
  const int fd = ::mkstemp(fresh.data());
  if (fd < 0) return SystemError("cannot write beside", path_, errno);
  absl::Status status = WriteAll(fd, fresh, std::string(out.c_str()) + "\n");
  ::close(fd);
  if (status.ok() && ::rename(fresh.c_str(), path_.c_str()) != 0) status = SystemError("cannot write", path_, errno);
  if (!status.ok()) ::unlink(fresh.c_str());
  return status;
}

const Context* ContextFile::Find(std::string_view name) const {
  const auto found =
      std::find_if(contexts_.begin(), contexts_.end(), [name](const Context& c) { return c.name == name; });
  return found == contexts_.end() ? nullptr : &*found;
}

absl::StatusOr<Context> ContextFile::Get(std::string_view name) const {
  if (const Context* context = Find(name); context != nullptr) return *context;
  std::vector<std::string> names;
  for (const Context& context : contexts_) names.push_back(context.name);
  return UsageError(fmt::format("there is no context \"{}\" in {}; {}", name, path_,
                                names.empty() ? "it holds none" : "there are " + Join(names, ", ")));
}

void ContextFile::Put(Context context) {
  const auto found =
      std::find_if(contexts_.begin(), contexts_.end(), [&context](const Context& c) { return c.name == context.name; });
  if (current_.empty()) current_ = context.name;
  if (found == contexts_.end()) {
    contexts_.push_back(std::move(context));
  } else {
    *found = std::move(context);
  }
}

absl::Status ContextFile::Use(std::string_view name) {
  VIOMMU_ASSIGN_OR_RETURN(const Context context, Get(name));
  current_ = context.name;
  return absl::OkStatus();
}

absl::Status ContextFile::Remove(std::string_view name) {
  VIOMMU_ASSIGN_OR_RETURN(const Context context, Get(name));
  contexts_.erase(std::find_if(contexts_.begin(), contexts_.end(),
                               [&context](const Context& c) { return c.name == context.name; }));
  if (current_ == name) current_.clear();
  return absl::OkStatus();
}

}  // namespace viommu::cli
