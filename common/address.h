// Addresses to listen on and to connect to.

#ifndef VIOMMU_COMMON_ADDRESS_H_
#define VIOMMU_COMMON_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace viommu {

// Who can be at the other end.
enum class AddressReach {
  kUnix,      // processes of this machine that the file's permissions let in
  kLoopback,  // processes of this machine
  kNetwork,   // anybody
};

struct Address {
  AddressReach reach = AddressReach::kNetwork;
  std::string host;   // without brackets; empty for a unix socket
  uint16_t port = 0;  // 0 (a free one) only to listen on
  std::string path;   // of a unix socket

  // The form that gRPC takes: "127.0.0.1:7070", "[::1]:7070", "unix:/run/viommu/agent.sock".
  std::string ToString() const;
};

// "127.0.0.1:7070", "[::1]:7070", "server.example:7070", "unix:/absolute/path".
//
// Loopback is 127.0.0.0/8, ::1 and the name "localhost"; any other name counts as network, whatever it resolves to.
// INVALID_ARGUMENT for a missing or bad port, an empty host, an IPv6 address without brackets, or a path that is
// relative or longer than the 107 bytes that a socket address holds.
absl::StatusOr<Address> ParseAddress(std::string_view text);

}  // namespace viommu

#endif  // VIOMMU_COMMON_ADDRESS_H_
