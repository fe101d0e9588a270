// Invalidations end to end through an agent's parts: the local gRPC socket, the backend, the queue, the emulated SMMU.
//
//   ways                  one command a call over gRPC, batches over gRPC, calls of the backend without gRPC (what an
//                         ioctl would be), a hardware queue in shared memory; rival: one command a call over gRPC
//   viommus on one SMMU   the cost of a command with 1 to 1000 of them, each with translations of its own in the TLB;
//                         rival: the same with one
//   a full TLB            the cost of a command that names an ASID, and of one that names none, for a VM with 4000
//                         translations in the TLB; rival: with 8
//   memory                of a viommu with its context and stage 2, and of its stage 2's tables; of a vdevice; of a
//   cached
//                         translation and of its place in the TLB
//
// Everything runs in this process; what is measured includes both ends of a call.

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "agent/local/invalidator.h"
#include "agent/local/local_server.h"
#include "agent/local/local_service.h"
#include "agent/reconcile/targets.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/vintf/page.h"
#include "agent/smmuv3/vintf/producer.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "common/address.h"
#include "common/file_descriptor.h"
#include "common/metrics.h"
#include "tests/bench/report.h"

namespace viommu::bench {
namespace {

using agent::ObjectId;
using smmuv3::RawCommand;
using SteadyClock = std::chrono::steady_clock;

constexpr uint32_t kVdevId = 0x10;
constexpr uint32_t kQueueBytes = 65536;  // of a hardware queue: 4096 commands
constexpr uint64_t kQueueIova = 0x60000000;
constexpr uint64_t kPage = 4096;
constexpr uint16_t kAsid = 5;
constexpr uint64_t kGuestBase = 0x4000'0000;  // of guests' memory
constexpr uint64_t kCachedVa = 0x1000'0000;   // of what they access, out of reach of the commands that are sent
constexpr uint32_t kCached = 8;               // translations of each in the TLB
constexpr uint32_t kManyCached = 4000;        // of one
constexpr uint32_t kTlbCapacity = 32'768;     // of all, with the tables on the way to them

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

template <typename T>
T Must(absl::StatusOr<T> result, const char* what) {
  if (!result.ok()) Die(std::string(what) + ": " + result.status().ToString());
  return *std::move(result);
}
void Must(const absl::Status& status, const char* what) {
  if (!status.ok()) Die(std::string(what) + ": " + status.ToString());
}

RawCommand TlbiNhVa(uint64_t number) {
  return smmuv3::Encode(
      {.opcode = smmuv3::Opcode::kTlbiNhVa, .asid = kAsid, .address = (number % 512) * kPage, .leaf = true});
}

uint64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// A host with one SMMU and a device for each VM.
agent::EmulatedInventory OneSmmu(uint32_t devices, uint32_t tlb_capacity = kTlbCapacity) {
  smmuv3::Features features;
  features.stage1 = features.stage2 = features.coherent = true;
  features.aarch64 = features.ats = features.fwb = features.ril = features.gran4k = true;
  features.asid_bits = features.vmid_bits = 16;
  features.sid_bits = 32;
  features.cmdq_log2_size = 19;
  features.eventq_log2_size = 12;
  features.oas_bits = 48;
  agent::EmulatedInventory inventory;
  agent::EmulatedSmmuSpec smmu;
  smmu.info = agent::MakeSmmuInfo("smmu0", smmuv3::EncodeIdRegisters(features), 0x4871143b, 3);
  smmu.info.hw_queue = agent::HwQueueInventory{.vintfs = 63, .queues_per_vintf = 2, .sid_slots = 16};
  inventory.smmus.push_back(smmu);
  inventory.smmu_options.tlb_capacity = tlb_capacity;
  for (uint32_t i = 0; i < devices; ++i) {
    agent::EmulatedDevice device;
    device.info.pci_address = fmt::format("{:04x}:{:02x}:{:02x}.{}", i >> 16, (i >> 8) & 0xff, (i >> 3) & 0x1f, i & 7);
    device.info.smmu = "smmu0";
    device.info.stream_id = 0x1000 + i;
    device.info.iommu_group = i;
    inventory.devices.push_back(device);
  }
  return inventory;
}

struct Vm {
  std::unique_ptr<agent::Context> context;
  std::string pci_address;
  ObjectId device = 0, ioas = 0, stage2 = 0, viommu = 0, vdevice = 0;
};

// Gives a VM's guest memory with stage-1 tables in it, and lets the device access `pages` pages through them.
void FillTlb(agent::EmulatedBackend& backend, Vm& vm, uint32_t pages) {
  constexpr uint64_t kEntries = 512;
  const uint64_t leaf_tables = (pages + kEntries - 1) / kEntries;
  // The descriptor, a table of each of levels 0 to 2, those of level 3, the page.
  const uint64_t bytes = (5 + leaf_tables) * kPage;
  const FileDescriptor file(::memfd_create("guest", MFD_CLOEXEC));
  if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) Die("memfd");
  const auto put = [&](uint64_t page, uint64_t word, uint64_t value) {
    if (::pwrite(file.get(), &value, sizeof(value), static_cast<off_t>(page * kPage + word * sizeof(value))) !=
        static_cast<ssize_t>(sizeof(value))) {
      Die("pwrite");
    }
  };
  const auto address = [](uint64_t page) { return kGuestBase + page * kPage; };
  const uint64_t target = address(4 + leaf_tables);
  smmuv3::Cd cd{.valid = true, .ips = 5, .aa64 = true, .record = true, .abort = true, .asid = kAsid};
  cd.ttb0 = {.tsz = 16, .granule = smmuv3::Granule::k4k, .ttb = address(1)};
  cd.ttb1.disabled = true;
  const smmuv3::RawCd raw = smmuv3::EncodeCd(cd);
  for (uint64_t word = 0; word < raw.size(); ++word) put(0, word, raw[word]);
  const auto table = [](uint64_t at) { return at | 3; };
  put(1, kCachedVa >> 39, table(address(2)));
  put(2, kCachedVa >> 30, table(address(3)));
  const smmuv3::Stage1Leaf leaf{.attr_indx = 0, .ap = smmuv3::kApUnprivileged, .sh = 3, .af = true, .ng = true};
  for (uint32_t i = 0; i < pages; ++i) {
    if (i % kEntries == 0) put(3, (kCachedVa >> 21) + i / kEntries, table(address(4 + i / kEntries)));
    put(4 + i / kEntries, i % kEntries, smmuv3::EncodeStage1Leaf(leaf, target, smmuv3::Granule::k4k, 3));
  }
  Must(vm.context->MapIoas(vm.ioas, kGuestBase, bytes, {.fd = file.get()}), "guest memory");
  const smmuv3::RawSte ste =
      smmuv3::EncodeSte({.valid = true, .config = smmuv3::SteConfig::kStage1, .s1_context_ptr = address(0)});
  const ObjectId nested = Must(vm.context->AllocNested(vm.viommu, vm.device, {ste.dw[0], ste.dw[1]}), "nested domain");
  Must(vm.context->Attach(vm.device, nested), "attach");
  agent::DmaRequest access;
  access.pci_address = vm.pci_address;
  for (uint32_t i = 0; i < pages; ++i) {
    access.address = kCachedVa + i * kPage;
    if (Must(backend.device_dma()->Translate(access, false), "translate").outcome != agent::DmaResult::Outcome::kDone) {
      Die("a translation failed");
    }
  }
}

// An agent's parts around one SMMU, without a server.
class World {
 public:
  World(const std::string& dir, uint32_t viommus)
      : backend_(Must(agent::EmulatedBackend::Create(OneSmmu(viommus)), "backend")) {
    const agent::Inventory inventory = Must(backend_->Discover(), "inventory");
    const smmuv3::Features features = smmuv3::DecodeIdRegisters(inventory.smmus[0].idr);
    for (uint32_t i = 0; i < viommus; ++i) {
      Vm vm;
      vm.pci_address = inventory.devices[i].pci_address;
      vm.context = Must(backend_->OpenContext(), "context");
      vm.device = Must(vm.context->BindDevice(vm.pci_address), "device");
      vm.ioas = Must(vm.context->AllocIoas(), "ioas");
      vm.stage2 = Must(vm.context->AllocStage2(vm.device, vm.ioas), "stage 2");
      // The first has hardware queues.
      vm.viommu =
          Must(vm.context->AllocViommu(vm.device, vm.stage2,
                                       i == 0 ? agent::ViommuType::kTegra241Cmdqv : agent::ViommuType::kArmSmmuv3),
               "viommu")
              .id;
      const std::string name = Name(i);
      targets_.Declare(name, name);
      targets_.Publish(name, {.context = vm.context.get(),
                              .id = vm.viommu,
                              .kind = agent::ItemKind::kViommu,
                              .viommu = name,
                              .features = features});
      vms_.push_back(std::move(vm));
    }
    heap_without_vdevices_ = HeapBytes();
    for (Vm& vm : vms_) {
      vm.vdevice = Must(vm.context->AllocVdevice(vm.viommu, vm.device, kVdevId), "vdevice");
    }
    heap_with_vdevices_ = HeapBytes();
    invalidator_ =
        std::make_unique<agent::Invalidator>(targets_, backend_->GetCapabilities(), agent::Invalidator::Options{});
    agent::LocalServiceImpl::Sources sources;
    sources.host = "hosts/bench";
    service_ = std::make_unique<agent::LocalServiceImpl>(std::move(sources), *backend_, *invalidator_);
    const std::string socket = "unix:" + dir + "/agent.sock";
    server_ = Must(agent::LocalServer::Start(ParseAddress(socket).value(), *service_, std::make_shared<MetricSet>()),
                   "local service");
    stub_ = v1::LocalService::NewStub(grpc::CreateChannel(socket, grpc::InsecureChannelCredentials()));
  }
  ~World() {
    server_.reset();
    for (uint32_t i = 0; i < vms_.size(); ++i) {
      targets_.Withdraw(Name(i));
      targets_.Forget(Name(i));
    }
  }

  static std::string Name(size_t i) { return fmt::format("viommus/v{}", i); }
  size_t size() const { return vms_.size(); }
  Vm& vm(size_t i) { return vms_[i]; }
  agent::EmulatedBackend& backend() { return *backend_; }
  double vdevice_bytes() const {
    return static_cast<double>(heap_with_vdevices_ - heap_without_vdevices_) / static_cast<double>(vms_.size());
  }

  // One call over the socket for viommu `i`.
  void OverGrpc(size_t i, const v1::LocalInvalidateRequest& request) {
    grpc::ClientContext context;
    v1::LocalInvalidateResponse response;
    const grpc::Status status = stub_->LocalInvalidate(&context, request, &response);
    if (!status.ok() || response.result().has_stop())
      Die("LocalInvalidate of " + Name(i) + ": " + response.DebugString());
  }
  // One call of the backend.
  void Direct(size_t i, std::span<const RawCommand> commands) {
    Must(vms_[i].context->Invalidate(vms_[i].viommu, agent::InvalidateDataType::kArmSmmuv3, commands).status,
         "invalidate");
  }

 private:
  const std::unique_ptr<agent::EmulatedBackend> backend_;
  agent::Targets targets_;
  std::vector<Vm> vms_;
  uint64_t heap_without_vdevices_ = 0;
  uint64_t heap_with_vdevices_ = 0;
  std::unique_ptr<agent::Invalidator> invalidator_;
  std::unique_ptr<agent::LocalServiceImpl> service_;
  std::unique_ptr<agent::LocalServer> server_;
  std::unique_ptr<v1::LocalService::Stub> stub_;
};

v1::LocalInvalidateRequest GrpcRequest(size_t viommu, int commands) {
  v1::LocalInvalidateRequest request;
  request.set_target(World::Name(viommu));
  for (int i = 0; i < commands; ++i) {
    auto& tlbi = *request.add_commands()->mutable_tlbi_nh_va();
    tlbi.set_asid(5);
    tlbi.set_address(static_cast<uint64_t>(i % 512) * kPage);
    tlbi.set_leaf(true);
  }
  return request;
}

struct Result {
  double per_s = 0;
  double p50_us = 0;
  double p99_us = 0;
};

// Calls `once(number)` over and over; each call is `commands` commands.
Result Measure(double seconds, int commands, const std::function<void(uint64_t)>& once) {
  for (uint64_t i = 0; i < 64; ++i) once(i);  // warm-up
  std::vector<double> latencies;
  const auto begin = SteadyClock::now();
  const auto end = begin + std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
  auto now = begin;
  for (uint64_t number = 0; now < end; ++number) {
    once(number);
    const auto after = SteadyClock::now();
    latencies.push_back(std::chrono::duration<double, std::micro>(after - now).count());
    now = after;
  }
  const double took = std::chrono::duration<double>(now - begin).count();
  std::sort(latencies.begin(), latencies.end());
  return {.per_s = static_cast<double>(latencies.size()) * commands / took,
          .p50_us = latencies[latencies.size() / 2],
          .p99_us = latencies[latencies.size() * 99 / 100]};
}

// The hardware queue of the first viommu, as a VMM has it.
class HwQueue {
 public:
  explicit HwQueue(World& world) : vm_(world.vm(0)), memory_(::memfd_create("queue", MFD_CLOEXEC)) {
    if (::ftruncate(memory_.get(), kQueueBytes) != 0) Die("memfd");
    Must(vm_.context->MapIoas(vm_.ioas, kQueueIova, kQueueBytes, {.fd = memory_.get()}), "queue memory");
    id_ = Must(vm_.context->AllocHwQueue(vm_.viommu, agent::HwQueueType::kTegra241Cmdqv, 0, kQueueIova, kQueueBytes),
               "queue");
    const agent::VintfMapping mapping = Must(vm_.context->MapVintf(vm_.viommu), "registers");
    auto page = smmuv3::VintfPage::Map(mapping.fd, mapping.offset, mapping.length);
    ::close(mapping.fd);
    ring_ = ::mmap(nullptr, kQueueBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
    if (page == nullptr || ring_ == MAP_FAILED) Die("mmap");
    producer_ =
        std::make_unique<smmuv3::VcmdqProducer>(page, 0, std::span(static_cast<std::byte*>(ring_), kQueueBytes));
    if (!producer_->Enable(Deadline())) Die("the queue cannot be switched on");
  }
  ~HwQueue() {
    static_cast<void>(producer_->Disable(Deadline()));
    producer_.reset();
    ::munmap(ring_, kQueueBytes);
    Must(vm_.context->UnmapVintf(vm_.viommu), "registers");
    Must(vm_.context->Destroy(id_), "queue");
    Must(vm_.context->UnmapIoas(vm_.ioas, kQueueIova, kQueueBytes).status(), "queue memory");
  }

  void SubmitAndSync(std::span<const RawCommand> commands) {
    using WaitResult = smmuv3::VcmdqProducer::WaitResult;
    if (producer_->Submit(commands, Deadline()).result != WaitResult::kDone ||
        producer_->Sync(Deadline()) != WaitResult::kDone) {
      Die("the queue stands still");
    }
  }

 private:
  static SteadyClock::time_point Deadline() { return SteadyClock::now() + std::chrono::seconds(10); }

  Vm& vm_;
  const FileDescriptor memory_;
  ObjectId id_ = 0;
  void* ring_ = nullptr;
  std::unique_ptr<smmuv3::VcmdqProducer> producer_;
};

std::vector<RawCommand> Commands(int count) {
  std::vector<RawCommand> commands;
  for (int i = 0; i < count; ++i) commands.push_back(TlbiNhVa(static_cast<uint64_t>(i)));
  return commands;
}

void AddWays(Report& report, World& world, double seconds) {
  const auto one = GrpcRequest(0, 1);
  const Result base = Measure(seconds, 1, [&](uint64_t) { world.OverGrpc(0, one); });
  const std::string rival = "gRPC, one a call";
  report.Add({rival, "commands", "1/s", base.per_s, Better::kHigher, "", 0, {}});
  report.Add({rival, "p50", "us", base.p50_us, Better::kLower, "", 0, {}});
  report.Add({rival, "p99", "us", base.p99_us, Better::kLower, "", 0, {}});
  const auto add = [&](const std::string& subject, const Result& result) {
    report.Add({subject, "commands", "1/s", result.per_s, Better::kHigher, rival, base.per_s, {}});
    report.Add({subject, "p50 of a call", "us", result.p50_us, Better::kLower, rival, base.p50_us, {}});
    report.Add({subject, "p99 of a call", "us", result.p99_us, Better::kLower, rival, base.p99_us, {}});
  };
  for (const int batch : {63, 1024}) {
    const auto request = GrpcRequest(0, batch);
    add(fmt::format("gRPC, {} a call", batch), Measure(seconds, batch, [&](uint64_t) { world.OverGrpc(0, request); }));
  }
  for (const int batch : {1, 63, 1024}) {
    const auto commands = Commands(batch);
    add(fmt::format("backend, {} a call", batch),
        Measure(seconds, batch, [&](uint64_t) { world.Direct(0, commands); }));
  }
  HwQueue queue(world);
  for (const int batch : {1, 63, 1024}) {
    const auto commands = Commands(batch);
    add(fmt::format("hardware queue, {} and a sync", batch),
        Measure(seconds, batch, [&](uint64_t) { queue.SubmitAndSync(commands); }));
  }
}

// Bytes of the heap for each page of a device's that the SMMU has cached.
double TranslationBytes(World& world) {
  constexpr uint64_t kPages = 1024;
  Vm& vm = world.vm(0);
  const FileDescriptor memory(::memfd_create("guest", MFD_CLOEXEC));
  if (::ftruncate(memory.get(), kPages * kPage) != 0) Die("memfd");
  // Every second page, so that no block covers more than one.
  for (uint64_t i = 0; i < kPages; ++i) {
    Must(vm.context->MapIoas(vm.ioas, 2 * i * kPage, kPage, {.fd = memory.get(), .offset = i * kPage}), "map");
  }
  Must(vm.context->Attach(vm.device, vm.stage2), "attach");
  agent::DmaRequest access;
  access.pci_address = vm.pci_address;
  const auto translate = [&](uint64_t page) {
    access.address = 2 * page * kPage;
    if (Must(world.backend().device_dma()->Translate(access, false), "translate").outcome !=
        agent::DmaResult::Outcome::kDone) {
      Die("a translation failed");
    }
  };
  const uint64_t entries_before = world.backend().GetStats()[0].tlb_entries;
  const uint64_t heap_before = HeapBytes();
  for (uint64_t i = 0; i < kPages; ++i) translate(i);
  const uint64_t entries = world.backend().GetStats()[0].tlb_entries - entries_before;
  const double bytes = static_cast<double>(HeapBytes() - heap_before);
  Must(vm.context->Detach(vm.device), "detach");
  return bytes / static_cast<double>(std::max<uint64_t>(entries, 1));
}

// What the entries of one VM in the TLB make of the cost of its commands.
void AddFullTlb(Report& report, const std::string& dir, double seconds) {
  for (const bool by_asid : {true, false}) {
    std::vector<RawCommand> commands = Commands(63);
    if (!by_asid) {
      for (uint64_t i = 0; i < commands.size(); ++i) {
        commands[i] = smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhVaa, .address = i * kPage, .leaf = true});
      }
    }
    Result few;
    for (const uint32_t pages : {kCached, kManyCached}) {
      World world(dir, 1);
      FillTlb(world.backend(), world.vm(0), pages);
      const Result result = Measure(seconds, 63, [&](uint64_t) { world.Direct(0, commands); });
      if (pages == kCached) {
        few = result;
        continue;
      }
      report.Add({fmt::format("{} by {}, {} translations", by_asid ? "NH_VA" : "NH_VAA",
                              by_asid ? "ASID and address" : "address", pages),
                  "cost",
                  "ns/command",
                  1e9 / result.per_s,
                  Better::kLower,
                  fmt::format("{} translations", kCached),
                  1e9 / few.per_s,
                  {}});
    }
  }
}

int Main(int argc, char** argv) {
  Report report("invalidate", argc, argv);
  const double seconds = report.quick() ? 0.2 : 2;
  std::string dir = "/tmp/viommu-bench-XXXXXX";
  if (mkdtemp(dir.data()) == nullptr) Die("cannot make a folder");
  {
    World world(dir, 1);
    AddWays(report, world, seconds);
    report.Add({"cached translation", "heap", "bytes", TranslationBytes(world), Better::kLower, "", 0, {}});
  }
  {
    // What is preallocated, whether it is used or not.
    const uint64_t begin = HeapBytes();
    const auto small = Must(agent::EmulatedBackend::Create(OneSmmu(1, kTlbCapacity)), "backend");
    const uint64_t middle = HeapBytes();
    const auto large = Must(agent::EmulatedBackend::Create(OneSmmu(1, 2 * kTlbCapacity)), "backend");
    const double more = static_cast<double>(HeapBytes() - middle) - static_cast<double>(middle - begin);
    report.Add({"place of a translation", "heap", "bytes", more / kTlbCapacity, Better::kLower, "", 0, {}});
  }
  AddFullTlb(report, dir, seconds);
  Result alone_direct, alone_grpc;
  for (const uint32_t viommus : {1u, 10u, 100u, 1000u}) {
    const uint64_t heap_before = HeapBytes();
    World world(dir, viommus);
    const double viommu_bytes = static_cast<double>(HeapBytes() - heap_before) / viommus - world.vdevice_bytes();
    const double table_bytes = static_cast<double>(world.backend().GetMemoryStats().table_bytes) / viommus;
    for (uint32_t i = 0; i < viommus; ++i) FillTlb(world.backend(), world.vm(i), kCached);
    const auto commands = Commands(63);
    const Result direct = Measure(seconds, 63, [&](uint64_t n) { world.Direct(n % viommus, commands); });
    std::vector<v1::LocalInvalidateRequest> requests;
    for (uint32_t i = 0; i < viommus; ++i) requests.push_back(GrpcRequest(i, 63));
    const Result grpc = Measure(seconds, 63, [&](uint64_t n) { world.OverGrpc(n % viommus, requests[n % viommus]); });
    if (viommus == 1) {
      alone_direct = direct;
      alone_grpc = grpc;
    }
    const std::string subject = fmt::format("{} viommus, 63 a call", viommus);
    report.Add({subject + ", backend",
                "cost",
                "ns/command",
                1e9 / direct.per_s,
                Better::kLower,
                "one viommu",
                1e9 / alone_direct.per_s,
                {}});
    report.Add({subject + ", gRPC",
                "cost",
                "ns/command",
                1e9 / grpc.per_s,
                Better::kLower,
                "one viommu",
                1e9 / alone_grpc.per_s,
                {}});
    if (viommus == 1000) {
      report.Add({"viommu, with its context and stage 2", "heap", "bytes", viommu_bytes, Better::kLower, "", 0, {}});
      report.Add({"stage 2 without memory", "tables", "bytes", table_bytes, Better::kLower, "", 0, {}});
      report.Add({"vdevice", "heap", "bytes", world.vdevice_bytes(), Better::kLower, "", 0, {}});
    }
  }
  ::rmdir(dir.c_str());
  report.Note("callers, the agent's parts and the SMMU's threads share the machine's cores");
  return report.Finish();
}

}  // namespace
}  // namespace viommu::bench

int main(int argc, char** argv) { return viommu::bench::Main(argc, argv); }
