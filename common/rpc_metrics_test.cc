#include "common/rpc_metrics.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <gtest/gtest.h>

#include <string>

#include "prometheus/text_serializer.h"
#include "viommu/v1/fleet_service.grpc.pb.h"

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

TEST(RpcMetricsDeathTest, UnknownServiceEndsTheProgram) {
  grpc::ServerBuilder builder;
  EXPECT_DEATH(InstallRpcMetrics(builder, std::make_shared<MetricSet>(), "viommu_test", {"viommu.v1.NoService"}),
               "no service viommu.v1.NoService");
}

}  // namespace
}  // namespace viommu
