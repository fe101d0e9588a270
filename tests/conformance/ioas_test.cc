// Guest memory: IOAS_MAP_FILE and IOAS_UNMAP.

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kAll = ~uint64_t{0};

class Ioas : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    vm_ = std::make_unique<Vm>(Open());
    ioas_ = Must(vm()->AllocIoas());
  }
  void TearDown() override { vm_.reset(); }

  Vm& vm() { return *vm_; }
  absl::Status Map(uint64_t iova, uint64_t length) {
    return vm()->MapIoas(ioas_, iova, length, vm().memory().handle());
  }
  absl::StatusOr<uint64_t> Unmap(uint64_t iova, uint64_t length) { return vm()->UnmapIoas(ioas_, iova, length); }

  ObjectId ioas_ = 0;

 private:
  std::unique_ptr<Vm> vm_;
};
CONFORMANCE_RIGS(Ioas);

TEST_P(Ioas, MapAndUnmap) {
  EXPECT_OK(Map(kMemoryBase, 4 * kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase, 4 * kPage)), 4 * kPage);
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase, 4 * kPage));
}

TEST_P(Ioas, MapNothing) { EXPECT_ERRNO(EINVAL, Map(kMemoryBase, 0)); }

// Alignment is that of the page tables, so there have to be some.
TEST_P(Ioas, MapAtAnOddAddress) {
  ASSERT_OK(vm().context().AllocStage2(vm().Bind(A0()), ioas_));
  EXPECT_ERRNO(EINVAL, Map(kMemoryBase + 1, kPage));
  EXPECT_ERRNO(EINVAL, Map(kMemoryBase + kPage / 2, kPage));
}

TEST_P(Ioas, MapAnOddLength) {
  ASSERT_OK(vm().context().AllocStage2(vm().Bind(A0()), ioas_));
  EXPECT_ERRNO(EINVAL, Map(kMemoryBase, 1));
  EXPECT_ERRNO(EINVAL, Map(kMemoryBase, kPage + 1));
}

TEST_P(Ioas, MapAtAnOddOffset) {
  ASSERT_OK(vm().context().AllocStage2(vm().Bind(A0()), ioas_));
  EXPECT_ERRNO(EINVAL, vm()->MapIoas(ioas_, kMemoryBase, kPage, vm().memory().handle(512)));
}

TEST_P(Ioas, MapNeitherReadableNorWritable) {
  MemoryHandle handle = vm().memory().handle();
  handle.readable = handle.writable = false;
  EXPECT_ERRNO(EINVAL, vm()->MapIoas(ioas_, kMemoryBase, kPage, handle));
}

TEST_P(Ioas, MapReadableAlone) {
  MemoryHandle handle = vm().memory().handle();
  handle.writable = false;
  EXPECT_OK(vm()->MapIoas(ioas_, kMemoryBase, kPage, handle));
}

TEST_P(Ioas, MapBeyondTheEnd) { EXPECT_ERRNO(EOVERFLOW, Map(~uint64_t{0} - kPage + 1, 2 * kPage)); }

TEST_P(Ioas, MapOverlapping) {
  ASSERT_OK(Map(kMemoryBase, 4 * kPage));
  EXPECT_ERRNO(EEXIST, Map(kMemoryBase, 4 * kPage));
  EXPECT_ERRNO(EEXIST, Map(kMemoryBase - kPage, 2 * kPage));
  EXPECT_ERRNO(EEXIST, Map(kMemoryBase + 3 * kPage, 2 * kPage));
  EXPECT_ERRNO(EEXIST, Map(kMemoryBase + kPage, kPage));
  EXPECT_ERRNO(EEXIST, Map(kMemoryBase - kPage, 8 * kPage));
}

TEST_P(Ioas, MapAdjacent) {
  ASSERT_OK(Map(kMemoryBase, kPage));
  EXPECT_OK(Map(kMemoryBase + kPage, kPage));
  EXPECT_OK(Map(kMemoryBase - kPage, kPage));
}

TEST_P(Ioas, MapTheSameFileTwice) {
  EXPECT_OK(Map(kMemoryBase, kPage));
  EXPECT_OK(Map(kMemoryBase + 16 * kPage, kPage));
}

TEST_P(Ioas, MapABadFile) { EXPECT_ERRNO(EBADF, vm()->MapIoas(ioas_, kMemoryBase, kPage, {.fd = -1})); }

TEST_P(Ioas, ARefusedMapLeavesNothing) {
  ASSERT_OK(Map(kMemoryBase + kPage, kPage));
  ASSERT_ERRNO(EEXIST, Map(kMemoryBase, 2 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase, kPage));
  EXPECT_OK(Map(kMemoryBase, kPage));
}

TEST_P(Ioas, TheFileMayBeClosed) {
  {
    MemoryFile file(kPage);
    ASSERT_OK(vm()->MapIoas(ioas_, kMemoryBase, kPage, file.handle()));
  }
  EXPECT_EQ(Must(Unmap(kMemoryBase, kPage)), kPage);
}

TEST_P(Ioas, UnmapNothing) { EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase, kPage)); }

TEST_P(Ioas, UnmapNoBytes) {
  ASSERT_OK(Map(0, kPage));
  EXPECT_ERRNO(EINVAL, Unmap(0, 0));
  EXPECT_ERRNO(EINVAL, Unmap(kMemoryBase, 0));
  EXPECT_EQ(Must(Unmap(0, kPage)), kPage);
}

TEST_P(Ioas, UnmapTheWholeEmptySpace) { EXPECT_EQ(Must(Unmap(0, kAll)), 0u); }

TEST_P(Ioas, UnmapEverything) {
  ASSERT_OK(Map(kMemoryBase, 2 * kPage));
  ASSERT_OK(Map(kMemoryBase + 8 * kPage, kPage));
  EXPECT_EQ(Must(Unmap(0, kAll)), 3 * kPage);
  EXPECT_EQ(Must(Unmap(0, kAll)), 0u);
}

TEST_P(Ioas, UnmapAPartOfAMapping) {
  ASSERT_OK(Map(kMemoryBase, 4 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase, kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase + kPage, kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase + 3 * kPage, 2 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase - kPage, 2 * kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase, 4 * kPage)), 4 * kPage);
}

TEST_P(Ioas, UnmapFromTheMiddleOfAMappingOn) {
  ASSERT_OK(Map(kMemoryBase, 4 * kPage));
  ASSERT_OK(Map(kMemoryBase + 4 * kPage, kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase + kPage, 4 * kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase + 4 * kPage, kPage)), kPage);
}

TEST_P(Ioas, UnmapTwoMappingsInOne) {
  ASSERT_OK(Map(kMemoryBase, kPage));
  ASSERT_OK(Map(kMemoryBase + kPage, kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase, 2 * kPage)), 2 * kPage);
}

// Mappings go one after the other, by their addresses, up to the first that cannot.
TEST_P(Ioas, UnmapAMappingAndAPartOfTheNext) {
  ASSERT_OK(Map(kMemoryBase, 2 * kPage));
  ASSERT_OK(Map(kMemoryBase + 4 * kPage, kPage));
  ASSERT_OK(Map(kMemoryBase + 8 * kPage, 2 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase, 9 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase, 2 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase + 4 * kPage, kPage));
  EXPECT_OK(Map(kMemoryBase, 8 * kPage));
  EXPECT_EQ(Must(Unmap(0, kAll)), 10 * kPage);
}

TEST_P(Ioas, UnmapAPartOfAMappingAndTheNext) {
  ASSERT_OK(Map(kMemoryBase, 2 * kPage));
  ASSERT_OK(Map(kMemoryBase + 2 * kPage, 2 * kPage));
  EXPECT_ERRNO(ENOENT, Unmap(kMemoryBase + kPage, 3 * kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase + 2 * kPage, 2 * kPage)), 2 * kPage);
  EXPECT_EQ(Must(Unmap(kMemoryBase, 2 * kPage)), 2 * kPage);
}

TEST_P(Ioas, UnmapARangeWithGaps) {
  ASSERT_OK(Map(kMemoryBase + kPage, kPage));
  ASSERT_OK(Map(kMemoryBase + 4 * kPage, kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase, 8 * kPage)), 2 * kPage);
}

TEST_P(Ioas, UnmapBeyondTheEnd) { EXPECT_ERRNO(EOVERFLOW, Unmap(~uint64_t{0} - kPage + 1, 2 * kPage)); }

TEST_P(Ioas, MappingsOfTwoIoasAreApart) {
  const ObjectId other = Must(vm()->AllocIoas());
  ASSERT_OK(Map(kMemoryBase, kPage));
  EXPECT_OK(vm()->MapIoas(other, kMemoryBase, kPage, vm().memory().handle()));
  EXPECT_EQ(Must(Unmap(kMemoryBase, kPage)), kPage);
  EXPECT_EQ(Must(vm()->UnmapIoas(other, kMemoryBase, kPage)), kPage);
}

TEST_P(Ioas, MapUnderAStage2) {
  const ObjectId device = vm().Bind(A0());
  const ObjectId stage2 = Must(vm()->AllocStage2(device, ioas_));
  ASSERT_OK(vm()->Attach(device, stage2));
  EXPECT_OK(Map(kMemoryBase, kPage));
  EXPECT_EQ(Must(Unmap(kMemoryBase, kPage)), kPage);
}

TEST_P(Ioas, UnmapUnderANestedDevice) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(Map(kMemoryBase, kPage));
  const ObjectId viommu = vm().Viommu(device, Must(vm()->AllocStage2(device, ioas_)));
  vm().Vdevice(viommu, device, 0x10);
  ASSERT_OK(vm()->Attach(device, Must(vm()->AllocNested(viommu, device, kTranslateVste))));
  EXPECT_EQ(Must(Unmap(kMemoryBase, kPage)), kPage);
}

TEST_P(Ioas, AttachOverTheMsiWindow) {
  const ObjectId device = vm().Bind(A0());
  ASSERT_OK(Map(0x0800'0000, kPage));
  EXPECT_ERRNO(EADDRINUSE, vm()->Attach(device, ioas_));
  EXPECT_EQ(Must(Unmap(0x0800'0000, kPage)), kPage);
  EXPECT_OK(vm()->Attach(device, ioas_));
}

TEST_P(Ioas, MapOverTheMsiWindow) {
  ASSERT_OK(vm()->Attach(vm().Bind(A0()), ioas_));
  EXPECT_ERRNO(EINVAL, Map(0x0800'0000, kPage));
}

}  // namespace
}  // namespace viommu::conformance
