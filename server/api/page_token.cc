#include "server/api/page_token.h"

#include "absl/strings/escaping.h"
#include "common/error.h"
#include "server/api/digest.h"
#include "server/api/limits.h"

namespace viommu::server {
namespace {

// Of what is inside: this byte, 16 bytes of digest, the name.
constexpr char kVersion = 1;
constexpr size_t kHeadBytes = 17;

std::string Seal(std::string_view store, std::string_view query, std::string_view name) {
  return Digest({"page token", store, query, name});
}

}  // namespace

std::string MakePageToken(std::string_view store, std::string_view query, std::string_view last_name) {
  std::string inside(1, kVersion);
  inside += Seal(store, query, last_name);
  inside += last_name;
  return absl::WebSafeBase64Escape(inside);
}

absl::StatusOr<std::string> ReadPageToken(std::string_view store, std::string_view query, std::string_view token) {
  if (token.empty()) return std::string();
  std::string inside;
  if (token.size() <= kMaxPageTokenBytes &&
      absl::WebSafeBase64Unescape(absl::string_view(token.data(), token.size()), &inside) &&
      inside.size() > kHeadBytes && inside[0] == kVersion) {
    std::string name = inside.substr(kHeadBytes);
    if (std::string_view(inside).substr(1, kHeadBytes - 1) == Seal(store, query, name)) return name;
  }
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID)
      .Message(
          "page_token: it is damaged, or comes from a query with other filters or from another store; ask for the "
          "first page again, without a token")
      .Field("page_token", "not a token of this query");
}

}  // namespace viommu::server
