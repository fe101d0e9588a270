// Resources for the tests of the agent: VM "vm1" on host "h1" with SMMUs "s0" and "s1".

#ifndef VIOMMU_AGENT_RECONCILE_TESTING_H_
#define VIOMMU_AGENT_RECONCILE_TESTING_H_

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "viommu/v1/resources.pb.h"

namespace viommu::agent {

inline v1::Resource Stage2(const std::string& uid, const std::string& id, int64_t generation,
                           const std::string& vm = "vm1") {
  v1::Resource resource;
  auto* m = resource.mutable_stage2_domain();
  m->set_uid(uid);
  m->set_name("stage2Domains/" + id);
  m->set_generation(generation);
  m->set_host("hosts/h1");
  m->set_vm(vm);
  m->set_state(v1::STATE_PENDING);
  return resource;
}

inline v1::Resource Viommu(const std::string& uid, const std::string& id, int64_t generation,
                           const std::string& stage2 = "s2", const std::string& smmu = "s0") {
  v1::Resource resource;
  auto* m = resource.mutable_viommu();
  m->set_uid(uid);
  m->set_name("viommus/" + id);
  m->set_generation(generation);
  m->set_host("hosts/h1");
  m->set_smmu("hosts/h1/smmus/" + smmu);
  m->set_stage2_domain("stage2Domains/" + stage2);
  m->set_type(v1::VIOMMU_TYPE_ARM_SMMUV3);
  m->set_state(v1::STATE_PENDING);
  return resource;
}

// Device 0000:01:00.`function`.
inline v1::Resource Vdevice(const std::string& uid, const std::string& viommu, uint64_t vdev_id, int64_t generation,
                            int function = 0, const std::string& nested = "") {
  v1::Resource resource;
  auto* m = resource.mutable_vdevice();
  m->set_uid(uid);
  m->set_name(fmt::format("viommus/{}/vdevices/{}", viommu, vdev_id));
  m->set_generation(generation);
  m->set_host("hosts/h1");
  m->set_viommu("viommus/" + viommu);
  m->set_device(fmt::format("hosts/h1/devices/0000:01:00.{}", function));
  m->set_vdev_id(vdev_id);
  m->set_state(v1::STATE_PENDING);
  if (!nested.empty()) m->set_nested_domain(fmt::format("viommus/{}/nestedDomains/{}", viommu, nested));
  return resource;
}

inline v1::Resource Nested(const std::string& uid, const std::string& viommu, const std::string& id,
                           int64_t generation) {
  v1::Resource resource;
  auto* m = resource.mutable_nested_domain();
  m->set_uid(uid);
  m->set_name(fmt::format("viommus/{}/nestedDomains/{}", viommu, id));
  m->set_generation(generation);
  m->set_host("hosts/h1");
  m->set_viommu("viommus/" + viommu);
  m->mutable_config()->mutable_translate()->set_word0(0xb);  // V, Config: stage 1
  m->set_state(v1::STATE_PENDING);
  return resource;
}

inline v1::Resource Bypassing(v1::Resource nested) {
  nested.mutable_nested_domain()->mutable_config()->mutable_bypass();
  return nested;
}

// One page at 1 GiB.
inline v1::Resource HwQueue(const std::string& uid, const std::string& viommu, int64_t generation) {
  v1::Resource resource;
  auto* m = resource.mutable_hw_queue();
  m->set_uid(uid);
  m->set_name(fmt::format("viommus/{}/hwQueues/0", viommu));
  m->set_generation(generation);
  m->set_host("hosts/h1");
  m->set_viommu("viommus/" + viommu);
  m->set_nesting_parent_iova(0x4000'0000);
  m->set_length_bytes(0x1000);
  m->set_state(v1::STATE_PENDING);
  return resource;
}

// The same resource on its way out, at a later generation.
inline v1::Resource Deleting(v1::Resource resource, int64_t generation) {
  const auto mark = [generation](auto* m) {
    m->set_generation(generation);
    m->set_state(v1::STATE_DELETING);
  };
  if (resource.has_stage2_domain()) mark(resource.mutable_stage2_domain());
  if (resource.has_viommu()) mark(resource.mutable_viommu());
  if (resource.has_vdevice()) mark(resource.mutable_vdevice());
  if (resource.has_nested_domain()) mark(resource.mutable_nested_domain());
  if (resource.has_hw_queue()) mark(resource.mutable_hw_queue());
  return resource;
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_TESTING_H_
