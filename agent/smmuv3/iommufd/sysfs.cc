#include "agent/smmuv3/iommufd/sysfs.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"

namespace viommu::agent {
namespace {

namespace fs = std::filesystem;

// The last part of what a link points at; empty when there is none.
std::string LinkName(const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::read_symlink(link, error);
  return error ? "" : target.filename().string();
}

// The names in a folder; none when it is not there.
std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

bool Sysfs::IsAddress(std::string_view address) {
  constexpr std::string_view kShape = "xxxx:xx:xx.d";
  if (address.size() != kShape.size()) return false;
  for (size_t i = 0; i < kShape.size(); ++i) {
    const char c = address[i];
    const bool fits = kShape[i] == 'x'   ? absl::ascii_isxdigit(static_cast<unsigned char>(c))
                      : kShape[i] == 'd' ? c >= '0' && c <= '7'
                                         : c == kShape[i];
    if (!fits) return false;
  }
  return true;
}

std::string Sysfs::Folder(std::string_view address) const {
  return absl::StrCat(root_, "/sys/bus/pci/devices/", std::string(address));
}

PciFunction Sysfs::Find(std::string_view address) const {
  PciFunction function;
  std::error_code error;
  if (!IsAddress(address) || !fs::exists(Folder(address), error)) return function;
  const fs::path folder = Folder(address);
  function.address = std::string(address);
  if (const std::string smmu = LinkName(folder / "iommu"); absl::StartsWith(smmu, "smmu3.")) function.smmu = smmu;
  if (!absl::SimpleAtoi(LinkName(folder / "iommu_group"), &function.group)) function.group = 0;
  function.driver = LinkName(folder / "driver");
  if (const auto names = Names(folder / "vfio-dev"); !names.empty()) function.vfio_name = names.front();
  return function;
}

std::vector<PciFunction> Sysfs::Functions() const {
  std::vector<PciFunction> functions;
  for (const std::string& name : Names(absl::StrCat(root_, "/sys/bus/pci/devices"))) {
    PciFunction function = Find(name);
    if (!function.smmu.empty()) functions.push_back(std::move(function));
  }
  return functions;
}

std::string Sysfs::Iort() const {
  std::string table(kMaxIortBytes, '\0');
  std::ifstream file(root_ + "/sys/firmware/acpi/tables/IORT", std::ios::binary);
  file.read(table.data(), static_cast<std::streamsize>(table.size()));
  table.resize(static_cast<size_t>(file.gcount()));
  return table;
}

absl::Status Sysfs::Write(const std::string& path, const std::string& text) const {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  const ssize_t written = ::write(fd, text.data(), text.size());
  const int error = written == static_cast<ssize_t>(text.size()) ? 0 : written < 0 ? errno : EIO;
  ::close(fd);
  if (error != 0) return ErrnoStatus(error, "write", absl::StrCat("\"", text, "\" to ", path));
  return absl::OkStatus();
}

absl::Status Sysfs::GiveToVfio(const PciFunction& function) const {
  const std::string folder = Folder(function.address);
  if (absl::Status status = Write(folder + "/driver_override", "vfio-pci"); !status.ok()) return status;
  if (!function.driver.empty()) {
    if (absl::Status status = Write(folder + "/driver/unbind", function.address); !status.ok()) return status;
  }
  if (absl::Status status = Write(root_ + "/sys/bus/pci/drivers_probe", function.address); !status.ok()) return status;
  if (Find(function.address).driver == "vfio-pci") return absl::OkStatus();
  return ErrnoStatus(
      ENODEV, "bind",
      absl::StrCat("vfio-pci did not take ", function.address, "; is the module vfio-pci there (CONFIG_VFIO_PCI)?"));
}

absl::Status Sysfs::WriteOverride(const FormerDriver& former) const {
  // A line break takes it back.
  return Write(Folder(former.address) + "/driver_override",
               former.driver_override.empty() ? "\n" : former.driver_override);
}

absl::Status Sysfs::GiveBack(const FormerDriver& former) const {
  if (former.driver.empty() || !Find(former.address).driver.empty()) return absl::OkStatus();
  return Write(absl::StrCat(root_, "/sys/bus/pci/drivers/", former.driver, "/bind"), former.address);
}

FormerDriver Sysfs::DriverOf(const std::string& address) const {
  FormerDriver former{.address = address, .driver = Find(address).driver, .driver_override = {}};
  std::getline(std::ifstream(Folder(address) + "/driver_override"), former.driver_override);
  if (former.driver_override == "(null)") former.driver_override.clear();
  return former;
}

absl::Status Sysfs::BindToVfio(const std::string& address) const {
  const PciFunction function = Find(address);
  if (function.address.empty()) return ErrnoStatus(ENODEV, "bind", absl::StrCat("no PCI function ", address));
  if (function.driver == "vfio-pci") return absl::OkStatus();
  const FormerDriver former = DriverOf(address);
  absl::Status status = GiveToVfio(function);
  if (status.ok()) return status;
  absl::Status back = WriteOverride(former);
  if (back.ok()) back = GiveBack(former);
  if (!back.ok()) {
    return ErrnoStatus(StatusErrno(status), "bind",
                       absl::StrCat(status.message(), "; and ", address, " could not be given back to ",
                                    former.driver.empty() ? "nobody" : former.driver, ": ", back.message()));
  }
  return status;
}

absl::Status Sysfs::UnbindFromVfio(const FormerDriver& former) const {
  if (Find(former.address).driver != "vfio-pci") return absl::OkStatus();
  // First, or vfio-pci would be given it again.
  if (absl::Status status = WriteOverride(former); !status.ok()) return status;
  if (absl::Status status = Write(Folder(former.address) + "/driver/unbind", former.address); !status.ok()) {
    return status;
  }
  return GiveBack(former);
}

}  // namespace viommu::agent
