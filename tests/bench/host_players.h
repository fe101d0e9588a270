// Plays the agents of many hosts in one process, by the real protocol (docs/protocol.md): each has a connection of its
// own, says hello with what it holds, answers what it is sent with results, sends heartbeats, and connects again with
// an agent's pauses. What a host does with its SMMUs is left out: everything is APPLIED at once.

#ifndef VIOMMU_TESTS_BENCH_HOST_PLAYERS_H_
#define VIOMMU_TESTS_BENCH_HOST_PLAYERS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace viommu::bench {

struct PlayedFleet {
  std::string server;        // gRPC's address of it
  int hosts = 0;             // named hosts/h0, hosts/h1, …
  int devices_per_host = 0;  // all behind hosts/hN/smmus/s0
};

std::string PlayedHost(int host);
std::string PlayedSmmu(int host);
// Device `device` of a host: 0 to 65535.
std::string PlayedDevice(int host, int device);

class HostPlayer;

class HostPlayers {
 public:
  explicit HostPlayers(const PlayedFleet& fleet);
  // Disconnects, if Disconnect was not called.
  ~HostPlayers();

  // Lets the hosts in [begin, end) connect, and connect again whenever a stream ends.
  void Connect(int begin, int end);
  // Ends all streams and waits until they are gone. What the hosts hold is kept.
  void Disconnect();

  // Hosts that have a session now and were told everything in it.
  int64_t synced() const { return synced_; }
  // Resources that were sent, and answered.
  int64_t items() const { return items_; }
  // What all hosts hold: generations by uid.
  std::map<std::string, int64_t> Held() const;

 private:
  friend class HostPlayer;

  void Tick();

  const PlayedFleet fleet_;
  std::vector<std::unique_ptr<HostPlayer>> players_;
  std::atomic<int64_t> synced_ = 0;
  std::atomic<int64_t> items_ = 0;
  std::mutex mu_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread ticker_;
};

}  // namespace viommu::bench

#endif  // VIOMMU_TESTS_BENCH_HOST_PLAYERS_H_
