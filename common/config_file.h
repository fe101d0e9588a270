// The YAML file of a Config, flattened: a part of config.h.

#ifndef VIOMMU_COMMON_CONFIG_FILE_H_
#define VIOMMU_COMMON_CONFIG_FILE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "common/config.h"

namespace viommu {

struct ConfigEntry {
  std::string name;  // "log.level"
  Config::RawValue value;
  std::string where;  // "server.yaml:12"
};

struct ConfigFile {
  std::vector<ConfigEntry> entries;
  // "server.yaml:3: lisen: no such option; did you mean "listen"?"
  std::vector<std::string> errors;
};

// The largest file that is read, in bytes.
inline constexpr size_t kMaxConfigFileBytes = 1 << 20;

// Reads the file `path`. `names` are the options there are; everything else is an error, as is a key given twice.
ConfigFile ReadConfigFile(const std::string& path, const std::vector<std::string>& names);

}  // namespace viommu

#endif  // VIOMMU_COMMON_CONFIG_FILE_H_
