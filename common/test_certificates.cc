#include "common/test_certificates.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>

namespace viommu {
namespace {

void Require(bool ok, const char* what) {
  if (ok) return;
  fmt::print(stderr, "test certificates: {} failed\n", what);
  std::abort();
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  Require(extension != nullptr, value.c_str());
  Require(X509_add_ext(certificate, extension, -1) == 1, "adding an extension");
  X509_EXTENSION_free(extension);
}

// Signed by `issuer` with `issuer_key`; by itself when these are null.
X509* Make(const TestCertificateSpec& spec, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key, long serial) {
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -2 * 3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), static_cast<long>(spec.valid_for.count()));
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(spec.common_name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer == nullptr ? certificate : issuer));
  if (issuer == nullptr) AddExtension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
  std::string names;
  for (const std::string& name : spec.alternative_names) names += (names.empty() ? "" : ",") + name;
  if (!names.empty()) AddExtension(certificate, issuer, NID_subject_alt_name, names);
  Require(X509_sign(certificate, issuer_key == nullptr ? key : issuer_key, EVP_sha256()) > 0, "signing");
  return certificate;
}

void WritePem(const std::string& path, X509* certificate, EVP_PKEY* key) {
  FILE* file = fopen(path.c_str(), "w");
  Require(file != nullptr, path.c_str());
  if (certificate != nullptr) Require(PEM_write_X509(file, certificate) == 1, "writing a certificate");
  if (key != nullptr) {
    Require(PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr) == 1, "writing a key");
  }
  Require(fclose(file) == 0, path.c_str());
}

}  // namespace

struct TestAuthority::Secret {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = nullptr;
  long next_serial = 1;
};

TestAuthority::TestAuthority(std::string directory, std::string name)
    : directory_(std::move(directory)),
      ca_file_(fmt::format("{}/{}.ca.pem", directory_, name)),
      secret_(std::make_unique<Secret>()) {
  secret_->certificate = Make({name, {}}, secret_->key, nullptr, nullptr, secret_->next_serial++);
  WritePem(ca_file_, secret_->certificate, nullptr);
}

TestAuthority::~TestAuthority() {
  X509_free(secret_->certificate);
  EVP_PKEY_free(secret_->key);
}

TlsFiles TestAuthority::Issue(const std::string& file, const TestCertificateSpec& spec) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = Make(spec, key, secret_->certificate, secret_->key, secret_->next_serial++);
  const TlsFiles files{fmt::format("{}/{}.pem", directory_, file), fmt::format("{}/{}.key", directory_, file),
                       ca_file_};
  WritePem(files.cert, certificate, nullptr);
  WritePem(files.key, nullptr, key);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return files;
}

}  // namespace viommu
