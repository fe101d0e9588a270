// What a change costs the writer, from the rules to publication: CommitCore alone, on one thread and without gRPC, with
// a store that keeps nothing and with RocksDB in the folder for temporary files.

#include <fmt/format.h>
#include <time.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "common/uuid.h"
#include "server/commit/core.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "server/store/rocksdb_store.h"
#include "server/store/testing/temp_folder.h"
#include "tests/bench/report.h"

namespace viommu::server {
namespace {

constexpr int kDevicesPerHost = 16'384;
constexpr int kBatch = 32;

[[noreturn]] void Die(const absl::Status& status) {
  fmt::print(stderr, "{}\n", status.ToString());
  std::abort();
}

// Forgets what it is given.
class NoStore final : public Store {
 public:
  absl::Status Commit(const Batch&, Durability) override { return absl::OkStatus(); }
  absl::Status Recover() override { return absl::OkStatus(); }
  absl::StatusOr<std::optional<std::string>> Get(KeySpace, std::string_view) const override {
    return std::optional<std::string>();
  }
  absl::Status Scan(KeySpace, std::string_view, std::string_view,
                    absl::FunctionRef<bool(std::string_view, std::string_view)>) const override {
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<BackupInfo>> Backup(const std::string&, const std::string&, size_t) override {
    return std::vector<BackupInfo>();
  }
  void StopBackups() override {}
  absl::StatusOr<std::vector<BackupInfo>> ListBackups(const std::string&) const override {
    return std::vector<BackupInfo>();
  }
  std::string Describe() const override { return "none"; }
};

// As a call of the fleet service asks for it (server/api/mutation.h).
template <typename Request, typename Answer>
class Call final : public Command {
 public:
  Call(std::string name, std::string viommu) {
    method = std::move(name);
    target = std::move(viommu);
    caller = "anonymous";
    peer = "unix:";
    request_id = NewUuid();
    fingerprint = std::string(16, 'f');
  }

  absl::Status Judge(const Context& context, Draft& draft) override {
    VIOMMU_ASSIGN_OR_RETURN(answer_, server::Judge(request, context, draft));
    return absl::OkStatus();
  }
  std::string Response() const override { return answer_.SerializeAsString(); }
  void Done(absl::Status, int64_t) override {}
  bool Names(std::string_view resource) const override {
    if constexpr (requires { request.device(); }) return resource == request.device();
    return true;
  }

  Request request;

 private:
  Answer answer_;
};

std::string DeviceName(int64_t host, int64_t device) {
  return fmt::format("hosts/h{}/devices/{:04x}:{:02x}:{:02x}.{}", host, device >> 11, (device >> 8) & 7,
                     (device >> 3) & 31, device & 7);
}

class World {
 public:
  explicit World(Store& store) {
    auto core = CommitCore::Open(store, RealClock(), NewUuid, {});
    if (!core.ok()) Die(core.status());
    core_ = *std::move(core);
  }

  // A device that nobody has.
  struct Slot {
    std::string viommu;
    std::string device;
    uint64_t vdev_id;
  };
  Slot Next() {
    const int64_t host = next_ / kDevicesPerHost;
    const int64_t device = next_++ % kDevicesPerHost;
    return {fmt::format("viommus/v{}", host), DeviceName(host, device), static_cast<uint64_t>(device + 1)};
  }

  // Makes room for that many slots.
  void Reserve(int64_t slots) {
    while (hosts_ * kDevicesPerHost < next_ + slots) AddHost(hosts_++);
  }

  void Run(std::vector<Command*>& commands) {
    for (const CommitCore::Outcome& outcome : core_->Run(commands)) {
      if (!outcome.status.ok()) Die(outcome.status);
    }
  }

 private:
  class Body final : public Command {
   public:
    explicit Body(std::function<absl::Status(const Context&, Draft&)> body) : body_(std::move(body)) {}
    absl::Status Judge(const Context& context, Draft& draft) override { return body_(context, draft); }
    void Done(absl::Status, int64_t) override {}

   private:
    std::function<absl::Status(const Context&, Draft&)> body_;
  };

  template <typename F>
  void Do(F judge) {
    Body body([&](const Context& context, Draft& draft) { return judge(context, draft); });
    std::vector<Command*> one = {&body};
    Run(one);
  }

  void AddHost(int64_t number) {
    v1::Hello hello;
    hello.set_agent_id(NewUuid());
    hello.mutable_host()->set_name(fmt::format("hosts/h{}", number));
    hello.mutable_host()->set_stage2_sharing(v1::STAGE2_SHARING_SHARED);
    v1::Smmu& smmu = *hello.mutable_host()->add_smmus();
    smmu.set_name(fmt::format("hosts/h{}/smmus/s0", number));
    smmu.set_vmid_bits(16);
    smmu.set_sid_bits(20);
    smmu.add_idr(0x3);
    for (int i = 0; i < kDevicesPerHost; ++i) {
      v1::Device& device = *hello.add_devices();
      device.set_name(DeviceName(number, i));
      device.set_smmu(smmu.name());
      device.set_stream_id(static_cast<uint32_t>(i));
      device.set_iommu_group(static_cast<uint32_t>(i));
    }
    Do([&](const Context& context, Draft& draft) { return JudgeHello(hello, context, draft); });
    v1::CreateStage2DomainRequest stage2;
    stage2.set_stage2_domain_id(fmt::format("s{}", number));
    stage2.mutable_stage2_domain()->set_host(hello.host().name());
    stage2.mutable_stage2_domain()->set_vm(fmt::format("vm-{}", number));
    Do([&](const Context& context, Draft& draft) { return Judge(stage2, context, draft).status(); });
    v1::CreateViommuRequest viommu;
    viommu.set_viommu_id(fmt::format("v{}", number));
    viommu.mutable_viommu()->set_smmu(smmu.name());
    viommu.mutable_viommu()->set_stage2_domain(Stage2DomainName(stage2.stage2_domain_id()));
    Do([&](const Context& context, Draft& draft) { return Judge(viommu, context, draft).status(); });
  }

  std::unique_ptr<CommitCore> core_;
  int64_t hosts_ = 0;
  int64_t next_ = 0;
};

using Set = Call<v1::SetVdevIdRequest, v1::SetVdevIdResponse>;
using BatchSet = Call<v1::BatchSetVdevIdsRequest, v1::BatchSetVdevIdsResponse>;

// What so many calls of one write ask for.
std::vector<std::unique_ptr<Command>> Sets(World& world, int calls) {
  std::vector<std::unique_ptr<Command>> commands;
  for (int i = 0; i < calls; ++i) {
    const World::Slot slot = world.Next();
    auto call = std::make_unique<Set>("SetVdevId", slot.viommu);
    call->request.set_viommu(slot.viommu);
    call->request.set_device(slot.device);
    call->request.set_vdev_id(slot.vdev_id);
    commands.push_back(std::move(call));
  }
  return commands;
}

std::vector<std::unique_ptr<Command>> BatchSets(World& world, int calls) {
  std::vector<std::unique_ptr<Command>> commands;
  for (int i = 0; i < calls; ++i) {
    auto call = std::make_unique<BatchSet>("BatchSetVdevIds", "");
    for (int j = 0; j < kBatch; ++j) {
      const World::Slot slot = world.Next();
      call->target = slot.viommu;
      call->request.set_viommu(slot.viommu);
      auto* assignment = call->request.add_assignments();
      assignment->set_device(slot.device);
      assignment->set_vdev_id(slot.vdev_id);
    }
    commands.push_back(std::move(call));
  }
  return commands;
}

std::chrono::nanoseconds ThreadTime() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

using Make = std::vector<std::unique_ptr<Command>> (*)(World&, int calls);

// Processor time of the writer's thread for each vdev_id, in microseconds.
double Measure(Store& store, Make make, int calls, int64_t vdev_ids_a_call, int64_t vdev_ids) {
  World world(store);
  std::chrono::nanoseconds spent{};
  // A change set that leaves the log in memory is freed: the first run fills it.
  for (const bool measured : {false, true}) {
    for (int64_t done = 0; done < vdev_ids; done += calls * vdev_ids_a_call) {
      world.Reserve(calls * vdev_ids_a_call);
      const auto commands = make(world, calls);
      std::vector<Command*> batch;
      for (const auto& command : commands) batch.push_back(command.get());
      const std::chrono::nanoseconds begin = ThreadTime();
      world.Run(batch);
      if (measured) spent += ThreadTime() - begin;
    }
  }
  return std::chrono::duration<double, std::micro>(spent).count() / static_cast<double>(vdev_ids);
}

int Main(int argc, char** argv) {
  bench::Report report("commit", argc, argv);
  const int64_t vdev_ids = report.quick() ? 2 * kDevicesPerHost : 8 * kDevicesPerHost;
  const auto add = [&](const std::string& subject, Make make, int calls, int64_t vdev_ids_a_call) {
    NoStore none;
    const double alone = Measure(none, make, calls, vdev_ids_a_call, vdev_ids);
    const TempFolder folder;
    size_t bytes = 0;
    RocksDbOptions options;
    options.on_commit = [&bytes](const CommitSample& sample) { bytes = sample.bytes; };
    auto store = RocksDbStore::Open(folder.path(), options);
    if (!store.ok()) Die(store.status());
    const double whole = Measure(**store, make, calls, vdev_ids_a_call, vdev_ids);
    report.Add({.subject = subject,
                .metric = "writer, without a store",
                .unit = "us",
                .value = alone,
                .better = bench::Better::kLower});
    report.Add({.subject = subject,
                .metric = "writer, with RocksDB",
                .unit = "us",
                .value = whole,
                .better = bench::Better::kLower});
    report.Add({.subject = subject,
                .metric = "bytes to the store",
                .unit = "",
                .value = static_cast<double>(bytes) / static_cast<double>(calls * vdev_ids_a_call),
                .better = bench::Better::kLower});
  };
  add("SetVdevId, 64 in a write", Sets, 64, 1);
  add("SetVdevId, alone in a write", Sets, 1, 1);
  add(fmt::format("BatchSetVdevIds of {}, 8 in a write", kBatch), BatchSets, 8, kBatch);
  report.Note("processor time of the writer's thread for each vdev_id");
  return report.Finish();
}

}  // namespace
}  // namespace viommu::server

int main(int argc, char** argv) { return viommu::server::Main(argc, argv); }
