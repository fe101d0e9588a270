// The methods of the operations service about backups.

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "common/error.h"
#include "common/grpc_error.h"
#include "server/api/authorise.h"
#include "server/api/digest.h"
#include "server/api/limits.h"
#include "server/api/mention.h"
#include "server/api/operations_service.h"
#include "server/api/page_token.h"
#include "server/commit/backups.h"
#include "server/commit/codec.h"

namespace viommu::server {
namespace {

v1::Backup Encoded(const Backups::Backup& from) {
  v1::Backup backup;
  backup.set_id(from.id);
  backup.mutable_create_time()->set_seconds(from.time_s);
  backup.set_revision(from.revision);
  backup.set_store_incarnation(from.store_incarnation);
  backup.set_size_bytes(from.size_bytes);
  return backup;
}

absl::Status NotOffered() {
  return Error(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED).Message("this server makes no backups");
}

absl::Status PageOf(const std::vector<Backups::Backup>& backups, const std::string& store,
                    const v1::ListBackupsRequest& request, v1::ListBackupsResponse* response) {
  if (request.page_size() < 0) return InvalidField("page_size", "{} is negative", request.page_size());
  const int page_size = request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize);
  const std::string query = QueryDigest(request);
  VIOMMU_ASSIGN_OR_RETURN(const std::string after, ReadPageToken(store, query, request.page_token()));
  const int64_t before = after.empty() ? INT64_MAX : DecodeNumber(after).value_or(0);
  for (const Backups::Backup& backup : backups) {
    if (backup.id >= before) continue;
    if (response->backups_size() == page_size) {
      response->set_next_page_token(MakePageToken(store, query, EncodeNumber(response->backups().rbegin()->id())));
      break;
    }
    *response->add_backups() = Encoded(backup);
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* OperationsService::CreateBackup(Context* context, const v1::CreateBackupRequest*,
                                                          v1::CreateBackupResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status refused = CheckCaller(parts_, *context);
  if (refused.ok() && parts_.backups == nullptr) refused = NotOffered();
  if (refused.ok()) {
    // Callbacks are copied.
    const auto mention = std::make_shared<Mention>("CreateBackup", *context);
    refused = parts_.backups->Create([this, reactor, response, mention](const absl::StatusOr<Backups::Backup>& made) {
      if (made.ok()) *response->mutable_backup() = Encoded(*made);
      mention->Say(parts_.committer, made.ok() ? fmt::format("backups/{}", made->id) : "", made.status());
      response->set_revision(core().revision());
      reactor->Finish(ToGrpcStatus(made.status()));
    });
  }
  if (!refused.ok()) reactor->Finish(ToGrpcStatus(refused));
  return reactor;
}

grpc::ServerUnaryReactor* OperationsService::ListBackups(Context* context, const v1::ListBackupsRequest* request,
                                                         v1::ListBackupsResponse* response) {
  if (parts_.backups == nullptr) return Answer(context, NotOffered());
  const auto backups = parts_.backups->List();
  if (!backups.ok()) return Answer(context, backups.status());
  response->set_revision(core().revision());
  return Answer(context, PageOf(*backups, core().identity().store_incarnation, *request, response));
}

}  // namespace viommu::server
