#include <fmt/format.h>

#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/show.h"

namespace viommu::cli {
namespace {

struct AttachArguments {
  std::string device;
  std::string nested_domain;
};

absl::StatusOr<ExitCode> Attach(Session& session, const AttachArguments& arguments) {
  v1::AttachDeviceRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_device(), FullName(Kind::kDevice, arguments.device));
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kNestedDomain, arguments.nested_domain));
  VIOMMU_ASSIGN_OR_RETURN(const auto response,
                          session.Change<v1::AttachDeviceResponse>(
                              request, "waiting for " + HostOf(request.device()) + " to attach the device"));
  return ShowChange(session, Kind::kVdevice, {&response.vdevice()}, "attached to " + ShortName(request.name()),
                    response.revision());
}

absl::StatusOr<ExitCode> Detach(Session& session, const std::string& vdevice) {
  v1::DetachDeviceRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_vdevice(), FullName(Kind::kVdevice, vdevice));
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::DetachDeviceResponse>(
                                                   request, "waiting for the host to detach " + request.vdevice()));
  return ShowChange(session, Kind::kVdevice, {&response.vdevice()}, "attached to the stage 2 alone",
                    response.revision());
}

}  // namespace

void DeclareAttach(Command& root) {
  const auto attach = std::make_shared<AttachArguments>();
  root.Sub("attach", "Attach a device to a nested domain, replacing what it was attached to")
      .Changes()
      .WithExample("attach a/0000:01:00.0 v1/s1 --wait=applied", "answers when the host has done it")
      .Positional("DEVICE", &attach->device, "a device that has a vdevice in the viommu", {.names_of = Kind::kDevice})
      .Positional("NESTEDDOMAIN", &attach->nested_domain, "VIOMMU/NAME or its full name",
                  {.names_of = Kind::kNestedDomain})
      .Runs([attach](Session& session) { return Attach(session, *attach); });
  const auto vdevice = std::make_shared<std::string>();
  root.Sub("detach", "Attach a device back to the stage 2 alone")
      .Changes()
      .WithExample("detach v1/16 --wait=applied", "answers when the host has done it")
      .Positional("VDEVICE", vdevice.get(), "VIOMMU/VDEV_ID or its full name", {.names_of = Kind::kVdevice})
      .Runs([vdevice](Session& session) { return Detach(session, *vdevice); });
}

}  // namespace viommu::cli
