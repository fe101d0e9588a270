// A guest-owned queue from the producer's call to the executor: commands a second, and the latency of a sync.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <chrono>
#include <vector>

#include "agent/smmuv3/emulator/cmdqv.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/emulator/vcmdq_testing.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/vintf/producer.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kLog2Size = 10;
constexpr uint64_t kRingBytes = sizeof(RawCommand) << kLog2Size;

// One sync after each batch of range(0) invalidations, with range(1) further interfaces that have a queue and are idle.
void BatchAndSync(benchmark::State& state, const CommandExecutor& executor) {
  const auto idle = static_cast<uint32_t>(state.range(1));
  SharedTestMemory memory((idle + 1) * kRingBytes);
  Cmdqv cmdqv({.vintfs = idle + 2}, {}, &memory, executor);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  std::vector<VcmdqProducer> producers;
  for (uint32_t i = 0; i <= idle; ++i) {
    if (!cmdqv.EnableVintf(i + 1, 1, false, [](const LvcmdqErrMap&) {})) std::abort();
    cmdqv.AssignQueue(i + 1, 0, SharedTestMemory::kBase + i * kRingBytes, kLog2Size);
    const int fd = cmdqv.DupPage(i + 1);
    producers.emplace_back(VintfPage::Map(fd, 0, cmdqv::kPageBytes), 0, memory.At(i * kRingBytes, kRingBytes));
    close(fd);
    if (!producers.back().Enable(deadline)) std::abort();
  }
  const std::vector<RawCommand> batch(static_cast<size_t>(state.range(0)), InvalidateAsid(1));
  for (auto _ : state) {
    producers[0].Submit(batch, deadline);
    producers[0].Sync(deadline);
  }
  state.counters["sleeps"] =
      benchmark::Counter(static_cast<double>(cmdqv.sleeps()), benchmark::Counter::kAvgIterations);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

// The queue alone: commands are taken and left.
void BM_BatchAndSync(benchmark::State& state) {
  BatchAndSync(state, [](const RawCommand&, VcmdqId) { return CommandErrorCode::kNone; });
}
BENCHMARK(BM_BatchAndSync)->ArgNames({"batch", "idle"})->ArgsProduct({{1, 8, 64, 512}, {0, 62}})->UseRealTime();

// With the emulated SMMU behind it.
void BM_BatchAndSyncIntoSmmu(benchmark::State& state) {
  const IdRegisters registers = EncodeIdRegisters({.stage2 = true,
                                                   .stage1 = true,
                                                   .asid_bits = 16,
                                                   .vmid_bits = 16,
                                                   .sid_bits = 16,
                                                   .oas_bits = 48,
                                                   .gran4k = true});
  SharedTestMemory memory(4096);
  EmulatedSmmu smmu("smmu", registers, 0, 0, {}, &memory, {});
  AtcInvalidations::Outstanding outstanding;
  BatchAndSync(state, [&](const RawCommand& raw, VcmdqId) { return smmu.TryExecute(raw, outstanding); });
}
BENCHMARK(BM_BatchAndSyncIntoSmmu)->ArgNames({"batch", "idle"})->ArgsProduct({{1, 64, 512}, {0}})->UseRealTime();

}  // namespace
}  // namespace viommu::smmuv3
