#include "agent/smmuv3/iommufd/queue_files.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/fake_kernel.h"
#include "agent/smmuv3/iommufd/uapi.h"

namespace viommu::agent {
namespace {

class QueueFilesTest : public testing::Test {
 protected:
  FakeKernel kernel_;
  EventQueues events_{&kernel_};
  FaultQueues faults_{&kernel_};
};

TEST_F(QueueFilesTest, EventsAndTheMarkOfLostOnes) {
  const int file = kernel_.NewFile();
  events_.Add(7, KernelFile(&kernel_, file), VeventqType::kArmSmmuv3);
  std::vector<std::byte> data(8 + 32 + 8);
  data[4] = std::byte{7};     // sequence
  data[8] = std::byte{0x10};  // F_TRANSLATION
  data[40] = std::byte{uapi::kVeventLost};
  data[44] = std::byte{9};
  kernel_.to_read[file].push_back(data);
  const std::vector<Vevent> events = *events_.Read(7, 16);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_FALSE(events[0].lost);
  EXPECT_EQ(events[0].sequence, 7u);
  EXPECT_EQ(events[0].record[0], 0x10u);
  EXPECT_TRUE(events[1].lost);
  EXPECT_EQ(events[1].sequence, 9u);
}

TEST_F(QueueFilesTest, RecordsAreAsLongAsTheirTypeSays) {
  events_.Add(7, KernelFile(&kernel_, 1), VeventqType::kTegra241Cmdqv);
  kernel_.to_read[1].push_back(std::vector<std::byte>(2 * (8 + 16)));
  EXPECT_EQ(events_.Read(7, 16)->size(), 2u);
  events_.Add(8, KernelFile(&kernel_, 2), VeventqType::kArmSmmuv3);
  kernel_.to_read[2].push_back(std::vector<std::byte>(2 * (8 + 16)));
  EXPECT_EQ(StatusErrno(events_.Read(8, 16).status()), EIO);
}

TEST_F(QueueFilesTest, FaultsAreReadAndAnswered) {
  const int file = kernel_.NewFile();
  faults_.Add(7, KernelFile(&kernel_, file));
  const uapi::FaultRecord records[] = {{.flags = uapi::kFaultPasidValid,
                                        .dev_id = 3,
                                        .pasid = 7,
                                        .group = 5,
                                        .permissions = uapi::kFaultRead | uapi::kFaultPrivileged,
                                        .address = 0x1234'5000,
                                        .cookie = 9},
                                       {.flags = uapi::kFaultLastPage,
                                        .dev_id = 4,
                                        .permissions = uapi::kFaultWrite | uapi::kFaultExecute,
                                        .cookie = 10}};
  std::vector<std::byte> data(sizeof(records));
  std::memcpy(data.data(), records, data.size());
  kernel_.to_read[file].push_back(data);
  const std::vector<PageFault> faults = *faults_.Read(7, 4);
  ASSERT_EQ(faults.size(), 2u);
  const auto flags = [](const PageFault& fault) {
    return std::vector<bool>{fault.pasid_valid, fault.last_page, fault.read,
                             fault.write,       fault.execute,   fault.privileged};
  };
  EXPECT_EQ(flags(faults[0]), (std::vector<bool>{true, false, true, false, false, true}));
  EXPECT_EQ(flags(faults[1]), (std::vector<bool>{false, true, false, true, true, false}));
  EXPECT_EQ(faults[0].device, 3u);
  EXPECT_EQ(faults[0].pasid, 7u);
  EXPECT_EQ(faults[0].group, 5u);
  EXPECT_EQ(faults[0].address, 0x1234'5000u);
  EXPECT_EQ(faults[0].cookie, 9u);
  EXPECT_EQ(faults[1].device, 4u);

  EXPECT_TRUE(faults_.Answer(7, 9, PageResponseCode::kInvalid).ok());
  ASSERT_EQ(kernel_.written.size(), 1u);
  const uint32_t answer[] = {9, 1};  // cookie, code
  ASSERT_EQ(kernel_.written[0].size(), sizeof(answer));
  EXPECT_EQ(std::memcmp(kernel_.written[0].data(), answer, sizeof(answer)), 0);
  EXPECT_EQ(StatusErrno(faults_.Answer(99, 9, PageResponseCode::kInvalid)), ENOENT);
}

// A queue may be named by several HWPTs, and HWPTs name none.
TEST_F(QueueFilesTest, AFaultQueueIsClosedAfterTheLastThatNamesIt) {
  const int file = kernel_.NewFile();
  faults_.Add(7, KernelFile(&kernel_, file));
  faults_.HwptNames(1, 7);
  faults_.HwptNames(2, 7);
  faults_.HwptNames(3, 99);
  for (const ObjectId hwpt : {1, 1, 3, 4}) faults_.HwptIsGone(hwpt);
  EXPECT_EQ(StatusErrno(faults_.Close(7)), EBUSY);
  EXPECT_TRUE(kernel_.open_files.contains(file));
  faults_.HwptIsGone(2);
  EXPECT_TRUE(faults_.Close(7).ok());
  EXPECT_FALSE(kernel_.open_files.contains(file));
  EXPECT_TRUE(faults_.Close(7).ok()) << "what is no fault queue is none of its business";
}

}  // namespace
}  // namespace viommu::agent
