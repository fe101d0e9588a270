#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/output/document.h"
#include "cli/output/table.h"
#include "cli/session.h"
#include "cli/show.h"
#include "common/timestamp.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

// The server keeps far fewer, unless it is told to keep all.
constexpr size_t kMaxBackups = 10'000;

Table BackupTable() {
  return Table({{"ID", Align::kRight}, {"CREATED"}, {"REVISION", Align::kRight}, {"BYTES", Align::kRight}, {"STORE"}});
}

void AddRow(Table& table, const v1::Backup& backup) {
  table.Add({std::to_string(backup.id()), FormatTime(FromTimestamp(backup.create_time())),
             std::to_string(backup.revision()), std::to_string(backup.size_bytes()), backup.store_incarnation()});
}

absl::StatusOr<ExitCode> CreateBackup(Session& session) {
  v1::CreateBackupResponse response;
  VIOMMU_RETURN_IF_ERROR(session.CallInto(v1::CreateBackupRequest(), response, "making the backup"));
  const v1::Backup& backup = response.backup();
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(backup));
  } else if (session.settings().output_given) {
    Table table = BackupTable();
    AddRow(table, backup);
    *session.terminal().out << table.Print(session.terminal().ColourOut());
  } else {
    *session.terminal().out << fmt::format("backup {} made of revision {}: {} bytes\n", backup.id(), backup.revision(),
                                           backup.size_bytes());
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> ListBackups(Session& session) {
  v1::ListBackupsRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const Listing listing, ListAll(session, request, kMaxBackups));
  if (session.settings().ForPrograms()) {
    nlohmann::ordered_json document;
    document["items"] = nlohmann::ordered_json::array();
    for (const auto& item : listing.items) document["items"].push_back(ToJson(*item));
    document["revision"] = listing.revision;
    ShowDocument(session, document);
  } else if (listing.items.empty()) {
    *session.terminal().err << "no backups found\n";
  } else {
    Table table = BackupTable();
    for (const auto& item : listing.items) AddRow(table, static_cast<const v1::Backup&>(*item));
    *session.terminal().out << table.Print(session.terminal().ColourOut());
  }
  return ExitCode::kOk;
}

}  // namespace

void DeclareBackup(Command& root) {
  Command& backup = root.Sub("backup", "Make and list backups of the server's store");
  backup.Sub("create", "Make a backup in the server's backup folder; the server goes on meanwhile")
      .WithExample("backup create", "before an upgrade of the server")
      .Runs(CreateBackup);
  backup.Sub("list", "Show the backups in the server's backup folder; latest first")
      .WithExample("backup list", "what viommu-server restore can go back to")
      .Runs(ListBackups);
}

}  // namespace viommu::cli
