#include "server/tool/tool.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/timestamp.h"
#include "server/commit/record.pb.h"
#include "server/commit/verify.h"
#include "server/config.h"
#include "server/store/rocksdb_backup.h"
#include "server/store/rocksdb_store.h"
#include "server/tool/inspect.h"

namespace viommu::server {
namespace {

constexpr int kExitUsage = 2;
constexpr int64_t kMaxLines = 1'000'000;

int Fail(const absl::Status& status) {
  fmt::print(stderr, "viommu-server: {}\n", std::string(status.message()));
  return EXIT_FAILURE;
}

// The folder of --store; a store in memory is not there while no server runs.
absl::StatusOr<std::string> FolderOf(const std::string& store) {
  VIOMMU_ASSIGN_OR_RETURN(const auto path, ParseStore(store));
  if (!path.has_value()) return InvalidField("store", "a store in memory is gone with its server; give rocksdb:PATH");
  return *path;
}

absl::Status Verify(const std::string& path) {
  VIOMMU_ASSIGN_OR_RETURN(const auto store, RocksDbStore::OpenForReading(path));
  VIOMMU_ASSIGN_OR_RETURN(const Verified verified, VerifyRecord(*store));
  fmt::print(
      "{}: no damage found\n"
      "cluster        {}\n"
      "incarnation    {}\n"
      "epoch          {}\n"
      "revision       {}\n"
      "checksums      every table and log\n"
      "resources      {}, and every promise of the record\n"
      "changes        {}, without a gap\n"
      "requests       {}\n"
      "audit entries  {}, without a gap\n",
      store->Describe(), verified.cluster_id, verified.store_incarnation, verified.epoch, verified.revision,
      verified.resources, verified.changes, verified.requests, verified.audit_entries);
  return absl::OkStatus();
}

absl::Status Restore(const std::string& folder, int64_t id, const std::string& path) {
  VIOMMU_ASSIGN_OR_RETURN(const BackupInfo backup, RestoreRocksDb(folder, id, path));
  BackupRecord record;
  if (!record.ParseFromString(backup.metadata)) record.Clear();
  fmt::print("backup {} of {} restored: revision {} or a little later, store {}\n", backup.id,
             FormatTime(WallTime(std::chrono::seconds(backup.time_s))), record.revision(), record.store_incarnation());
  return Verify(path);
}

absl::Status InspectStore(const std::string& path, const std::string& what, int64_t limit) {
  VIOMMU_ASSIGN_OR_RETURN(const auto store, RocksDbStore::OpenForReading(path));
  return Inspect(*store, what, limit, std::cout, std::cerr);
}

}  // namespace

std::optional<int> RunTool(int argc, const char* const* argv) {
  constexpr std::string_view kCommands[] = {"restore", "verify", "inspect"};
  if (argc < 2 ||
      std::find(std::begin(kCommands), std::end(kCommands), std::string_view(argv[1])) == std::end(kCommands)) {
    return std::nullopt;
  }
  CLI::App app("Commands on a store that no server runs on", "viommu-server");
  app.require_subcommand(1);
  std::string store;
  std::string folder;
  std::string what;
  int64_t id = 0;
  int64_t limit = 100;
  CLI::App* const restore = app.add_subcommand("restore", "Put a backup back, into a folder that is new or empty");
  restore->add_option("--from", folder, "The folder that has the backups")->required();
  restore->add_option("--backup", id, "Its id; the latest unless given")->check(CLI::PositiveNumber);
  CLI::App* const verify = app.add_subcommand("verify", "Check a store: every checksum, record and promise");
  CLI::App* const inspect = app.add_subcommand("inspect", "Print what a store holds, one JSON object to a line");
  inspect->add_option("WHAT", what,
                      "meta, changes, audit, a kind of resources such as viommus, or a resource's name; all resources "
                      "unless given");
  inspect->add_option("--limit", limit, "At most this many lines")->check(CLI::Range(int64_t{1}, kMaxLines));
  for (CLI::App* command : {restore, verify, inspect}) {
    command->add_option("--store", store, "rocksdb:PATH")->required();
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == EXIT_SUCCESS ? code : kExitUsage;
  }
  const absl::StatusOr<std::string> path = FolderOf(store);
  if (!path.ok()) {
    Fail(path.status());
    return kExitUsage;
  }
  const absl::Status status = restore->parsed()  ? Restore(folder, id, *path)
                              : verify->parsed() ? Verify(*path)
                                                 : InspectStore(*path, what, limit);
  return status.ok() ? EXIT_SUCCESS : Fail(status);
}

}  // namespace viommu::server
