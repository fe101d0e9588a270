#include "common/unix_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace viommu {

absl::Status ClearStaleSocket(const std::string& path, int type) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::UnavailableError(fmt::format("{}: {}", path, std::strerror(errno)));
  }
  if (!S_ISSOCK(status.st_mode)) {
    return absl::FailedPreconditionError(
        fmt::format("{} is there and is no socket; remove it or choose another path with --listen", path));
  }
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const int fd = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::UnavailableError(fmt::format("socket: {}", std::strerror(errno)));
  const bool refused =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 && errno == ECONNREFUSED;
  ::close(fd);
  if (!refused) {
    return absl::FailedPreconditionError(
        fmt::format("another process listens on {}; give each program its own --listen", path));
  }
  if (::unlink(path.c_str()) != 0) return absl::UnavailableError(fmt::format("{}: {}", path, std::strerror(errno)));
  return absl::OkStatus();
}

}  // namespace viommu
