#include <fmt/format.h>

#include <fstream>
#include <istream>
#include <memory>
#include <sstream>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "cli/vdev_id_list.h"

namespace viommu::cli {
namespace {

struct SetArguments {
  std::string viommu;
  std::string device;
  std::string vdev_id;
  std::vector<std::string> labels;
};

struct BatchArguments {
  std::string viommu;
  std::vector<std::string> assignments;
  std::string file;
  std::vector<std::string> labels;
};

struct VdeviceArguments {
  std::string vdevice;
  std::string new_vdev_id;
};

absl::StatusOr<ExitCode> SetVdevId(Session& session, const SetArguments& arguments) {
  v1::SetVdevIdRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_viommu(), FullName(Kind::kViommu, arguments.viommu));
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_device(), FullName(Kind::kDevice, arguments.device));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t vdev_id, ParseNumber(arguments.vdev_id, "VDEV_ID"));
  request.set_vdev_id(vdev_id);
  VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs(arguments.labels, "--label"));
  for (const auto& [key, value] : labels) (*request.mutable_labels())[key] = value;
  VIOMMU_ASSIGN_OR_RETURN(
      const auto response,
      session.Change<v1::SetVdevIdResponse>(request, "waiting for " + HostOf(request.device()) + " to apply it"));
  return ShowChange(session, Kind::kVdevice, {&response.vdevice()},
                    fmt::format("set for {}", ShortName(response.vdevice().device())), response.revision());
}

absl::StatusOr<std::string> ReadList(Session& session, const std::string& path) {
  std::ifstream file;
  std::istream* in = session.terminal().in;
  if (path != "-") {
    file.open(path);
    if (!file) return UsageError(fmt::format("--file: cannot read {}", path));
    in = &file;
  }
  std::string text(kMaxVdevIdListBytes + 1, '\0');
  in->read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in->gcount()));
  if (text.size() > kMaxVdevIdListBytes) {
    return UsageError(fmt::format("--file: {} has more than {} bytes", path, kMaxVdevIdListBytes));
  }
  return text;
}

absl::StatusOr<ExitCode> BatchSetVdevIds(Session& session, const BatchArguments& arguments) {
  v1::BatchSetVdevIdsRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_viommu(), FullName(Kind::kViommu, arguments.viommu));
  if (arguments.assignments.empty() == arguments.file.empty()) {
    return UsageError("give either DEVICE=VDEV_ID arguments or --file");
  }
  for (const std::string& text : arguments.assignments) {
    VIOMMU_ASSIGN_OR_RETURN(*request.add_assignments(), ParseVdevIdAssignment(text, "DEVICE=VDEV_ID"));
  }
  if (!arguments.file.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const std::string text, ReadList(session, arguments.file));
    VIOMMU_ASSIGN_OR_RETURN(const auto assignments, ParseVdevIdList(text, arguments.file));
    for (const v1::VdevIdAssignment& assignment : assignments) *request.add_assignments() = assignment;
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto labels, ParsePairs(arguments.labels, "--label"));
  for (v1::VdevIdAssignment& assignment : *request.mutable_assignments()) {
    for (const auto& [key, value] : labels) assignment.mutable_labels()->insert({key, value});
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::BatchSetVdevIdsResponse>(
                                                   request, fmt::format("waiting for the host to apply {} vdev_ids",
                                                                        request.assignments_size())));
  std::vector<const google::protobuf::Message*> vdevices;
  for (const v1::Vdevice& vdevice : response.vdevices()) vdevices.push_back(&vdevice);
  return ShowChange(session, Kind::kVdevice, vdevices, "set", response.revision());
}

absl::StatusOr<ExitCode> UnsetVdevId(Session& session, const VdeviceArguments& arguments) {
  v1::UnsetVdevIdRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kVdevice, arguments.vdevice));
  VIOMMU_ASSIGN_OR_RETURN(const auto response,
                          session.Change<v1::UnsetVdevIdResponse>(
                              request, "waiting for the host to confirm that " + request.name() + " is gone"));
  return ShowChange(session, Kind::kVdevice, {&response.vdevice()}, "unset", response.revision());
}

absl::StatusOr<ExitCode> RebindVdevId(Session& session, const VdeviceArguments& arguments) {
  v1::RebindVdevIdRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kVdevice, arguments.vdevice));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t vdev_id, ParseNumber(arguments.new_vdev_id, "NEW_VDEV_ID"));
  request.set_new_vdev_id(vdev_id);
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::RebindVdevIdResponse>(
                                                   request, "waiting for the host to rebind " + request.name()));
  return ShowChange(session, Kind::kVdevice, {&response.vdevice()}, "rebound from " + ShortName(request.name()),
                    response.revision());
}

void DeclareSet(Command& root) {
  Command& set = root.Sub("set", "Put devices into a viommu under guest StreamIDs; set quotas");
  const auto one = std::make_shared<SetArguments>();
  set.Sub("vdev-id", "Put a device into a viommu under a guest StreamID")
      .MakesNew()
      .WithExample("set vdev-id v1 a/0000:01:00.0 0x10", "answers when it is recorded")
      .WithExample("set vdev-id v1 a/0000:01:00.0 0x10 --wait=applied", "answers when the host has applied it")
      .Positional("VIOMMU", &one->viommu, "the viommu", {.names_of = Kind::kViommu})
      .Positional("DEVICE", &one->device, "HOST/ADDRESS or its full name", {.names_of = Kind::kDevice})
      .Positional("VDEV_ID", &one->vdev_id, "the StreamID that the guest uses, in decimal or 0x hex")
      .Flags("-l,--label", &one->labels, "KEY=VALUE,...", "labels of the vdevice")
      .Runs([one](Session& session) { return SetVdevId(session, *one); });
  const auto batch = std::make_shared<BatchArguments>();
  set.Sub("vdev-ids", "Put many devices into a viommu, all or none")
      .MakesNew()
      .Details(
          "A file has one assignment a line: DEVICE=VDEV_ID, then KEY=VALUE words for labels of that vdevice. Empty "
          "lines\n"
          "and what follows a # are left out. --file - reads the standard input.")
      .WithExample("set vdev-ids v1 a/0000:01:00.0=0x10 a/0000:01:00.1=0x11", "two at once")
      .WithExample("set vdev-ids v1 --file vm.txt --wait=applied", "from a file")
      .Positional("VIOMMU", &batch->viommu, "the viommu", {.names_of = Kind::kViommu})
      .Positionals("DEVICE=VDEV_ID", &batch->assignments, "a device and its guest StreamID", false)
      .Flag("--file", &batch->file, "PATH", "read the assignments from a file", {.files = true})
      .Flags("-l,--label", &batch->labels, "KEY=VALUE,...", "labels of all of them")
      .Runs([batch](Session& session) { return BatchSetVdevIds(session, *batch); });
  DeclareSetQuota(set);
}

}  // namespace

void DeclareVdevId(Command& root) {
  DeclareSet(root);
  const auto unset = std::make_shared<VdeviceArguments>();
  root.Sub("unset", "Take devices out of their viommus")
      .Sub("vdev-id", "Take a device out of its viommu, detaching it first")
      .Changes()
      .Details("The device and the vdev_id are free once the host has confirmed: --wait=applied waits for that.")
      .WithExample("unset vdev-id v1/16 --wait=applied", "answers when the device is free")
      .Positional("VDEVICE", &unset->vdevice, "VIOMMU/VDEV_ID or its full name", {.names_of = Kind::kVdevice})
      .Runs([unset](Session& session) { return UnsetVdevId(session, *unset); });
  const auto rebind = std::make_shared<VdeviceArguments>();
  root.Sub("rebind", "Change guest StreamIDs")
      .Sub("vdev-id", "Change the vdev_id of a vdevice as one change: the guest has renumbered its buses")
      .Changes()
      .WithExample("rebind vdev-id v1/0x10 0x20 --wait=applied", "from 16 to 32")
      .Positional("VDEVICE", &rebind->vdevice, "VIOMMU/VDEV_ID or its full name", {.names_of = Kind::kVdevice})
      .Positional("NEW_VDEV_ID", &rebind->new_vdev_id, "the new StreamID, in decimal or 0x hex")
      .Runs([rebind](Session& session) { return RebindVdevId(session, *rebind); });
}

}  // namespace viommu::cli
