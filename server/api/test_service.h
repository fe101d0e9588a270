// The fleet and operations services over a store in memory, with sessions that a test plays.

#ifndef VIOMMU_SERVER_API_TEST_SERVICE_H_
#define VIOMMU_SERVER_API_TEST_SERVICE_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "common/mutex.h"
#include "common/uuid.h"
#include "server/api/fleet_service.h"
#include "server/api/operations_service.h"
#include "server/commit/waiters.h"
#include "server/fleet/test_fleet.h"
#include "server/store/memory_store.h"

namespace viommu::server {

// Keeps the last Invalidate and answers as it was told.
class FakeSessions final : public Sessions {
 public:
  struct Call {
    std::string host;
    std::string target_uid;
    std::vector<v1::Command> commands;
  };

  void Invalidate(const std::string& host, const std::string& target_uid, const std::vector<v1::Command>& commands,
                  std::chrono::system_clock::time_point, InvalidateCallback done) override {
    last = Call{host, target_uid, commands};
    if (hold_) {
      MutexLock lock(mu_);
      held_.push_back(std::move(done));
      return;
    }
    done(answer);
  }
  void Inspect(const std::string& host, const v1::InspectCall& call, std::chrono::system_clock::time_point,
               InspectCallback done) override {
    inspected.emplace_back(host, call);
    done(inspection);
  }
  void TearDown(const std::string& host, const std::vector<std::string>& uids) override {
    for (const std::string& uid : uids) torn_down.emplace_back(host, uid);
  }
  Stats stats() const override {
    Stats stats;
    stats.connected = 2;
    return stats;
  }
  std::optional<Info> Find(const std::string&) const override { return std::nullopt; }
  std::vector<v1::SmmuUsage> UsageOf(const std::string&) const override { return usage; }
  void OnCommit(const std::vector<ChangeSetPtr>&) override {}

  // Keeps the answers back from now on; Release gives them.
  void Hold() { hold_ = true; }
  void Release() {
    std::vector<InvalidateCallback> held;
    {
      MutexLock lock(mu_);
      hold_ = false;
      held.swap(held_);
    }
    for (const InvalidateCallback& done : held) done(answer);
  }
  size_t held() const {
    MutexLock lock(mu_);
    return held_.size();
  }

  std::optional<Call> last;
  absl::StatusOr<v1::InvalidationResult> answer = v1::InvalidationResult();
  std::vector<v1::SmmuUsage> usage;  // of every host
  std::vector<std::pair<std::string, v1::InspectCall>> inspected;
  absl::StatusOr<v1::InspectReply> inspection = v1::InspectReply();
  std::vector<std::pair<std::string, std::string>> torn_down;  // host and uid

 private:
  std::atomic<bool> hold_ = false;
  mutable Mutex mu_;
  std::vector<InvalidateCallback> held_ ABSL_GUARDED_BY(mu_);
};

// Runs a function on the writer.
class FunctionCommand final : public Command {
 public:
  using Body = std::function<absl::Status(const Context&, Draft&)>;

  static absl::Status Run(Committer& committer, Body body) {
    FunctionCommand command(std::move(body));
    VIOMMU_RETURN_IF_ERROR(committer.Submit(&command));
    return command.done_.get_future().get();
  }

  absl::Status Judge(const Context& context, Draft& draft) override { return body_(context, draft); }
  void Done(absl::Status status, int64_t) override { done_.set_value(std::move(status)); }

 private:
  explicit FunctionCommand(Body body) : body_(std::move(body)) {}

  const Body body_;
  std::promise<absl::Status> done_;
};

// Which method a request belongs to.
template <typename Request>
struct MethodOf;
#define VIOMMU_TEST_METHOD(service, name)                                                                         \
  template <>                                                                                                     \
  struct MethodOf<v1::name##Request> {                                                                            \
    using Service = v1::service;                                                                                  \
    using Response = v1::name##Response;                                                                          \
    static grpc::Status Call(Service::Stub& stub, grpc::ClientContext* context, const v1::name##Request& request, \
                             Response* response) {                                                                \
      return stub.name(context, request, response);                                                               \
    }                                                                                                             \
  };
VIOMMU_TEST_METHOD(FleetService, GetServerStatus)
VIOMMU_TEST_METHOD(FleetService, GetHost)
VIOMMU_TEST_METHOD(FleetService, ListHosts)
VIOMMU_TEST_METHOD(FleetService, CordonHost)
VIOMMU_TEST_METHOD(FleetService, UncordonHost)
VIOMMU_TEST_METHOD(FleetService, GetDevice)
VIOMMU_TEST_METHOD(FleetService, ListDevices)
VIOMMU_TEST_METHOD(FleetService, CreateStage2Domain)
VIOMMU_TEST_METHOD(FleetService, GetStage2Domain)
VIOMMU_TEST_METHOD(FleetService, ListStage2Domains)
VIOMMU_TEST_METHOD(FleetService, DeleteStage2Domain)
VIOMMU_TEST_METHOD(FleetService, CreateViommu)
VIOMMU_TEST_METHOD(FleetService, GetViommu)
VIOMMU_TEST_METHOD(FleetService, ListViommus)
VIOMMU_TEST_METHOD(FleetService, UpdateViommuLabels)
VIOMMU_TEST_METHOD(FleetService, DeleteViommu)
VIOMMU_TEST_METHOD(FleetService, SetVdevId)
VIOMMU_TEST_METHOD(FleetService, UnsetVdevId)
VIOMMU_TEST_METHOD(FleetService, RebindVdevId)
VIOMMU_TEST_METHOD(FleetService, BatchSetVdevIds)
VIOMMU_TEST_METHOD(FleetService, GetVdevice)
VIOMMU_TEST_METHOD(FleetService, ListVdevices)
VIOMMU_TEST_METHOD(FleetService, CreateNestedDomain)
VIOMMU_TEST_METHOD(FleetService, GetNestedDomain)
VIOMMU_TEST_METHOD(FleetService, ListNestedDomains)
VIOMMU_TEST_METHOD(FleetService, AttachDevice)
VIOMMU_TEST_METHOD(FleetService, DetachDevice)
VIOMMU_TEST_METHOD(FleetService, DeleteNestedDomain)
VIOMMU_TEST_METHOD(FleetService, CreateHwQueue)
VIOMMU_TEST_METHOD(FleetService, GetHwQueue)
VIOMMU_TEST_METHOD(FleetService, ListHwQueues)
VIOMMU_TEST_METHOD(FleetService, DeleteHwQueue)
VIOMMU_TEST_METHOD(FleetService, Invalidate)
VIOMMU_TEST_METHOD(OperationsService, DrainHost)
VIOMMU_TEST_METHOD(OperationsService, AbortDrain)
VIOMMU_TEST_METHOD(OperationsService, GetDrain)
VIOMMU_TEST_METHOD(OperationsService, EvictHost)
VIOMMU_TEST_METHOD(OperationsService, ForgetHost)
VIOMMU_TEST_METHOD(OperationsService, FindPlacement)
VIOMMU_TEST_METHOD(OperationsService, CompareHosts)
VIOMMU_TEST_METHOD(OperationsService, GetDrift)
VIOMMU_TEST_METHOD(OperationsService, SetQuota)
VIOMMU_TEST_METHOD(OperationsService, GetQuota)
VIOMMU_TEST_METHOD(OperationsService, ListQuotas)
VIOMMU_TEST_METHOD(OperationsService, DeleteQuota)
VIOMMU_TEST_METHOD(OperationsService, ListAuditEntries)
VIOMMU_TEST_METHOD(OperationsService, CreateBackup)
VIOMMU_TEST_METHOD(OperationsService, ListBackups)
#undef VIOMMU_TEST_METHOD

inline constexpr std::chrono::seconds kPatience(30);  // before a test that hangs fails instead

class FleetServiceTest : public testing::Test {
 protected:
  static constexpr size_t kMaxTestSnapshots = 3;
  static constexpr size_t kMaxTestInvalidations = 2;
  static constexpr size_t kMaxTestWaitBytes = size_t{1} << 20;

  // Without `store`: one in memory.
  explicit FleetServiceTest(size_t max_waits = 8, size_t max_watches = 4, const Clock& clock = RealClock(),
                            Store* store = nullptr, const Backups::Options& backups = {}) {
    core_ =
        CommitCore::Open(store != nullptr ? *store : store_, clock, NewUuid, {.cluster_id = "test", .boot_id = "boot"})
            .value();
    waiters_.emplace(*core_);
    watches_.emplace(max_watches, kMaxTestSnapshots);
    waits_.emplace(*waiters_, clock, max_waits, kMaxTestWaitBytes);
    core_->AddListener(&*waiters_);
    core_->AddListener(&*watches_);
    committer_.emplace(*core_, Committer::Options());
    backups_.emplace(store != nullptr ? *store : store_, *core_, backups);
    const FleetServiceParts parts{*committer_,           *waits_,   *watches_, sessions_, clock, /*refuse_hosts=*/false,
                                  kMaxTestInvalidations, &*backups_};
    service_.emplace(parts);
    operations_.emplace(parts);
    grpc::ServerBuilder builder;
    builder.RegisterService(&*service_);
    builder.RegisterService(&*operations_);
    builder.SetMaxReceiveMessageSize(16 << 20);
    server_ = builder.BuildAndStart();
    stub_ = v1::FleetService::NewStub(server_->InProcessChannel({}));
    operations_stub_ = v1::OperationsService::NewStub(server_->InProcessChannel({}));
    for (const auto& hello : {GraceHello(), SmallHello()}) {
      EXPECT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) {
                    return JudgeHello(hello, context, draft);
                  }).ok());
    }
  }

  ~FleetServiceTest() override {
    watches_->EndAll();
    waits_->EndAll();
    server_->Shutdown(std::chrono::system_clock::now() + kPatience);
    committer_->Stop();
  }

  template <typename Request>
  using AnswerTo = typename MethodOf<Request>::Response;

  template <typename Request>
  absl::StatusOr<AnswerTo<Request>> Call(const Request& request, std::chrono::milliseconds timeout = kPatience) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    AnswerTo<Request> response;
    const grpc::Status status = MethodOf<Request>::Call(
        Stub(static_cast<typename MethodOf<Request>::Service*>(nullptr)), &context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

  // A call that succeeds.
  template <typename Request>
  AnswerTo<Request> Do(const Request& request) {
    auto answer = Call(request);
    EXPECT_TRUE(answer.ok()) << request.GetTypeName() << ": " << answer.status();
    return answer.ok() ? *std::move(answer) : AnswerTo<Request>();
  }

  // A call that is refused for this reason and changes nothing; returns the refusal.
  template <typename Request>
  const absl::Status& Refused(const Request& request, absl::StatusCode code, v1::ErrorReason reason) {
    const int64_t revision = core_->revision();
    refusal_ = Call(request).status();
    const absl::Status& status = refusal_;
    EXPECT_EQ(status.code(), code) << request.GetTypeName() << ": " << status;
    EXPECT_EQ(ReasonName(ReasonOf(status)), ReasonName(reason)) << status;
    const auto info = DetailOf<google::rpc::ErrorInfo>(status);
    EXPECT_EQ(info.domain(), kErrorDomain);
    EXPECT_TRUE(reason != v1::ERROR_REASON_LIMIT_EXCEEDED || info.metadata().contains("limit")) << status;
    EXPECT_EQ(core_->revision(), revision) << "a refusal changes nothing: " << status;
    ExpectDetails(status);
    return status;
  }

  // What the agent of the record's host says about it.
  template <typename T>
  void Answer(const T& record, v1::Outcome outcome) {
    v1::Results results;
    *results.add_items() = ResultFor(record, outcome);
    EXPECT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) {
                  return JudgeResults(record.host(), results, context, draft);
                }).ok());
  }

  // Stage-2 domain "s" and viommu "v" on grace's SMMU 0.
  void MakeViommu() {
    Do(CreateStage2("s", kGrace));
    Do(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  }

  template <typename T>
  std::shared_ptr<const T> Recorded(const std::string& name) const {
    return core_->Read([&](const Tables& tables, int64_t) { return tables.Find<T>(name); });
  }

  v1::FleetService::Stub& Stub(const v1::FleetService*) { return *stub_; }
  v1::OperationsService::Stub& Stub(const v1::OperationsService*) { return *operations_stub_; }

  absl::Status refusal_;
  MemoryStore store_;
  FakeSessions sessions_;
  std::unique_ptr<CommitCore> core_;
  std::optional<Waiters> waiters_;
  std::optional<WatchHub> watches_;
  std::optional<ApplyWaits> waits_;
  std::optional<Committer> committer_;
  std::optional<Backups> backups_;
  std::optional<FleetService> service_;
  std::optional<OperationsService> operations_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::FleetService::Stub> stub_;
  std::unique_ptr<v1::OperationsService::Stub> operations_stub_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_TEST_SERVICE_H_
