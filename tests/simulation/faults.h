// What goes wrong with a server, its disk, hosts and the network. Which kinds, and how often, is a part of the seed.

#ifndef VIOMMU_TESTS_SIMULATION_FAULTS_H_
#define VIOMMU_TESTS_SIMULATION_FAULTS_H_

#include "tests/simulation/fleet.h"

namespace viommu::simulation {

// Makes up what happens until the storm is over. `fleet` must outlive its events.
void ChooseFaults(Fleet& fleet);

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_FAULTS_H_
