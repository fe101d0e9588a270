// The commands of viommu-server besides serving: for operators, on stores that no server runs on.

#ifndef VIOMMU_SERVER_TOOL_TOOL_H_
#define VIOMMU_SERVER_TOOL_TOOL_H_

#include <optional>

namespace viommu::server {

// restore, verify, inspect: does it and returns the exit code (0: done and right; 1: not; 2: the command line is
// wrong). nullopt: the command line is none of theirs.
std::optional<int> RunTool(int argc, const char* const* argv);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_TOOL_TOOL_H_
