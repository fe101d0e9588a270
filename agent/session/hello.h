// What the agent tells the server about its host.

#ifndef VIOMMU_AGENT_SESSION_HELLO_H_
#define VIOMMU_AGENT_SESSION_HELLO_H_

#include <map>
#include <string>
#include <vector>

#include "agent/backend.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::agent {

struct HostFacts {
  std::string name;  // "hosts/h1"
  std::string boot_id;
  std::map<std::string, std::string> labels;  // win over the inventory's
};

// Host and devices of a hello.
v1::Hello MakeHello(const HostFacts& host, const Inventory& inventory, const Capabilities& capabilities);

// What of the host is in use; SMMUs of which the backend cannot tell are left out.
void FillUsage(const HostFacts& host, const std::vector<SmmuStats>& stats, v1::Heartbeat& heartbeat);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SESSION_HELLO_H_
