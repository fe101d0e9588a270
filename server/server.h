// The whole server in one object, for main() and for whoever wants one inside another process.
//
// Health (grpc.health.v1.Health), by service name:
//   ""                          SERVING from the start to the shutdown: reads, watches and agents are served
//   "viommu.v1.AgentService"    the same
//   "viommu.v1.FleetService"    SERVING while changes are taken, too: NOT_SERVING while the store takes no writes
// All are NOT_SERVING before the shutdown ends the first call. Point liveness checks at "" and load balancers that
// write at "viommu.v1.FleetService".

#ifndef VIOMMU_SERVER_SERVER_H_
#define VIOMMU_SERVER_SERVER_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/address.h"
#include "common/clock.h"
#include "server/commit/committer.h"
#include "server/config.h"
#include "server/store/store.h"

namespace grpc {
class Channel;
class ChannelArguments;
class Service;
}  // namespace grpc

namespace viommu::server {

class Server {
 public:
  // Opens the store and serves. Errors are one sentence for people: a store that is damaged, in use, of a newer format
  // or of another cluster; an address that is taken; certificates that do not fit. With `store` that is taken instead
  // of the one that the configuration names. `more_services` are served beside the fleet service. `clock` and they must
  // outlive the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config,
                                                       std::unique_ptr<Store> store = nullptr,
                                                       const Clock& clock = RealClock(),
                                                       std::vector<grpc::Service*> more_services = {});
  // Shuts down, if Shutdown was not called.
  ~Server();

  // Says NOT_SERVING, ends watches, agents' sessions and waiting calls with SHUTTING_DOWN, lets other calls end by
  // themselves until `timeout` has passed and cancels what is left; then records what was taken and closes the store.
  absl::Status Shutdown(std::chrono::nanoseconds timeout);

  // Where it listens, with the real ports, in the order of the configuration.
  const std::vector<Address>& addresses() const;
  const std::vector<Address>& agents_addresses() const;  // empty unless agents_listen is given
  // Empty when there are no metrics.
  std::string metrics_address() const;

  // A channel to the fleet service (and the agent service, unless agents_listen is given) without a network.
  std::shared_ptr<grpc::Channel> InProcessChannel(const grpc::ChannelArguments& arguments);

  const CommitCore& core() const;
  Committer& committer();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SERVER_H_
