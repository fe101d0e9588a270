// Digests of requests.

#ifndef VIOMMU_SERVER_API_DIGEST_H_
#define VIOMMU_SERVER_API_DIGEST_H_

#include <google/protobuf/message.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace viommu::server {

// The first 16 bytes of the SHA-256 of the parts, each preceded by its length. Any thread.
std::string Digest(std::initializer_list<std::string_view> parts);

// Of the message's type and its deterministic serialization.
std::string Digest(const google::protobuf::Message& message);

// What makes two requests the same request: everything except who asks (request_id) and when to answer (wait).
template <typename Request>
std::string Fingerprint(const Request& request) {
  Request bare = request;
  bare.clear_request_id();
  if constexpr (requires { bare.clear_wait(); }) bare.clear_wait();
  return Digest(bare);
}

// What makes two list requests pages of the same query.
template <typename Request>
std::string QueryDigest(const Request& request) {
  Request bare = request;
  bare.clear_page_size();
  bare.clear_page_token();
  return Digest(bare);
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_DIGEST_H_
