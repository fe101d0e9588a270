// What the end-to-end tests share: a server, the hosts of the example inventories, and calls that must go well or must
// be refused for a reason.

#ifndef VIOMMU_TESTS_E2E_FLEET_FIXTURE_H_
#define VIOMMU_TESTS_E2E_FLEET_FIXTURE_H_

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/grpc_error.h"
#include "tests/harness/cluster.h"

namespace viommu::tests {

using Stub = v1::FleetService::Stub;

class FleetFixture : public testing::Test {
 protected:
  static constexpr char kGrace[] = "grace-01";
  static constexpr char kAmpere[] = "ampere-01";
  static constexpr char kEdge[] = "edge-01";

  void StartHost(const std::string& host) {
    const std::string kind = host.substr(0, host.find('-'));
    cluster_.StartAgent(host, "deploy/inventory/" + kind + ".yaml");
    cluster_.WaitConnected(host);
  }

  // The answer of a call that must go well.
  template <typename Request, typename Response>
  Response Ok(Cluster::Method<Request, Response> method, const Request& request, double seconds = 10) {
    Response response;
    const grpc::Status status = Cluster::Call(cluster_.stub(), method, request, &response, seconds);
    EXPECT_TRUE(status.ok()) << request.GetTypeName() << ": " << FromGrpcStatus(status) << cluster_.Outputs();
    return response;
  }

  // The error of a call that must be refused.
  template <typename Request, typename Response>
  absl::Status Error(Cluster::Method<Request, Response> method, const Request& request, double seconds = 10) {
    Response response;
    const grpc::Status status = Cluster::Call(cluster_.stub(), method, request, &response, seconds);
    EXPECT_FALSE(status.ok()) << request.GetTypeName() << " was taken: " << response.ShortDebugString();
    return FromGrpcStatus(status);
  }

  int64_t Revision() { return Ok(&Stub::GetServerStatus, v1::GetServerStatusRequest()).revision(); }

  void CreateStage2(const std::string& id, const std::string& host, const std::string& vm,
                    const std::string& smmu = "") {
    v1::CreateStage2DomainRequest request;
    request.set_stage2_domain_id(id);
    request.mutable_stage2_domain()->set_host("hosts/" + host);
    request.mutable_stage2_domain()->set_vm(vm);
    request.mutable_stage2_domain()->set_smmu(smmu);
    Ok(&Stub::CreateStage2Domain, request);
  }

  static v1::CreateViommuRequest ViommuRequest(const std::string& id, const std::string& smmu,
                                               const std::string& stage2) {
    v1::CreateViommuRequest request;
    request.set_viommu_id(id);
    request.mutable_viommu()->set_smmu(smmu);
    request.mutable_viommu()->set_stage2_domain("stage2Domains/" + stage2);
    return request;
  }

  static v1::SetVdevIdRequest SetRequest(const std::string& viommu, const std::string& device, uint64_t vdev_id,
                                         v1::Wait wait = v1::WAIT_UNSPECIFIED) {
    v1::SetVdevIdRequest request;
    request.set_viommu("viommus/" + viommu);
    request.set_device(device);
    request.set_vdev_id(vdev_id);
    request.set_wait(wait);
    return request;
  }

  // Devices of a host by SMMU, in order.
  std::map<std::string, std::vector<std::string>> DevicesBySmmu(const std::string& host) {
    v1::ListDevicesRequest request;
    request.set_host("hosts/" + host);
    request.set_page_size(1000);
    std::map<std::string, std::vector<std::string>> devices;
    const auto listed = Ok(&Stub::ListDevices, request);
    for (const auto& device : listed.devices()) devices[device.smmu()].push_back(device.name());
    return devices;
  }

  v1::Vdevice Vdevice(const std::string& name) {
    v1::GetVdeviceRequest request;
    request.set_name(name);
    return Ok(&Stub::GetVdevice, request).vdevice();
  }

  Cluster cluster_;
};

}  // namespace viommu::tests

#endif  // VIOMMU_TESTS_E2E_FLEET_FIXTURE_H_
