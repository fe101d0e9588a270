#include "agent/smmuv3/vsmmu/emulated_dma.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>

#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/emulator/transaction.h"

namespace viommu::agent {
namespace {

using smmuv3::EmulatedSmmu;
using smmuv3::Outcome;
using smmuv3::Transaction;
using smmuv3::TransactionResult;

// Accesses are cut at the smallest pages there are, so that it is known how much of one was done.
constexpr uint64_t kPieceBytes = 4096;

Transaction MakeTransaction(const DmaRequest& request, bool write) {
  Transaction transaction;
  transaction.ssid = request.pasid;
  transaction.address = request.address;
  transaction.write = write;
  transaction.privileged = request.privileged;
  transaction.instruction = request.instruction;
  return transaction;
}

DmaResult::Outcome OutcomeOf(TransactionResult result) {
  switch (result) {
    case TransactionResult::kDone:
      return DmaResult::Outcome::kDone;
    case TransactionResult::kAborted:
      return DmaResult::Outcome::kAborted;
    case TransactionResult::kRazWi:
      return DmaResult::Outcome::kIgnored;
    case TransactionResult::kTimedOut:
      return DmaResult::Outcome::kTimedOut;
    case TransactionResult::kNoResponse:
      return DmaResult::Outcome::kNoMemory;
  }
  return DmaResult::Outcome::kAborted;
}

// Says what the whole access is after one more piece of it.
void Add(const Outcome& outcome, bool first, DmaResult& result) {
  result.outcome = OutcomeOf(outcome.result);
  if (outcome.event.has_value()) result.event = smmuv3::ToString(*outcome.event);
  if (first && outcome.result == TransactionResult::kDone) {
    result.output = outcome.translation.output;
    result.span_log2 = outcome.translation.span_log2;
  }
}

}  // namespace

absl::StatusOr<const HostDevice*> EmulatedDma::Find(const DmaRequest& request) {
  const HostDevice* device = host_->FindDevice(request.pci_address);
  if (device == nullptr) return ErrnoStatus(ENODEV, "DMA", absl::StrCat("no device ", request.pci_address));
  const DeviceInfo& info = device->spec.info;
  if (request.pasid.has_value() && (info.max_pasid_log2 == 0 || *request.pasid >> info.max_pasid_log2 != 0)) {
    return ErrnoStatus(EINVAL, "DMA", absl::StrCat("device ", info.pci_address, " has no PASID ", *request.pasid));
  }
  if (request.use_ats && !info.ats) {
    return ErrnoStatus(EINVAL, "DMA", absl::StrCat("device ", info.pci_address, " has no ATS"));
  }
  return device;
}

absl::StatusOr<DmaResult> EmulatedDma::Transfer(const DmaRequest& request, size_t length, Piece piece) {
  const absl::StatusOr<const HostDevice*> device = Find(request);
  if (!device.ok()) return device.status();
  if (length != 0 && request.address > std::numeric_limits<uint64_t>::max() - (length - 1)) {
    return ErrnoStatus(EOVERFLOW, "DMA", "beyond the end of the address space");
  }
  EmulatedSmmu& smmu = (*device)->smmu->hardware();
  Transaction transaction = MakeTransaction(request, false);
  transaction.sid = (*device)->spec.info.stream_id;
  const TimePoint stall_deadline = std::chrono::steady_clock::now() + request.stall_limit;
  DmaResult result;
  size_t offset = 0;
  do {
    transaction.address = request.address + offset;
    const uint64_t in_page = kPieceBytes - transaction.address % kPieceBytes;
    const auto bytes = static_cast<size_t>(std::min<uint64_t>(length - offset, in_page));
    Add(piece(smmu, transaction, stall_deadline, offset, bytes), offset == 0, result);
    if (result.outcome != DmaResult::Outcome::kDone) break;
    offset += bytes;
    result.bytes = offset;
  } while (offset < length);
  return result;
}

absl::StatusOr<DmaResult> EmulatedDma::Translate(const DmaRequest& request, bool write) {
  return Transfer(request, 0,
                  [&](EmulatedSmmu& smmu, const Transaction& at, TimePoint stall_deadline, size_t, size_t) -> Outcome {
                    Transaction transaction = at;
                    transaction.write = write;
                    if (!request.use_ats) return smmu.Translate(transaction, stall_deadline);
                    return write ? smmu.WriteThroughAtc(transaction, {}, stall_deadline)
                                 : smmu.ReadThroughAtc(transaction, {}, stall_deadline);
                  });
}

absl::StatusOr<DmaResult> EmulatedDma::Read(const DmaRequest& request, std::span<std::byte> out) {
  absl::StatusOr<DmaResult> result = Transfer(
      request, out.size(),
      [&](EmulatedSmmu& smmu, const Transaction& at, TimePoint stall_deadline, size_t offset, size_t length) {
        const std::span<std::byte> part = out.subspan(offset, length);
        return request.use_ats ? smmu.ReadThroughAtc(at, part, stall_deadline) : smmu.Read(at, part, stall_deadline);
      });
  // Reads that are ignored give zeros.
  if (result.ok() && result->outcome == DmaResult::Outcome::kIgnored) {
    std::ranges::fill(out.subspan(result->bytes), std::byte{0});
  }
  return result;
}

absl::StatusOr<DmaResult> EmulatedDma::Write(const DmaRequest& request, std::span<const std::byte> in) {
  return Transfer(
      request, in.size(),
      [&](EmulatedSmmu& smmu, const Transaction& at, TimePoint stall_deadline, size_t offset, size_t length) {
        const std::span<const std::byte> part = in.subspan(offset, length);
        return request.use_ats ? smmu.WriteThroughAtc(at, part, stall_deadline) : smmu.Write(at, part, stall_deadline);
      });
}

}  // namespace viommu::agent
