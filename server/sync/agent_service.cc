#include "server/sync/agent_service.h"

#include <memory>
#include <utility>

#include "common/credentials.h"
#include "common/grpc_error.h"
#include "server/sync/agent_session.h"

namespace viommu::server {
namespace {

Peer PeerFrom(const grpc::CallbackServerContext& context) {
  PeerIdentity identity = PeerOf(context);
  Peer peer{context.peer(), identity.authenticated, std::move(identity.dns_names)};
  peer.names.insert(peer.names.end(), identity.uris.begin(), identity.uris.end());
  return peer;
}

// One stream. Deletes itself when gRPC is done with it. Messages are freed as soon as they are dealt with: an idle
// stream keeps only the empty one that its next message is read into.
class Reactor final : public grpc::ServerBidiReactor<v1::ConnectRequest, v1::ConnectResponse>, public AgentStream {
 public:
  Reactor(AgentSessions& sessions, grpc::CallbackServerContext* context)
      : context_(context), session_(sessions.Open(this, PeerFrom(*context))) {}

  // --- AgentStream: from the session.

  void Read() override {
    request_ = std::make_unique<v1::ConnectRequest>();
    StartRead(request_.get());
  }

  void Write(std::unique_ptr<v1::ConnectResponse> message) override {
    response_ = std::move(message);
    StartWrite(response_.get());
  }

  void Cancel() override { context_->TryCancel(); }

  void Finish(const absl::Status& status) override { ServerBidiReactor::Finish(ToGrpcStatus(status)); }

  // --- ServerBidiReactor: from gRPC.

  void OnReadDone(bool ok) override {
    if (ok) {
      session_->Heard(std::move(request_));
    } else {
      session_->StreamEnded();
    }
  }

  void OnWriteDone(bool ok) override {
    response_.reset();
    session_->Written(ok);
  }

  // Also tells of a broken connection while nothing is being read.
  void OnCancel() override { session_->StreamEnded(); }

  void OnDone() override {
    session_->Gone();
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  std::unique_ptr<v1::ConnectRequest> request_;
  std::unique_ptr<v1::ConnectResponse> response_;
  // Set while the constructor runs, before gRPC calls anything: it waits for the reactor to be returned.
  const std::shared_ptr<AgentSession> session_;
};

}  // namespace

grpc::ServerBidiReactor<v1::ConnectRequest, v1::ConnectResponse>* AgentService::Connect(
    grpc::CallbackServerContext* context) {
  return new Reactor(sessions_, context);
}

}  // namespace viommu::server
