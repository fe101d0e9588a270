#include "server/api/caller.h"

namespace viommu::server {
namespace {

bool BeginsWith(std::string_view text, std::string_view begin) { return text.substr(0, begin.size()) == begin; }

}  // namespace

std::string CallerName(const PeerIdentity& identity, std::string_view peer) {
  if (!identity.uris.empty()) return identity.uris.front();
  if (!identity.dns_names.empty()) return identity.dns_names.front();
  if (!identity.common_name.empty()) return "CN=" + identity.common_name;
  if (BeginsWith(peer, "unix:")) return "unix";
  // gRPC escapes the brackets of IPv6 addresses in its URIs.
  for (const char* loopback : {"ipv4:127.", "ipv6:[::1]:", "ipv6:%5B::1%5D:"}) {
    if (BeginsWith(peer, loopback)) return "loopback";
  }
  return "anonymous";
}

}  // namespace viommu::server
