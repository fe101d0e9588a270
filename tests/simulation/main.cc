// Runs the simulation by hand.
//
//   simulation --seed N [--verbose]            one seed, with its trace on stderr
//   simulation --minutes M [--first N]         seeds from N on until the time is over
//   simulation --seeds K [--first N]           K of them
//
// --no-faults lets nothing go wrong; --mutation NAME puts a bug in (common/mutation.h; those of the programs only with
// --config=mutations).
//
// Prints each failing seed with the command that replays it, and at the end how fast it was. Exits with 1 when a seed
// failed.

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "common/log.h"
#include "tests/simulation/mutations.h"
#include "tests/simulation/world.h"

namespace viommu::simulation {
namespace {

constexpr uint64_t kMaxFailures = 20;  // then it stops: more tell nothing new

int Main(int argc, char** argv) {
  uint64_t seed = 0, first = 1, seeds = UINT64_MAX;
  double minutes = 0;
  RunOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    const auto number = [&]() -> uint64_t { return i + 1 < argc ? std::strtoull(argv[++i], nullptr, 10) : 0; };
    if (flag == "--seed") {
      seed = number();
    } else if (flag == "--first") {
      first = number();
    } else if (flag == "--seeds") {
      seeds = number();
    } else if (flag == "--minutes") {
      minutes = static_cast<double>(number());
    } else if (flag == "--verbose") {
      options.verbose = true;
    } else if (flag == "--no-faults") {
      options.faults = false;
    } else if (flag == "--mutation" && i + 1 < argc) {
      const std::string_view name = argv[++i];
      for (int m = 0; m < kMutations; ++m) {
        if (MutationName(static_cast<Mutation>(m)) == name) SetActiveMutation(static_cast<Mutation>(m));
      }
    } else {
      fmt::print(stderr, "usage: {} --seed N [--verbose] | --minutes M | --seeds K [--first N]\n", argv[0]);
      return 2;
    }
  }
  LogOptions quiet;
  quiet.level = options.verbose ? LogLevel::kInfo : LogLevel::kOff;
  InitLogging(quiet);
  if (seed != 0) {
    first = seed;
    seeds = 1;
  } else if (minutes == 0 && seeds == UINT64_MAX) {
    seeds = 100;
  }

  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  uint64_t done = 0, failures = 0, steps = 0, commits = 0, answers = 0, events = 0, reached = 0, invalidations = 0,
           queue_uses = 0;
  double virtual_s = 0;
  while (done < seeds && failures < kMaxFailures && (minutes == 0 || elapsed() < minutes * 60)) {
    const uint64_t now = first + done;
    const Outcome outcome = Run(now, options);
    ++done;
    steps += outcome.steps;
    commits += outcome.commits;
    answers += outcome.answers;
    events += outcome.watch_events;
    reached += outcome.reached;
    invalidations += outcome.invalidations;
    queue_uses += outcome.queue_uses;
    virtual_s += std::chrono::duration<double>(outcome.virtual_time).count();
    if (seed != 0) fmt::print("trace {:016x}, {} steps\n", outcome.trace_hash, outcome.steps);
    if (outcome.failure.empty()) continue;
    ++failures;
    fmt::print("seed {} FAILED: {}\n  replay: bazel run //tests/simulation -- --seed {} --verbose\n", now,
               outcome.failure, now);
    std::fflush(stdout);
  }
  const double seconds = elapsed();
  fmt::print(
      "{} seeds in {:.1f} s: {:.1f} seeds/s, {:.0f} steps a seed, {:.0f} checked commits a seed, {:.0f} answers a "
      "seed, {:.0f} watched changes a seed, {:.0f} devices in memory a seed, {:.1f} invalidations a seed, {:.1f} "
      "of them through queues, {:.0f} virtual seconds, {} failed\n",
      done, seconds, static_cast<double>(done) / seconds, static_cast<double>(steps) / static_cast<double>(done),
      static_cast<double>(commits) / static_cast<double>(done),
      static_cast<double>(answers) / static_cast<double>(done), static_cast<double>(events) / static_cast<double>(done),
      static_cast<double>(reached) / static_cast<double>(done),
      static_cast<double>(invalidations) / static_cast<double>(done),
      static_cast<double>(queue_uses) / static_cast<double>(done), virtual_s, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace viommu::simulation

int main(int argc, char** argv) { return viommu::simulation::Main(argc, argv); }
