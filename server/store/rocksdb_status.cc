#include "server/store/rocksdb_status.h"

#include "common/error.h"

namespace viommu::server {

absl::Status RocksDbReadError(const rocksdb::Status& status, std::string_view path, std::string_view file) {
  const std::string what = status.ToString();
  // A file that the store lists and that is not there is damage, not a failing disk.
  if (status.IsCorruption() || status.IsPathNotFound() || status.IsNotFound()) {
    const bool named = file.empty() || what.find(file) != std::string::npos;
    return Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_UNAVAILABLE)
        .Message("the store at {} is damaged{}{} ({}); nothing was changed; restore it from a backup", path,
                 named ? "" : ": ", named ? "" : file, what)
        .Meta("path", path);
  }
  if (status.IsNoSpace()) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_STORE_UNAVAILABLE)
        .Message("no space left for the store at {} ({}); make room there and try again", path, what)
        .Meta("path", path);
  }
  if (status.IsInvalidArgument() || status.IsNotSupported()) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_UNAVAILABLE)
        .Message(
            "the store at {} was not written by a server that this one can follow ({}); use the server version that "
            "wrote it",
            path, what)
        .Meta("path", path);
  }
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE)
      .Message("the store at {} cannot be read ({}); check the disk, its mount and the owner of the folder", path, what)
      .Meta("path", path);
}

absl::Status RocksDbWriteError(const rocksdb::Status& status, std::string_view path) {
  const char* way_out = status.IsNoSpace() ? "make room there; the server tries again by itself"
                                           : "check the disk; the server tries again by itself";
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE)
      .Message("the store at {} takes no writes ({}); {}", path, status.ToString(), way_out)
      .Meta("path", path);
}

}  // namespace viommu::server
