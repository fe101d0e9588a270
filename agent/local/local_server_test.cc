#include "agent/local/local_server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "agent/local/local_service.h"
#include "agent/reconcile/fake_backend.h"
#include "common/error.h"
#include "common/grpc_error.h"

namespace viommu::agent {
namespace {

class LocalServerTest : public testing::Test {
 protected:
  LocalServerTest()
      : invalidator_(targets_, backend_.capabilities, {}), service_(MakeSources(), backend_, invalidator_) {
    // Short: a socket's path holds 107 bytes.
    std::string path = "/tmp/viommu-XXXXXX";
    directory_ = ::mkdtemp(path.data());
    address_ = ParseAddress("unix:" + directory_ + "/agent.sock").value();
    context_ = backend_.OpenContext().value();
    targets_.Declare("v", "viommus/v");
    targets_.Publish("v", {.context = context_.get(), .id = 3});
  }
  ~LocalServerTest() override {
    ::unlink(address_.path.c_str());
    ::rmdir(directory_.c_str());
  }

  LocalServiceImpl::Sources MakeSources() {
    LocalServiceImpl::Sources sources;
    sources.host = "hosts/h1";
    sources.fill_status = [](v1::GetAgentStatusResponse& status) { status.set_agent_id("agent"); };
    sources.list = [this](const std::pair<std::string, std::string>& after, size_t max) {
      std::vector<v1::HeldObject> objects;
      for (int i = 0; i < object_count_ && objects.size() < max; ++i) {
        v1::HeldObject object;
        object.mutable_resource()->mutable_viommu()->set_name(fmt::format("viommus/v{:03}", i));
        object.mutable_resource()->mutable_viommu()->set_uid(fmt::format("u{:03}", i));
        if (label_bytes_ > 0) {
          (*object.mutable_resource()->mutable_viommu()->mutable_labels())["long"] = std::string(label_bytes_, 'x');
        }
        if (std::pair(object.resource().viommu().name(), object.resource().viommu().uid()) > after) {
          objects.push_back(object);
        }
      }
      return objects;
    };
    return sources;
  }
  std::unique_ptr<LocalServer> MustStart() {
    auto server = LocalServer::Start(address_, service_, std::make_shared<MetricSet>());
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  std::unique_ptr<v1::LocalService::Stub> Stub() {
    return v1::LocalService::NewStub(grpc::CreateChannel(address_.ToString(), grpc::InsecureChannelCredentials()));
  }

  // One message there, one back, as bytes; the error's message when there is none.
  std::string CallRaw(const std::string& method, const std::string& request) {
    grpc::GenericStub stub(grpc::CreateChannel(address_.ToString(), grpc::InsecureChannelCredentials()));
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    const grpc::Slice slice(request);
    auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer reply;
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    if (!status.ok()) return status.error_message();
    grpc::Slice all;
    EXPECT_TRUE(reply.DumpToSingleSlice(&all).ok());
    return {reinterpret_cast<const char*>(all.begin()), all.size()};
  }

  int object_count_ = 250;
  size_t label_bytes_ = 0;  // of each object
  std::string directory_;
  Address address_;
  FakeBackend backend_;
  Targets targets_;
  Invalidator invalidator_;
  LocalServiceImpl service_;
  std::unique_ptr<Context> context_;
};

TEST_F(LocalServerTest, AnswersOnItsSocket) {
  const auto server = MustStart();
  struct stat status;
  ASSERT_EQ(::stat(address_.path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0660u);
  const auto stub = Stub();
  {
    grpc::ClientContext context;
    v1::GetAgentStatusResponse response;
    ASSERT_TRUE(stub->GetAgentStatus(&context, {}, &response).ok());
    EXPECT_EQ(response.agent_id(), "agent");
    EXPECT_EQ(response.host(), "hosts/h1");
    ASSERT_EQ(response.smmus_size(), 2);
    EXPECT_EQ(response.smmus(0).name(), "hosts/h1/smmus/s0");
  }
  {
    grpc::ClientContext context;
    v1::LocalInvalidateRequest request;
    request.set_target("viommus/v");
    request.add_commands()->mutable_tlbi_nh_all();
    v1::LocalInvalidateResponse response;
    ASSERT_TRUE(stub->LocalInvalidate(&context, request, &response).ok());
    EXPECT_EQ(response.result().handled(), 1u);
  }
  {
    grpc::ClientContext context;
    v1::LocalInvalidateRequest request;
    request.set_target("viommus/nowhere");
    v1::LocalInvalidateResponse response;
    const auto error = FromGrpcStatus(stub->LocalInvalidate(&context, request, &response));
    EXPECT_EQ(ReasonOf(error), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  }
}

TEST_F(LocalServerTest, RequestsThatAreTooLongAreNotRead) {
  const auto server = MustStart();
  const auto code = [&](size_t bytes) {
    grpc::ClientContext context;
    v1::LocalInvalidateRequest request;
    request.set_target("viommus/v");
    request.add_commands()->set_raw(std::string(bytes, 'x'));
    v1::LocalInvalidateResponse response;
    return Stub()->LocalInvalidate(&context, request, &response).error_code();
  };
  EXPECT_EQ(code(size_t{1} << 20), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(code((size_t{1} << 20) - 100), grpc::StatusCode::INVALID_ARGUMENT) << "read, and found wrong";
}

TEST_F(LocalServerTest, ListsInPages) {
  const auto server = MustStart();
  const auto stub = Stub();
  v1::ListHeldObjectsRequest request;
  std::vector<int> sizes;
  std::string last;
  do {
    grpc::ClientContext context;
    v1::ListHeldObjectsResponse response;
    ASSERT_TRUE(stub->ListHeldObjects(&context, request, &response).ok());
    sizes.push_back(response.objects_size());
    for (const auto& object : response.objects()) {
      EXPECT_GT(object.resource().viommu().name(), last);
      last = object.resource().viommu().name();
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(sizes, (std::vector<int>{100, 100, 50}));
  for (const char* token : {"!", "bm8tbmV3bGluZQ"}) {
    request.set_page_token(token);
    grpc::ClientContext context;
    v1::ListHeldObjectsResponse response;
    EXPECT_EQ(ReasonOf(FromGrpcStatus(stub->ListHeldObjects(&context, request, &response))),
              v1::ERROR_REASON_PAGE_TOKEN_INVALID);
  }
}

TEST_F(LocalServerTest, PagesOfLargeObjectsAreShort) {
  object_count_ = 45;
  label_bytes_ = 100'000;
  const auto server = MustStart();
  const auto stub = Stub();
  v1::ListHeldObjectsRequest request;
  request.set_page_size(1000);
  int objects = 0;
  int pages = 0;
  do {
    grpc::ClientContext context;
    v1::ListHeldObjectsResponse response;
    const grpc::Status status = stub->ListHeldObjects(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_LT(response.ByteSizeLong(), size_t{4} << 20) << "what gRPC takes unless told otherwise";
    objects += response.objects_size();
    ++pages;
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(objects, 45);
  EXPECT_EQ(pages, 3);  // of 21, 21 and 3
}

TEST_F(LocalServerTest, SaysThatItIsHealthyAndWhatItOffers) {
  const auto server = MustStart();
  // HealthCheckResponse: status = SERVING.
  EXPECT_EQ(CallRaw("/grpc.health.v1.Health/Check", ""), "\x08\x01");
  // ServerReflectionRequest: list_services.
  const std::string services =
      CallRaw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", {"\x3a\x00", 2});
  EXPECT_NE(services.find("viommu.v1.LocalService"), std::string::npos) << services;
  EXPECT_NE(services.find("grpc.health.v1.Health"), std::string::npos) << services;
}

TEST_F(LocalServerTest, ReplacesASocketThatNobodyServes) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  address_.path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(fd);
  ASSERT_EQ(::access(address_.path.c_str(), F_OK), 0);
  EXPECT_NE(MustStart(), nullptr);
}

TEST_F(LocalServerTest, LeavesOthersAlone) {
  {
    const auto server = MustStart();
    const auto second = LocalServer::Start(address_, service_, std::make_shared<MetricSet>());
    EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  }
  EXPECT_NE(::access(address_.path.c_str(), F_OK), 0) << "the socket goes with its server";
  std::ofstream(address_.path) << "somebody's file";
  const auto on_file = LocalServer::Start(address_, service_, std::make_shared<MetricSet>());
  EXPECT_EQ(on_file.status().code(), absl::StatusCode::kFailedPrecondition) << on_file.status();
  EXPECT_EQ(::access(address_.path.c_str(), F_OK), 0);
  EXPECT_EQ(
      LocalServer::Start(ParseAddress("127.0.0.1:0").value(), service_, std::make_shared<MetricSet>()).status().code(),
      absl::StatusCode::kInvalidArgument);
  const auto nowhere = ParseAddress("unix:" + directory_ + "/missing/agent.sock").value();
  EXPECT_EQ(LocalServer::Start(nowhere, service_, std::make_shared<MetricSet>()).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace viommu::agent
