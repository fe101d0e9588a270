#include "agent/smmuv3/vsmmu/inventory_yaml.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "yaml-cpp/yaml.h"

namespace viommu::agent {
namespace {

// "segment:bus:device.function" in lower case; a device number has five bits, a function number three.
bool IsPciAddress(const std::string& text) {
  constexpr char kShape[] = "xxxx:xx:1x.7";
  if (text.size() != sizeof(kShape) - 1) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool digit = c >= '0' && c <= '9';
    const bool good = kShape[i] == 'x'   ? digit || (c >= 'a' && c <= 'f')
                      : kShape[i] == '1' ? c == '0' || c == '1'
                      : kShape[i] == '7' ? c >= '0' && c <= '7'
                                         : c == kShape[i];
    if (!good) return false;
  }
  return true;
}

// Reads one file. Goes on after an error with whatever value is at hand; the first error is what counts.
class Reader {
 public:
  explicit Reader(std::string origin) : origin_(std::move(origin)) {}

  absl::StatusOr<EmulatedInventory> Read(const YAML::Node& root) {
    EmulatedInventory inventory;
    Keys(root, "the file", {"labels", "personality", "smmus", "devices"});
    if (!status_.ok()) return status_;
    inventory.labels = Labels(root["labels"]);
    if (const YAML::Node node = root["personality"]) inventory.personality = ReadPersonality(node);
    for (const YAML::Node& node : List(root, "smmus")) inventory.smmus.push_back(ReadSmmu(node));
    for (const YAML::Node& node : List(root, "devices")) inventory.devices.push_back(ReadDevice(node));
    if (!status_.ok()) return status_;
    if (absl::Status status = ValidateInventory(inventory); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(origin_, ": ", status.message()));
    }
    return inventory;
  }

 private:
  void Fail(const YAML::Node& node, const std::string& key, const std::string& what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat(origin_, ":", node.Mark().line + 1, ": ", key, ": ", what));
  }

  // Whether the node is a map with none but these keys.
  void Keys(const YAML::Node& node, const std::string& what, std::initializer_list<const char*> known) {
    if (!node.IsMap()) return Fail(node, what, "must be a map of keys");
    for (const auto& entry : node) {
      const auto key = entry.first.as<std::string>();
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        Fail(entry.first, key, absl::StrCat("is not a key of ", what));
      }
    }
  }

  std::vector<YAML::Node> List(const YAML::Node& map, const char* key) {
    std::vector<YAML::Node> items;
    const YAML::Node node = map[key];
    if (!node) {
      Fail(map, key, "is missing");
    } else if (!node.IsSequence()) {
      Fail(node, key, "must be a list");
    } else {
      for (const YAML::Node& item : node) items.push_back(item);
    }
    return items;
  }

  // A value of `map`; `fallback` where it may be missing.
  std::string String(const YAML::Node& map, const char* key) {
    const YAML::Node node = map[key];
    if (!node) {
      Fail(map, key, "is missing");
    } else if (!node.IsScalar() || node.Scalar().empty()) {
      Fail(node, key, "must be text");
    } else {
      return node.Scalar();
    }
    return "";
  }

  uint32_t Number(const YAML::Node& map, const char* key, std::optional<uint32_t> fallback = std::nullopt) {
    const YAML::Node node = map[key];
    if (!node && fallback.has_value()) return *fallback;
    if (!node) {
      Fail(map, key, "is missing");
      return 0;
    }
    return NumberIn(node, key);
  }

  uint32_t NumberIn(const YAML::Node& node, const std::string& key) {
    uint64_t value = 0;
    const std::string text = node.IsScalar() ? node.Scalar() : "";
    const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const bool good = hex ? absl::SimpleHexAtoi(text, &value) : absl::SimpleAtoi(text, &value);
    if (!good || value > std::numeric_limits<uint32_t>::max()) {
      Fail(node, key, "must be a number from 0 to 0xffffffff, decimal or with 0x");
      return 0;
    }
    return static_cast<uint32_t>(value);
  }

  bool Bool(const YAML::Node& map, const char* key, bool fallback) {
    const YAML::Node node = map[key];
    if (!node) return fallback;
    if (node.IsScalar() && node.Scalar() == "true") return true;
    if (!node.IsScalar() || node.Scalar() != "false") Fail(node, key, "must be true or false");
    return false;
  }

  std::map<std::string, std::string> Labels(const YAML::Node& node) {
    std::map<std::string, std::string> labels;
    if (!node) return labels;
    if (!node.IsMap()) {
      Fail(node, "labels", "must be a map of text to text");
      return labels;
    }
    for (const auto& entry : node) {
      if (!entry.first.IsScalar() || !entry.second.IsScalar()) {
        Fail(entry.first, "labels", "must be a map of text to text");
      } else {
        labels[entry.first.Scalar()] = entry.second.Scalar();
      }
    }
    return labels;
  }

  Personality ReadPersonality(const YAML::Node& node) {
    for (Personality personality : {Strict(), Linux72()}) {
      if (node.IsScalar() && node.Scalar() == personality.name) return personality;
    }
    Fail(node, "personality", "must be strict or linux-7.2");
    return Strict();
  }

  EmulatedSmmuSpec ReadSmmu(const YAML::Node& node) {
    EmulatedSmmuSpec smmu;
    Keys(node, "an SMMU", {"name", "idr", "iidr", "aidr", "canwbs", "hw_queue"});
    if (!node.IsMap()) return smmu;
    std::array<uint32_t, 6> idr = {};
    const std::vector<YAML::Node> registers = List(node, "idr");
    if (registers.size() == idr.size()) {
      for (size_t i = 0; i < idr.size(); ++i) idr[i] = NumberIn(registers[i], "idr");
    } else if (node["idr"]) {
      Fail(node["idr"], "idr", "must be the six registers SMMU_IDR0 to SMMU_IDR5");
    }
    smmu.info = MakeSmmuInfo(String(node, "name"), idr, Number(node, "iidr", 0), Number(node, "aidr", 0));
    smmu.canwbs = Bool(node, "canwbs", true);
    if (const YAML::Node queue = node["hw_queue"]) {
      Keys(queue, "hw_queue", {"vintfs", "queues_per_vintf", "sid_slots"});
      if (queue.IsMap()) {
        smmu.info.hw_queue = HwQueueInventory{.vintfs = Number(queue, "vintfs"),
                                              .queues_per_vintf = Number(queue, "queues_per_vintf"),
                                              .sid_slots = Number(queue, "sid_slots")};
      }
    }
    return smmu;
  }

  EmulatedDevice ReadDevice(const YAML::Node& node) {
    EmulatedDevice device;
    Keys(node, "a device",
         {"pci", "smmu", "stream_id", "iommu_group", "ats", "max_pasid_log2", "streams", "dma_coherent", "labels"});
    if (!node.IsMap()) return device;
    device.info.pci_address = String(node, "pci");
    if (status_.ok() && !IsPciAddress(device.info.pci_address)) {
      Fail(node["pci"], "pci", "must look like 0000:01:00.0, in lower case");
    }
    device.info.smmu = String(node, "smmu");
    device.info.stream_id = Number(node, "stream_id");
    device.info.iommu_group = Number(node, "iommu_group");
    device.info.ats = Bool(node, "ats", false);
    device.info.max_pasid_log2 = Number(node, "max_pasid_log2", 0);
    device.stream_count = Number(node, "streams", 1);
    device.dma_coherent = Bool(node, "dma_coherent", true);
    device.info.labels = Labels(node["labels"]);
    return device;
  }

  const std::string origin_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<EmulatedInventory> ParseInventoryYaml(const std::string& text, const std::string& origin) {
  try {
    return Reader(origin).Read(YAML::Load(text));
  } catch (const YAML::Exception& error) {
    // The library reports malformed text by exceptions; they end here.
    return absl::InvalidArgumentError(absl::StrCat(origin, ":", error.mark.line + 1, ": ", error.msg));
  }
}

absl::StatusOr<EmulatedInventory> LoadInventoryYaml(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("inventory: ", path, " cannot be read: ", std::strerror(errno)));
  std::string text(kMaxInventoryBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxInventoryBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("inventory file ", path, " is larger than ", kMaxInventoryBytes, " bytes"));
  }
  return ParseInventoryYaml(text, path);
}

}  // namespace viommu::agent
