// Certificates for tests: an authority and what it issues, as files in a folder.

#ifndef VIOMMU_COMMON_TEST_CERTIFICATES_H_
#define VIOMMU_COMMON_TEST_CERTIFICATES_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/credentials.h"

namespace viommu {

struct TestCertificateSpec {
  std::string common_name;
  // As in openssl-x509v3_config(5): "DNS:localhost", "IP:127.0.0.1", "URI:spiffe://lab/host-a".
  std::vector<std::string> alternative_names;
  // From now; negative: expired.
  std::chrono::seconds valid_for = std::chrono::hours(1);
};

// Failures end the test program.
class TestAuthority {
 public:
  // Writes <directory>/<name>.ca.pem. The directory must exist.
  TestAuthority(std::string directory, std::string name);
  ~TestAuthority();

  // Writes <directory>/<file>.pem and <file>.key; `ca` of what it returns is this authority's.
  TlsFiles Issue(const std::string& file, const TestCertificateSpec& spec);

  const std::string& ca_file() const { return ca_file_; }

 private:
  struct Secret;

  std::string directory_;
  std::string ca_file_;
  std::unique_ptr<Secret> secret_;
};

}  // namespace viommu

#endif  // VIOMMU_COMMON_TEST_CERTIFICATES_H_
