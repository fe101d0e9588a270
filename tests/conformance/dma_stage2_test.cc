// Accesses of devices without stage 1: the VM's memory as it is mapped.

#include <cstring>
#include <vector>

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

class DmaStage2 : public DmaSuite {};
CONFORMANCE_RIGS(DmaStage2);

TEST_P(DmaStage2, BoundAndNotAttachedIsBlocked) {
  vm().Bind(A0());
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, AttachedToAnIoas) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t page = memory().Filled(kOld);
  ASSERT_OK(vm()->Attach(device, vm().ioas()));
  EXPECT_EQ(Read(page), kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(memory().Read(page), kNew);
}

TEST_P(DmaStage2, AttachedToAStage2) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t page = memory().Filled(kOld);
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  EXPECT_EQ(Read(page + 8), kOld);
  EXPECT_TRUE(Write(page + 8, kNew));
  EXPECT_EQ(memory().Read(page + 8), kNew);
  EXPECT_EQ(memory().Read(page), kOld);
}

TEST_P(DmaStage2, AWholePage) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t from = memory().Filled(kOld);
  const uint64_t to = memory().Filled(kNew);
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  std::vector<std::byte> bytes(4096);
  EXPECT_TRUE(rig().dma()->Read({.device = A0(), .address = from}, bytes).ok);
  EXPECT_TRUE(rig().dma()->Write({.device = A0(), .address = to}, bytes).ok);
  for (uint64_t at = 0; at < 4096; at += 8) ASSERT_EQ(memory().Read(to + at), kOld) << at;
}

TEST_P(DmaStage2, AcrossAPage) {
  const ObjectId device = vm().Bind(A0());
  const uint64_t pages = memory().Filled(kOld, 8192);
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  std::vector<std::byte> bytes(4096);
  EXPECT_TRUE(rig().dma()->Read({.device = A0(), .address = pages + 2048}, bytes).ok);
  uint64_t last = 0;
  std::memcpy(&last, &bytes[4088], 8);
  EXPECT_EQ(last, kOld);
}

TEST_P(DmaStage2, WhereNothingIsMapped) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  EXPECT_EQ(Read(kMemoryBase - 4096), kRefused);
  EXPECT_EQ(Read(kMemoryBase + kMemoryBytes), kRefused);
  EXPECT_EQ(Read(0), kRefused);
  EXPECT_FALSE(Write(kMemoryBase + kMemoryBytes, 1));
}

TEST_P(DmaStage2, MappedReadableAlone) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(4096);
  file.Fill(kOld);
  MemoryHandle handle = file.handle();
  handle.writable = false;
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, handle));
  EXPECT_EQ(Read(0x8000'0000), kOld);
  EXPECT_FALSE(Write(0x8000'0000, kNew));
  EXPECT_EQ(Read(0x8000'0000), kOld);
}

TEST_P(DmaStage2, AMappingMadeWhileAttached) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
  MemoryFile file(4096);
  file.Fill(kOld);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  EXPECT_EQ(Read(0x8000'0000), kOld);
}

TEST_P(DmaStage2, AMappingAtAnOffsetOfItsFile) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(4 * 4096);
  std::memcpy(file.data() + 3 * 4096, &kNew, 8);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle(3 * 4096)));
  EXPECT_EQ(Read(0x8000'0000), kNew);
}

TEST_P(DmaStage2, AMappingWhoseFileIsClosed) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  {
    MemoryFile file(4096);
    file.Fill(kOld);
    std::memcpy(file.data(), &kOld, 8);
    ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  }
  EXPECT_EQ(Read(0x8000'0000), kOld);
  EXPECT_TRUE(Write(0x8000'0000, kNew));
  EXPECT_EQ(Read(0x8000'0000), kNew);
}

TEST_P(DmaStage2, UnmapIsSeenAtOnce) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(4096);
  file.Fill(kOld);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_EQ(Read(0x8000'0000), kOld);
  ASSERT_OK(vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 4096));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
}

// The call fails, and has unmapped what is before the mapping that it would have cut.
TEST_P(DmaStage2, UnmapThatFailsIsSeenUpToThere) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(3 * 4096);
  file.Fill(kOld);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'1000, 2 * 4096, file.handle(4096)));
  ASSERT_EQ(Read(0x8000'0000), kOld);
  ASSERT_EQ(Read(0x8000'1000), kOld);
  ASSERT_ERRNO(ENOENT, vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 2 * 4096));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
  EXPECT_EQ(Read(0x8000'1000), kOld);
  EXPECT_EQ(Read(0x8000'2000), kOld);
}

TEST_P(DmaStage2, OtherMemoryAtTheSameAddress) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  MemoryFile file(2 * 4096);
  std::memcpy(file.data(), &kOld, 8);
  std::memcpy(file.data() + 4096, &kNew, 8);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_EQ(Read(0x8000'0000), kOld);
  ASSERT_OK(vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 4096));
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle(4096)));
  EXPECT_EQ(Read(0x8000'0000), kNew);
}

TEST_P(DmaStage2, DetachBlocks) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  memory().Write(kMemoryBase, kOld);
  ASSERT_EQ(Read(kMemoryBase), kOld);
  ASSERT_OK(vm()->Detach(device));
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, UnbindBlocks) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  memory().Write(kMemoryBase, kOld);
  ASSERT_EQ(Read(kMemoryBase), kOld);
  ASSERT_OK(vm()->UnbindDevice(A0()));
  vm().Bind(A0());
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, CloseBlocks) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  memory().Write(kMemoryBase, kOld);
  ASSERT_EQ(Read(kMemoryBase), kOld);
  vm().Close();
  Vm next(Open());
  next.Bind(A0());
  EXPECT_EQ(Read(kMemoryBase), kRefused);
}

TEST_P(DmaStage2, EachVmHasItsOwnMemory) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  NEED_SECOND_VM();
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(vm()->Attach(device, vm().Stage2(device)));
  Vm other(Open());
  GuestMemory others(other.memory());
  const ObjectId theirs = other.Bind(a1);
  ASSERT_OK(other->Attach(theirs, other.Stage2(theirs)));
  const uint64_t page = memory().Filled(kOld);
  ASSERT_EQ(others.Filled(kNew), page);
  EXPECT_EQ(Read(page), kOld);
  EXPECT_EQ(Read({.device = a1, .address = page}), kNew);
}

TEST_P(DmaStage2, TwoDevicesShareOneVm) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  const ObjectId one = vm().Bind(A0());
  const ObjectId other = vm().Bind(a1);
  const ObjectId stage2 = vm().Stage2(one);
  ASSERT_OK(vm()->Attach(one, stage2));
  ASSERT_OK(vm()->Attach(other, stage2));
  const uint64_t page = memory().Filled(kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(Read({.device = a1, .address = page}), kNew);
}

TEST_P(DmaStage2, TwoSmmusShareOneVm) {
  NEED_DEVICE(b0, Role::kB0);
  NEED_DMA(b0);
  const ObjectId one = vm().Bind(A0());
  const ObjectId other = vm().Bind(b0);
  const ObjectId stage2 = vm().Stage2(one);
  ASSERT_OK(vm()->Attach(one, stage2));
  ASSERT_OK(vm()->Attach(other, expect().foreign_stage2 == 0 ? stage2 : vm().Stage2(other)));
  const uint64_t page = memory().Filled(kOld);
  EXPECT_TRUE(Write(page, kNew));
  EXPECT_EQ(Read({.device = b0, .address = page}), kNew);
}

TEST_P(DmaStage2, UnmapReachesEverySmmu) {
  NEED_DEVICE(b0, Role::kB0);
  NEED_DMA(b0);
  const ObjectId one = vm().Bind(A0());
  const ObjectId other = vm().Bind(b0);
  const ObjectId stage2 = vm().Stage2(one);
  ASSERT_OK(vm()->Attach(one, stage2));
  ASSERT_OK(vm()->Attach(other, expect().foreign_stage2 == 0 ? stage2 : vm().Stage2(other)));
  MemoryFile file(4096);
  file.Fill(kOld);
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, file.handle()));
  ASSERT_EQ(Read(0x8000'0000), kOld);
  ASSERT_EQ(Read({.device = b0, .address = 0x8000'0000}), kOld);
  ASSERT_OK(vm()->UnmapIoas(vm().ioas(), 0x8000'0000, 4096));
  EXPECT_EQ(Read(0x8000'0000), kRefused);
  EXPECT_EQ(Read({.device = b0, .address = 0x8000'0000}), kRefused);
}

TEST_P(DmaStage2, GroupMovesTogether) {
  NEED_DEVICE(first, Role::kGroup0);
  NEED_DEVICE(second, Role::kGroup1);
  NEED_DMA(second);
  const ObjectId one = vm().Bind(first);
  vm().Bind(second);
  ASSERT_OK(vm()->Attach(one, vm().Stage2(one)));
  const uint64_t page = memory().Filled(kOld);
  EXPECT_EQ(Read({.device = second, .address = page}), kOld);
  ASSERT_OK(vm()->Detach(one));
  EXPECT_EQ(Read({.device = second, .address = page}), kRefused);
}

}  // namespace
}  // namespace viommu::conformance
