// viommu.v1.AgentService over gRPC: a thin layer that gives each stream to AgentSessions.

#ifndef VIOMMU_SERVER_SYNC_AGENT_SERVICE_H_
#define VIOMMU_SERVER_SYNC_AGENT_SERVICE_H_

#include <cstddef>

#include "server/sync/agent_sessions.h"
#include "viommu/v1/agent_service.grpc.pb.h"

namespace viommu::server {

// What the listener for agents must take in one message: a hello with 16384 devices and everything they are part of.
// Give it to ServerBuilder::SetMaxReceiveMessageSize.
inline constexpr int kMaxAgentMessageBytes = 16 << 20;

class AgentService final : public v1::AgentService::CallbackService {
 public:
  // `sessions` must outlive the gRPC server that the service is registered with.
  explicit AgentService(AgentSessions& sessions) : sessions_(sessions) {}

  grpc::ServerBidiReactor<v1::ConnectRequest, v1::ConnectResponse>* Connect(
      grpc::CallbackServerContext* context) override;

 private:
  AgentSessions& sessions_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_AGENT_SERVICE_H_
