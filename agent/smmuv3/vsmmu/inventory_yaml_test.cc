#include "agent/smmuv3/vsmmu/inventory_yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "agent/smmuv3/vsmmu/emulated_backend.h"

namespace viommu::agent {
namespace {

using testing::HasSubstr;

constexpr char kGood[] = R"(labels: {rack: a7}
personality: linux-7.2
smmus:
  - name: smmu0
    idr: [0x0c0c16db, 0x02600510, 0, 0x00001500, 0, 0x00000075]
    iidr: 0x4871143b
    hw_queue: {vintfs: 63, queues_per_vintf: 2, sid_slots: 16}
  - name: smmu1
    idr: [3, 8, 0, 0, 0, 0]
    canwbs: false
devices:
  - pci: "0000:01:00.0"
    smmu: smmu0
    stream_id: 0x100
    iommu_group: 12
    ats: true
    max_pasid_log2: 20
    labels: {model: nic}
  - {pci: "0000:02:00.0", smmu: smmu1, stream_id: 7, iommu_group: 13, streams: 2, dma_coherent: false}
)";

// The text with `from` replaced by `to`.
std::string With(std::string from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string ErrorOf(const std::string& text) {
  const auto inventory = ParseInventoryYaml(text, "host.yaml");
  EXPECT_EQ(inventory.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(inventory.status().message());
}

TEST(InventoryYamlTest, ReadsEveryKey) {
  const auto inventory = ParseInventoryYaml(kGood, "host.yaml");
  ASSERT_TRUE(inventory.ok()) << inventory.status();
  EXPECT_EQ(inventory->labels.at("rack"), "a7");
  EXPECT_EQ(inventory->personality.name, "linux-7.2");
  ASSERT_EQ(inventory->smmus.size(), 2u);
  const SmmuInfo& smmu = inventory->smmus[0].info;
  EXPECT_EQ(smmu.iidr, 0x4871143bu);
  EXPECT_EQ(smmu.vmid_bits, 16u);
  EXPECT_EQ(smmu.sid_bits, 16u);
  EXPECT_EQ(smmu.ssid_bits, 20u);
  EXPECT_TRUE(smmu.ats);
  EXPECT_EQ(smmu.hw_queue, (HwQueueInventory{63, 2, 16}));
  EXPECT_TRUE(inventory->smmus[0].canwbs);
  EXPECT_FALSE(inventory->smmus[1].canwbs);
  EXPECT_EQ(inventory->smmus[1].info.vmid_bits, 8u);
  EXPECT_FALSE(inventory->smmus[1].info.hw_queue.has_value());
  ASSERT_EQ(inventory->devices.size(), 2u);
  const EmulatedDevice& nic = inventory->devices[0];
  EXPECT_EQ(nic.info.pci_address, "0000:01:00.0");
  EXPECT_EQ(nic.info.stream_id, 0x100u);
  EXPECT_EQ(nic.info.iommu_group, 12u);
  EXPECT_TRUE(nic.info.ats);
  EXPECT_EQ(nic.info.max_pasid_log2, 20u);
  EXPECT_EQ(nic.info.labels.at("model"), "nic");
  EXPECT_EQ(nic.stream_count, 1u);
  EXPECT_TRUE(nic.dma_coherent);
  EXPECT_EQ(inventory->devices[1].stream_count, 2u);
  EXPECT_FALSE(inventory->devices[1].dma_coherent);
}

TEST(InventoryYamlTest, ErrorsNameLineAndKey) {
  EXPECT_THAT(ErrorOf(With("iidr:", "iird:")), HasSubstr("host.yaml:6: iird: is not a key"));
  EXPECT_THAT(ErrorOf(With("labels: {rack", "lables: {rack")), HasSubstr("host.yaml:1: lables"));
  EXPECT_THAT(ErrorOf(With("linux-7.2", "linux-9")),
              HasSubstr("host.yaml:2: personality: must be strict or linux-7.2"));
  EXPECT_THAT(ErrorOf(With("stream_id: 0x100", "stream_id: many")),
              HasSubstr("host.yaml:14: stream_id: must be a number"));
  EXPECT_THAT(ErrorOf(With("    stream_id: 0x100\n", "")), HasSubstr("stream_id: is missing"));
  EXPECT_THAT(ErrorOf(With("ats: true", "ats: yes")), HasSubstr("host.yaml:16: ats: must be true or false"));
  EXPECT_THAT(ErrorOf(With("[3, 8, 0, 0, 0, 0]", "[3, 8]")), HasSubstr("host.yaml:9: idr: must be the six registers"));
  EXPECT_THAT(ErrorOf(With("0000:01:00.0", "01:00.0")), HasSubstr("host.yaml:12: pci: must look like"));
  for (const char* wrong : {"0000:01:00.8", "0000:01:20.0", "0000:0G:00.0", "0000:0A:00.0", "0000:01:00,0"}) {
    EXPECT_THAT(ErrorOf(With("0000:01:00.0", wrong)), HasSubstr("pci: must look like")) << wrong;
  }
  EXPECT_THAT(ErrorOf(With("{rack: a7}", "[a, b]")), HasSubstr("labels: must be a map"));
  EXPECT_THAT(ErrorOf("devices: [}"), HasSubstr("host.yaml:1: "));
  EXPECT_THAT(ErrorOf("just text"), HasSubstr("must be a map"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("must be a map"));
}

TEST(InventoryYamlTest, ErrorsInTheWhole) {
  EXPECT_THAT(ErrorOf(With("smmu: smmu0", "smmu: smmu9")),
              HasSubstr("device 0000:01:00.0: there is no SMMU \"smmu9\""));
  EXPECT_THAT(ErrorOf(With("name: smmu1", "name: smmu0")), HasSubstr("SMMU smmu0 is listed twice"));
  EXPECT_THAT(ErrorOf(With("0000:02:00.0", "0000:01:00.0")), HasSubstr("device 0000:01:00.0 is listed twice"));
  EXPECT_THAT(ErrorOf(With("stream_id: 0x100", "stream_id: 0x10000")), HasSubstr("wider than the 16 bits"));
  EXPECT_THAT(ErrorOf(With("streams: 2", "streams: 0")), HasSubstr("has no StreamID"));
  EXPECT_THAT(
      ErrorOf(With("smmu: smmu1, stream_id: 7, iommu_group: 13", "smmu: smmu0, stream_id: 0xff, iommu_group: 13")),
      HasSubstr("StreamID 256 of SMMU smmu0 is used twice"));
  EXPECT_THAT(ErrorOf(With("iommu_group: 13", "iommu_group: 12")), HasSubstr("IOMMU group 12"));
  EXPECT_THAT(ErrorOf(With("streams: 2", "ats: true")), HasSubstr("IDR0.ATS"));
  EXPECT_THAT(ErrorOf(With("streams: 2", "max_pasid_log2: 1")), HasSubstr("IDR1.SSIDSIZE"));
}

TEST(InventoryYamlTest, MissingFile) {
  EXPECT_EQ(LoadInventoryYaml(testing::TempDir() + "/no-such-file.yaml").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(LoadInventoryYaml(testing::TempDir() + "/no-such-file.yaml").status().message(),
              HasSubstr("no-such-file.yaml cannot be read: No such file or directory"));
}

// The examples are what demonstrations and tests start from.
TEST(ExampleInventoriesTest, ServeAsDescribed) {
  const std::map<std::string, std::pair<size_t, size_t>> examples = {
      {"grace", {4, 14}}, {"ampere", {4, 12}}, {"edge", {1, 4}}};
  for (const auto& [name, counts] : examples) {
    auto inventory = LoadInventoryYaml("deploy/inventory/" + name + ".yaml");
    ASSERT_TRUE(inventory.ok()) << inventory.status();
    EXPECT_EQ(inventory->labels.at("platform"), name);
    auto backend = EmulatedBackend::Create(*std::move(inventory));
    ASSERT_TRUE(backend.ok()) << backend.status();
    const auto found = (*backend)->Discover();
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(found->smmus.size(), counts.first);
    EXPECT_EQ(found->devices.size(), counts.second);
    // A VM gets a viommu on every SMMU that has devices.
    auto context = (*backend)->OpenContext();
    ASSERT_TRUE(context.ok());
    for (const DeviceInfo& device : found->devices) {
      const auto id = (*context)->BindDevice(device.pci_address);
      ASSERT_TRUE(id.ok()) << id.status();
      const auto ioas = (*context)->AllocIoas();
      const auto stage2 = (*context)->AllocStage2(*id, *ioas);
      ASSERT_TRUE(stage2.ok()) << stage2.status();
      const auto viommu = (*context)->AllocViommu(*id, *stage2, ViommuType::kArmSmmuv3);
      EXPECT_TRUE(viommu.ok()) << viommu.status();
    }
  }
}

TEST(ExampleInventoriesTest, DifferInWhatTheyCan) {
  const auto grace = LoadInventoryYaml("deploy/inventory/grace.yaml");
  ASSERT_TRUE(grace.ok());
  EXPECT_EQ(grace->smmus[0].info.vmid_bits, 16u);
  EXPECT_TRUE(grace->smmus[0].info.hw_queue.has_value());
  EXPECT_EQ(grace->personality.name, "strict");
  std::map<std::string, int> per_smmu;
  for (const EmulatedDevice& device : grace->devices) ++per_smmu[device.info.smmu];
  EXPECT_GE(per_smmu["smmu3.0x0000000011000000"], 4);
  EXPECT_GE(per_smmu["smmu3.0x0000000012000000"], 4);
  const auto edge = LoadInventoryYaml("deploy/inventory/edge.yaml");
  ASSERT_TRUE(edge.ok());
  EXPECT_EQ(edge->smmus[0].info.vmid_bits, 8u);
  EXPECT_EQ(edge->personality.name, "linux-7.2");
}

}  // namespace
}  // namespace viommu::agent
