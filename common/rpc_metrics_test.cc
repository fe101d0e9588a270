#include "common/rpc_metrics.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "prometheus/text_serializer.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/fleet_service.grpc.pb.h"
#include "viommu/v1/local_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu {
namespace {

using testing::HasSubstr;
using testing::Not;

// GetHost answers OK, everything else what gRPC answers for the unimplemented.
class OneMethod final : public v1::FleetService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetHost(grpc::CallbackServerContext* context, const v1::GetHostRequest* request,
                                    v1::GetHostResponse* response) override {
    response->mutable_host()->set_name(request->name());
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

TEST(RpcMetricsTest, CountsByMethodAndCode) {
  auto metrics = std::make_shared<MetricSet>();
  OneMethod service;
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  InstallRpcMetrics(builder, metrics, "viommu_test", {"viommu.v1.FleetService"});
  const auto server = builder.BuildAndStart();
  const auto stub = v1::FleetService::NewStub(server->InProcessChannel({}));
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    v1::GetHostResponse response;
    EXPECT_TRUE(stub->GetHost(&context, v1::GetHostRequest(), &response).ok());
  }
  {
    grpc::ClientContext context;
    v1::GetDeviceResponse response;
    EXPECT_EQ(stub->GetDevice(&context, v1::GetDeviceRequest(), &response).error_code(),
              grpc::StatusCode::UNIMPLEMENTED);
  }
  server->Shutdown();
  server->Wait();
  const std::string text = prometheus::TextSerializer().Serialize(metrics->Collect());
  EXPECT_THAT(text, HasSubstr("viommu_test_rpcs_total{code=\"OK\",method=\"viommu.v1.FleetService/GetHost\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_rpcs_total{code=\"UNIMPLEMENTED\",method=\"viommu.v1.FleetService/"
                              "GetDevice\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_rpc_seconds_count{method=\"viommu.v1.FleetService/GetHost\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("viommu_test_rpcs_in_flight 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("CANCELLED")));
}

// Every unary method either only reads or changes something, and it shows: what changes the record can be validated
// only. The others that do more than read are named here, and are refused for what they fill elsewhere
// (docs/limits.md).
TEST(RpcMetricsTest, EveryMethodReadsOrChanges) {
  const std::set<std::string> change_besides = {"Invalidate", "CreateBackup", "LocalInvalidate", "AccessDma"};
  std::set<std::string> seen;
  for (const auto* file : {v1::GetHostRequest::descriptor()->file(), v1::GetDriftRequest::descriptor()->file(),
                           v1::GetAgentStatusRequest::descriptor()->file(), v1::ConnectRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const google::protobuf::MethodDescriptor& method = *file->service(s)->method(m);
        if (method.client_streaming() || method.server_streaming()) continue;
        seen.insert(std::string(method.name()));
        const bool changes = method.input_type()->FindFieldByName("validate_only") != nullptr ||
                             change_besides.count(std::string(method.name())) != 0;
        EXPECT_NE(ChangesNothing(method.name()), changes)
            << method.full_name() << " either has to begin with a verb that rpc_metrics.cc knows to read, or have "
            << "validate_only, or be named here";
      }
    }
  }
  EXPECT_TRUE(seen.count("GetServerStatus") == 1 && seen.count("ListBackups") == 1 && seen.count("AccessDma") == 1);
}

TEST(RpcMetricsDeathTest, UnknownServiceEndsTheProgram) {
  grpc::ServerBuilder builder;
  EXPECT_DEATH(InstallRpcMetrics(builder, std::make_shared<MetricSet>(), "viommu_test", {"viommu.v1.NoService"}),
               "no service viommu.v1.NoService");
}

}  // namespace
}  // namespace viommu
