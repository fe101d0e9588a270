#include "agent/session/hello.h"

namespace viommu::agent {

v1::Hello MakeHello(const HostFacts& facts, const Inventory& inventory, const Capabilities& capabilities) {
  v1::Hello hello;
  v1::Host& host = *hello.mutable_host();
  host.set_name(facts.name);
  host.set_boot_id(facts.boot_id);
  host.mutable_labels()->insert(inventory.labels.begin(), inventory.labels.end());
  for (const auto& [key, value] : facts.labels) (*host.mutable_labels())[key] = value;
  host.set_backend(capabilities.backend);
  host.set_stage2_sharing(capabilities.stage2_sharing == Stage2Sharing::kShared ? v1::STAGE2_SHARING_SHARED
                                                                                : v1::STAGE2_SHARING_PER_SMMU);
  host.set_invalidate_by_nested_domain(capabilities.invalidate_by_nested);
  for (const Capability& capability : capabilities.others) {
    auto* entry = host.add_capabilities();
    entry->set_name(capability.name);
    entry->set_available(capability.available);
    entry->set_reason(capability.reason);
  }
  for (const SmmuInfo& info : inventory.smmus) {
    v1::Smmu& smmu = *host.add_smmus();
    smmu.set_name(facts.name + "/smmus/" + info.name);
    smmu.mutable_idr()->Add(info.idr.begin(), info.idr.end());
    smmu.set_iidr(info.iidr);
    smmu.set_aidr(info.aidr);
    smmu.set_vmid_bits(info.vmid_bits);
    smmu.set_sid_bits(info.sid_bits);
    smmu.set_ssid_bits(info.ssid_bits);
    smmu.set_ats(info.ats);
    if (info.hw_queue) {
      smmu.mutable_hw_queue()->set_interfaces(info.hw_queue->vintfs);
      smmu.mutable_hw_queue()->set_queues_per_interface(info.hw_queue->queues_per_vintf);
      smmu.mutable_hw_queue()->set_sid_slots(info.hw_queue->sid_slots);
    }
  }
  for (const DeviceInfo& info : inventory.devices) {
    v1::Device& device = *hello.add_devices();
    device.set_name(facts.name + "/devices/" + info.pci_address);
    device.set_smmu(facts.name + "/smmus/" + info.smmu);
    device.set_stream_id(info.stream_id);
    device.set_ats(info.ats);
    device.set_max_pasid_log2(info.max_pasid_log2);
    device.set_iommu_group(info.iommu_group);
    device.mutable_labels()->insert(info.labels.begin(), info.labels.end());
  }
  return hello;
}

void FillUsage(const HostFacts& host, const std::vector<SmmuStats>& stats, v1::Heartbeat& heartbeat) {
  for (const SmmuStats& each : stats) {
    if (each.vmids_total == 0) continue;
    v1::SmmuUsage& usage = *heartbeat.add_smmus();
    usage.set_name(host.name + "/smmus/" + each.smmu);
    usage.set_vmids_used(each.vmids_used);
    usage.set_vmids_total(each.vmids_total);
  }
}

}  // namespace viommu::agent
