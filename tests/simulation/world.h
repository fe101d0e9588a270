// A fleet in one thread: a server and its disk, hosts with their SMMUs, guests, clients and a watch, the network
// between them, and what goes wrong with all of them.
//
// One run: some virtual seconds of faults (which kinds, and how often, is a part of the seed: a run with everything at
// once hides what a run with little finds), then none; what was broken is repaired as an operator would, and everything
// has to settle: each call answered, each host as recorded.

#ifndef VIOMMU_TESTS_SIMULATION_WORLD_H_
#define VIOMMU_TESTS_SIMULATION_WORLD_H_

#include <cstdint>
#include <string>

#include "tests/simulation/scheduler.h"

namespace viommu::simulation {

struct Outcome {
  std::string failure;  // empty: everything held
  uint64_t trace_hash = 0;
  uint64_t steps = 0;
  uint64_t commits = 0;  // published batches, after each of which the whole record was checked
  uint64_t answers = 0;  // to clients
  uint64_t watch_events = 0;
  uint64_t reached = 0;  // accesses of devices that reached a guest's memory, each of which was to be the right one
  uint64_t invalidations = 0;  // of guests, each of which was to be their own
  uint64_t queue_uses = 0;     // likewise, of guests' command queues
  nanoseconds virtual_time{0};
};

struct RunOptions {
  bool faults = true;
  bool verbose = false;  // the trace on stderr
};

// The same seed and options: the same outcome.
Outcome Run(uint64_t seed, const RunOptions& options = {});

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_WORLD_H_
