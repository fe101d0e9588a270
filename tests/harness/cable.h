// The network between agents and a server, to be cut: passes bytes between unix sockets, both ways.

#ifndef VIOMMU_TESTS_HARNESS_CABLE_H_
#define VIOMMU_TESTS_HARNESS_CABLE_H_

#include <array>
#include <cstdint>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/file_descriptor.h"
#include "common/mutex.h"

namespace viommu::tests {

// Thread-safe.
class Cable {
 public:
  enum class State {
    kWhole,
    // Connections stay, and new ones are taken, but nothing arrives at either end: what is sent waits, and comes late
    // when the cable is whole again. What a host sees whose packets get lost.
    kSilent,
    kCut,  // connections break, and new ones with them
  };

  // Takes connections at `path`, each to be continued to `to`.
  Cable(const std::string& path, std::string to);
  ~Cable();

  void Set(State state);
  // Bytes that have come out at either end since the start.
  uint64_t passed() const;

 private:
  struct End {
    FileDescriptor socket;
    std::vector<char> waiting;  // read from it, to be written to the other one; bounded
  };
  struct Connection {
    std::array<End, 2> ends;
  };

  void Loop();
  void Accept();
  // Moves what can be moved from one end to the other; false when the connection is over.
  bool Move(End& from, End& to);

  const std::string to_;
  FileDescriptor listening_;
  FileDescriptor wake_;  // an eventfd
  mutable Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kWhole;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t passed_ ABSL_GUARDED_BY(mu_) = 0;
  std::list<Connection> connections_;  // the thread's
  std::thread thread_;
};

}  // namespace viommu::tests

#endif  // VIOMMU_TESTS_HARNESS_CABLE_H_
