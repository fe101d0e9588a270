// What a SetVdevId costs the writer in the rules and tables, and what a recorded vdevice costs in memory.
//
// The fleet: hosts of 8 SMMUs with 16 devices each; every device is in a vdevice, 16 to a viommu, 8 viommus to a VM.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "server/fleet/draft.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "server/fleet/tables.h"

namespace viommu::server {
namespace {

constexpr int kSmmus = 8;
constexpr int kDevicesPerSmmu = 16;
constexpr int kDevicesPerHost = kSmmus * kDevicesPerSmmu;
constexpr int64_t kSpareHosts = 8;  // whose devices are left for the measured calls

std::string HostName(int64_t host) { return fmt::format("hosts/rack-{:03}-node-{:03}", host / 100, host % 100); }
std::string SmmuName(int64_t host, int smmu) {
  return fmt::format("{}/smmus/smmu3.0x00000000{:08x}", HostName(host), 0x11000000 + smmu * 0x1000000);
}
std::string DeviceName(int64_t host, int device) {
  return fmt::format("{}/devices/{:04x}:{:02x}:00.0", HostName(host), device / kDevicesPerSmmu,
                     1 + device % kDevicesPerSmmu);
}
std::string ViommuId(int64_t host, int smmu) { return fmt::format("vm-{:08}-smmu{}", host, smmu); }

class Fleet {
 public:
  explicit Fleet(int64_t vdevices) {
    hosts_ = (vdevices + kDevicesPerHost - 1) / kDevicesPerHost;
    for (int64_t host = 0; host < hosts_ + kSpareHosts; ++host) AddHost(host);
    // As in life: not in the order of the names.
    for (int device = 0; device < kDevicesPerHost; ++device) {
      for (int64_t host = 0; host < hosts_; ++host) Do(Set(host, device));
    }
  }

  template <typename Request>
  void Do(const Request& request) {
    Run([&](const Context& context, Draft& draft) { return Judge(request, context, draft).status(); });
  }
  void Answer(const v1::Results& results, const std::string& host) {
    Run([&](const Context& context, Draft& draft) { return JudgeResults(host, results, context, draft); });
  }

  static v1::SetVdevIdRequest Set(int64_t host, int device) {
    v1::SetVdevIdRequest request;
    request.set_viommu(ViommuName(ViommuId(host, device / kDevicesPerSmmu)));
    request.set_device(DeviceName(host, device));
    request.set_vdev_id(static_cast<uint64_t>(0x100 + 8 * (device % kDevicesPerSmmu)));
    return request;
  }

  int64_t hosts() const { return hosts_; }
  const Tables& tables() const { return tables_; }

 private:
  void AddHost(int64_t host) {
    v1::Hello hello;
    hello.set_agent_id("7d444840-9dc0-11d1-b245-5ffdce74fad2");
    v1::Host& record = *hello.mutable_host();
    record.set_name(HostName(host));
    record.set_stage2_sharing(v1::STAGE2_SHARING_SHARED);
    for (int i = 0; i < kSmmus; ++i) {
      v1::Smmu& smmu = *record.add_smmus();
      smmu.set_name(SmmuName(host, i));
      smmu.add_idr(0b11);
      smmu.set_vmid_bits(16);
      smmu.set_sid_bits(24);
    }
    for (int i = 0; i < kDevicesPerHost; ++i) {
      v1::Device& device = *hello.add_devices();
      device.set_name(DeviceName(host, i));
      device.set_smmu(SmmuName(host, i / kDevicesPerSmmu));
      device.set_stream_id(static_cast<uint32_t>(0x100 * i));
      device.set_ats(true);
      device.set_max_pasid_log2(20);
      device.set_iommu_group(static_cast<uint32_t>(i));
    }
    Run([&](const Context& context, Draft& draft) { return JudgeHello(hello, context, draft); });
    v1::CreateStage2DomainRequest stage2;
    stage2.set_stage2_domain_id(fmt::format("vm-{:08}", host));
    stage2.mutable_stage2_domain()->set_host(HostName(host));
    stage2.mutable_stage2_domain()->set_vm(fmt::format("vm-{:08}", host));
    Do(stage2);
    for (int i = 0; i < kSmmus; ++i) {
      v1::CreateViommuRequest viommu;
      viommu.set_viommu_id(ViommuId(host, i));
      viommu.mutable_viommu()->set_smmu(SmmuName(host, i));
      viommu.mutable_viommu()->set_stage2_domain(Stage2DomainName(stage2.stage2_domain_id()));
      Do(viommu);
    }
  }

  template <typename F>
  void Run(F&& judge) {
    Draft draft(tables_);
    const auto new_uid = [this] { return fmt::format("7d444840-9dc0-11d1-b245-{:012x}", ++uids_); };
    google::protobuf::Timestamp now;
    now.set_seconds(1'700'000'000);
    now.set_nanos(123'456'789);
    const Context context{now, ++revision_, new_uid};
    const absl::Status status = judge(context, draft);
    if (!status.ok()) {
      fmt::print(stderr, "{}\n", std::string(status.message()));
      std::abort();
    }
    for (const Change& change : draft.Changes()) tables_.Apply(change);
  }

  Tables tables_;
  int64_t hosts_ = 0;
  int64_t revision_ = 0;
  int64_t uids_ = 0;
};

double HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd);
}

// One fleet at a time: the big ones take a gigabyte and minutes to fill.
Fleet& FleetOf(int64_t vdevices, double* bytes = nullptr) {
  static std::unique_ptr<Fleet> fleet;
  static int64_t size = -1;
  static double heap = 0;
  if (size != vdevices) {
    fleet.reset();
    malloc_trim(0);
    const double before = HeapBytes();
    fleet = std::make_unique<Fleet>(vdevices);
    size = vdevices;
    heap = HeapBytes() - before;
  }
  if (bytes != nullptr) *bytes = heap;
  return *fleet;
}

// SetVdevId judged and applied; then everything is unset and confirmed again, unmeasured. Reports the heap that the
// whole fleet takes (hosts, devices and viommus with it) per vdevice.
void BM_SetVdevId(benchmark::State& state) {
  double bytes = 0;
  Fleet& fleet = FleetOf(state.range(0), &bytes);
  int64_t next = 0;
  const auto empty = [&] {
    for (int64_t i = 0; i < next; ++i) {
      const int64_t host = fleet.hosts() + i % kSpareHosts;
      const v1::SetVdevIdRequest set = Fleet::Set(host, static_cast<int>(i / kSpareHosts));
      v1::UnsetVdevIdRequest unset;
      unset.set_name(VdeviceName(set.viommu(), set.vdev_id()));
      fleet.Do(unset);
      const auto vdevice = fleet.tables().Find<v1::Vdevice>(unset.name());
      v1::Results results;
      v1::ItemResult& result = *results.add_items();
      result.set_name(vdevice->name());
      result.set_uid(vdevice->uid());
      result.set_generation(vdevice->generation());
      result.set_outcome(v1::OUTCOME_RELEASED);
      fleet.Answer(results, vdevice->host());
    }
    next = 0;
  };
  for (auto _ : state) {
    if (next == kSpareHosts * kDevicesPerHost) {
      state.PauseTiming();
      empty();
      state.ResumeTiming();
    }
    fleet.Do(Fleet::Set(fleet.hosts() + next % kSpareHosts, static_cast<int>(next / kSpareHosts)));
    ++next;
  }
  empty();
  state.SetItemsProcessed(state.iterations());
  state.counters["heap_bytes_per_vdevice"] = bytes / static_cast<double>(state.range(0));
}
BENCHMARK(BM_SetVdevId)->Arg(1'000)->Arg(1'000'000);

// Look-ups all over the fleet: nothing that they touch is in a cache.
void BM_GetVdeviceAnywhere(benchmark::State& state) {
  Fleet& fleet = FleetOf(state.range(0));
  uint64_t random = 1;
  for (auto _ : state) {
    random = random * 6364136223846793005 + 1442695040888963407;
    const auto host = static_cast<int64_t>((random >> 33) % static_cast<uint64_t>(fleet.hosts()));
    const v1::SetVdevIdRequest set = Fleet::Set(host, static_cast<int>((random >> 20) % kDevicesPerHost));
    benchmark::DoNotOptimize(fleet.tables().Find<v1::Vdevice>(VdeviceName(set.viommu(), set.vdev_id())));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_GetVdeviceAnywhere)->Arg(1'000)->Arg(1'000'000);

void BM_CheckInvariants(benchmark::State& state) {
  Fleet& fleet = FleetOf(state.range(0));
  for (auto _ : state) {
    if (!CheckInvariants(fleet.tables()).ok()) std::abort();
  }
  state.SetItemsProcessed(state.iterations() * fleet.tables().size(Kind::kVdevice));
}
BENCHMARK(BM_CheckInvariants)->Arg(1'000)->Arg(1'000'000)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace viommu::server
