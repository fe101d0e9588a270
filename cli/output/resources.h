// Resources as rows of tables, and what all of them have in common.

#ifndef VIOMMU_CLI_OUTPUT_RESOURCES_H_
#define VIOMMU_CLI_OUTPUT_RESOURCES_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cli/names.h"
#include "cli/output/table.h"
#include "common/clock.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::cli {

// The fields that every resource has under the same names. An Smmu has a name only.
struct CommonFields {
  std::string name;
  std::string uid;
  std::string etag;
  int64_t generation = 0;
  int64_t observed_generation = 0;
  int64_t revision = 0;
  std::string state;  // "READY": the enum's word without its prefix; empty for an Smmu
  v1::StateReason reason;
  std::map<std::string, std::string> labels;
  WallTime create_time;
  WallTime update_time;
};

CommonFields CommonOf(const google::protobuf::Message& resource);

// "READY", "FAILED (BACKEND_FAILED)".
std::string StateText(const CommonFields& common);

// "a=1,b=2".
std::string LabelsText(const std::map<std::string, std::string>& labels);

// The last word of an enum value's name: "SHARED" of STAGE2_SHARING_SHARED, by the length of the zero value's prefix.
std::string EnumWord(const google::protobuf::EnumDescriptor& type, int number);

// The resource inside; null when it is empty.
const google::protobuf::Message* Inside(const v1::Resource& resource);

// The kind of a resource message (Host, Smmu, …).
Kind KindOf(const google::protobuf::Message& resource);

// Rows of one kind; `wide` adds columns.
Table ResourceTable(Kind kind, const std::vector<const google::protobuf::Message*>& resources, bool wide, WallTime now);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_OUTPUT_RESOURCES_H_
