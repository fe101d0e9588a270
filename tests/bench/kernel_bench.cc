// Invalidations through the kernel: one command an HWPT_INVALIDATE, as VMMs of today do it, against the iommufd
// backend.
//
//   batches    callers that each give 63 commands a call, which the backend may put together further; rival: as many
//              threads that make an ioctl for each command
//   combining  callers with one command a call each; rival: the same threads with an ioctl each
//   overhead   what the backend adds to one ioctl of 63 commands; rival: that ioctl
//
// On a machine with an SMMUv3 behind which vfio-pci has a device that nobody uses: the testbed (tests/kernel/bench.sh).
// The device does nothing meanwhile. Under emulation by QEMU the times mean nothing, the ratios little more than their
// order of magnitude. Contestants take turns within a round; what is reported is the median of the rounds. The overhead
// is too small for that on a machine that does other things: there single calls take turns, and it is the median of
// those.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "agent/backend.h"
#include "agent/smmuv3/iommufd/invalidations.h"
#include "agent/smmuv3/iommufd/iommufd_backend.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/spec/command.h"
#include "tests/bench/report.h"

namespace viommu::bench {
namespace {

using agent::ObjectId;
using smmuv3::RawCommand;
using Clock = std::chrono::steady_clock;

constexpr size_t kGroup = agent::kKernelGroup;
constexpr double kAimBatches = 5;
constexpr double kAimOverhead = 1.15;  // at most

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(EXIT_FAILURE);
}

template <typename T>
T Must(absl::StatusOr<T> result) {
  if (!result.ok()) Die(result.status().ToString());
  return *std::move(result);
}

// The one /dev/iommu that this process has open.
int IommufdOfThisProcess() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error) == "/dev/iommu") {
      return std::atoi(entry.path().filename().c_str());
    }
  }
  Die("the context's /dev/iommu is not to be found");
}

// A viommu, and the two ways to it.
class World {
 public:
  World() {
    agent::IommufdBackend::Options options;
    options.on_left_out = [](const std::string& device, const absl::Status& why) {
      std::fprintf(stderr, "%s is left out: %s\n", device.c_str(), why.ToString().c_str());
    };
    backend_ = Must(agent::IommufdBackend::Create(&agent::RealKernel(), std::move(options)));
    const agent::Inventory inventory = Must(backend_->Discover());
    if (inventory.devices.empty()) Die("vfio-pci has no device behind an SMMUv3");
    context_ = Must(backend_->OpenContext());
    const ObjectId device = Must(context_->BindDevice(inventory.devices[0].pci_address));
    const ObjectId ioas = Must(context_->AllocIoas());
    const ObjectId stage2 = Must(context_->AllocStage2(device, ioas));
    viommu_ = Must(context_->AllocViommu(device, stage2, agent::ViommuType::kArmSmmuv3)).id;
    iommufd_ = IommufdOfThisProcess();
    for (size_t i = 0; i < kGroup; ++i) {
      commands_.push_back(
          smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhVa, .asid = 5, .address = i * 4096, .leaf = true}));
    }
  }

  // One call of `count` commands.
  void Ioctl(size_t count) const {
    const agent::InvalidateAnswer answer = agent::CallInvalidate(
        agent::RealKernel(), iommufd_, viommu_,
        {agent::InvalidateDataType::kArmSmmuv3, commands_.data(), sizeof(RawCommand), static_cast<uint32_t>(count)});
    if (answer.error_number != 0) Die(fmt::format("HWPT_INVALIDATE: errno {}", answer.error_number));
  }
  void Backend(size_t count) const {
    const auto result =
        context_->Invalidate(viommu_, agent::InvalidateDataType::kArmSmmuv3, std::span(commands_).first(count));
    if (!result.status.ok()) Die(result.status.ToString());
  }

 private:
  std::unique_ptr<agent::Backend> backend_;
  std::unique_ptr<agent::Context> context_;
  ObjectId viommu_ = 0;
  int iommufd_ = -1;
  std::vector<RawCommand> commands_;
};

// Commands per second of `threads` that call over and over.
double Rate(int threads, size_t commands_per_call, std::chrono::nanoseconds length, const std::function<void()>& call) {
  std::barrier start(threads + 1);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> calls{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < threads; ++i) {
    callers.emplace_back([&] {
      start.arrive_and_wait();
      uint64_t mine = 0;
      for (; !stop.load(std::memory_order_relaxed); ++mine) call();
      calls += mine;
    });
  }
  start.arrive_and_wait();
  const auto begin = Clock::now();
  std::this_thread::sleep_for(length);
  stop = true;
  for (std::thread& caller : callers) caller.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return static_cast<double>(calls.load() * commands_per_call) / seconds;
}

// Nanoseconds.
double Time(const std::function<void()>& call) {
  const auto begin = Clock::now();
  call();
  return std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
}

struct Contestant {
  int threads;
  size_t commands;  // of a call
  bool backend;
  std::vector<double> rates;  // by round
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Main(int argc, char** argv) {
  Report report("kernel", argc, argv);
  // Short turns and many of them: what else the machine does comes and goes within a second.
  const int rounds = report.quick() ? 3 : 201;
  const std::chrono::milliseconds length(20);
  const int pairs = report.quick() ? 100 : 50'000;
  const World world;
  constexpr bool kIoctl = false, kBackend = true;
  std::vector<Contestant> contestants;
  for (const int threads : {1, 4, 16}) {
    contestants.push_back({threads, 1, kIoctl, {}});
    contestants.push_back({threads, 1, kBackend, {}});
    contestants.push_back({threads, kGroup, kBackend, {}});
  }
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < contestants.size(); ++i) {
      // Nobody is always behind the same neighbour.
      Contestant& now = contestants[(i + static_cast<size_t>(round)) % contestants.size()];
      now.rates.push_back(Rate(now.threads, now.commands, length, [&] {
        if (now.backend) return world.Backend(now.commands);
        world.Ioctl(now.commands);
      }));
    }
  }
  const auto rate = [&](int threads, size_t commands, bool backend) {
    for (const Contestant& c : contestants) {
      if (c.threads == threads && c.commands == commands && c.backend == backend) return Median(c.rates);
    }
    std::abort();
  };
  const std::vector<std::pair<size_t, std::optional<double>>> sizes = {{kGroup, kAimBatches}, {1, std::nullopt}};
  for (const auto& [commands, aim] : sizes) {
    for (const int threads : {1, 4, 16}) {
      report.Add({.subject = fmt::format("{} caller{}, {} a call", threads, threads == 1 ? "" : "s", commands),
                  .metric = "invalidations",
                  .unit = "1/s",
                  .value = rate(threads, commands, kBackend),
                  .rival = "an ioctl each",
                  .rival_value = rate(threads, 1, kIoctl),
                  .aim = aim});
    }
  }
  std::vector<double> ours, rivals;
  for (int i = 0; i < pairs; ++i) {
    rivals.push_back(Time([&] { world.Ioctl(kGroup); }));
    ours.push_back(Time([&] { world.Backend(kGroup); }));
  }
  report.Add({.subject = fmt::format("1 caller, {} a call", kGroup),
              .metric = "time of a call",
              .unit = "ns",
              .value = Median(ours),
              .better = Better::kLower,
              .rival = fmt::format("ioctl of {}", kGroup),
              .rival_value = Median(rivals),
              .aim = 1 / kAimOverhead});
  report.Note(fmt::format("median of {} rounds of {} ms, the last row of {} calls each; {} CPUs", rounds,
                          length.count(), pairs, std::thread::hardware_concurrency()));
  return report.Finish();
}

}  // namespace
}  // namespace viommu::bench

int main(int argc, char** argv) { return viommu::bench::Main(argc, argv); }
