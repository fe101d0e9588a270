// A server and agents as real processes, talking over unix sockets in a folder of their own.

#ifndef VIOMMU_TESTS_HARNESS_CLUSTER_H_
#define VIOMMU_TESTS_HARNESS_CLUSTER_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/harness/process.h"
#include "viommu/v1/fleet_service.grpc.pb.h"

namespace viommu::tests {

// Polls until `condition` holds; false after `seconds`.
bool Eventually(double seconds, const std::function<bool()>& condition);

class Cluster {
 public:
  Cluster();
  ~Cluster();

  // "NAME=VALUE" for servers, or agents, that are started from now on.
  void SetServerEnvironment(std::vector<std::string> environment) { server_environment_ = std::move(environment); }
  void SetAgentEnvironment(std::vector<std::string> environment) { agent_environment_ = std::move(environment); }
  // Starts (again) and waits until it answers. `more_args` are added to the command line.
  void StartServer(const std::vector<std::string>& more_args = {});
  // Only starts it.
  void LaunchServer(const std::vector<std::string>& more_args = {});
  Process& server() { return *server_; }
  std::string server_address() const { return "unix:" + (dir_ / "server.sock"); }
  std::string store_path() const { return dir_ / "store"; }

  // The program of agents that are started from now on, another one than viommu-agent.
  void SetAgentProgram(std::string runfile) { agent_program_ = std::move(runfile); }
  // Where agents that are started from now on look for the server: a cable to it, say.
  void RouteAgents(std::string address) { agents_server_ = std::move(address); }
  // `inventory`: a file of this tree, or an absolute path.
  void StartAgent(const std::string& host, const std::string& inventory,
                  const std::vector<std::string>& more_args = {});
  // An agent that claims `host`, with a state directory, a socket and an output of its own called `as`.
  void LaunchAgent(const std::string& host, const std::string& inventory, const std::string& as,
                   const std::vector<std::string>& more_args = {});
  bool AgentLogHas(const std::string& as, const std::string& words) const;
  Process& agent(const std::string& as) { return *agents_.at(as); }
  std::string state_path(const std::string& as) const { return dir_ / (as + ".state"); }
  std::string socket_path(const std::string& as) const { return dir_ / (as + ".sock"); }
  // Waits until the server has the agent's session.
  void WaitConnected(const std::string& host);
  void WaitDisconnected(const std::string& host);

  // viommuctl against this server.
  Finished Ctl(std::vector<std::string> args) const;

  // A stub on a channel of its own, which reconnects fast.
  std::unique_ptr<v1::FleetService::Stub> NewStub() const;
  v1::FleetService::Stub& stub() { return *stub_; }

  // One call with a deadline of `seconds`.
  template <typename Request, typename Response>
  using Method = grpc::Status (v1::FleetService::Stub::*)(grpc::ClientContext*, const Request&, Response*);
  template <typename Request, typename Response>
  static grpc::Status Call(v1::FleetService::Stub& stub, Method<Request, Response> method, const Request& request,
                           Response* response, double seconds = 10) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)));
    return (stub.*method)(&context, request, response);
  }

  const TempDir& dir() const { return dir_; }
  // The end of everybody's output, for a failed test's message.
  std::string Outputs() const;

 private:
  void WaitState(const std::string& host, v1::HostState state);

  TempDir dir_;
  std::vector<std::string> server_environment_;
  std::vector<std::string> agent_environment_;
  std::string agents_server_ = server_address();
  std::string agent_program_ = "agent/viommu-agent";
  std::unique_ptr<Process> server_;
  std::map<std::string, std::unique_ptr<Process>> agents_;
  std::unique_ptr<v1::FleetService::Stub> stub_;
};

}  // namespace viommu::tests

#endif  // VIOMMU_TESTS_HARNESS_CLUSTER_H_
