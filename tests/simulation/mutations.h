// Which mutation is on, for the simulation and its tests.

#ifndef VIOMMU_TESTS_SIMULATION_MUTATIONS_H_
#define VIOMMU_TESTS_SIMULATION_MUTATIONS_H_

#include <string_view>

#include "common/mutation.h"

namespace viommu::simulation {

using viommu::Mutation;

// The world's own mutations work in every build, those of the programs only with --config=mutations.
inline Mutation ActiveMutation() { return mutation_internal::active; }
inline void SetActiveMutation(Mutation mutation) { mutation_internal::active = mutation; }

// "acknowledge-before-sync"
std::string_view MutationName(Mutation mutation);

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_MUTATIONS_H_
