#include "server/api/digest.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace viommu::server {
namespace {

constexpr size_t kDigestBytes = 16;

// Looking the algorithm up costs more than hashing a request: once is enough.
const EVP_MD* Sha256() {
  static const EVP_MD* const md = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return md;
}

struct ContextDeleter {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

void Check(bool ok) {
  if (!ok) std::abort();  // SHA-256 of memory fails only when memory is gone
}

}  // namespace

std::string Digest(std::initializer_list<std::string_view> parts) {
  thread_local const std::unique_ptr<EVP_MD_CTX, ContextDeleter> context(EVP_MD_CTX_new());
  Check(context != nullptr && EVP_DigestInit_ex(context.get(), Sha256(), nullptr) == 1);
  for (const std::string_view part : parts) {
    const uint64_t length = part.size();
    Check(EVP_DigestUpdate(context.get(), &length, sizeof(length)) == 1);
    Check(EVP_DigestUpdate(context.get(), part.data(), part.size()) == 1);
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash;
  Check(EVP_DigestFinal_ex(context.get(), hash.data(), nullptr) == 1);
  return std::string(reinterpret_cast<const char*>(hash.data()), kDigestBytes);
}

std::string Digest(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream sink(&bytes);
    google::protobuf::io::CodedOutputStream out(&sink);
    out.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&out);
  }
  return Digest({message.GetDescriptor()->full_name(), bytes});
}

}  // namespace viommu::server
