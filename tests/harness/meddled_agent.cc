// viommu-agent with somebody who works on its emulated host's objects behind its back: at SIGUSR1 he takes every nested
// domain of the VM that was opened last from the devices that are attached to it, destroys it, and leaves an IOAS of
// his own behind. What he does is what an administrator's script, or a fault, could do to a host.

#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "agent/agent.h"
#include "agent/backend.h"
#include "agent/config.h"
#include "common/config.h"
#include "common/log.h"

namespace viommu::tests {
namespace {

using agent::Backend;
using agent::Context;
using agent::ObjectInfo;
using agent::ObjectKind;

class MeddledBackend final : public Backend {
 public:
  explicit MeddledBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  absl::StatusOr<agent::Inventory> Discover() override { return backend_->Discover(); }
  agent::Capabilities GetCapabilities() const override { return backend_->GetCapabilities(); }
  std::vector<agent::SmmuStats> GetStats() const override { return backend_->GetStats(); }
  absl::StatusOr<std::unique_ptr<Context>> OpenContext() override {
    auto context = backend_->OpenContext();
    if (context.ok()) last_context_ = context->get();
    return context;
  }

  // While the VM that was opened last is there.
  absl::Status Meddle() {
    Context& context = *last_context_;
    const auto objects = context.Objects();
    if (!objects.ok()) return objects.status();
    for (const ObjectInfo& nested : *objects) {
      if (nested.kind != ObjectKind::kNested) continue;
      for (const ObjectInfo& device : *objects) {
        if (device.kind != ObjectKind::kDevice || device.parent != nested.id) continue;
        if (absl::Status status = context.Detach(device.id); !status.ok()) return status;
      }
      if (absl::Status status = context.Destroy(nested.id); !status.ok()) return status;
    }
    return context.AllocIoas().status();
  }

 private:
  const std::unique_ptr<Backend> backend_;
  std::atomic<Context*> last_context_ = nullptr;
};

int Fail(const absl::Status& status) {
  fmt::print(stderr, "meddled agent: {}\n", std::string(status.message()));
  return EXIT_FAILURE;
}

int Main(int argc, char** argv) {
  agent::AgentConfig options = agent::DefaultAgentConfig();
  Config config({.program = "viommu-agent", .summary = "An agent whose host is meddled with.", .default_file = ""});
  agent::DeclareAgentOptions(config, &options);
  if (const auto exit = config.Load(argc, argv)) return *exit;
  InitLogging({.level = options.log_level, .format = options.log_format, .writer = nullptr});
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGUSR1, SIGTERM}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before there are other threads
  MeddledBackend* backend = nullptr;
  const auto agent = agent::Agent::Start(options, [&](std::unique_ptr<Backend> real) {
    auto meddled = std::make_unique<MeddledBackend>(std::move(real));
    backend = meddled.get();
    return meddled;
  });
  if (!agent.ok()) return Fail(agent.status());
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGUSR1) {
    if (const absl::Status status = backend->Meddle(); !status.ok()) return Fail(status);
  }
  (*agent)->Stop(std::chrono::seconds(1));
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace viommu::tests

int main(int argc, char** argv) { return viommu::tests::Main(argc, argv); }
