#include "server/api/watch_reactor.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <thread>

#include "viommu/v1/fleet_service.grpc.pb.h"

namespace viommu::server {
namespace {

// There is always something to send, and it is all there is.
class Endless {
 public:
  struct Looks {
    Mutex mu;
    std::set<std::thread::id> threads ABSL_GUARDED_BY(mu);  // that looked after the first time
    int count ABSL_GUARDED_BY(mu) = 0;
  };

  explicit Endless(Looks& looks) : looks_(looks) {}
  absl::StatusOr<WatchFeed::Step> Next(MonotonicTime, v1::WatchResponse* message) {
    MutexLock lock(looks_.mu);
    if (looks_.count++ > 0) looks_.threads.insert(std::this_thread::get_id());
    message->set_revision(looks_.count);
    return WatchFeed::Step::kMessage;
  }
  bool behind() const { return false; }

 private:
  Looks& looks_;
};

class Service final : public v1::FleetService::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::WatchResponse>* Watch(grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest*) override {
    return StartWatch<v1::WatchResponse>(hub, RealClock(), context,
                                         absl::StatusOr<std::unique_ptr<Endless>>(std::make_unique<Endless>(looks)));
  }

  WatchHub hub{8};
  Endless::Looks looks;
};

// Whoever has caught up does not look again by itself, however many changes there are: the hub decides when.
TEST(WatchReactorTest, WhoHasCaughtUpWaitsForTheHub) {
  Service service;
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const auto stub = v1::FleetService::NewStub(server->InProcessChannel({}));
  grpc::ClientContext context;
  const auto stream = stub->Watch(&context, v1::WatchRequest());
  v1::WatchResponse message;
  for (int i = 1; i <= 50; ++i) {
    ASSERT_TRUE(stream->Read(&message));
    EXPECT_EQ(message.revision(), i);
    service.hub.OnCommit({});
  }
  context.TryCancel();
  while (stream->Read(&message)) continue;
  stream->Finish().error_message();
  server->Shutdown();
  MutexLock lock(service.looks.mu);
  EXPECT_EQ(service.looks.threads.size(), 1u) << "somebody besides the hub's thread has looked";
}

}  // namespace
}  // namespace viommu::server
