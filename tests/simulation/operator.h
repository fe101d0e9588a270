// The operator after the storm: settles by hand what is to be, and says what has not settled.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_OPERATOR_H_
#define VIOMMU_TESTS_SIMULATION_OPERATOR_H_

#include <set>
#include <string>

#include "tests/simulation/client.h"
#include "tests/simulation/fleet.h"
#include "tests/simulation/host.h"

namespace viommu::simulation {

class Operator {
 public:
  // `fleet` must outlive it.
  explicit Operator(Fleet& fleet);

  // Whether anything had to be done.
  bool Repair();
  // Empty: everything has settled.
  std::string Unsettled() const;

 private:
  // Has the vdevices of an IOMMU group attached to one thing, where one waits for that: without nested domains, or,
  // where they are on two stage 2s, without one of them. Whether there was such a group.
  bool SettleGroup();

  Fleet& fleet_;
  Client client_;  // not one of the others: these may wait for what is to be settled
  std::set<const Host*> started_over_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_OPERATOR_H_
