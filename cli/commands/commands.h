// The command groups: each function declares its commands below the root.

#ifndef VIOMMU_CLI_COMMANDS_COMMANDS_H_
#define VIOMMU_CLI_COMMANDS_COMMANDS_H_

#include "cli/command.h"

namespace viommu::cli {

void DeclareGet(Command& root);
void DeclareDescribe(Command& root);
void DeclareCreate(Command& root);
void DeclareVdevId(Command& root);  // set, unset, rebind
void DeclareLabel(Command& root);
void DeclareDelete(Command& root);
void DeclareAttach(Command& root);  // attach, detach
void DeclareInvalidate(Command& root);
void DeclareWatch(Command& root);
void DeclareSetQuota(Command& set);
void DeclareCordon(Command& root);  // cordon, uncordon
void DeclareHosts(Command& root);   // drain, evict, forget
void DeclarePlan(Command& root);    // place, compare
void DeclareDrift(Command& root);
void DeclareStatus(Command& root);
void DeclareAudit(Command& root);
void DeclareBackup(Command& root);
void DeclareLocal(Command& root);
void DeclareDebug(Command& root);
void DeclareConfig(Command& root);
void DeclareShell(Command& root);  // version, completion

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_COMMANDS_COMMANDS_H_
