#include "tests/simulation/world.h"

#include <chrono>
#include <cstdint>
#include <string>

#include "tests/simulation/doubles.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/fleet.h"
#include "tests/simulation/operator.h"

namespace viommu::simulation {
namespace {

constexpr nanoseconds kLongestSettling = std::chrono::seconds(90);

class World {
 public:
  World(uint64_t seed, const RunOptions& options) : options_(options), fleet_(seed) {
    fleet_.scheduler.set_verbose(options.verbose);
  }

  Outcome Run();

 private:
  // The storm is over.
  void Calm();
  void CheckHosts();
  // Carries on until `until`, or something does not hold.
  void RunUntil(MonotonicTime until);

  const RunOptions options_;
  Fleet fleet_;
  Doubles doubles_{fleet_};
  Operator operator_{fleet_};
};

void World::Calm() {
  fleet_.storm = false;
  fleet_.scheduler.Trace("calm", "");
  fleet_.lost_calls = 0;
  fleet_.weather = Weather();
  doubles_.EndAll();
  fleet_.disk->AllowRecovery();
  for (const auto& host : fleet_.hosts) {
    host->machine().Heal();
    host->disk().SetFull(false);
    host->disk().FailSyncs(0);
    host->StartAgent();
  }
  for (const auto& client : fleet_.clients) client->Quiesce();
  doubles_.MaybePutNewerBack();
  fleet_.StartServer();
}

void World::CheckHosts() {
  for (const auto& host : fleet_.hosts) host->Check(*fleet_.timeline);
  doubles_.Check();
}

void World::RunUntil(MonotonicTime until) {
  while (!fleet_.checker.failed() && fleet_.scheduler.Step(until)) {
    if (fleet_.server != nullptr && fleet_.server->crashed()) {
      fleet_.EndServer();
      fleet_.disk->AfterKill();
      fleet_.RestartServerSoon();
    }
    if (fleet_.zombie != nullptr && fleet_.zombie->crashed()) fleet_.zombie.reset();
    CheckHosts();
  }
}

Outcome World::Run() {
  fleet_.Build(options_.faults);
  const MonotonicTime begin = fleet_.scheduler.now();
  if (options_.faults) {
    fleet_.storm = true;
    ChooseFaults(fleet_);
    doubles_.Choose();
  }
  RunUntil(begin + std::chrono::seconds(12));
  if (!fleet_.checker.failed()) {
    Calm();
    const MonotonicTime last = fleet_.scheduler.now() + kLongestSettling;
    std::string unsettled = "nothing was looked at";
    while (!fleet_.checker.failed() && !unsettled.empty() && fleet_.scheduler.now() < last) {
      const MonotonicTime next = fleet_.scheduler.now() + milliseconds(500);
      RunUntil(next);
      fleet_.scheduler.After(next - fleet_.scheduler.now(), [] {});
      const bool at_work = operator_.Repair();
      if (fleet_.server == nullptr) fleet_.StartServer();
      unsettled = at_work ? "the operator is at work" : operator_.Unsettled();
    }
    if (!unsettled.empty()) fleet_.checker.Fail("it does not settle: " + unsettled);
    if (!fleet_.checker.failed()) {
      for (const auto& host : fleet_.hosts) host->CheckSettled(*fleet_.timeline);
      for (const auto& host : fleet_.hosts) host->CheckEnd();
    }
  }
  fleet_.scheduler.Trace("end", "", static_cast<int64_t>(fleet_.checker.checks()));
  Outcome outcome;
  outcome.failure = fleet_.checker.failure();
  outcome.trace_hash = fleet_.scheduler.trace_hash();
  outcome.steps = fleet_.scheduler.steps();
  outcome.commits = fleet_.checker.checks();
  for (const auto& client : fleet_.clients) outcome.answers += client->answered();
  outcome.watch_events = fleet_.watcher->changes();
  outcome.reached = fleet_.checker.reached();
  outcome.invalidations = fleet_.checker.invalidations();
  outcome.queue_uses = fleet_.checker.queue_uses();
  outcome.virtual_time = fleet_.scheduler.now() - begin;
  return outcome;
}

}  // namespace

Outcome Run(uint64_t seed, const RunOptions& options) { return World(seed, options).Run(); }

}  // namespace viommu::simulation
