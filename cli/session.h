// What a command runs with: settings, terminal and the connection, made when first needed. One thread.

#ifndef VIOMMU_CLI_SESSION_H_
#define VIOMMU_CLI_SESSION_H_

#include <google/protobuf/message.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/hints.h"
#include "cli/settings.h"
#include "cli/terminal.h"
#include "common/error.h"

namespace viommu::cli {

// Resources asked for at once.
inline constexpr int kPageSize = 500;

class Session {
 public:
  // All outlive the session. `given` are the global flags of this command line; `root` is the whole tree of commands.
  Session(const Settings& settings, const GivenFlags& given, const Terminal& terminal, const Command& root)
      : settings_(settings), given_(given), terminal_(terminal), root_(root) {}

  const Settings& settings() const { return settings_; }
  const GivenFlags& given_flags() const { return given_; }
  const Terminal& terminal() const { return terminal_; }
  const Command& root() const { return root_; }

  // What the last call spoke of, for the hints of its error.
  const Facts& facts() const { return facts_; }

  // The server, or the agent of this host when UseAgent() was called before.
  absl::StatusOr<Client*> Connect();
  void UseAgent() { agent_ = true; }

  // One call that reads, or that may be repeated.
  template <typename Response>
  absl::StatusOr<Response> Call(const google::protobuf::Message& request) {
    Response response;
    VIOMMU_RETURN_IF_ERROR(CallInto(request, response, ""));
    return response;
  }

  // One change: request_id (a fresh one unless given), validate_only, wait and etag are filled in where the request has
  // them. `waiting_for` stands on the terminal while it lasts. `etag` guards the change in
  // place of --etag.
  template <typename Response>
  absl::StatusOr<Response> Change(google::protobuf::Message& request, std::string_view waiting_for,
                                  const std::string& etag = "") {
    PrepareChange(request, etag.empty() ? settings_.etag : etag);
    Response response;
    VIOMMU_RETURN_IF_ERROR(CallInto(request, response, waiting_for));
    return response;
  }

  // As Call(), with words that stand on the terminal while it lasts.
  absl::Status CallInto(const google::protobuf::Message& request, google::protobuf::Message& response,
                        std::string_view waiting_for);

 private:
  void PrepareChange(google::protobuf::Message& request, const std::string& etag);

  const Settings& settings_;
  const GivenFlags& given_;
  const Terminal& terminal_;
  const Command& root_;
  Facts facts_;
  bool agent_ = false;
  std::unique_ptr<Client> client_;
};

// All pages of a list.
struct Listing {
  // Of the kind's message; at most the limit.
  std::vector<std::unique_ptr<google::protobuf::Message>> items;
  // Store revision of the first page: a watch from there misses nothing of what came later.
  int64_t revision = 0;
  // There are more than the limit.
  bool truncated = false;
};

// Reads all pages of the List request of a service, whose reply has one repeated field of messages, up to `limit`
// items.
absl::StatusOr<Listing> ListAll(Session& session, google::protobuf::Message& request, size_t limit);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_SESSION_H_
