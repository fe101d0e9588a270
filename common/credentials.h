// TLS from certificate files, the rule where plain text is allowed, and who the peer is.
//
// A unix socket is always plain text: its file's permissions guard it. Everywhere else TLS is used as soon as files are
// given. Without files plain text is allowed on loopback; towards the network only when it was asked for by name.

#ifndef VIOMMU_COMMON_CREDENTIALS_H_
#define VIOMMU_COMMON_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/config.h"

namespace viommu {

// Paths of PEM files; empty: not given.
struct TlsFiles {
  std::string cert;  // our own certificate, followed by its intermediates
  std::string key;   // its private key
  std::string ca;    // who may have issued the peer's certificate

  bool Given() const { return !cert.empty() || !key.empty() || !ca.empty(); }
};

struct TransportOptions {
  TlsFiles tls;
  // Plain text towards the network.
  bool allow_insecure = false;
};

// Declares the options <section>.cert, .key, .ca and .allow_insecure: `section` is "tls" unless a binary has several.
void DeclareTransport(Config& config, const std::string& section, TransportOptions* options);

// What a listener on `address` takes. With `ca` clients must show a certificate that it issued (mutual TLS).
//
// Errors (INVALID_ARGUMENT) name the file or the option and what to do: a file that is missing, unreadable or no PEM; a
// certificate without its key, with another's key, or expired; plain text towards the network. `section` is for these
// messages. Files are read now; later changes need a restart.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const Address& address,
                                                                               const TransportOptions& options,
                                                                               const std::string& section = "tls",
                                                                               const Clock& clock = RealClock());

// What a client of the server at `address` takes: TLS needs `ca`; cert and key where the server asks for them. Errors
// as above.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const Address& address,
                                                                                 const TransportOptions& options,
                                                                                 const std::string& section = "tls",
                                                                                 const Clock& clock = RealClock());

// Who is at the other end of a call, as its certificate says.
struct PeerIdentity {
  // Whether the peer showed a certificate that our `ca` issued. Everything below is empty otherwise.
  bool authenticated = false;
  std::string common_name;
  std::vector<std::string> dns_names;
  std::vector<std::string> uris;

  // Whether the certificate is made out to `name`: one of its DNS names or URIs, or, when it has neither, its common
  // name. No wildcards.
  bool IsFor(std::string_view name) const;
};

// Any thread, while the call lasts.
PeerIdentity PeerOf(const grpc::ServerContextBase& context);

}  // namespace viommu

#endif  // VIOMMU_COMMON_CREDENTIALS_H_
