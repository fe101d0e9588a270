// What there must be one of, twice: a store and an older copy of it, a server that was left for dead beside its
// successor, another machine that answers for a host's name.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_DOUBLES_H_
#define VIOMMU_TESTS_SIMULATION_DOUBLES_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/store/memory_store.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/fleet.h"
#include "tests/simulation/host.h"

namespace viommu::simulation {

class Doubles {
 public:
  // `fleet` must outlive it, but for what events may still know: see EndAll.
  explicit Doubles(Fleet& fleet) : fleet_(fleet) {}

  // Makes up what happens in this run.
  void Choose();
  // What must hold on a second machine.
  void Check();
  // The storm is over: a second server and a second machine end.
  void EndAll();
  // Of one chance in two: the newer store is there again where an older one took its place. While no server runs, or
  // with the end of it.
  void MaybePutNewerBack();

 private:
  struct Copy {
    std::unique_ptr<server::MemoryStore> content;
    Timeline timeline;
    std::string boot;
  };

  // At most one of them in a run.
  void ChooseCopies();
  void ChooseRivals();

  void TakeBackup();
  void RestoreBackup();
  void RestoreAfterRelease();
  void WipeStore();
  void StartOftenOnWiped();
  void RaiseZombie();

  // With a state directory of its own or a copy of the host's.
  void StartRival(bool copied);
  void EndRival();

  Fleet& fleet_;
  std::optional<Copy> backup_;
  std::optional<Copy> newer_;  // what stood where a backup was restored, or nothing was left
  std::unique_ptr<Host> rival_;
  std::vector<std::unique_ptr<Host>> retired_;  // earlier ones: events may still know them
  Host* rivals_host_ = nullptr;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_DOUBLES_H_
