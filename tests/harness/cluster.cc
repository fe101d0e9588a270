#include "tests/harness/cluster.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <iostream>
#include <thread>

namespace viommu::tests {
namespace {

constexpr double kStartSeconds = 30;  // generous: sanitizers, and other work on the machine

[[noreturn]] void Die(const Cluster& cluster, const std::string& what) {
  std::cerr << what << cluster.Outputs() << std::endl;
  abort();
}

// The beginning of a command line: /usr/bin/env becomes the program that follows.
std::vector<std::string> WithEnvironment(const std::vector<std::string>& environment) {
  std::vector<std::string> argv;
  if (environment.empty()) return argv;
  argv.emplace_back("/usr/bin/env");
  argv.insert(argv.end(), environment.begin(), environment.end());
  return argv;
}

}  // namespace

bool Eventually(double seconds, const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

Cluster::Cluster() { stub_ = NewStub(); }

Cluster::~Cluster() = default;

void Cluster::LaunchServer(const std::vector<std::string>& more_args) {
  std::vector<std::string> argv = WithEnvironment(server_environment_);
  argv.insert(argv.end(), {Runfile("server/viommu-server"), "--listen=" + server_address(),
                           "--store=rocksdb:" + store_path(), "--log-format=json"});
  argv.insert(argv.end(), more_args.begin(), more_args.end());
  server_ = std::make_unique<Process>(argv, dir_ / "server.log");
}

void Cluster::StartServer(const std::vector<std::string>& more_args) {
  LaunchServer(more_args);
  const bool serving = Eventually(kStartSeconds, [this] {
    v1::GetServerStatusResponse response;
    if (!server_->running()) Die(*this, "the server ended at its start");
    // A new channel: one that has failed to connect waits before it tries again.
    stub_ = NewStub();
    return Call(*stub_, &v1::FleetService::Stub::GetServerStatus, v1::GetServerStatusRequest(), &response, 1).ok();
  });
  if (!serving) Die(*this, "the server does not answer");
}

void Cluster::StartAgent(const std::string& host, const std::string& inventory,
                         const std::vector<std::string>& more_args) {
  LaunchAgent(host, inventory, host, more_args);
}

void Cluster::LaunchAgent(const std::string& host, const std::string& inventory, const std::string& as,
                          const std::vector<std::string>& more_args) {
  std::vector<std::string> argv = WithEnvironment(agent_environment_);
  argv.insert(argv.end(),
              {Runfile(agent_program_), "--host=" + host, "--server=" + agents_server_, "--state-dir=" + state_path(as),
               "--inventory=" + (inventory[0] == '/' ? inventory : Runfile(inventory)),
               "--listen=unix:" + socket_path(as), "--log-format=json"});
  argv.insert(argv.end(), more_args.begin(), more_args.end());
  agents_[as] = std::make_unique<Process>(argv, dir_ / (as + ".log"));
}

bool Cluster::AgentLogHas(const std::string& as, const std::string& words) const {
  return agents_.at(as)->output().find(words) != std::string::npos;
}

void Cluster::WaitConnected(const std::string& host) { WaitState(host, v1::HOST_STATE_CONNECTED); }

void Cluster::WaitDisconnected(const std::string& host) { WaitState(host, v1::HOST_STATE_DISCONNECTED); }

void Cluster::WaitState(const std::string& host, v1::HostState state) {
  v1::GetHostRequest request;
  request.set_name("hosts/" + host);
  const bool reached = Eventually(kStartSeconds, [&] {
    v1::GetHostResponse response;
    const grpc::Status status = Call(*stub_, &v1::FleetService::Stub::GetHost, request, &response, 1);
    return status.ok() && response.host().state() == state;
  });
  if (!reached) Die(*this, "host " + host + " does not become " + v1::HostState_Name(state));
}

Finished Cluster::Ctl(std::vector<std::string> args) const {
  std::vector<std::string> argv = {Runfile("cli/viommuctl"), "--server=" + server_address()};
  argv.insert(argv.end(), args.begin(), args.end());
  return Run(argv);
}

std::unique_ptr<v1::FleetService::Stub> Cluster::NewStub() const {
  grpc::ChannelArguments arguments;
  // A channel of its own, not one that is shared with all others to this address.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  return v1::FleetService::NewStub(
      grpc::CreateCustomChannel(server_address(), grpc::InsecureChannelCredentials(), arguments));
}

std::string Cluster::Outputs() const {
  constexpr size_t kTail = 4000;
  const auto tail = [](const std::string& text) {
    return text.size() <= kTail ? text : "…" + text.substr(text.size() - kTail);
  };
  std::string all;
  if (server_ != nullptr) all += "\n--- server\n" + tail(server_->output());
  for (const auto& [name, agent] : agents_) all += "\n--- agent " + name + "\n" + tail(agent->output());
  return all;
}

}  // namespace viommu::tests
