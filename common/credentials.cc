#include "common/credentials.h"

#include <fmt/format.h>
#include <grpc/grpc_security_constants.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

namespace viommu {
namespace {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

struct Pem {
  std::string cert;
  std::string key;
  std::string ca;
};

template <typename... Args>
absl::Status Bad(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

Bio Wrap(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

// A key with a passphrase must fail, not ask on the terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<std::string> Read(const std::string& option, const std::string& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (in.is_open()) text << in.rdbuf();
  if (!in.is_open() || in.bad() || text.str().empty()) {
    return Bad("{}: {} cannot be read: {}", option, path, errno != 0 ? std::strerror(errno) : "it is empty");
  }
  return text.str();
}

// How many certificates the text holds; the first one in `first`.
int ParseCertificates(const std::string& text, Certificate& first) {
  const Bio bio = Wrap(text);
  int count = 0;
  while (Certificate certificate{PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr)}) {
    if (count++ == 0) first = std::move(certificate);
  }
  ERR_clear_error();
  return count;
}

absl::Status CheckPair(const TlsFiles& files, const Pem& pem, const std::string& section, const Clock& clock) {
  Certificate certificate;
  if (ParseCertificates(pem.cert, certificate) == 0) {
    return Bad("{}.cert: {} holds no certificate in PEM form", section, files.cert);
  }
  const Bio bio = Wrap(pem.key);
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return Bad("{}.key: {} holds no private key in PEM form without a passphrase", section, files.key);
  }
  const bool matches = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!matches) return Bad("{}.key: {} is not the key of the certificate in {}", section, files.key, files.cert);
  time_t now = std::chrono::system_clock::to_time_t(std::chrono::floor<std::chrono::seconds>(clock.Now()));
  if (X509_cmp_time(X509_get0_notAfter(certificate.get()), &now) < 0) {
    return Bad("{}.cert: the certificate in {} has expired; renew it", section, files.cert);
  }
  return absl::OkStatus();
}

// Reads what is given; the pair of cert and key must be whole.
absl::StatusOr<Pem> Load(const TlsFiles& files, const std::string& section, const Clock& clock) {
  if (files.cert.empty() != files.key.empty()) {
    return Bad("{0}.cert and {0}.key go together: set {0}.{1} too", section, files.cert.empty() ? "cert" : "key");
  }
  Pem pem;
  for (const auto& [name, path, text] :
       {std::tuple("cert", &files.cert, &pem.cert), std::tuple("key", &files.key, &pem.key),
        std::tuple("ca", &files.ca, &pem.ca)}) {
    if (path->empty()) continue;
    auto read = Read(fmt::format("{}.{}", section, name), *path);
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  if (!pem.cert.empty()) {
    if (const absl::Status status = CheckPair(files, pem, section, clock); !status.ok()) return status;
  }
  Certificate first;
  if (!pem.ca.empty() && ParseCertificates(pem.ca, first) == 0) {
    return Bad("{}.ca: {} holds no certificate in PEM form", section, files.ca);
  }
  return pem;
}

bool PlainTextIsFine(const Address& address, const TransportOptions& options) {
  return address.reach != AddressReach::kNetwork || options.allow_insecure;
}

std::vector<std::string> Values(const grpc::AuthContext& context, const char* property) {
  std::vector<std::string> values;
  for (const grpc::string_ref& value : context.FindPropertyValues(property)) {
    values.emplace_back(value.data(), value.size());
  }
  return values;
}

}  // namespace

void DeclareTransport(Config& config, const std::string& section, TransportOptions* options) {
  config.String(section + ".cert", &options->tls.cert, "Our certificate with its intermediates, PEM");
  config.String(section + ".key", &options->tls.key, "Its private key, PEM");
  config.String(section + ".ca", &options->tls.ca, "Certificates of those who issue the peers' certificates, PEM");
  config.Bool(section + ".allow_insecure", &options->allow_insecure, "Allow plain text towards the network");
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const Address& address,
                                                                               const TransportOptions& options,
                                                                               const std::string& section,
                                                                               const Clock& clock) {
  if (address.reach == AddressReach::kUnix) return grpc::InsecureServerCredentials();
  const TlsFiles& files = options.tls;
  if (!files.Given()) {
    if (PlainTextIsFine(address, options)) return grpc::InsecureServerCredentials();
    return Bad(
        "{} can be reached from the network: set {}.cert and {}.key, or ask for plain text with {}.allow_insecure",
        address.ToString(), section, section, section);
  }
  if (files.cert.empty()) return Bad("{0}.ca alone does not make a TLS server: set {0}.cert and {0}.key too", section);
  auto pem = Load(files, section, clock);
  if (!pem.ok()) return pem.status();
  grpc::SslServerCredentialsOptions ssl(files.ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                         : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = pem->ca;
  ssl.pem_key_cert_pairs.push_back({pem->key, pem->cert});
  return grpc::SslServerCredentials(ssl);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const Address& address,
                                                                                 const TransportOptions& options,
                                                                                 const std::string& section,
                                                                                 const Clock& clock) {
  if (address.reach == AddressReach::kUnix) return grpc::InsecureChannelCredentials();
  const TlsFiles& files = options.tls;
  if (!files.Given()) {
    if (PlainTextIsFine(address, options)) return grpc::InsecureChannelCredentials();
    return Bad("{} is across the network: set {}.ca, or ask for plain text with {}.allow_insecure", address.ToString(),
               section, section);
  }
  if (files.ca.empty()) {
    return Bad("{0}.ca is missing: without it the server's certificate cannot be checked", section);
  }
  auto pem = Load(files, section, clock);
  if (!pem.ok()) return pem.status();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = pem->ca;
  ssl.pem_private_key = pem->key;
  ssl.pem_cert_chain = pem->cert;
  return grpc::SslCredentials(ssl);
}

bool PeerIdentity::IsFor(std::string_view name) const {
  if (!authenticated || name.empty()) return false;
  if (dns_names.empty() && uris.empty()) return common_name == name;
  return std::ranges::find(dns_names, name) != dns_names.end() || std::ranges::find(uris, name) != uris.end();
}

PeerIdentity PeerOf(const grpc::ServerContextBase& context) {
  PeerIdentity peer;
  const auto auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return peer;
  peer.authenticated = true;
  const auto names = Values(*auth, GRPC_X509_CN_PROPERTY_NAME);
  if (!names.empty()) peer.common_name = names.front();
  peer.dns_names = Values(*auth, GRPC_PEER_DNS_PROPERTY_NAME);
  peer.uris = Values(*auth, GRPC_PEER_URI_PROPERTY_NAME);
  return peer;
}

}  // namespace viommu
