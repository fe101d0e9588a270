#include "agent/errno_status.h"

#include <cerrno>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace viommu::agent {
namespace {

constexpr char kPayloadUrl[] = "viommu.dev/errno";

struct ErrnoRow {
  int number;
  const char* name;
  absl::StatusCode code;
};

// What iommufd and VFIO answer with. EIO is FAILED_PRECONDITION rather than UNKNOWN because on this interface it always
// means "the words that the guest wrote are not acceptable".
constexpr ErrnoRow kRows[] = {
    {EPERM, "EPERM", absl::StatusCode::kPermissionDenied},
    {ENOENT, "ENOENT", absl::StatusCode::kNotFound},
    {EIO, "EIO", absl::StatusCode::kFailedPrecondition},
    {E2BIG, "E2BIG", absl::StatusCode::kInvalidArgument},
    {EBADF, "EBADF", absl::StatusCode::kInvalidArgument},
    {ENOMEM, "ENOMEM", absl::StatusCode::kResourceExhausted},
    {EACCES, "EACCES", absl::StatusCode::kPermissionDenied},
    {EFAULT, "EFAULT", absl::StatusCode::kInvalidArgument},
    {EBUSY, "EBUSY", absl::StatusCode::kFailedPrecondition},
    {EEXIST, "EEXIST", absl::StatusCode::kAlreadyExists},
    {ENODEV, "ENODEV", absl::StatusCode::kNotFound},
    {EINVAL, "EINVAL", absl::StatusCode::kInvalidArgument},
    {EMFILE, "EMFILE", absl::StatusCode::kResourceExhausted},
    {ENOTTY, "ENOTTY", absl::StatusCode::kUnimplemented},
    {ENOSPC, "ENOSPC", absl::StatusCode::kResourceExhausted},
    {EADDRINUSE, "EADDRINUSE", absl::StatusCode::kFailedPrecondition},
    {EOVERFLOW, "EOVERFLOW", absl::StatusCode::kOutOfRange},
    {EOPNOTSUPP, "EOPNOTSUPP", absl::StatusCode::kUnimplemented},
    {ETIMEDOUT, "ETIMEDOUT", absl::StatusCode::kDeadlineExceeded},
};

const ErrnoRow* FindRow(int error_number) {
  for (const ErrnoRow& row : kRows) {
    if (row.number == error_number) return &row;
  }
  return nullptr;
}

}  // namespace

absl::Status ErrnoStatus(int error_number, absl::string_view op, absl::string_view message) {
  const ErrnoRow* row = FindRow(error_number);
  const absl::StatusCode code = row != nullptr ? row->code : absl::StatusCode::kUnknown;
  absl::Status status(code, absl::StrCat(op, ": ", ErrnoName(error_number), ": ", message));
  status.SetPayload(kPayloadUrl, absl::Cord(absl::StrCat(error_number)));
  return status;
}

int StatusErrno(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayloadUrl);
  int error_number = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &error_number)) return 0;
  return error_number;
}

const char* ErrnoName(int error_number) {
  const ErrnoRow* row = FindRow(error_number);
  return row != nullptr ? row->name : "E?";
}

}  // namespace viommu::agent
