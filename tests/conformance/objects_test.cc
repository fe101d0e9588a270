// Ids, who blocks whom, and what the end of a context frees.

#include <set>

#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

class Objects : public Conformance {};
CONFORMANCE_RIGS(Objects);

TEST_P(Objects, G1_DestroyOfIdZero) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, vm->Destroy(0));
}

TEST_P(Objects, G1_DestroyOfAnUnknownId) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, vm->Destroy(1));
  EXPECT_ERRNO(ENOENT, vm->Destroy(kNoSuchId));
  EXPECT_ERRNO(ENOENT, vm->Destroy(~0u));
}

TEST_P(Objects, IdsBeginAtOne) {
  Vm vm(Open());
  EXPECT_EQ(Must(vm->AllocIoas()), 1u);
  EXPECT_EQ(Must(vm->AllocIoas()), 2u);
}

TEST_P(Objects, AllKindsShareOneRowOfIds) {
  Vm vm(Open());
  std::set<ObjectId> ids;
  const Function function = vm.Plug(A0(), 0x10);
  ids.insert({function.device, vm.ioas(), function.stage2, function.viommu, function.vdevice});
  ids.insert(vm.Nested(function, smmuv3::kAbortVste));
  ids.insert(Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 1)));
  EXPECT_EQ(ids, (std::set<ObjectId>{1, 2, 3, 4, 5, 6, 7}));
}

TEST_P(Objects, TheLowestFreeIdIsNext) {
  Vm vm(Open());
  for (ObjectId id = 1; id <= 4; ++id) EXPECT_EQ(Must(vm->AllocIoas()), id);
  EXPECT_OK(vm->Destroy(3));
  EXPECT_OK(vm->Destroy(2));
  EXPECT_EQ(Must(vm->AllocIoas()), 2u);
  EXPECT_EQ(Must(vm->AllocIoas()), 3u);
  EXPECT_EQ(Must(vm->AllocIoas()), 5u);
}

TEST_P(Objects, AnIdIsReusedByAnotherKind) {
  Vm vm(Open());
  const ObjectId ioas = Must(vm->AllocIoas());
  EXPECT_OK(vm->Destroy(ioas));
  EXPECT_EQ(vm.Bind(A0()), ioas);
  EXPECT_ERRNO(EBUSY, vm->Destroy(ioas));
}

TEST_P(Objects, DestroyTwice) {
  Vm vm(Open());
  const ObjectId ioas = Must(vm->AllocIoas());
  EXPECT_OK(vm->Destroy(ioas));
  EXPECT_ERRNO(ENOENT, vm->Destroy(ioas));
}

TEST_P(Objects, IdsMeanNothingInAnotherContext) {
  Vm one(Open());
  Vm other(Open());
  const Function function = one.Plug(A0(), 0x10);
  EXPECT_ERRNO(ENOENT, other->Destroy(function.viommu));
  EXPECT_ERRNO(ENOENT, other->Invalidate(function.viommu, InvalidateDataType::kArmSmmuv3, {}));
  EXPECT_ERRNO(ENOENT, other->GetHwInfo(function.device));
  EXPECT_ERRNO(ENOENT, other->Detach(function.device));
}

TEST_P(Objects, ContextsCountTheirIdsForThemselves) {
  Vm one(Open());
  Vm other(Open());
  EXPECT_EQ(Must(one->AllocIoas()), 1u);
  EXPECT_EQ(Must(other->AllocIoas()), 1u);
}

TEST_P(Objects, ADeviceIsNotDestroyed) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  EXPECT_ERRNO(EBUSY, vm->Destroy(device));
}

TEST_P(Objects, G11_IoasWithoutUsersGoes) {
  Vm vm(Open());
  EXPECT_OK(vm->Destroy(Must(vm->AllocIoas())));
}

TEST_P(Objects, G11_IoasWithAnAttachedDevice) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  ASSERT_OK(vm->Attach(device, vm.ioas()));
  EXPECT_ERRNO(EBUSY, vm->Destroy(vm.ioas()));
  EXPECT_OK(vm->Detach(device));
  EXPECT_OK(vm->Destroy(vm.ioas()));
}

TEST_P(Objects, IoasUnderAStage2) {
  Vm vm(Open());
  const ObjectId stage2 = vm.Stage2(vm.Bind(A0()));
  EXPECT_ERRNO(EBUSY, vm->Destroy(vm.ioas()));
  EXPECT_OK(vm->Destroy(stage2));
  EXPECT_OK(vm->Destroy(vm.ioas()));
}

TEST_P(Objects, IoasUnderAPlainHwpt) {
  Vm vm(Open());
  const ObjectId hwpt = Must(vm->AllocHwpt({.device = vm.Bind(A0()), .pt = vm.ioas()}));
  EXPECT_ERRNO(EBUSY, vm->Destroy(vm.ioas()));
  EXPECT_OK(vm->Destroy(hwpt));
  EXPECT_OK(vm->Destroy(vm.ioas()));
}

TEST_P(Objects, G12_MappingsDoNotKeepAnIoas) {
  Vm vm(Open());
  EXPECT_OK(vm->Destroy(vm.ioas()));
}

TEST_P(Objects, Stage2WithAnAttachedDevice) {
  Vm vm(Open());
  const ObjectId device = vm.Bind(A0());
  const ObjectId stage2 = vm.Stage2(device);
  ASSERT_OK(vm->Attach(device, stage2));
  EXPECT_ERRNO(EBUSY, vm->Destroy(stage2));
  EXPECT_OK(vm->Detach(device));
  EXPECT_OK(vm->Destroy(stage2));
}

TEST_P(Objects, V4_Stage2UnderAViommu) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  EXPECT_ERRNO(EBUSY, vm->Destroy(function.stage2));
  EXPECT_OK(vm->Destroy(function.viommu));
  EXPECT_OK(vm->Destroy(function.stage2));
}

TEST_P(Objects, V5_ViommuUnderANestedHwpt) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId nested = vm.Nested(function, smmuv3::kAbortVste);
  EXPECT_ERRNO(EBUSY, vm->Destroy(function.viommu));
  EXPECT_OK(vm->Destroy(nested));
  EXPECT_OK(vm->Destroy(function.viommu));
}

TEST_P(Objects, ViommuUnderAVdevice) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_ERRNO(EBUSY, vm->Destroy(function.viommu));
  EXPECT_OK(vm->Destroy(function.vdevice));
  EXPECT_OK(vm->Destroy(function.viommu));
}

TEST_P(Objects, ViommuUnderAnEventQueue) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId queue = Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_ERRNO(EBUSY, vm->Destroy(function.viommu));
  EXPECT_OK(vm->Destroy(queue));
  EXPECT_OK(vm->Destroy(function.viommu));
}

TEST_P(Objects, H12_Stage2BelowAViommuBelowANestedHwpt) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId nested = vm.Nested(function, smmuv3::kAbortVste);
  EXPECT_ERRNO(EBUSY, vm->Destroy(function.stage2));
  EXPECT_OK(vm->Destroy(nested));
  EXPECT_ERRNO(EBUSY, vm->Destroy(function.stage2));
}

TEST_P(Objects, H13_AttachedNestedHwpt) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId first = vm.Nested(function, smmuv3::kAbortVste);
  const ObjectId second = vm.Nested(function, smmuv3::kBypassVste);
  ASSERT_OK(vm->Attach(function.device, first));
  EXPECT_ERRNO(EBUSY, vm->Destroy(first));
  ASSERT_OK(vm->Attach(function.device, second));
  EXPECT_OK(vm->Destroy(first));
  EXPECT_ERRNO(EBUSY, vm->Destroy(second));
}

TEST_P(Objects, FaultQueueNamedByANestedHwpt) {
  Vm vm(Open());
  const Function function = vm.PlugWithoutVdevice(A0());
  const ObjectId faults = Must(vm->AllocFaultQueue());
  const ObjectId nested = Must(vm->AllocNested(function.viommu, function.device, smmuv3::kAbortVste, faults));
  EXPECT_ERRNO(EBUSY, vm->Destroy(faults));
  EXPECT_OK(vm->Destroy(nested));
  EXPECT_OK(vm->Destroy(faults));
}

TEST_P(Objects, AVdeviceDoesNotNeedToGoBeforeNestedHwpts) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  EXPECT_OK(vm->Destroy(function.vdevice));
  EXPECT_OK(vm->Destroy(nested));
}

TEST_P(Objects, TheCleanEndInOrder) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId queue = Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  const ObjectId nested = vm.Nested(function, kTranslateVste);
  ASSERT_OK(vm->Attach(function.device, nested));
  EXPECT_OK(vm->Attach(function.device, function.stage2));
  EXPECT_OK(vm->Destroy(nested));
  EXPECT_OK(vm->Destroy(function.vdevice));
  EXPECT_OK(vm->Destroy(queue));
  EXPECT_OK(vm->Destroy(function.viommu));
  EXPECT_OK(vm->Detach(function.device));
  EXPECT_OK(vm->Destroy(function.stage2));
  EXPECT_OK(vm->Destroy(vm.ioas()));
  EXPECT_OK(vm->UnbindDevice(A0()));
  EXPECT_EQ(Must(vm->AllocIoas()), 1u);  // nothing is left
}

TEST_P(Objects, ARefusedDestroyChangesNothing) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  ASSERT_OK(vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
  for (int i = 0; i < 3; ++i) {
    EXPECT_ERRNO(EBUSY, vm->Destroy(function.viommu));
    EXPECT_ERRNO(EBUSY, vm->Destroy(function.stage2));
    EXPECT_ERRNO(EBUSY, vm->Destroy(vm.ioas()));
  }
  EXPECT_OK(vm.Send(function.viommu, smmuv3::Command{.opcode = smmuv3::Opcode::kTlbiNhAll}));
}

TEST_P(Objects, G10_CloseWithNothing) { Vm vm(Open()); }

TEST_P(Objects, G10_CloseWithEverythingAttached) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  ASSERT_OK(vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
  vm.Close();
  // Free for the next one, all the way up.
  Vm next(Open());
  const Function again = next.Plug(A0(), 0x10);
  EXPECT_OK(next->Attach(again.device, next.Nested(again, kTranslateVste)));
}

TEST_P(Objects, G10_CloseWithAFaultQueueInUse) {
  NEED_CAPABILITY("fault_queue");
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId faults = Must(vm->AllocFaultQueue());
  const ObjectId nested = Must(vm->AllocNested(function.viommu, function.device, kTranslateVste, faults));
  ASSERT_OK(vm->Attach(function.device, nested));
  vm.Close();
  Vm next(Open());
  EXPECT_OK(next->BindDevice(A0()));
}

TEST_P(Objects, G10_CloseWithAnIoasAttached) {
  Vm vm(Open());
  ASSERT_OK(vm->Attach(vm.Bind(A0()), vm.ioas()));
  vm.Close();
  Vm next(Open());
  EXPECT_OK(next->BindDevice(A0()));
}

TEST_P(Objects, G10_CloseWithTombstones) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  ASSERT_OK(vm->Attach(function.device, vm.Nested(function, kTranslateVste)));
  ASSERT_OK(vm->UnbindDevice(A0()));
  vm.Close();
  Vm next(Open());
  EXPECT_OK(next->BindDevice(A0()));
}

TEST_P(Objects, ClosingOneContextLeavesAnotherAlone) {
  NEED_DEVICE(a1, Role::kA1);
  Vm one(Open());
  Vm other(Open());
  const Function mine = one.Plug(A0(), 0x10);
  const Function theirs = other.Plug(a1, 0x10);
  ASSERT_OK(one->Attach(mine.device, one.Nested(mine, kTranslateVste)));
  ASSERT_OK(other->Attach(theirs.device, other.Nested(theirs, kTranslateVste)));
  one.Close();
  EXPECT_OK(other.Send(theirs.viommu, smmuv3::Command{.opcode = smmuv3::Opcode::kCfgiCdAll, .sid = 0x10}));
  EXPECT_ERRNO(EBUSY, other->Destroy(theirs.viommu));
}

TEST_P(Objects, ManyObjectsOfAContextGoWithIt) {
  for (int round = 0; round < 20; ++round) {
    Vm vm(Open());
    const Function function = vm.Plug(A0(), 0x10);
    for (int i = 0; i < 50; ++i) vm.Nested(function, kTranslateVste);
    EXPECT_EQ(Must(vm->AllocIoas()), 56u);
  }
}

// ---- Ids of the wrong kind ------------------------------------------------------------------------------------------

// A call with one id in it that is wrong; all others are right.
struct WrongIdRow {
  const char* name;
  int unknown;  // errno with an id that nobody has
  int ioas;     // errno with the id of an IOAS
  int device;   // errno with the id of a device
  absl::Status (*call)(Vm& vm, const Function& function, ObjectId wrong);
};

const WrongIdRow kWrongIds[] = {
    {"MapIoas", ENOENT, 0, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->MapIoas(wrong, 0x1000, 4096, vm.memory().handle()); }},
    {"UnmapIoas", ENOENT, 0, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->UnmapIoas(wrong, 0, ~uint64_t{0}).status(); }},
    {"AllocStage2_Device", ENOENT, ENOENT, 0,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->AllocStage2(wrong, vm.ioas()).status(); }},
    {"AllocStage2_Ioas", EINVAL, 0, EINVAL,
     [](Vm& vm, const Function& f, ObjectId wrong) { return vm->AllocStage2(f.device, wrong).status(); }},
    {"AllocViommu_Device", ENOENT, ENOENT, 0,
     [](Vm& vm, const Function& f, ObjectId wrong) {
       return vm->AllocViommu(wrong, f.stage2, ViommuType::kArmSmmuv3).status();
     }},
    {"AllocViommu_Stage2", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function& f, ObjectId wrong) {
       return vm->AllocViommu(f.device, wrong, ViommuType::kArmSmmuv3).status();
     }},
    {"AllocVdevice_Viommu", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function& f, ObjectId wrong) { return vm->AllocVdevice(wrong, f.device, 0x20).status(); }},
    {"AllocVdevice_Device", ENOENT, ENOENT, EEXIST,
     [](Vm& vm, const Function& f, ObjectId wrong) { return vm->AllocVdevice(f.viommu, wrong, 0x20).status(); }},
    {"AllocNested_Viommu", EINVAL, EOPNOTSUPP, EINVAL,
     [](Vm& vm, const Function& f, ObjectId wrong) {
       return vm->AllocNested(wrong, f.device, smmuv3::kAbortVste).status();
     }},
    {"AllocNested_Device", ENOENT, ENOENT, 0,
     [](Vm& vm, const Function& f, ObjectId wrong) {
       return vm->AllocNested(f.viommu, wrong, smmuv3::kAbortVste).status();
     }},
    {"AllocNested_Fault", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function& f, ObjectId wrong) {
       return vm->AllocNested(f.viommu, f.device, smmuv3::kAbortVste, wrong).status();
     }},
    {"Attach_Device", ENOENT, ENOENT, 0,
     [](Vm& vm, const Function& f, ObjectId wrong) { return vm->Attach(wrong, f.stage2); }},
    {"Attach_Pt", ENOENT, 0, EINVAL,
     [](Vm& vm, const Function& f, ObjectId wrong) { return vm->Attach(f.device, wrong); }},
    {"Detach", ENOENT, ENOENT, 0, [](Vm& vm, const Function&, ObjectId wrong) { return vm->Detach(wrong); }},
    {"Invalidate", ENOENT, EINVAL, EINVAL,
     [](Vm& vm, const Function&, ObjectId wrong) {
       return vm.Send(wrong, smmuv3::Command{.opcode = smmuv3::Opcode::kTlbiNhAll}).status;
     }},
    {"AllocVeventq", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) {
       return vm->AllocVeventq(wrong, VeventqType::kArmSmmuv3, 1).status();
     }},
    {"ReadVeventq", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->ReadVeventq(wrong, 1).status(); }},
    {"ReadFaults", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->ReadFaults(wrong, 1).status(); }},
    {"AnswerFault", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) {
       return vm->AnswerFault(wrong, 0, agent::PageResponseCode::kSuccess);
     }},
    {"AllocHwQueue", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) {
       return vm->AllocHwQueue(wrong, HwQueueType::kTegra241Cmdqv, 0, kMemoryBase, 4096).status();
     }},
    {"MapVintf", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->MapVintf(wrong).status(); }},
    {"UnmapVintf", ENOENT, ENOENT, ENOENT,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->UnmapVintf(wrong); }},
    {"GetHwInfo", ENOENT, ENOENT, 0,
     [](Vm& vm, const Function&, ObjectId wrong) { return vm->GetHwInfo(wrong).status(); }},
};

class WrongId : public ConformanceRows<WrongIdRow> {};
CONFORMANCE_ROWS(WrongId, kWrongIds);

TEST_P(WrongId, Unknown) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_ERRNO(row().unknown, row().call(vm, function, kNoSuchId));
}

TEST_P(WrongId, OfAnIoas) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_ERRNO(row().ioas, row().call(vm, function, vm.ioas()));
}

TEST_P(WrongId, OfADevice) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_ERRNO(row().device, row().call(vm, function, function.device));
}

}  // namespace
}  // namespace viommu::conformance
