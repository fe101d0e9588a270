#include "common/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>

#include "absl/status/status.h"

namespace viommu {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;

absl::Status Bad(std::string_view text, std::string_view reason) {
  return absl::InvalidArgumentError(fmt::format("\"{}\" is not an address: {}", text, reason));
}

AddressReach ReachOfHost(const std::string& host) {
  if (host == "localhost") return AddressReach::kLoopback;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET ? AddressReach::kLoopback : AddressReach::kNetwork;
  }
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6)) return AddressReach::kLoopback;
  return AddressReach::kNetwork;
}

absl::StatusOr<Address> ParseUnix(std::string_view text) {
  const std::string_view path = text.substr(kUnixPrefix.size());
  if (path.empty() || path.front() != '/') return Bad(text, "a unix socket needs an absolute path: unix:/run/x.sock");
  if (path.size() > kMaxPathBytes) {
    return Bad(text, fmt::format("the path has {} bytes, a unix socket takes at most {}", path.size(), kMaxPathBytes));
  }
  Address address;
  address.reach = AddressReach::kUnix;
  address.path = std::string(path);
  return address;
}

}  // namespace

std::string Address::ToString() const {
  if (reach == AddressReach::kUnix) return fmt::format("{}{}", kUnixPrefix, path);
  if (host.find(':') != std::string::npos) return fmt::format("[{}]:{}", host, port);
  return fmt::format("{}:{}", host, port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  if (text.starts_with(kUnixPrefix)) return ParseUnix(text);
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return Bad(text, "the port is missing; write host:port or unix:/path");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  Address address;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size()) {
    return Bad(text, fmt::format("the port \"{}\" is not a number from 0 to 65535", port));
  }
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    in6_addr v6;
    if (inet_pton(AF_INET6, std::string(host).c_str(), &v6) != 1) return Bad(text, "no IPv6 address within [ ]");
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return Bad(text, "an IPv6 address goes into brackets: [::1]:7070");
  }
  if (host.empty()) return Bad(text, "the host is missing; write 0.0.0.0 or [::] to listen everywhere");
  if (host.find_first_of(" /\t") != std::string_view::npos) return Bad(text, "write host:port or unix:/path");
  address.host = std::string(host);
  address.reach = ReachOfHost(address.host);
  return address;
}

}  // namespace viommu
