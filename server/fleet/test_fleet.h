// A record in memory with hosts to try the rules on.

#ifndef VIOMMU_SERVER_FLEET_TEST_FLEET_H_
#define VIOMMU_SERVER_FLEET_TEST_FLEET_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/fleet/draft.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "server/fleet/tables.h"

namespace viommu::server {

// Names that the tests use.
inline const std::string kGrace = "hosts/grace";  // stage 2 is shared; VMIDs of 16 bits; hardware queues on smmu0
inline const std::string kSmall = "hosts/small";  // stage 2 per SMMU; VMIDs of 2 bits, so there are 3

inline std::string SmmuOf(const std::string& host, int smmu) { return host + "/smmus/smmu" + std::to_string(smmu); }
// Devices 0 and 1 are behind SMMU 0, 2 and 3 behind SMMU 1, and so on.
inline std::string DeviceOf(const std::string& host, int device) {
  return host + "/devices/0000:0" + std::to_string(device) + ":00.0";
}

inline v1::Hello HelloOf(const std::string& name, v1::Stage2Sharing sharing, uint32_t vmid_bits, int smmus = 2,
                         int devices_per_smmu = 2) {
  v1::Hello hello;
  hello.set_protocol_version(1);
  hello.set_agent_id("agent-of-" + name);
  hello.set_agent_version("1");
  v1::Host& host = *hello.mutable_host();
  host.set_name(name);
  host.set_stage2_sharing(sharing);
  host.set_boot_id("boot-1");
  host.set_backend("emulated/strict");
  for (int i = 0; i < smmus; ++i) {
    v1::Smmu& smmu = *host.add_smmus();
    smmu.set_name(SmmuOf(name, i));
    smmu.add_idr(0b11);  // both stages
    smmu.set_vmid_bits(vmid_bits);
    smmu.set_sid_bits(24);
    for (int j = 0; j < devices_per_smmu; ++j) {
      v1::Device& device = *hello.add_devices();
      device.set_name(DeviceOf(name, i * devices_per_smmu + j));
      device.set_smmu(smmu.name());
      device.set_stream_id(static_cast<uint32_t>(0x100 * (i * devices_per_smmu + j)));
      device.set_iommu_group(static_cast<uint32_t>(i * devices_per_smmu + j));
    }
  }
  return hello;
}

inline v1::Hello GraceHello() {
  v1::Hello hello = HelloOf(kGrace, v1::STAGE2_SHARING_SHARED, 16);
  v1::HwQueueAbility& hw_queue = *hello.mutable_host()->mutable_smmus(0)->mutable_hw_queue();
  hw_queue.set_interfaces(1);
  hw_queue.set_queues_per_interface(2);
  hw_queue.set_sid_slots(1);
  hello.mutable_host()->mutable_smmus(0)->add_idr(8 << 21);  // IDR1.CMDQS: queues of up to 256 commands
  return hello;
}
inline v1::Hello SmallHello() { return HelloOf(kSmall, v1::STAGE2_SHARING_PER_SMMU, 2); }

// Requests.

inline v1::CreateStage2DomainRequest CreateStage2(const std::string& id, const std::string& host,
                                                  const std::string& smmu = "", const std::string& vm = "vm") {
  v1::CreateStage2DomainRequest request;
  request.set_stage2_domain_id(id);
  request.mutable_stage2_domain()->set_host(host);
  request.mutable_stage2_domain()->set_vm(vm);
  request.mutable_stage2_domain()->set_smmu(smmu);
  return request;
}
inline v1::CreateViommuRequest CreateViommu(const std::string& id, const std::string& smmu,
                                            const std::string& stage2_id,
                                            v1::ViommuType type = v1::VIOMMU_TYPE_UNSPECIFIED) {
  v1::CreateViommuRequest request;
  request.set_viommu_id(id);
  request.mutable_viommu()->set_smmu(smmu);
  request.mutable_viommu()->set_stage2_domain(Stage2DomainName(stage2_id));
  request.mutable_viommu()->set_type(type);
  return request;
}
inline v1::SetVdevIdRequest SetVdevId(const std::string& viommu_id, const std::string& device, uint64_t vdev_id) {
  v1::SetVdevIdRequest request;
  request.set_viommu(ViommuName(viommu_id));
  request.set_device(device);
  request.set_vdev_id(vdev_id);
  return request;
}
inline v1::UnsetVdevIdRequest UnsetVdevId(const std::string& viommu_id, uint64_t vdev_id) {
  v1::UnsetVdevIdRequest request;
  request.set_name(VdeviceName(ViommuName(viommu_id), vdev_id));
  return request;
}
inline v1::RebindVdevIdRequest RebindVdevId(const std::string& viommu_id, uint64_t from, uint64_t to) {
  v1::RebindVdevIdRequest request;
  request.set_name(VdeviceName(ViommuName(viommu_id), from));
  request.set_new_vdev_id(to);
  return request;
}
inline v1::CreateNestedDomainRequest CreateNested(const std::string& viommu_id, const std::string& id) {
  v1::CreateNestedDomainRequest request;
  request.set_viommu(ViommuName(viommu_id));
  request.set_nested_domain_id(id);
  request.mutable_nested_domain()->mutable_config()->mutable_bypass();
  return request;
}
inline v1::AttachDeviceRequest AttachDevice(const std::string& viommu_id, const std::string& id,
                                            const std::string& device) {
  v1::AttachDeviceRequest request;
  request.set_name(NestedDomainName(ViommuName(viommu_id), id));
  request.set_device(device);
  return request;
}
inline v1::DetachDeviceRequest DetachDevice(const std::string& viommu_id, uint64_t vdev_id) {
  v1::DetachDeviceRequest request;
  request.set_vdevice(VdeviceName(ViommuName(viommu_id), vdev_id));
  return request;
}
inline v1::DeleteNestedDomainRequest DeleteNested(const std::string& viommu_id, const std::string& id) {
  v1::DeleteNestedDomainRequest request;
  request.set_name(NestedDomainName(ViommuName(viommu_id), id));
  return request;
}
inline v1::CreateHwQueueRequest CreateHwQueue(const std::string& viommu_id, uint32_t index, uint64_t iova = 0x10000,
                                              uint64_t length_bytes = 0x1000) {
  v1::CreateHwQueueRequest request;
  request.set_viommu(ViommuName(viommu_id));
  request.mutable_hw_queue()->set_index(index);
  request.mutable_hw_queue()->set_nesting_parent_iova(iova);
  request.mutable_hw_queue()->set_length_bytes(length_bytes);
  return request;
}
inline v1::DeleteHwQueueRequest DeleteHwQueue(const std::string& viommu_id, uint32_t index) {
  v1::DeleteHwQueueRequest request;
  request.set_name(HwQueueName(ViommuName(viommu_id), index));
  return request;
}
inline v1::DeleteViommuRequest DeleteViommu(const std::string& viommu_id, bool cascade = false) {
  v1::DeleteViommuRequest request;
  request.set_name(ViommuName(viommu_id));
  request.set_cascade(cascade);
  return request;
}
inline v1::DeleteStage2DomainRequest DeleteStage2(const std::string& id, bool cascade = false) {
  v1::DeleteStage2DomainRequest request;
  request.set_name(Stage2DomainName(id));
  request.set_cascade(cascade);
  return request;
}

// The answer of a host about a record as it is now.
template <typename T>
v1::ItemResult ResultFor(const T& record, v1::Outcome outcome) {
  v1::ItemResult result;
  result.set_uid(record.uid());
  result.set_name(record.name());
  result.set_generation(record.generation());
  result.set_outcome(outcome);
  if (outcome == v1::OUTCOME_FAILED) {
    result.mutable_reason()->set_reason("BACKEND_FAILED");
    result.mutable_reason()->set_message("no");
    result.mutable_reason()->set_error_number(5);
  }
  return result;
}

class TestFleet {
  template <typename F>
  auto Record(F&& judge) {
    Draft draft(tables_);
    const auto new_uid = [this] { return "uid-" + std::to_string(++uids_); };
    const Context context{Now(), revision_ + 1, new_uid};
    auto answer = judge(context, draft);
    changes_.clear();
    if (answer.ok()) {
      changes_ = draft.Changes();
      if (!changes_.empty()) ++revision_;
      for (const Change& change : changes_) tables_.Apply(change);
    }
    return answer;
  }

  template <typename F>
  auto Run(F&& judge) {
    auto answer = Record(std::forward<F>(judge));
    const absl::Status holds = CheckInvariants(tables_);
    EXPECT_TRUE(holds.ok()) << holds;
    return answer;
  }

 public:
  // Judges one command and records it, as the writer does.
  template <typename Request>
  auto Do(const Request& request) {
    return Run([&](const Context& context, Draft& draft) { return Judge(request, context, draft); });
  }
  // Likewise, without checking the whole record afterwards: for filling it.
  template <typename Request>
  auto DoUnchecked(const Request& request) {
    return Record([&](const Context& context, Draft& draft) { return Judge(request, context, draft); });
  }
  absl::Status Hello(const v1::Hello& hello) {
    return Run([&](const Context& context, Draft& draft) { return JudgeHello(hello, context, draft); });
  }
  absl::Status Disconnect(const std::string& host) {
    return Run([&](const Context& context, Draft& draft) {
      return JudgeDisconnect(host, v1::ERROR_REASON_LEASE_EXPIRED, "silence", context, draft);
    });
  }
  absl::Status Answer(const std::string& host, const v1::ItemResult& result) {
    v1::Results results;
    *results.add_items() = result;
    return Run([&](const Context& context, Draft& draft) { return JudgeResults(host, results, context, draft); });
  }
  // The host of a record answers about it.
  template <typename T>
  absl::Status Answer(const T& record, v1::Outcome outcome) {
    return Answer(record.host(), ResultFor(record, outcome));
  }

  v1::Stage2Domain stage2(const std::string& id) const { return Present<v1::Stage2Domain>(Stage2DomainName(id)); }
  v1::Viommu viommu(const std::string& id) const { return Present<v1::Viommu>(ViommuName(id)); }
  v1::Vdevice vdevice(const std::string& viommu_id, uint64_t vdev_id) const {
    return Present<v1::Vdevice>(VdeviceName(ViommuName(viommu_id), vdev_id));
  }
  v1::NestedDomain nested(const std::string& viommu_id, const std::string& id) const {
    return Present<v1::NestedDomain>(NestedDomainName(ViommuName(viommu_id), id));
  }
  v1::HwQueue hw_queue(const std::string& viommu_id, uint32_t index) const {
    return Present<v1::HwQueue>(HwQueueName(ViommuName(viommu_id), index));
  }
  v1::Device device(const std::string& name) const { return Present<v1::Device>(name); }
  v1::Host host(const std::string& name) const { return Present<v1::Host>(name); }
  template <typename T>
  bool Has(const T& record) const {
    return tables_.Find<T>(record.name()) != nullptr;
  }

  const Tables& tables() const { return tables_; }
  int64_t revision() const { return revision_; }
  // Of the last accepted command.
  const std::vector<Change>& changes() const { return changes_; }

 private:
  // An empty record when there is none.
  template <typename T>
  T Present(const std::string& name) const {
    const auto found = tables_.Find<T>(name);
    return found != nullptr ? *found : T();
  }

  google::protobuf::Timestamp Now() const {
    google::protobuf::Timestamp now;
    now.set_seconds(1'700'000'000 + revision_);
    return now;
  }

  Tables tables_;
  int64_t revision_ = 0;
  int64_t uids_ = 0;
  std::vector<Change> changes_;
};

// Whether a refusal carries what its reason promises beside itself (docs/errors.md).
inline void ExpectDetails(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    EXPECT_GT(DetailOf<google::rpc::PreconditionFailure>(status).violations_size(), 0) << status;
  }
  const v1::ErrorReason reason = ReasonOf(status);
  if (reason == v1::ERROR_REASON_DEVICE_TAKEN || reason == v1::ERROR_REASON_VDEV_ID_TAKEN ||
      reason == v1::ERROR_REASON_NAME_TAKEN) {
    EXPECT_NE(DetailOf<google::rpc::ResourceInfo>(status).resource_name(), "") << status;
  }
  if (reason == v1::ERROR_REASON_OVERLOADED || reason == v1::ERROR_REASON_STORE_UNAVAILABLE ||
      reason == v1::ERROR_REASON_HOST_DISCONNECTED) {
    const auto delay = DetailOf<google::rpc::RetryInfo>(status).retry_delay();
    EXPECT_GT(delay.seconds() + delay.nanos(), 0) << status;
  }
}

// A fleet with both hosts, and on grace a stage-2 domain "s" and a viommu "v" on SMMU 0.
class FleetTest : public testing::Test {
 protected:
  FleetTest() {
    EXPECT_TRUE(fleet_.Hello(GraceHello()).ok());
    EXPECT_TRUE(fleet_.Hello(SmallHello()).ok());
    EXPECT_TRUE(fleet_.Do(CreateStage2("s", kGrace)).ok());
    EXPECT_TRUE(fleet_.Do(CreateViommu("v", SmmuOf(kGrace, 0), "s")).ok());
  }

  // Expects a refusal that changes nothing; returns it.
  template <typename Request>
  const absl::Status& Refused(const Request& request, absl::StatusCode code, v1::ErrorReason reason) {
    const int64_t revision = fleet_.revision();
    refusal_ = fleet_.Do(request).status();
    EXPECT_EQ(refusal_.code(), code) << refusal_;
    EXPECT_EQ(ReasonName(ReasonOf(refusal_)), ReasonName(reason)) << refusal_;
    EXPECT_EQ(fleet_.revision(), revision) << "a refusal changes nothing";
    ExpectDetails(refusal_);
    return refusal_;
  }
  template <typename Request>
  void Accepted(const Request& request) {
    const absl::Status status = fleet_.Do(request).status();
    EXPECT_TRUE(status.ok()) << status;
  }

  TestFleet fleet_;
  absl::Status refusal_;
};

inline std::string MetaOf(const absl::Status& status, const std::string& key) {
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  const auto found = info.metadata().find(key);
  return found == info.metadata().end() ? "" : found->second;
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_TEST_FLEET_H_
