// The control plane under load, against what it stands on: RocksDB's own synced writes, and an empty call.
//
//   SetVdevId, durable    rate and latency by number of callers; rivals: as many threads that each put a value of as
//                         many bytes as the server writes for a call into RocksDB with a sync (its group commit), and
//                         an empty call to the same server
//   BatchSetVdevIds(32)   per vdev_id; rival: SetVdevId by as many callers
//   GetVdevice            rival: the empty call
//   one caller            latency; rival: one fdatasync of the same disk
//   64 callers            also the processor time of a call, by threads; rival: the empty call's
//
// Everything runs in this process: the server with RocksDB in a folder of its own below --dir, its clients over a unix
// socket, and the rivals in the same folder and the same run.

#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <netinet/in.h>
#include <rocksdb/db.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/address.h"
#include "common/uuid.h"
#include "server/server.h"
#include "tests/bench/echo.grpc.pb.h"
#include "tests/bench/load.h"
#include "tests/bench/report.h"
#include "viommu/v1/agent_service.grpc.pb.h"
#include "viommu/v1/fleet_service.grpc.pb.h"

namespace viommu::bench {
namespace {

using Fleet = v1::FleetService;

constexpr int kDevicesPerHost = 16'384;
constexpr int kChannels = 4;  // connections that the callers share

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

void Must(const grpc::Status& status, const std::string& what) {
  if (!status.ok()) Die(what + ": " + status.error_message());
}

std::string HttpGet(const std::string& address, const std::string& path) {
  const Address at = ParseAddress(address).value();
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(at.port);
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0 ||
      write(fd, request.data(), request.size()) != static_cast<ssize_t>(request.size())) {
    Die("cannot read http://" + address + path);
  }
  std::string reply;
  char buffer[4096];
  for (ssize_t size = 0; (size = read(fd, buffer, sizeof(buffer))) > 0;) {
    reply.append(buffer, static_cast<size_t>(size));
  }
  close(fd);
  return reply;
}

// Processor time of this process's threads in microseconds, by what they do.
std::map<std::string, double> ProcessorTimes() {
  std::map<std::string, double> times;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string thread;
    std::getline(std::ifstream(task.path() / "comm"), thread);
    double run_ns = 0;
    std::ifstream(task.path() / "schedstat") >> run_ns;
    const char* role = thread == "viommu-writer"        ? "the writer"
                       : thread == "viommu-answerer"    ? "the answering thread"
                       : thread.starts_with("rocksdb:") ? "RocksDB's threads that write tables"
                                                        : "gRPC on both ends";
    times[role] += run_ns / 1e3;
  }
  return times;
}

class EchoServer final : public EchoService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const EchoRequest*, EchoResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// A server, with hosts that were there once (nobody applies what is recorded: the record is what is measured) and a
// viommu on each.
class World {
 public:
  explicit World(const std::string& dir) {
    const std::string socket = "unix:" + dir + "/server.sock";
    server::ServerConfig config;
    config.listen = {socket};
    config.store = "rocksdb:" + dir + "/store";
    config.metrics_listen = ParseAddress("127.0.0.1:0").value();
    config.log_level = LogLevel::kError;
    auto started = server::Server::Start(config, nullptr, RealClock(), {&echo_});
    if (!started.ok()) Die(started.status().ToString());
    server_ = *std::move(started);
    for (int i = 0; i < kChannels; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetMaxSendMessageSize(-1);
      channels_.push_back(grpc::CreateCustomChannel(socket, grpc::InsecureChannelCredentials(), arguments));
      fleets_.push_back(Fleet::NewStub(channels_.back()));
      echos_.push_back(EchoService::NewStub(channels_.back()));
    }
  }

  Fleet::Stub& fleet(int caller) { return *fleets_[static_cast<size_t>(caller) % fleets_.size()]; }
  EchoService::Stub& echo(int caller) { return *echos_[static_cast<size_t>(caller) % echos_.size()]; }

  // Where the next assignment goes: a device that nobody has, and a free vdev_id. Nothing when all devices of all hosts
  // are taken: a faster machine than AddHosts() was told of has a shorter run. Thread-safe.
  struct Slot {
    std::string viommu;
    std::string device;
    uint64_t vdev_id;
  };
  std::optional<Slot> NextSlot() {
    const int64_t number = next_slot_.fetch_add(1);
    if (number >= slots_) return std::nullopt;
    return SlotAt(number);
  }

  // A run of slots behind one viommu; empty when they are used up.
  std::vector<Slot> NextSlots(int count) {
    while (true) {
      const int64_t first = next_slot_.fetch_add(count);
      if (first + count > slots_) return {};
      if (first / kDevicesPerHost != (first + count - 1) / kDevicesPerHost) continue;
      std::vector<Slot> slots;
      for (int i = 0; i < count; ++i) slots.push_back(SlotAt(first + i));
      return slots;
    }
  }

  // Not while a load runs.
  void AddHosts(int64_t devices) {
    next_slot_ = std::min<int64_t>(next_slot_, slots_);
    while (slots_ - next_slot_ < devices) {
      AddHost(hosts_++);
      slots_ += kDevicesPerHost;
    }
  }

  // A vdevice that is there.
  std::string VdeviceName() const { return "viommus/v0/vdevices/1"; }

  // What the server has handed to its store so far, as it counts it.
  double StoreBytes() const {
    constexpr char kMetric[] = "\nviommu_server_store_written_bytes_total ";
    const std::string metrics = HttpGet(server_->metrics_address(), "/metrics");
    const size_t at = metrics.find(kMetric);
    if (at == std::string::npos) Die("the server's metrics tell no bytes written");
    return std::stod(metrics.substr(at + sizeof(kMetric) - 1));
  }

 private:
  static Slot SlotAt(int64_t number) {
    const int64_t host = number / kDevicesPerHost;
    const int64_t device = number % kDevicesPerHost;
    return {fmt::format("viommus/v{}", host), DeviceName(host, device), static_cast<uint64_t>(device + 1)};
  }

  static std::string DeviceName(int64_t host, int64_t device) {
    return fmt::format("hosts/h{}/devices/{:04x}:{:02x}:{:02x}.{}", host, device >> 11, (device >> 8) & 7,
                       (device >> 3) & 31, device & 7);
  }

  void AddHost(int number) {
    const std::string host = fmt::format("hosts/h{}", number);
    const std::string smmu = host + "/smmus/s0";
    v1::ConnectRequest connect;
    v1::Hello& hello = *connect.mutable_hello();
    hello.set_protocol_version(1);
    hello.set_agent_id(NewUuid());
    hello.set_agent_version("bench");
    hello.mutable_host()->set_name(host);
    hello.mutable_host()->set_boot_id(NewUuid());
    hello.mutable_host()->set_backend("bench");
    hello.mutable_host()->set_stage2_sharing(v1::STAGE2_SHARING_SHARED);
    v1::Smmu& described = *hello.mutable_host()->add_smmus();
    described.set_name(smmu);
    described.set_vmid_bits(16);
    described.set_sid_bits(20);
    described.add_idr(0x3);  // both stages
    for (int i = 0; i < 5; ++i) described.add_idr(0);
    for (int i = 0; i < kDevicesPerHost; ++i) {
      v1::Device& device = *hello.add_devices();
      device.set_name(DeviceName(number, i));
      device.set_smmu(smmu);
      device.set_stream_id(static_cast<uint32_t>(i));
      device.set_iommu_group(static_cast<uint32_t>(i));
    }
    grpc::ClientContext context;
    auto stream = v1::AgentService::NewStub(channels_[0])->Connect(&context);
    v1::ConnectResponse response;
    if (!stream->Write(connect) || !stream->Read(&response)) Must(stream->Finish(), "hello");
    stream->WritesDone();
    while (stream->Read(&response)) {
    }
    stream->Finish().error_message();

    v1::CreateStage2DomainRequest stage2;
    stage2.set_stage2_domain_id(fmt::format("s{}", number));
    stage2.mutable_stage2_domain()->set_host(host);
    stage2.mutable_stage2_domain()->set_vm(fmt::format("vm-{}", number));
    v1::CreateStage2DomainResponse stage2_made;
    grpc::ClientContext stage2_context;
    Must(fleet(0).CreateStage2Domain(&stage2_context, stage2, &stage2_made), "stage 2");
    v1::CreateViommuRequest viommu;
    viommu.set_viommu_id(fmt::format("v{}", number));
    viommu.mutable_viommu()->set_smmu(smmu);
    viommu.mutable_viommu()->set_stage2_domain(stage2_made.stage2_domain().name());
    v1::CreateViommuResponse viommu_made;
    grpc::ClientContext viommu_context;
    Must(fleet(0).CreateViommu(&viommu_context, viommu, &viommu_made), "viommu");
  }

  EchoServer echo_;
  std::unique_ptr<server::Server> server_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<Fleet::Stub>> fleets_;
  std::vector<std::unique_ptr<EchoService::Stub>> echos_;
  int hosts_ = 0;
  std::atomic<int64_t> slots_ = 0;
  std::atomic<int64_t> next_slot_ = 0;
};

LoadResult RunEcho(World& world, int callers, double seconds) {
  return Load<EchoRequest, EchoResponse>(
             [&](int caller, grpc::ClientContext* context, const EchoRequest* request, EchoResponse* response,
                 auto done) { world.echo(caller).async()->Echo(context, request, response, std::move(done)); },
             [](int, EchoRequest*) { return true; })
      .Run(callers, seconds);
}

LoadResult RunSet(World& world, int callers, double seconds) {
  return Load<v1::SetVdevIdRequest, v1::SetVdevIdResponse>(
             [&](int caller, grpc::ClientContext* context, const v1::SetVdevIdRequest* request,
                 v1::SetVdevIdResponse* response,
                 auto done) { world.fleet(caller).async()->SetVdevId(context, request, response, std::move(done)); },
             [&](int, v1::SetVdevIdRequest* request) {
               const auto slot = world.NextSlot();
               if (!slot) return false;
               request->set_viommu(slot->viommu);
               request->set_device(slot->device);
               request->set_vdev_id(slot->vdev_id);
               request->set_request_id(NewUuid());
               return true;
             })
      .Run(callers, seconds);
}

LoadResult RunBatch(World& world, int callers, int size, double seconds) {
  return Load<v1::BatchSetVdevIdsRequest, v1::BatchSetVdevIdsResponse>(
             [&](int caller, grpc::ClientContext* context, const v1::BatchSetVdevIdsRequest* request,
                 v1::BatchSetVdevIdsResponse* response, auto done) {
               world.fleet(caller).async()->BatchSetVdevIds(context, request, response, std::move(done));
             },
             [&](int, v1::BatchSetVdevIdsRequest* request) {
               const auto slots = world.NextSlots(size);
               if (slots.empty()) return false;
               request->Clear();
               request->set_request_id(NewUuid());
               for (const World::Slot& slot : slots) {
                 request->set_viommu(slot.viommu);
                 auto* assignment = request->add_assignments();
                 assignment->set_device(slot.device);
                 assignment->set_vdev_id(slot.vdev_id);
               }
               return true;
             })
      .Run(callers, seconds);
}

LoadResult RunGet(World& world, int callers, double seconds) {
  return Load<v1::GetVdeviceRequest, v1::GetVdeviceResponse>(
             [&](int caller, grpc::ClientContext* context, const v1::GetVdeviceRequest* request,
                 v1::GetVdeviceResponse* response,
                 auto done) { world.fleet(caller).async()->GetVdevice(context, request, response, std::move(done)); },
             [&](int, v1::GetVdeviceRequest* request) {
               request->set_name(world.VdeviceName());
               return true;
             })
      .Run(callers, seconds);
}

// As many threads as callers, each putting values with a sync: RocksDB groups them.
LoadResult RunRocksDb(const std::string& path, int threads, size_t value_bytes, double seconds) {
  rocksdb::Options options;
  options.create_if_missing = true;
  rocksdb::DB* raw = nullptr;
  if (const auto status = rocksdb::DB::Open(options, path, &raw); !status.ok()) Die(status.ToString());
  const std::unique_ptr<rocksdb::DB> db(raw);
  const std::string value(value_bytes, 'v');
  const auto begin = std::chrono::steady_clock::now();
  const auto end = begin + std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
  std::vector<std::vector<double>> latencies(static_cast<size_t>(threads));
  std::vector<std::thread> all;
  for (int thread = 0; thread < threads; ++thread) {
    all.emplace_back([&, thread] {
      rocksdb::WriteOptions write;
      write.sync = true;
      for (int64_t i = 0;; ++i) {
        const auto start = std::chrono::steady_clock::now();
        if (start >= end) return;
        const auto status = db->Put(write, fmt::format("{:04}-{:012}", thread, i), value);
        if (!status.ok()) Die(status.ToString());
        latencies[static_cast<size_t>(thread)].push_back(
            std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
      }
    });
  }
  for (std::thread& thread : all) thread.join();
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::vector<double> merged;
  for (const auto& each : latencies) merged.insert(merged.end(), each.begin(), each.end());
  return Summarize(merged, took);
}

LoadResult RunFdatasync(const std::string& path, size_t bytes, double seconds) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) Die("open " + path);
  const std::string value(bytes, 'v');
  const auto begin = std::chrono::steady_clock::now();
  const auto end = begin + std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
  std::vector<double> latencies;
  while (std::chrono::steady_clock::now() < end) {
    const auto start = std::chrono::steady_clock::now();
    if (write(fd, value.data(), value.size()) < 0 || fdatasync(fd) != 0) Die("fdatasync " + path);
    latencies.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  close(fd);
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return Summarize(latencies, took);
}

int Main(int argc, char** argv) {
  Report report("control", argc, argv);
  const double seconds = report.quick() ? 0.5 : 4;
  const char* tmp = std::getenv("TMPDIR");
  std::string dir = std::string(tmp != nullptr ? tmp : "/var/tmp") + "/viommu-bench-XXXXXX";
  if (mkdtemp(dir.data()) == nullptr) Die("cannot make a folder " + dir);

  {
    World world(dir);
    const auto devices_for = [&](double rate) { return static_cast<int64_t>(rate * seconds); };
    world.AddHosts(devices_for(3000));
    RunSet(world, 16, 0.2);  // warm-up: connections, first memtable

    double set_rate_at_64 = 0;
    for (const int callers : {1, 16, 64, 256}) {
      world.AddHosts(devices_for(callers == 1 ? 4000 : 25'000));
      const double bytes_before = world.StoreBytes();
      const std::map<std::string, double> before = ProcessorTimes();
      const LoadResult set = RunSet(world, callers, seconds);
      const std::map<std::string, double> after = ProcessorTimes();
      // A vdevice, its device, the change log's entry and the answer under the request id.
      const auto value_bytes = static_cast<size_t>((world.StoreBytes() - bytes_before) /
                                                   static_cast<double>(std::max<int64_t>(set.calls, 1)));
      const LoadResult rocks = RunRocksDb(fmt::format("{}/rival-{}", dir, callers), callers, value_bytes, seconds);
      const std::clock_t echo_began = std::clock();
      const LoadResult echo = RunEcho(world, callers, seconds);
      const double echo_us = static_cast<double>(std::clock() - echo_began) * 1e6 / CLOCKS_PER_SEC;
      const std::string subject = fmt::format("SetVdevId, {} caller{}", callers, callers == 1 ? "" : "s");
      const std::string rival = fmt::format("RocksDB synced puts of {} bytes", value_bytes);
      Row row{subject, "throughput", "1/s", set.calls_per_s, Better::kHigher, rival, rocks.calls_per_s, {}};
      if (callers >= 64) row.aim = 0.9;
      report.Add(row);
      Row against_echo{subject,      "throughput",     "1/s", set.calls_per_s, Better::kHigher,
                       "empty call", echo.calls_per_s, {}};
      if (callers >= 64) against_echo.aim = 0.6;
      report.Add(against_echo);
      report.Add({subject, "p50", "us", set.p50_us, Better::kLower, rival, rocks.p50_us, {}});
      report.Add({subject, "p99", "us", set.p99_us, Better::kLower, rival, rocks.p99_us, {}});
      if (callers == 64) {
        set_rate_at_64 = set.calls_per_s;
        double all_us = 0;
        for (const auto& [role, us] : after) {
          const double of_call = (us - before.at(role)) / static_cast<double>(set.calls);
          report.Add({subject, "processor: " + role, "us", of_call, Better::kLower, "", 0, {}});
          all_us += of_call;
        }
        report.Add({subject,
                    "processor",
                    "us",
                    all_us,
                    Better::kLower,
                    "empty call",
                    echo_us / static_cast<double>(echo.calls),
                    {}});
      }
      if (callers == 1) {
        const LoadResult sync = RunFdatasync(dir + "/fdatasync", value_bytes, seconds);
        report.Add({subject, "p50", "us", set.p50_us, Better::kLower, "write + fdatasync", sync.p50_us, 1 / 1.5});
      }
    }

    constexpr int kBatch = 32;
    world.AddHosts(devices_for(120'000));
    const LoadResult batch = RunBatch(world, 64, kBatch, seconds);
    report.Add({fmt::format("BatchSetVdevIds of {}, 64 callers", kBatch), "vdev_ids", "1/s", batch.calls_per_s * kBatch,
                Better::kHigher, "SetVdevId, 64 callers", set_rate_at_64, 8});

    for (const int callers : {16, 64}) {
      const LoadResult get = RunGet(world, callers, seconds);
      const LoadResult echo = RunEcho(world, callers, seconds);
      const std::string subject = fmt::format("GetVdevice, {} callers", callers);
      report.Add({subject, "throughput", "1/s", get.calls_per_s, Better::kHigher, "empty call", echo.calls_per_s, 0.8});
      report.Add({subject, "p50", "us", get.p50_us, Better::kLower, "empty call", echo.p50_us, {}});
      report.Add({subject, "p99", "us", get.p99_us, Better::kLower, "empty call", echo.p99_us, {}});
    }
  }
  report.Note("server, callers and rivals share the machine's cores; a call includes both ends of it");
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
  return report.Finish();
}

}  // namespace
}  // namespace viommu::bench

int main(int argc, char** argv) { return viommu::bench::Main(argc, argv); }
