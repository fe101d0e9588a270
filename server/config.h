// What the server can be told, and its defaults (--print-config shows them all).

#ifndef VIOMMU_SERVER_CONFIG_H_
#define VIOMMU_SERVER_CONFIG_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/config.h"
#include "common/credentials.h"
#include "common/log.h"

namespace viommu::server {

struct ServerConfig {
  std::vector<std::string> listen = {"127.0.0.1:7070"};
  std::vector<std::string> agents_listen;  // empty: agents come to `listen`, too
  std::optional<Address> metrics_listen;
  bool metrics_allow_insecure = false;
  TransportOptions tls;
  TransportOptions agents_tls;  // of agents_listen; without files: as `tls`
  bool reflection = true;

  std::string store = "rocksdb:/var/lib/viommu-server";  // "rocksdb:PATH" or "memory"
  uint64_t rocksdb_write_buffer_bytes = uint64_t{64} << 20;
  uint64_t rocksdb_block_cache_bytes = uint64_t{64} << 20;
  bool rocksdb_verify_on_open = true;
  std::string cluster_id;  // empty: the store's own, a new one for a new store
  std::chrono::nanoseconds changes_max_age = std::chrono::hours(24);
  uint64_t changes_max_bytes = uint64_t{256} << 20;
  std::chrono::nanoseconds requests_ttl = std::chrono::hours(24);
  int64_t requests_max_entries = 1'000'000;
  uint64_t requests_max_bytes = uint64_t{1} << 30;
  std::chrono::nanoseconds audit_max_age = std::chrono::hours(24 * 90);
  std::string backup_folder;                     // empty: no backups are made
  int64_t backup_keep = 7;                       // the newest; 0: all
  uint64_t audit_max_bytes = uint64_t{1} << 30;  // 0: no audit log

  std::chrono::nanoseconds agents_lease = std::chrono::seconds(10);
  std::chrono::nanoseconds agents_grace = std::chrono::seconds(60);
  int64_t agents_max_sessions = 20'000;
  int64_t agents_max_syncs = 64;

  int64_t limits_connections = 24'000;                 // at the same time, to `listen` and to `agents_listen` each
  int64_t limits_queue = 8192;                         // changes that wait to be recorded
  int64_t limits_watches = 1000;                       // at the same time
  int64_t limits_waits = 16'384;                       // calls that wait for their host at the same time
  int32_t limits_streams = 1024;                       // calls and streams at the same time, per connection
  int64_t limits_invalidations = 16'384;               // calls of Invalidate under way
  uint64_t limits_memory_bytes = uint64_t{512} << 20;  // of what is received and sent, and of what waits, each
  std::chrono::nanoseconds keepalive_interval = std::chrono::seconds(30);
  std::chrono::nanoseconds keepalive_timeout = std::chrono::seconds(10);
  std::chrono::nanoseconds keepalive_max_idle = std::chrono::minutes(15);  // of a connection without calls
  std::chrono::nanoseconds shutdown_timeout = std::chrono::seconds(10);

  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
};

// Declares every option of the server on `config`. Both must outlive its Load().
void DeclareServerOptions(Config& config, ServerConfig* options);

struct ConnectionLimits {
  size_t listen = 0;
  size_t agents_listen = 0;  // 0: agents come to `listen`
};

// limits_connections, or fewer when a process that may have `open_files` open could not have as many besides the
// store's files: then `agents_listen` has the most of them, because a fleet's agents are many and stay, and callers
// come back. FAILED_PRECONDITION when that leaves none.
absl::StatusOr<ConnectionLimits> LimitConnections(const ServerConfig& config, uint64_t open_files);

// How `agents.listen` is secured, and the section of the configuration that says so.
const TransportOptions& AgentsTransport(const ServerConfig& config);
std::string AgentsTransportSection(const ServerConfig& config);

// Every one as an address. INVALID_ARGUMENT.
absl::StatusOr<std::vector<Address>> ParseAddresses(const std::string& option, const std::vector<std::string>& texts);

// The folder of a "rocksdb:PATH", or nullopt for "memory". INVALID_ARGUMENT.
absl::StatusOr<std::optional<std::string>> ParseStore(const std::string& text);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_CONFIG_H_
