#include "cli/client.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <utility>

#include "cli/text.h"
#include "common/address.h"
#include "common/credentials.h"
#include "common/error.h"
#include "common/grpc_error.h"

namespace viommu::cli {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

constexpr std::chrono::milliseconds kTick{100};
constexpr std::chrono::milliseconds kFirstPause{100};
constexpr int kPauseGrowth = 4;
// A server that is silent for that long is asked whether it is there; servers take offence at more than one such
// question in five minutes.
constexpr int kKeepaliveMs = 310'000;
constexpr int kKeepaliveTimeoutMs = 20'000;

absl::StatusOr<std::string> MethodPath(const Message& request) {
  for (const char* service_name : {"viommu.v1.FleetService", "viommu.v1.OperationsService", "viommu.v1.LocalService"}) {
    const ServiceDescriptor* service = DescriptorPool::generated_pool()->FindServiceByName(service_name);
    for (int i = 0; service != nullptr && i < service->method_count(); ++i) {
      const MethodDescriptor* method = service->method(i);
      if (method->input_type() == request.GetDescriptor()) {
        return fmt::format("/{}/{}", service->full_name(), method->name());
      }
    }
  }
  return absl::InternalError(fmt::format("no method takes a {}", request.GetTypeName()));
}

grpc::ByteBuffer ToBytes(const Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status FromBytes(const grpc::ByteBuffer& bytes, Message& message) {
  grpc::Slice slice;
  if (!bytes.DumpToSingleSlice(&slice).ok() || !message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return absl::InternalError(fmt::format("the reply is not a {}", message.GetTypeName()));
  }
  return absl::OkStatus();
}

// Full budgets have no RetryInfo: waiting does not empty them.
bool IsWorthAnotherTry(const absl::Status& status) {
  return absl::IsUnavailable(status) ||
         (absl::IsResourceExhausted(status) && status.GetPayload(DetailUrl<google::rpc::RetryInfo>()).has_value());
}

// Certificates are checked by code that names the options of a configuration file; here they are flags.
std::string AsFlags(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> kFlags[] = {{"tls.allow_insecure", "--insecure"},
                                                                      {"tls.cert", "--tls-cert"},
                                                                      {"tls.key", "--tls-key"},
                                                                      {"tls.ca", "--tls-ca"}};
  for (const auto& [option, flag] : kFlags) {
    for (size_t at = text.find(option); at != std::string::npos; at = text.find(option, at + flag.size())) {
      text.replace(at, option.size(), flag);
    }
  }
  return text;
}

// The completion queue of one call. It must be empty before it goes.
class Queue {
 public:
  Queue(const std::atomic<bool>& interrupted, std::function<void()> on_tick)
      : interrupted_(interrupted), on_tick_(std::move(on_tick)) {}
  ~Queue() {
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  grpc::CompletionQueue* get() { return &queue_; }

  // Waits for the one operation that is under way; false when it brought nothing. Cancels `context` when interrupted.
  bool Wait(grpc::ClientContext& context) {
    while (true) {
      void* tag = nullptr;
      bool ok = false;
      switch (queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kTick)) {
        case grpc::CompletionQueue::GOT_EVENT:
          return ok;
        case grpc::CompletionQueue::SHUTDOWN:
          return false;
        case grpc::CompletionQueue::TIMEOUT:
          if (interrupted_.load()) context.TryCancel();
          if (on_tick_) on_tick_();
          break;
      }
    }
  }

 private:
  const std::atomic<bool>& interrupted_;
  const std::function<void()> on_tick_;
  grpc::CompletionQueue queue_;
};

class GrpcClient : public Client {
 public:
  // `where`: "the server at 127.0.0.1:7070".
  GrpcClient(std::string where, std::shared_ptr<grpc::Channel> channel, const std::atomic<bool>& interrupted)
      : where_(std::move(where)), stub_(std::move(channel)), interrupted_(interrupted) {}

  absl::Status Call(const Message& request, Message& response, const CallOptions& options) override {
    VIOMMU_ASSIGN_OR_RETURN(const std::string path, MethodPath(request));
    const auto deadline = std::chrono::system_clock::now() + options.timeout;
    std::chrono::milliseconds pause = kFirstPause;
    for (int attempt = 1;; ++attempt, pause *= kPauseGrowth) {
      absl::Status status = CallOnce(path, request, response, deadline, options.on_tick);
      if (!IsWorthAnotherTry(status) || attempt == kMaxTries) return status;
      const auto asked = DetailOf<google::rpc::RetryInfo>(status).retry_delay();
      const auto wait = std::max<std::chrono::milliseconds>(
          pause, std::chrono::seconds(asked.seconds()) + std::chrono::milliseconds(asked.nanos() / 1'000'000));
      if (std::chrono::system_clock::now() + wait >= deadline) return status;
      VIOMMU_RETURN_IF_ERROR(Pause(wait, options.on_tick));
    }
  }

  absl::Status Stream(const Message& request, Message& message, const std::function<bool()>& on_message,
                      std::chrono::milliseconds timeout) override {
    VIOMMU_ASSIGN_OR_RETURN(const std::string path, MethodPath(request));
    grpc::ClientContext context;
    if (timeout.count() > 0) context.set_deadline(std::chrono::system_clock::now() + timeout);
    Queue queue(interrupted_, nullptr);
    const auto stream = stub_.PrepareCall(&context, path, queue.get());
    bool wanted = true;
    absl::Status garbled;
    stream->StartCall(nullptr);
    bool up = queue.Wait(context);
    if (up) {
      stream->WriteLast(ToBytes(request), grpc::WriteOptions(), nullptr);
      up = queue.Wait(context);
    }
    while (up && wanted && garbled.ok()) {
      grpc::ByteBuffer bytes;
      stream->Read(&bytes, nullptr);
      if (!queue.Wait(context)) break;
      garbled = FromBytes(bytes, message);
      if (garbled.ok()) wanted = on_message();
    }
    if (!wanted || !garbled.ok()) context.TryCancel();
    grpc::Status status;
    stream->Finish(&status, nullptr);
    queue.Wait(context);
    if (!garbled.ok()) return garbled;
    if (interrupted_.load()) return InterruptedError("");  // ends a stream as intended: nothing to be said
    if (!wanted) return absl::OkStatus();
    if (timeout.count() > 0 && status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) return absl::OkStatus();
    return Explain(status);
  }

  absl::Status Pause(std::chrono::milliseconds length, const std::function<void()>& on_tick) override {
    grpc::CompletionQueue nothing;
    const auto end = std::chrono::system_clock::now() + length;
    void* tag = nullptr;
    bool ok = false;
    while (std::chrono::system_clock::now() < end) {
      nothing.AsyncNext(&tag, &ok, std::min(end, std::chrono::system_clock::now() + kTick));
      if (interrupted_.load()) return InterruptedError("interrupted");
      if (on_tick) on_tick();
    }
    nothing.Shutdown();
    return absl::OkStatus();
  }

 private:
  absl::Status CallOnce(const std::string& path, const Message& request, Message& response,
                        std::chrono::system_clock::time_point deadline, const std::function<void()>& on_tick) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    Queue queue(interrupted_, on_tick);
    grpc::ByteBuffer reply;
    grpc::Status status;
    const auto call = stub_.PrepareUnaryCall(&context, path, ToBytes(request), queue.get());
    call->StartCall();
    call->Finish(&reply, &status, nullptr);
    queue.Wait(context);
    if (status.ok()) return FromBytes(reply, response);
    if (interrupted_.load()) return InterruptedError("interrupted; what was sent before may have been carried out");
    return Explain(status);
  }

  // What gRPC itself says of a failed connection is for programmers; the server's own errors stay as they are.
  absl::Status Explain(const grpc::Status& status) const {
    absl::Status error = FromGrpcStatus(status);
    if (ReasonOf(error) != v1::ERROR_REASON_UNSPECIFIED) return error;
    if (error.code() == absl::StatusCode::kUnavailable) {
      const std::string& text = status.error_message();
      const size_t last = text.rfind(": ");
      return absl::UnavailableError(
          fmt::format("cannot reach {}: {}", where_, last == std::string::npos ? text : text.substr(last + 2)));
    }
    if (error.code() == absl::StatusCode::kDeadlineExceeded) {
      return absl::DeadlineExceededError(fmt::format("no answer from {} in time", where_));
    }
    return error;
  }

  const std::string where_;
  grpc::GenericStub stub_;
  const std::atomic<bool>& interrupted_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const Endpoint& endpoint, const std::atomic<bool>& interrupted) {
  const absl::StatusOr<Address> address = ParseAddress(endpoint.address);
  if (!address.ok()) return UsageError(fmt::format("{}: {}", endpoint.flag, std::string(address.status().message())));
  TransportOptions transport;
  transport.tls.ca = endpoint.tls_ca;
  transport.tls.cert = endpoint.tls_cert;
  transport.tls.key = endpoint.tls_key;
  transport.allow_insecure = endpoint.insecure;
  const auto credentials = MakeChannelCredentials(*address, transport);
  if (!credentials.ok()) return UsageError(AsFlags(std::string(credentials.status().message())));

  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReplyBytes);
  // The pauses between our own tries are shorter than gRPC's between connections; without these a second try would only
  // repeat the first one's error.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(kFirstPause.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // A control plane is not reached through the proxy of the web.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel(address->ToString(), *credentials, arguments);
  return std::make_unique<GrpcClient>(fmt::format("the {} at {}", endpoint.peer, address->ToString()),
                                      std::move(channel), interrupted);
}

}  // namespace viommu::cli
