// A real server with a whole fleet: 10,000 hosts played by this process (host_players.h), and a record of a million
// vdevices.
//
//   idle agents      server memory for each connected agent, above the same record without them
//   cold sync        from no agent connected to every agent told everything and everything confirmed, as the server
//                    lists it: N hosts with 32 vdevices each
//   restart          kill -9 of the server: until every agent is back and in sync, and the most memory meanwhile
//   latency          from a call to its agent's confirmation (SetVdevId with wait = APPLIED), at rest and beside
//                    16 callers that write without pause; rival at rest: the same call answered when it is recorded
//   watches          100 watchers of everything, and one change after the other: until the last of them has it
//   busy watches     16 callers that write without pause beside 1 and 100 watchers of everything, which read: what they
//                    cost the writers (rival: none of them), and the server for each event that it sends to a hundred
//   silent readers   100 watchers of everything that never read: what each costs the server, and writers beside them;
//                    rival: the same writers without them
//   a large record   memory, time from the start of a server to its first answer, and the cost of SetVdevId, with a
//                    thousand and with a million vdevices
//
// After the cold sync and at the end every host must hold exactly what the server has recorded for it.
//
// Needs 11,000 open files (ulimit -n) and a folder with room for about 2 GiB (TMPDIR).

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/file_descriptor.h"
#include "common/uuid.h"
#include "tests/bench/host_players.h"
#include "tests/bench/load.h"
#include "tests/bench/report.h"
#include "tests/harness/process.h"
#include "viommu/v1/fleet_service.grpc.pb.h"

namespace viommu::bench {
namespace {

using Fleet = v1::FleetService;
using Clock = std::chrono::steady_clock;

constexpr int kVdevicesPerHost = 32;
constexpr int kFreeDevices = 160'000;  // over all hosts, for what is measured on top
constexpr int kWatchers = 100;
constexpr int kWriters = 16;
constexpr double kPatienceSeconds = 600;
// Hosts of the large record have as many devices as a host may.
constexpr int kLargeHostDevices = 16'384;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

double Since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

void Await(const std::string& what, const std::function<bool()>& condition) {
  const auto begin = Clock::now();
  while (!condition()) {
    if (Since(begin) > kPatienceSeconds) Die("waited in vain: " + what);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// A server of its own in a folder of its own.
class RealServer {
 public:
  explicit RealServer(const std::string& name) : name_(name) {}

  // Returns the seconds from its start to its first answer.
  double Start() {
    const auto begin = Clock::now();
    process_ = std::make_unique<tests::Process>(
        std::vector<std::string>{"bazel-bin/server/viommu-server", "--listen=" + address(),
                                 "--agents-listen=" + agents_address_, "--store=rocksdb:" + dir_ / name_,
                                 "--log-level=error"},
        dir_ / (name_ + ".log"));
    Await("the server's first answer", [this] {
      if (!process_->running()) Die("the server ended: " + process_->output());
      channel_ = NewChannel();
      stub_ = Fleet::NewStub(channel_);
      v1::GetServerStatusResponse response;
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
      return stub_->GetServerStatus(&context, {}, &response).ok();
    });
    return Since(begin);
  }
  void Kill() { process_->Kill(); }
  void Stop() {
    process_->Signal(SIGTERM);
    process_->Wait();
  }

  std::string address() const { return "unix:" + (dir_ / (name_ + ".sock")); }
  // By TCP, as agents of other machines come.
  const std::string& agents_address() const { return agents_address_; }
  Fleet::Stub& stub() { return *stub_; }

  // `look_ahead`: whether gRPC takes more in, unread, where a stream is fast.
  std::shared_ptr<grpc::Channel> NewChannel(bool look_ahead = true) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (!look_ahead) arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetMaxReceiveMessageSize(-1);
    return grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments);
  }

  // Resident memory in bytes now, and the most since it started.
  double Rss() const { return StatusKib("VmRSS:") * 1024; }
  double PeakRss() const { return StatusKib("VmHWM:") * 1024; }
  // Processor time in seconds, of all its threads since it started.
  double CpuSeconds() const {
    std::ifstream stat(fmt::format("/proc/{}/stat", process_->pid()));
    std::string word;
    for (int field = 1; field < 14; ++field) stat >> word;
    double user = 0;
    double system = 0;
    if (!(stat >> user >> system)) Die("no processor time of the server");
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }

 private:
  double StatusKib(const std::string& key) const {
    std::ifstream status(fmt::format("/proc/{}/status", process_->pid()));
    for (std::string word; status >> word;) {
      double kib = 0;
      if (word == key && status >> kib) return kib;
    }
    Die("no " + key + " of the server");
  }

  // A port that was free a moment ago: the server comes back to it after a restart.
  static std::string FreeLoopbackAddress() {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    const FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
      Die("no port is free");
    }
    return fmt::format("127.0.0.1:{}", ntohs(address.sin_port));
  }

  const std::string name_;
  const std::string agents_address_ = FreeLoopbackAddress();
  tests::TempDir dir_;
  std::unique_ptr<tests::Process> process_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Fleet::Stub> stub_;
};

template <typename Request, typename Response>
Response Do(Fleet::Stub& stub, grpc::Status (Fleet::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) Die(request.GetTypeName() + ": " + status.error_message());
  return response;
}

// All pages of a list: the resources, in `field` of the response.
template <typename Request, typename Response, typename Each>
void ForEachListed(Fleet::Stub& stub,
                   grpc::Status (Fleet::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                   Request request, Each each) {
  request.set_page_size(1000);
  do {
    const Response page = Do(stub, method, request);
    each(page);
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
}

// Until the agents have confirmed everything, as the server sees it.
void AwaitConfirmed(Fleet::Stub& stub) {
  v1::ListVdevicesRequest vdevices;
  v1::ListViommusRequest viommus;
  v1::ListStage2DomainsRequest stage2s;
  vdevices.set_viommu("viommus/-");
  const auto one_that_waits = [](auto& request) {
    request.set_page_size(1);
    request.add_states(v1::STATE_PENDING);
  };
  one_that_waits(vdevices);
  one_that_waits(viommus);
  one_that_waits(stage2s);
  Await("everything confirmed", [&] {
    return Do(stub, &Fleet::Stub::ListVdevices, vdevices).vdevices().empty() &&
           Do(stub, &Fleet::Stub::ListViommus, viommus).viommus().empty() &&
           Do(stub, &Fleet::Stub::ListStage2Domains, stage2s).stage2_domains().empty();
  });
}

// Whether the hosts hold what is recorded, and nothing else.
void CheckHeld(Fleet::Stub& stub, const HostPlayers& players) {
  AwaitConfirmed(stub);
  std::map<std::string, int64_t> recorded;
  const auto add = [&](const auto& resources) {
    for (const auto& each : resources) recorded[each.uid()] = each.generation();
  };
  v1::ListVdevicesRequest vdevices;
  vdevices.set_viommu("viommus/-");
  ForEachListed(stub, &Fleet::Stub::ListVdevices, vdevices, [&](const auto& page) { add(page.vdevices()); });
  ForEachListed(stub, &Fleet::Stub::ListViommus, v1::ListViommusRequest(),
                [&](const auto& page) { add(page.viommus()); });
  ForEachListed(stub, &Fleet::Stub::ListStage2Domains, v1::ListStage2DomainsRequest(),
                [&](const auto& page) { add(page.stage2_domains()); });
  const auto held = players.Held();
  if (held == recorded) return;
  Die(fmt::format("the hosts hold {} resources, {} are recorded, and they are not the same", held.size(),
                  recorded.size()));
}

std::string ViommuOf(int host) { return fmt::format("viommus/v{}", host); }

// A VM on each host in [begin, end) with `vdevices` devices, recorded by a few callers at a time.
void Assign(RealServer& server, int begin, int end, int vdevices) {
  constexpr int kCallers = 8;
  std::atomic<int> next = begin;
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&] {
      const auto stub = Fleet::NewStub(server.NewChannel());
      for (int host = next++; host < end; host = next++) {
        v1::CreateStage2DomainRequest stage2;
        stage2.set_stage2_domain_id(fmt::format("s{}", host));
        stage2.mutable_stage2_domain()->set_host(PlayedHost(host));
        stage2.mutable_stage2_domain()->set_vm(fmt::format("vm-{}", host));
        Do(*stub, &Fleet::Stub::CreateStage2Domain, stage2);
        v1::CreateViommuRequest viommu;
        viommu.set_viommu_id(fmt::format("v{}", host));
        viommu.mutable_viommu()->set_smmu(PlayedSmmu(host));
        viommu.mutable_viommu()->set_stage2_domain(fmt::format("stage2Domains/s{}", host));
        Do(*stub, &Fleet::Stub::CreateViommu, viommu);
        constexpr int kBatch = 1024;
        for (int device = 0; device < vdevices; device += kBatch) {
          v1::BatchSetVdevIdsRequest batch;
          batch.set_viommu(ViommuOf(host));
          for (int i = device; i < std::min(device + kBatch, vdevices); ++i) {
            auto* assignment = batch.add_assignments();
            assignment->set_device(PlayedDevice(host, i));
            assignment->set_vdev_id(static_cast<uint64_t>(i));
          }
          Do(*stub, &Fleet::Stub::BatchSetVdevIds, batch);
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// Gives free devices out, each once; when all are given out, the load ends early.
class Slots {
 public:
  Slots(int hosts, int first_device, int devices) : hosts_(hosts), first_(first_device), devices_(devices) {}

  bool Fill(v1::SetVdevIdRequest* request, v1::Wait wait) {
    const int number = next_++;
    if (number >= hosts_ * devices_) return false;
    const int host = number % hosts_;
    const int device = first_ + number / hosts_;
    request->set_viommu(ViommuOf(host));
    request->set_device(PlayedDevice(host, device));
    request->set_vdev_id(static_cast<uint64_t>(device));
    request->set_wait(wait);
    request->set_request_id(NewUuid());
    return true;
  }

 private:
  const int hosts_;
  const int first_;
  const int devices_;
  std::atomic<int> next_ = 0;
};

LoadResult RunSet(Fleet::Stub& stub, Slots& slots, v1::Wait wait, int callers, double seconds) {
  return Load<v1::SetVdevIdRequest, v1::SetVdevIdResponse>(
             [&](int, grpc::ClientContext* context, const v1::SetVdevIdRequest* request,
                 v1::SetVdevIdResponse* response,
                 auto done) { stub.async()->SetVdevId(context, request, response, std::move(done)); },
             [&](int, v1::SetVdevIdRequest* request) { return slots.Fill(request, wait); })
      .Run(callers, seconds);
}

// One of the watchers: counts what it is sent.
class Watcher {
 public:
  explicit Watcher(RealServer& server) : stub_(Fleet::NewStub(server.NewChannel())) {
    v1::GetServerStatusResponse status;
    grpc::ClientContext context;
    stub_->GetServerStatus(&context, {}, &status);
    v1::WatchRequest request;
    request.set_start_revision(status.revision());
    stream_ = stub_->Watch(&context_, request);
    reader_ = std::thread([this] {
      v1::WatchResponse response;
      while (stream_->Read(&response)) {
        events_ += response.events().events_size();
        revision_ = response.revision();
      }
    });
  }
  ~Watcher() {
    context_.TryCancel();
    reader_.join();
  }
  int64_t revision() const { return revision_; }
  int64_t events() const { return events_; }

 private:
  const std::unique_ptr<Fleet::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> stream_;
  std::atomic<int64_t> revision_ = 0;
  std::atomic<int64_t> events_ = 0;
  std::thread reader_;
};

// Asks for all changes from now on, and never reads: 64 KiB fit on the way, and the server gives it up after a minute.
class SilentWatcher {
 public:
  explicit SilentWatcher(RealServer& server) : stub_(Fleet::NewStub(server.NewChannel(/*look_ahead=*/false))) {
    v1::WatchRequest request;
    request.set_start_revision(Do(*stub_, &Fleet::Stub::GetServerStatus, v1::GetServerStatusRequest()).revision());
    stream_ = stub_->Watch(&context_, request);
  }
  ~SilentWatcher() {
    context_.TryCancel();
    stream_->Finish();
  }

 private:
  const std::unique_ptr<Fleet::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> stream_;
};

// Changes the labels of one viommu after the other.
LoadResult RunLabels(RealServer& server, int hosts, int callers, double seconds) {
  std::atomic<int> next = 0;
  return Load<v1::UpdateViommuLabelsRequest, v1::UpdateViommuLabelsResponse>(
             [&](int, grpc::ClientContext* context, const v1::UpdateViommuLabelsRequest* request,
                 v1::UpdateViommuLabelsResponse* response,
                 auto done) { server.stub().async()->UpdateViommuLabels(context, request, response, std::move(done)); },
             [&](int, v1::UpdateViommuLabelsRequest* request) {
               const int number = next++;
               request->set_name(ViommuOf(number % hosts));
               (*request->mutable_labels())["number"] = std::to_string(number);
               request->set_request_id(NewUuid());
               return true;
             })
      .Run(callers, seconds);
}

// Of writers beside watchers, against the same writers alone.
void AddThroughput(Report& report, const std::string& who, const LoadResult& beside, const LoadResult& alone) {
  report.Add({.subject = who,
              .metric = "throughput",
              .unit = "1/s",
              .value = beside.calls_per_s,
              .rival = "without them",
              .rival_value = alone.calls_per_s});
}

void RunBusyWatches(Report& report, RealServer& server, int hosts, double seconds) {
  RunLabels(server, hosts, kWriters, seconds);  // fills the change log and what is kept of request ids
  double cpu = server.CpuSeconds();
  const LoadResult alone = RunLabels(server, hosts, kWriters, seconds);
  const double cpu_of_change = (server.CpuSeconds() - cpu) / (alone.calls_per_s * seconds);
  for (const int count : {1, kWatchers}) {
    std::vector<std::unique_ptr<Watcher>> watchers;
    for (int i = 0; i < count; ++i) watchers.push_back(std::make_unique<Watcher>(server));
    cpu = server.CpuSeconds();
    const LoadResult beside = RunLabels(server, hosts, kWriters, seconds);
    const auto begin = Clock::now();
    const int64_t last = Do(server.stub(), &Fleet::Stub::GetServerStatus, v1::GetServerStatusRequest()).revision();
    Await("the watchers", [&] {
      return std::all_of(watchers.begin(), watchers.end(),
                         [&](const auto& watcher) { return watcher->revision() >= last; });
    });
    const double late = Since(begin);
    double events = 0;
    for (const auto& watcher : watchers) events += static_cast<double>(watcher->events());
    const std::string who = fmt::format("{} writers beside {} that watch", kWriters, count);
    AddThroughput(report, who, beside, alone);
    // What one costs is lost among what the changes cost.
    if (count > 1) {
      report.Add({.subject = who,
                  .metric = "server's processor time an event",
                  .unit = "us",
                  .value = 1e6 * (server.CpuSeconds() - cpu - cpu_of_change * beside.calls_per_s * seconds) / events,
                  .better = Better::kLower});
    }
    report.Add({.subject = who,
                .metric = "last change to last watcher",
                .unit = "ms",
                .value = late * 1e3,
                .better = Better::kLower});
  }
}

void RunSilentReaders(Report& report, RealServer& server, int hosts, double seconds) {
  RunLabels(server, hosts, kWriters, seconds);  // fills the change log and what is kept of request ids
  const LoadResult alone = RunLabels(server, hosts, kWriters, seconds);
  const double before = server.Rss();
  std::vector<std::unique_ptr<SilentWatcher>> silent;
  for (int i = 0; i < kWatchers; ++i) silent.push_back(std::make_unique<SilentWatcher>(server));
  RunLabels(server, hosts, kWriters, seconds);  // until no more fits on the way to them
  const LoadResult beside = RunLabels(server, hosts, kWriters, seconds);
  const double grown = std::max(0.0, server.Rss() - before);
  const std::string who = fmt::format("{} writers beside {} watchers that never read", kWriters, kWatchers);
  AddThroughput(report, who, beside, alone);
  report.Add({.subject = who,
              .metric = "p99",
              .unit = "us",
              .value = beside.p99_us,
              .better = Better::kLower,
              .rival = "without them",
              .rival_value = alone.p99_us});
  report.Add({.subject = "a watcher that never reads",
              .metric = "server memory each, at most",
              .unit = "KiB",
              .value = grown / 1024 / kWatchers,
              .better = Better::kLower});
}

void RunFleet(Report& report) {
  const int hosts = report.quick() ? 200 : 10'000;
  const std::string fleet_text = fmt::format("{} agents", hosts);
  RealServer server("fleet");
  server.Start();
  HostPlayers players({server.agents_address(), hosts, kVdevicesPerHost + kFreeDevices / hosts});

  // The record first: every host says hello once, and a VM is recorded on each while nobody is connected.
  players.Connect(0, hosts);
  Await("all hosts", [&] { return players.synced() == hosts; });
  players.Disconnect();
  Assign(server, 0, hosts, kVdevicesPerHost);
  server.Stop();
  server.Start();

  auto begin = Clock::now();
  const int64_t items = int64_t{hosts} * (kVdevicesPerHost + 2);
  const int64_t items_before = players.items();
  players.Connect(0, hosts);
  Await("the cold sync", [&] { return players.synced() == hosts && players.items() - items_before >= items; });
  AwaitConfirmed(server.stub());
  const double cold = Since(begin);
  CheckHeld(server.stub(), players);
  report.Add({.subject = fmt::format("cold sync of {} x {} vdevices", hosts, kVdevicesPerHost),
              .metric = "time",
              .unit = "s",
              .value = cold,
              .better = Better::kLower});
  report.Add(
      {.subject = "cold sync", .metric = "resources", .unit = "1/s", .value = static_cast<double>(items) / cold});

  // Everything is confirmed: what is left to be seen is what an agent costs that has nothing to do.
  players.Disconnect();
  server.Stop();
  server.Start();
  const double without = server.Rss();
  players.Connect(0, hosts);
  Await("idle agents", [&] { return players.synced() == hosts; });
  report.Add({.subject = fleet_text + ", idle",
              .metric = "server memory each",
              .unit = "KiB",
              .value = (server.Rss() - without) / 1024 / hosts,
              .better = Better::kLower});

  // Latency at rest, then beside writers.
  const double seconds = report.quick() ? 1 : 10;
  Slots slots(hosts, kVdevicesPerHost, kFreeDevices / hosts);
  const LoadResult recorded = RunSet(server.stub(), slots, v1::WAIT_ACCEPTED, 1, seconds);
  const LoadResult applied = RunSet(server.stub(), slots, v1::WAIT_APPLIED, 1, seconds);
  for (const bool tail : {false, true}) {
    report.Add({.subject = "SetVdevId to its agent's answer, at rest",
                .metric = tail ? "p99" : "p50",
                .unit = "us",
                .value = tail ? applied.p99_us : applied.p50_us,
                .better = Better::kLower,
                .rival = "SetVdevId until recorded",
                .rival_value = tail ? recorded.p99_us : recorded.p50_us});
  }
  LoadResult written;
  std::thread writers([&] { written = RunSet(server.stub(), slots, v1::WAIT_ACCEPTED, kWriters, seconds + 1); });
  const LoadResult beside = RunSet(*Fleet::NewStub(server.NewChannel()), slots, v1::WAIT_APPLIED, 1, seconds);
  writers.join();
  for (const bool tail : {false, true}) {
    report.Add({.subject = fmt::format("the same beside {} writers", kWriters),
                .metric = tail ? "p99" : "p50",
                .unit = "us",
                .value = tail ? beside.p99_us : beside.p50_us,
                .better = Better::kLower});
  }
  report.Add({.subject = "these writers", .metric = "throughput", .unit = "1/s", .value = written.calls_per_s});

  // Watches: one change, all of them, the next one.
  {
    std::vector<std::unique_ptr<Watcher>> watchers;
    for (int i = 0; i < kWatchers; ++i) watchers.push_back(std::make_unique<Watcher>(server));
    std::vector<double> latencies;
    for (int change = 0; change < (report.quick() ? 20 : 200); ++change) {
      v1::SetVdevIdRequest request;
      if (!slots.Fill(&request, v1::WAIT_ACCEPTED)) break;
      const auto sent = Clock::now();
      const int64_t revision = Do(server.stub(), &Fleet::Stub::SetVdevId, request).revision();
      Await("the watchers", [&] {
        return std::all_of(watchers.begin(), watchers.end(),
                           [&](const auto& watcher) { return watcher->revision() >= revision; });
      });
      latencies.push_back(Since(sent) * 1e6);
    }
    std::sort(latencies.begin(), latencies.end());
    report.Add({.subject = fmt::format("a change until {} watchers have it", kWatchers),
                .metric = "p50",
                .unit = "us",
                .value = latencies.empty() ? 0 : latencies[latencies.size() / 2],
                .better = Better::kLower});
  }

  RunBusyWatches(report, server, hosts, seconds);
  RunSilentReaders(report, server, hosts, seconds);

  begin = Clock::now();
  server.Kill();
  server.Start();
  Await("the storm", [&] { return players.synced() == hosts; });
  report.Add({.subject = fleet_text + ", server killed",
              .metric = "until all are in sync",
              .unit = "s",
              .value = Since(begin),
              .better = Better::kLower});
  report.Add({.subject = fleet_text + ", server killed",
              .metric = "most server memory",
              .unit = "MiB",
              .value = server.PeakRss() / (1 << 20),
              .better = Better::kLower});
  CheckHeld(server.stub(), players);
  players.Disconnect();
  server.Stop();
}

struct LargeRecord {
  double open_s = 0;
  double rss = 0;
  LoadResult set;
};

LargeRecord RunRecord(const std::string& name, int vdevices, double seconds) {
  const int hosts = (vdevices + kLargeHostDevices - 1) / kLargeHostDevices + 1;  // the last one has free devices
  RealServer server(name);
  server.Start();
  {
    HostPlayers players({server.agents_address(), hosts, kLargeHostDevices});
    // One after the other: together their hellos are more than the memory for messages.
    for (int host = 0; host < hosts; ++host) {
      players.Connect(host, host + 1);
      Await("a large host", [&] { return players.synced() == host + 1; });
    }
  }
  int left = vdevices;
  for (int host = 0; host + 1 < hosts; ++host) {
    Assign(server, host, host + 1, std::min(left, kLargeHostDevices));
    left -= kLargeHostDevices;
  }
  Assign(server, hosts - 1, hosts, 0);
  server.Stop();
  LargeRecord record;
  record.open_s = server.Start();
  record.rss = server.Rss();
  // Of the last host alone.
  std::atomic<int> next = 0;
  record.set =
      Load<v1::SetVdevIdRequest, v1::SetVdevIdResponse>(
          [&](int, grpc::ClientContext* context, const v1::SetVdevIdRequest* request, v1::SetVdevIdResponse* response,
              auto done) { server.stub().async()->SetVdevId(context, request, response, std::move(done)); },
          [&](int, v1::SetVdevIdRequest* request) {
            const int device = next++;
            if (device >= kLargeHostDevices) return false;
            request->set_viommu(ViommuOf(hosts - 1));
            request->set_device(PlayedDevice(hosts - 1, device));
            request->set_vdev_id(static_cast<uint64_t>(device));
            request->set_request_id(NewUuid());
            return true;
          })
          .Run(kWriters, seconds);
  server.Stop();
  return record;
}

void RunSizes(Report& report) {
  const double seconds = report.quick() ? 0.5 : 1.5;
  const int large = report.quick() ? 20'000 : 1'000'000;
  const LargeRecord small = RunRecord("small", 1000, seconds);
  const LargeRecord big = RunRecord("big", large, seconds);
  report.Add({.subject = fmt::format("{} vdevices", large),
              .metric = "start to first answer",
              .unit = "s",
              .value = big.open_s,
              .better = Better::kLower,
              .rival = "1000 vdevices",
              .rival_value = small.open_s});
  report.Add({.subject = fmt::format("{} vdevices", large),
              .metric = "server memory",
              .unit = "MiB",
              .value = big.rss / (1 << 20),
              .better = Better::kLower});
  report.Add({.subject = fmt::format("SetVdevId, {} callers, {} vdevices", kWriters, large),
              .metric = "throughput",
              .unit = "1/s",
              .value = big.set.calls_per_s,
              .rival = "1000 vdevices",
              .rival_value = small.set.calls_per_s,
              .aim = 1 / 1.2});
}

}  // namespace
}  // namespace viommu::bench

int main(int argc, char** argv) {
  viommu::bench::Report report("fleet", argc, argv);
  viommu::bench::RunFleet(report);
  viommu::bench::RunSizes(report);
  report.Note("aims on two cores that also play the fleet: 30 KiB an idle agent, the restart over in 20 s, p99 of a");
  report.Note("change at rest 50 ms, a million vdevices open in 5 s and 1 GiB");
  return report.Finish();
}
