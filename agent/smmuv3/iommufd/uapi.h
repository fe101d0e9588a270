// What this project uses of the kernel's interface to /dev/iommu and to VFIO devices, in its own words: the headers of
// Debian 12 know neither viommus nor what stands on them.
//
// Layouts, numbers and flags are facts of Linux 7.2 (include/uapi/linux/iommufd.h, vfio.h), and every size and offset
// is asserted. Names follow the kernel's calls. Each request begins with its own size; the kernel takes shorter and
// longer ones (zero at the end), so that these also work with kernels after it.
//
// All numbers are little-endian, which spec/words.h asserts of the CPU.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_UAPI_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_UAPI_H_

#include <cstddef>
#include <cstdint>

namespace viommu::agent::uapi {

// Both interfaces number their calls without direction and size: 0x3b00 and a byte.
constexpr unsigned long Request(unsigned nr) { return 0x3b00UL | nr; }

enum : unsigned long {
  kVfioBindIommufd = Request(0x76),
  kVfioAttachPt = Request(0x77),
  kVfioDetachPt = Request(0x78),
  kVfioRegionInfo = Request(0x6c),

  kDestroy = Request(0x80),
  kIoasAlloc = Request(0x81),
  kIoasIovaRanges = Request(0x84),
  kIoasMap = Request(0x85),
  kIoasUnmap = Request(0x86),
  kHwptAlloc = Request(0x89),
  kGetHwInfo = Request(0x8a),
  kHwptInvalidate = Request(0x8d),
  kFaultQueueAlloc = Request(0x8e),
  kIoasMapFile = Request(0x8f),
  kViommuAlloc = Request(0x90),
  kVdeviceAlloc = Request(0x91),
  kVeventqAlloc = Request(0x93),
  kHwQueueAlloc = Request(0x94),
};

#define VIOMMU_UAPI_AT(type, member, offset) static_assert(offsetof(type, member) == (offset))

// ---- VFIO ----------------------------------------------------------------------------------------------------------

// Gives an opened device to an opened /dev/iommu; tells the device's id there.
struct VfioBindIommufd {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  int32_t iommufd = -1;
  uint32_t out_devid = 0;
  uint64_t token_uuid = 0;
};
static_assert(sizeof(VfioBindIommufd) == 24);
VIOMMU_UAPI_AT(VfioBindIommufd, flags, 4);
VIOMMU_UAPI_AT(VfioBindIommufd, iommufd, 8);
VIOMMU_UAPI_AT(VfioBindIommufd, out_devid, 12);
VIOMMU_UAPI_AT(VfioBindIommufd, token_uuid, 16);

struct VfioAttachPt {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t pt_id = 0;  // in; out: the tables that it came to be
  uint32_t pasid = 0;
};
static_assert(sizeof(VfioAttachPt) == 16);
VIOMMU_UAPI_AT(VfioAttachPt, pt_id, 8);
VIOMMU_UAPI_AT(VfioAttachPt, pasid, 12);

struct VfioDetachPt {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t pasid = 0;
};
static_assert(sizeof(VfioDetachPt) == 12);
VIOMMU_UAPI_AT(VfioDetachPt, pasid, 8);

// Where in the device's file a BAR or its configuration space begins.
struct VfioRegionInfo {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t index = 0;
  uint32_t cap_offset = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};
static_assert(sizeof(VfioRegionInfo) == 32);
VIOMMU_UAPI_AT(VfioRegionInfo, index, 8);
VIOMMU_UAPI_AT(VfioRegionInfo, size, 16);
VIOMMU_UAPI_AT(VfioRegionInfo, offset, 24);
inline constexpr uint32_t kVfioPciBar0 = 0;
inline constexpr uint32_t kVfioPciConfig = 7;

// ---- iommufd -------------------------------------------------------------------------------------------------------

struct Destroy {
  uint32_t size = 0;
  uint32_t id = 0;
};
static_assert(sizeof(Destroy) == 8);
VIOMMU_UAPI_AT(Destroy, id, 4);

struct IoasAlloc {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t out_ioas_id = 0;
};
static_assert(sizeof(IoasAlloc) == 12);
VIOMMU_UAPI_AT(IoasAlloc, out_ioas_id, 8);

// Which addresses can be mapped. EMSGSIZE when there is no room for all ranges.
struct IoasIovaRanges {
  uint32_t size = 0;
  uint32_t ioas_id = 0;
  uint32_t num_iovas = 0;
  uint32_t reserved = 0;
  uint64_t allowed_iovas = 0;
  uint64_t out_iova_alignment = 0;
};
static_assert(sizeof(IoasIovaRanges) == 32);
VIOMMU_UAPI_AT(IoasIovaRanges, ioas_id, 4);
VIOMMU_UAPI_AT(IoasIovaRanges, allowed_iovas, 16);

inline constexpr uint32_t kMapFixedIova = 1;
inline constexpr uint32_t kMapWriteable = 2;
inline constexpr uint32_t kMapReadable = 4;

// Memory of this process.
struct IoasMap {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t ioas_id = 0;
  uint32_t reserved = 0;
  uint64_t user_va = 0;
  uint64_t length = 0;
  uint64_t iova = 0;
};
static_assert(sizeof(IoasMap) == 40);
VIOMMU_UAPI_AT(IoasMap, ioas_id, 8);
VIOMMU_UAPI_AT(IoasMap, user_va, 16);
VIOMMU_UAPI_AT(IoasMap, length, 24);
VIOMMU_UAPI_AT(IoasMap, iova, 32);

// Memory of a file that has no other home (memfd, hugetlbfs), or a dma-buf.
struct IoasMapFile {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t ioas_id = 0;
  int32_t fd = -1;
  uint64_t start = 0;
  uint64_t length = 0;
  uint64_t iova = 0;
};
static_assert(sizeof(IoasMapFile) == 40);
VIOMMU_UAPI_AT(IoasMapFile, ioas_id, 8);
VIOMMU_UAPI_AT(IoasMapFile, fd, 12);
VIOMMU_UAPI_AT(IoasMapFile, start, 16);
VIOMMU_UAPI_AT(IoasMapFile, length, 24);
VIOMMU_UAPI_AT(IoasMapFile, iova, 32);

struct IoasUnmap {
  uint32_t size = 0;
  uint32_t ioas_id = 0;
  uint64_t iova = 0;
  uint64_t length = 0;  // out: what was unmapped
};
static_assert(sizeof(IoasUnmap) == 24);
VIOMMU_UAPI_AT(IoasUnmap, ioas_id, 4);
VIOMMU_UAPI_AT(IoasUnmap, iova, 8);
VIOMMU_UAPI_AT(IoasUnmap, length, 16);

// Its flags and data types are those of the seam: kHwpt*, HwptDataType.
struct HwptAlloc {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t dev_id = 0;
  uint32_t pt_id = 0;
  uint32_t out_hwpt_id = 0;
  uint32_t reserved = 0;
  uint32_t data_type = 0;
  uint32_t data_len = 0;
  uint64_t data_uptr = 0;
  uint32_t fault_id = 0;
  uint32_t reserved2 = 0;
};
static_assert(sizeof(HwptAlloc) == 48);
VIOMMU_UAPI_AT(HwptAlloc, dev_id, 8);
VIOMMU_UAPI_AT(HwptAlloc, pt_id, 12);
VIOMMU_UAPI_AT(HwptAlloc, out_hwpt_id, 16);
VIOMMU_UAPI_AT(HwptAlloc, data_type, 24);
VIOMMU_UAPI_AT(HwptAlloc, data_len, 28);
VIOMMU_UAPI_AT(HwptAlloc, data_uptr, 32);
VIOMMU_UAPI_AT(HwptAlloc, fault_id, 40);

inline constexpr uint32_t kHwInfoInputType = 1;  // flag: data_type says which kind of data is asked for

inline constexpr uint32_t kHwInfoDefault = 0;
inline constexpr uint32_t kHwInfoArmSmmuv3 = 2;
inline constexpr uint32_t kHwInfoTegra241Cmdqv = 3;

inline constexpr uint64_t kHwCapAtsNotSupported = 8;

struct GetHwInfo {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t dev_id = 0;
  uint32_t data_len = 0;  // in: room; out: what the kernel has
  uint64_t data_uptr = 0;
  uint32_t data_type = 0;  // in with kHwInfoInputType; out
  uint8_t out_max_pasid_log2 = 0;
  uint8_t reserved[3] = {};
  uint64_t out_capabilities = 0;
};
static_assert(sizeof(GetHwInfo) == 40);
VIOMMU_UAPI_AT(GetHwInfo, dev_id, 8);
VIOMMU_UAPI_AT(GetHwInfo, data_len, 12);
VIOMMU_UAPI_AT(GetHwInfo, data_uptr, 16);
VIOMMU_UAPI_AT(GetHwInfo, data_type, 24);
VIOMMU_UAPI_AT(GetHwInfo, out_max_pasid_log2, 28);
VIOMMU_UAPI_AT(GetHwInfo, out_capabilities, 32);

struct HwInfoArmSmmuv3 {
  uint32_t flags = 0;
  uint32_t reserved = 0;
  uint32_t idr[6] = {};
  uint32_t iidr = 0;
  uint32_t aidr = 0;
};
static_assert(sizeof(HwInfoArmSmmuv3) == 40);
VIOMMU_UAPI_AT(HwInfoArmSmmuv3, idr, 8);
VIOMMU_UAPI_AT(HwInfoArmSmmuv3, iidr, 32);
VIOMMU_UAPI_AT(HwInfoArmSmmuv3, aidr, 36);

struct HwInfoTegra241Cmdqv {
  uint32_t flags = 0;
  uint8_t version = 0;
  uint8_t log2_vcmdqs = 0;  // of an interface
  uint8_t log2_vsids = 0;
  uint8_t reserved = 0;
};
static_assert(sizeof(HwInfoTegra241Cmdqv) == 8);
VIOMMU_UAPI_AT(HwInfoTegra241Cmdqv, version, 4);
VIOMMU_UAPI_AT(HwInfoTegra241Cmdqv, log2_vcmdqs, 5);
VIOMMU_UAPI_AT(HwInfoTegra241Cmdqv, log2_vsids, 6);

struct HwptInvalidate {
  uint32_t size = 0;
  uint32_t hwpt_id = 0;  // on Arm: a viommu
  uint64_t data_uptr = 0;
  uint32_t data_type = 0;
  uint32_t entry_len = 0;
  uint32_t entry_num = 0;  // out: handled
  uint32_t reserved = 0;
};
static_assert(sizeof(HwptInvalidate) == 32);
VIOMMU_UAPI_AT(HwptInvalidate, hwpt_id, 4);
VIOMMU_UAPI_AT(HwptInvalidate, data_uptr, 8);
VIOMMU_UAPI_AT(HwptInvalidate, data_type, 16);
VIOMMU_UAPI_AT(HwptInvalidate, entry_len, 20);
VIOMMU_UAPI_AT(HwptInvalidate, entry_num, 24);

struct FaultQueueAlloc {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t out_fault_id = 0;
  int32_t out_fault_fd = -1;
};
static_assert(sizeof(FaultQueueAlloc) == 16);
VIOMMU_UAPI_AT(FaultQueueAlloc, out_fault_id, 8);
VIOMMU_UAPI_AT(FaultQueueAlloc, out_fault_fd, 12);

inline constexpr uint32_t kFaultPasidValid = 1;
inline constexpr uint32_t kFaultLastPage = 2;
inline constexpr uint32_t kFaultRead = 1;
inline constexpr uint32_t kFaultWrite = 2;
inline constexpr uint32_t kFaultExecute = 4;
inline constexpr uint32_t kFaultPrivileged = 8;

// Read from a fault queue's file.
struct FaultRecord {
  uint32_t flags = 0;
  uint32_t dev_id = 0;
  uint32_t pasid = 0;
  uint32_t group = 0;
  uint32_t permissions = 0;
  uint32_t reserved = 0;
  uint64_t address = 0;
  uint32_t length = 0;
  uint32_t cookie = 0;
};
static_assert(sizeof(FaultRecord) == 40);
VIOMMU_UAPI_AT(FaultRecord, dev_id, 4);
VIOMMU_UAPI_AT(FaultRecord, pasid, 8);
VIOMMU_UAPI_AT(FaultRecord, group, 12);
VIOMMU_UAPI_AT(FaultRecord, permissions, 16);
VIOMMU_UAPI_AT(FaultRecord, address, 24);
VIOMMU_UAPI_AT(FaultRecord, length, 32);
VIOMMU_UAPI_AT(FaultRecord, cookie, 36);

// Written to it.
struct FaultAnswer {
  uint32_t cookie = 0;
  uint32_t code = 0;
};
static_assert(sizeof(FaultAnswer) == 8);
VIOMMU_UAPI_AT(FaultAnswer, code, 4);

struct ViommuAlloc {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t type = 0;
  uint32_t dev_id = 0;
  uint32_t hwpt_id = 0;
  uint32_t out_viommu_id = 0;
  uint32_t data_len = 0;
  uint32_t reserved = 0;
  uint64_t data_uptr = 0;
};
static_assert(sizeof(ViommuAlloc) == 40);
VIOMMU_UAPI_AT(ViommuAlloc, type, 8);
VIOMMU_UAPI_AT(ViommuAlloc, dev_id, 12);
VIOMMU_UAPI_AT(ViommuAlloc, hwpt_id, 16);
VIOMMU_UAPI_AT(ViommuAlloc, out_viommu_id, 20);
VIOMMU_UAPI_AT(ViommuAlloc, data_len, 24);
VIOMMU_UAPI_AT(ViommuAlloc, data_uptr, 32);

// Comes back with a viommu of type TEGRA241_CMDQV: for mmap() of the iommufd.
struct ViommuTegra241Cmdqv {
  uint64_t out_vintf_mmap_offset = 0;
  uint64_t out_vintf_mmap_length = 0;
};
static_assert(sizeof(ViommuTegra241Cmdqv) == 16);
VIOMMU_UAPI_AT(ViommuTegra241Cmdqv, out_vintf_mmap_length, 8);

struct VdeviceAlloc {
  uint32_t size = 0;
  uint32_t viommu_id = 0;
  uint32_t dev_id = 0;
  uint32_t out_vdevice_id = 0;
  uint64_t virt_id = 0;
};
static_assert(sizeof(VdeviceAlloc) == 24);
VIOMMU_UAPI_AT(VdeviceAlloc, viommu_id, 4);
VIOMMU_UAPI_AT(VdeviceAlloc, dev_id, 8);
VIOMMU_UAPI_AT(VdeviceAlloc, out_vdevice_id, 12);
VIOMMU_UAPI_AT(VdeviceAlloc, virt_id, 16);

struct VeventqAlloc {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t viommu_id = 0;
  uint32_t type = 0;
  uint32_t veventq_depth = 0;
  uint32_t out_veventq_id = 0;
  int32_t out_veventq_fd = -1;
  uint32_t reserved = 0;
};
static_assert(sizeof(VeventqAlloc) == 32);
VIOMMU_UAPI_AT(VeventqAlloc, viommu_id, 8);
VIOMMU_UAPI_AT(VeventqAlloc, type, 12);
VIOMMU_UAPI_AT(VeventqAlloc, veventq_depth, 16);
VIOMMU_UAPI_AT(VeventqAlloc, out_veventq_id, 20);
VIOMMU_UAPI_AT(VeventqAlloc, out_veventq_fd, 24);

inline constexpr uint32_t kVeventLost = 1;  // flag: events were lost here, and nothing follows this header

// In front of each record read from an event queue's file: 32 bytes of ARM_SMMUV3, 16 of TEGRA241_CMDQV.
struct VeventHeader {
  uint32_t flags = 0;
  uint32_t sequence = 0;
};
static_assert(sizeof(VeventHeader) == 8);
VIOMMU_UAPI_AT(VeventHeader, sequence, 4);

struct HwQueueAlloc {
  uint32_t size = 0;
  uint32_t flags = 0;
  uint32_t viommu_id = 0;
  uint32_t type = 0;
  uint32_t index = 0;
  uint32_t out_hw_queue_id = 0;
  uint64_t nesting_parent_iova = 0;
  uint64_t length = 0;
};
static_assert(sizeof(HwQueueAlloc) == 40);
VIOMMU_UAPI_AT(HwQueueAlloc, viommu_id, 8);
VIOMMU_UAPI_AT(HwQueueAlloc, type, 12);
VIOMMU_UAPI_AT(HwQueueAlloc, index, 16);
VIOMMU_UAPI_AT(HwQueueAlloc, out_hw_queue_id, 20);
VIOMMU_UAPI_AT(HwQueueAlloc, nesting_parent_iova, 24);
VIOMMU_UAPI_AT(HwQueueAlloc, length, 32);

#undef VIOMMU_UAPI_AT

}  // namespace viommu::agent::uapi

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_UAPI_H_
