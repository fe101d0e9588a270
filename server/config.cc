#include "server/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "absl/strings/match.h"
#include "common/error.h"
#include "common/metrics.h"

namespace viommu::server {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr std::string_view kRocksDb = "rocksdb:";
// RocksDB keeps 256 tables open (rocksdb_options.h); its logs and compactions, backups, scrapes of metrics and gRPC's
// own take less than as many again.
constexpr uint64_t kOtherOpenFiles = 512;
// Of the room for connections where it is short: at least one of so many is for `listen`.
constexpr uint64_t kCallersShare = 8;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

// Whether every address can be listened on with these files.
absl::Status CheckListen(const std::string& option, const std::vector<std::string>& texts,
                         const TransportOptions& transport, const std::string& section) {
  VIOMMU_ASSIGN_OR_RETURN(const std::vector<Address> addresses, ParseAddresses(option, texts));
  for (const Address& address : addresses) {
    VIOMMU_RETURN_IF_ERROR(MakeServerCredentials(address, transport, section).status());
  }
  return absl::OkStatus();
}

bool HasOwnTransport(const ServerConfig& config) {
  return config.agents_tls.tls.Given() || config.agents_tls.allow_insecure;
}

}  // namespace

absl::StatusOr<ConnectionLimits> LimitConnections(const ServerConfig& config, uint64_t open_files) {
  const bool shared = config.agents_listen.empty();
  const uint64_t room = open_files > kOtherOpenFiles ? open_files - kOtherOpenFiles : 0;
  if (room < (shared ? 1 : 2)) {
    return absl::FailedPreconditionError(
        fmt::format("{} open files are too few: {} are needed besides connections; raise the limit (ulimit -n, or "
                    "LimitNOFILE= of the unit)",
                    open_files, kOtherOpenFiles));
  }
  const auto limit = static_cast<uint64_t>(config.limits_connections);
  ConnectionLimits limits;
  if (!shared) limits.agents_listen = std::min(limit, room - std::max<uint64_t>(1, room / kCallersShare));
  limits.listen = std::min(limit, room - limits.agents_listen);
  return limits;
}

const TransportOptions& AgentsTransport(const ServerConfig& config) {
  return HasOwnTransport(config) ? config.agents_tls : config.tls;
}

std::string AgentsTransportSection(const ServerConfig& config) {
  return HasOwnTransport(config) ? "agents_tls" : "tls";
}

absl::StatusOr<std::vector<Address>> ParseAddresses(const std::string& option, const std::vector<std::string>& texts) {
  std::vector<Address> addresses;
  for (const std::string& text : texts) {
    absl::StatusOr<Address> address = ParseAddress(text);
    if (!address.ok()) return InvalidField(option, "{}", std::string(address.status().message()));
    addresses.push_back(*std::move(address));
  }
  return addresses;
}

absl::StatusOr<std::optional<std::string>> ParseStore(const std::string& text) {
  if (text == "memory") return std::optional<std::string>();
  if (text.size() > kRocksDb.size() && absl::StartsWith(text, std::string(kRocksDb))) {
    return std::optional<std::string>(text.substr(kRocksDb.size()));
  }
  return InvalidField("store", "\"{}\" is neither rocksdb:PATH nor memory", text);
}

void DeclareServerOptions(Config& config, ServerConfig* options) {
  config.StringList("listen", &options->listen, "Where callers connect, and agents unless agents.listen is given");
  config.StringList("agents.listen", &options->agents_listen, "Where agents connect, and only they");
  config.Address("metrics.listen", &options->metrics_listen, "Where Prometheus fetches /metrics; empty: nowhere");
  config.Bool("metrics.allow_insecure", &options->metrics_allow_insecure,
              "Serve metrics, which are plain HTTP, to the network");
  DeclareTransport(config, "tls", &options->tls);
  DeclareTransport(config, "agents_tls", &options->agents_tls);
  config.Bool("reflection", &options->reflection, "Tell gRPC clients which services there are");

  config.String("store", &options->store, "Where the record is kept: rocksdb:PATH, or memory (lost at the end)");
  config.Bytes("rocksdb.write_buffer", &options->rocksdb_write_buffer_bytes, kMiB, 16 * kGiB,
               "Memory for what is not in tables yet");
  config.Bytes("rocksdb.block_cache", &options->rocksdb_block_cache_bytes, kMiB, 1024 * kGiB,
               "Memory for parts of tables");
  config.Bool("rocksdb.verify_on_open", &options->rocksdb_verify_on_open, "Check every table's checksums at the start");
  config.String("cluster_id", &options->cluster_id, "The cluster; empty: what the store says, a new one if it is new");
  config.Duration("changes.max_age", &options->changes_max_age, minutes(1), hours(24 * 365),
                  "How long watches can resume");
  config.Bytes("changes.max_bytes", &options->changes_max_bytes, kMiB, 1024 * kGiB, "Largest change log");
  config.Duration("requests.ttl", &options->requests_ttl, minutes(1), hours(24 * 365),
                  "How long a request_id is remembered");
  config.Int("requests.max_entries", &options->requests_max_entries, 1000, 100'000'000,
             "How many request_ids are remembered");
  config.Bytes("requests.max_bytes", &options->requests_max_bytes, kMiB, 1024 * kGiB,
               "How much their answers may take in the store");

  config.String("backup.folder", &options->backup_folder,
                "Where CreateBackup puts backups, best on another disk; empty: none are made");
  config.Int("backup.keep", &options->backup_keep, 0, 10'000, "How many backups are kept, the newest; 0: all");
  config.Duration("audit.max_age", &options->audit_max_age, hours(1), hours(24 * 3650),
                  "How long the audit log keeps an entry");
  config.Bytes("audit.max_bytes", &options->audit_max_bytes, 0, 1024 * kGiB,
               "Largest audit log; 0: what happens is not audited");

  config.Duration("agents.lease", &options->agents_lease, seconds(1), hours(1), "How long an agent may be silent");
  config.Duration("agents.grace", &options->agents_grace, seconds(0), hours(24),
                  "How long after a start no host is declared disconnected");
  config.Int("agents.max_sessions", &options->agents_max_sessions, 1, 1'000'000, "Agents at the same time");
  config.Int("agents.max_syncs", &options->agents_max_syncs, 1, 100'000,
             "Agents that are sent what they lack at the same time");

  config.Int("limits.connections", &options->limits_connections, 1, 1'000'000,
             "Connections at the same time, to listen and to agents.listen each");
  config.Int("limits.queue", &options->limits_queue, 1, 1'000'000, "Changes that wait to be recorded");
  config.Int("limits.watches", &options->limits_watches, 1, 1'000'000, "Watches at the same time");
  config.Int("limits.waits", &options->limits_waits, 1, 10'000'000, "Calls that wait for their host");
  config.Int("limits.streams", &options->limits_streams, 1, 1'000'000, "Calls at the same time, per connection");
  config.Int("limits.invalidations", &options->limits_invalidations, 1, 10'000'000, "Calls of Invalidate under way");
  config.Bytes("limits.memory", &options->limits_memory_bytes, 16 * kMiB, 1024 * kGiB,
               "Memory for what is received and sent, over all connections");
  config.Duration("keepalive.interval", &options->keepalive_interval, seconds(10), hours(2),
                  "Ping a silent connection after this long");
  config.Duration("keepalive.timeout", &options->keepalive_timeout, seconds(1), minutes(10),
                  "Close it when the ping is not answered for this long");
  config.Duration("keepalive.max_idle", &options->keepalive_max_idle, seconds(1), hours(24),
                  "Close a connection that has had no call for this long");
  config.Duration("shutdown_timeout", &options->shutdown_timeout, milliseconds(100), minutes(10),
                  "How long calls may go on after the signal to stop");

  config.Enum("log.level", &options->log_level,
              {{"debug", LogLevel::kDebug},
               {"info", LogLevel::kInfo},
               {"warning", LogLevel::kWarning},
               {"error", LogLevel::kError},
               {"off", LogLevel::kOff}},
              "What to log");
  config.Enum("log.format", &options->log_format, {{"text", LogFormat::kText}, {"json", LogFormat::kJson}},
              "How to log");

  // Everything that Start would refuse without having tried: a configuration that passes is not to blame.
  config.Check([options]() -> absl::Status {
    if (options->listen.empty()) return InvalidField("listen", "at least one address is needed");
    VIOMMU_RETURN_IF_ERROR(CheckListen("listen", options->listen, options->tls, "tls"));
    VIOMMU_RETURN_IF_ERROR(CheckListen("agents.listen", options->agents_listen, AgentsTransport(*options),
                                       AgentsTransportSection(*options)));
    if (options->agents_listen.empty() && HasOwnTransport(*options)) {
      return InvalidField("agents_tls", "is for agents.listen, which is not given: agents connect as tls says");
    }
    if (options->metrics_listen.has_value()) {
      VIOMMU_RETURN_IF_ERROR(CheckMetricsAddress(*options->metrics_listen, options->metrics_allow_insecure));
    }
    return ParseStore(options->store).status();
  });
}

}  // namespace viommu::server
