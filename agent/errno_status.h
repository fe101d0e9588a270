// Errors of a backend: an absl::Status that also carries the errno which the kernel gave or would have given.
//
// The canonical code follows from the errno, so that callers who do not care about errno can go by the code alone. The
// errno is a payload and survives copies, but not a Status built anew from code() and message().

#ifndef VIOMMU_AGENT_ERRNO_STATUS_H_
#define VIOMMU_AGENT_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace viommu::agent {

// An error with errno `error_number` (> 0) from operation `op`, such as "VDEVICE_ALLOC". The message becomes
// "VDEVICE_ALLOC: EEXIST: <message>".
//
// `message` names the thing, what is wrong with it and, where there is one, the way out.
absl::Status ErrnoStatus(int error_number, absl::string_view op, absl::string_view message);

// The errno of `status`: 0 for OK and for a Status that carries none.
int StatusErrno(const absl::Status& status);

// "EEXIST" for EEXIST; "E?" for a number that no backend uses.
const char* ErrnoName(int error_number);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_ERRNO_STATUS_H_
