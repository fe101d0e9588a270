// Named servers: the file of contexts, $XDG_CONFIG_HOME/viommuctl/config.yaml.
//
//   current-context: lab
//   contexts:
//     - name: lab
//       server: server.example:7070
//       tls-ca: /etc/viommu/ca.pem
//       tls-cert: /etc/viommu/operator.pem
//       tls-key: /etc/viommu/operator.key
//       timeout: 20s
//
// Not for several threads. Secrets do not live here: keys are named by their files.

#ifndef VIOMMU_CLI_CONTEXTS_H_
#define VIOMMU_CLI_CONTEXTS_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace viommu::cli {

struct Context {
  std::string name;
  // By the names of the global flags without their dashes: "server", "tls-ca", …. Only what is set is there.
  std::map<std::string, std::string> values;
};

// The keys that a context can hold, in the order in which they are written.
const std::vector<std::string>& ContextKeys();

class ContextFile {
 public:
  // Reads `path`; a file that is not there is one without contexts. Usage errors name the line that is wrong; a file
  // of more than 1 MiB is refused.
  static absl::StatusOr<ContextFile> Load(const std::string& path);

  // Writes it as a whole (a new file, renamed over the old one), readable by its owner only; makes the folder.
  absl::Status Save() const;

  const std::string& path() const { return path_; }
  // Maybe the name of a context that is not there: who edits the file by hand, or has it merged, can leave one behind.
  const std::string& current() const { return current_; }
  const std::vector<Context>& contexts() const { return contexts_; }

  // Null when there is none of that name. Valid until the file changes.
  const Context* Find(std::string_view name) const;

  // Usage error with the names that there are when there is none of that name.
  absl::StatusOr<Context> Get(std::string_view name) const;

  // Adds it, or replaces the one of that name. The first one becomes the current one.
  void Put(Context context);

  absl::Status Use(std::string_view name);
  absl::Status Remove(std::string_view name);

 private:
  explicit ContextFile(std::string path) : path_(std::move(path)) {}

  std::string path_;
  std::string current_;
  std::vector<Context> contexts_;
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_CONTEXTS_H_
