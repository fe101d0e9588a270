#include "agent/smmuv3/iommufd/bindings.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/errno_status.h"

namespace viommu::agent {

Bindings::Bindings(const Sysfs* sysfs, const std::string& directory, std::string boot_id)
    : sysfs_(*sysfs), path_(directory.empty() ? "" : directory + "/bindings"), boot_id_(std::move(boot_id)) {
  Read();
}

// The boot's id, and a line for each device: address, driver and override, with tabs between them.
void Bindings::Read() {
  std::ifstream file(path_);
  std::string line;
  if (!std::getline(file, line) || line != boot_id_) return;
  while (std::getline(file, line)) {
    const std::vector<std::string> parts = absl::StrSplit(line, '\t');
    if (parts.size() == 3 && Sysfs::IsAddress(parts[0])) taken_.push_back({parts[0], parts[1], parts[2]});
  }
}

// No sync: what a crash of the machine takes was void anyway.
absl::Status Bindings::Write() const {
  if (path_.empty()) return absl::OkStatus();
  const std::string fresh = path_ + ".new";
  std::ofstream file(fresh);
  file << boot_id_ << "\n";
  for (const FormerDriver& former : taken_) {
    file << absl::StrCat(former.address, "\t", former.driver, "\t", former.driver_override, "\n");
  }
  file.close();
  if (!file || std::rename(fresh.c_str(), path_.c_str()) != 0) return ErrnoStatus(errno, "write", path_);
  return absl::OkStatus();
}

absl::Status Bindings::Take(const std::string& address) {
  FormerDriver former = sysfs_.DriverOf(address);
  if (former.driver != "vfio-pci") {
    std::erase_if(taken_, [&](const FormerDriver& earlier) { return earlier.address == address; });
    taken_.push_back(std::move(former));
    if (absl::Status status = Write(); !status.ok()) return status;
  }
  return sysfs_.BindToVfio(address);
}

void Bindings::GiveBack(const std::function<bool(const std::string&)>& stays,
                        const std::function<void(const std::string&, const absl::Status&)>& on_error) {
  std::erase_if(taken_, [&](const FormerDriver& former) {
    // Its driver would wait for the end of whoever has it.
    if (stays(former.address)) return false;
    const absl::Status status = sysfs_.UnbindFromVfio(former);
    if (!status.ok()) on_error(former.address, status);
    return status.ok();
  });
  if (const absl::Status status = Write(); !status.ok()) on_error(path_, status);
}

}  // namespace viommu::agent
