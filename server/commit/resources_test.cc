// A store's resources become the record, or are refused with the name of what is wrong.

#include "server/commit/resources.h"

#include <gtest/gtest.h>

#include <string>

#include "common/error.h"
#include "server/commit/codec.h"
#include "server/fleet/test_fleet.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

class ResourcesTest : public FleetTest {
 protected:
  ResourcesTest() {
    Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
    Accepted(SetVdevId("v", DeviceOf(kGrace, 1), 16));
    Accepted(CreateNested("v", "n"));
    Batch batch;
    for (const Kind kind : kKinds) {
      fleet_.tables().VisitRecords(kind, "", "", [&](const google::protobuf::Message& record) {
        batch.Put(KeySpace::kResources, ResourceKey(kind, NameOf(kind, record)), record.SerializeAsString());
        return true;
      });
    }
    Put(batch);
  }

  void Put(const Batch& batch) { ASSERT_TRUE(store_.Commit(batch, Durability::kSynced).ok()); }
  void Put(const std::string& key, const std::string& value) {
    Batch batch;
    batch.Put(KeySpace::kResources, key, value);
    Put(batch);
  }
  void Delete(const std::string& key) {
    Batch batch;
    batch.Delete(KeySpace::kResources, key);
    Put(batch);
  }

  // Expects that the store is refused, and that it is told why.
  void Damaged(const std::string& why) {
    Tables tables;
    const absl::Status status = LoadResources(store_, tables);
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_STORE_DAMAGED) << status;
    EXPECT_NE(status.message().find(why), std::string::npos) << status;
  }

  MemoryStore store_;
};

TEST_F(ResourcesTest, TheRecordIsWhatWasWritten) {
  Tables tables;
  ASSERT_TRUE(LoadResources(store_, tables).ok());
  for (const Kind kind : kKinds) {
    EXPECT_EQ(tables.size(kind), fleet_.tables().size(kind)) << KindName(kind);
    fleet_.tables().VisitRecords(kind, "", "", [&](const google::protobuf::Message& record) {
      const RecordPtr loaded = tables.FindRecord(kind, NameOf(kind, record));
      EXPECT_EQ(loaded == nullptr ? "" : loaded->ShortDebugString(), record.ShortDebugString());
      return true;
    });
  }
  EXPECT_EQ(tables.states(), fleet_.tables().states());
}

TEST_F(ResourcesTest, AnEmptyStoreIsAnEmptyRecord) {
  const MemoryStore empty;
  Tables tables;
  EXPECT_TRUE(LoadResources(empty, tables).ok());
  EXPECT_EQ(tables.size(Kind::kHost), 0);
}

TEST_F(ResourcesTest, ARecordThatCannotBeReadIsNamed) {
  const std::string vdevice = ResourceKey(Kind::kVdevice, fleet_.vdevice("v", 16).name());
  Put(vdevice, "\xff\xff");
  Damaged("resource viommus/v/vdevices/16 cannot be read");
  // Of several the first.
  Put(ResourceKey(Kind::kDevice, DeviceOf(kGrace, 2)), "\xff\xff");
  Put(ResourceKey(Kind::kDevice, DeviceOf(kGrace, 3)), "\xff\xff");
  Damaged("resource " + DeviceOf(kGrace, 2) + " cannot be read");
}

TEST_F(ResourcesTest, ARecordUnderTheNameOfAnotherIsNamed) {
  Put(ResourceKey(Kind::kDevice, DeviceOf(kGrace, 9)), fleet_.device(DeviceOf(kGrace, 0)).SerializeAsString());
  Damaged("under the name " + DeviceOf(kGrace, 9) + " there is a record of devices " + DeviceOf(kGrace, 0));
}

TEST_F(ResourcesTest, WhatIsUnderNoKindIsRefused) {
  // Before the first kind, without one, between two names of a kind, and behind the last one.
  for (const std::string& key :
       {std::string(1, '\0') + "hosts/x", std::string(), std::string("\x05"), std::string("\x05viommus/v"),
        std::string("\x09hosts/x"), std::string("\xffhosts/x")}) {
    Put(key, "");
    Damaged(key.empty() ? "" : key.substr(1));
    Delete(key);
  }
  Tables tables;
  EXPECT_TRUE(LoadResources(store_, tables).ok());
}

TEST_F(ResourcesTest, ABrokenPromiseIsNamed) {
  v1::Vdevice vdevice = fleet_.vdevice("v", 8);
  vdevice.clear_uid();
  Put(ResourceKey(Kind::kVdevice, vdevice.name()), vdevice.SerializeAsString());
  Damaged("viommus/v/vdevices/8: has no uid");
  Delete(ResourceKey(Kind::kVdevice, vdevice.name()));
  Damaged(DeviceOf(kGrace, 0) + ": its owner viommus/v/vdevices/8 is not recorded");
}

TEST_F(ResourcesTest, AStoreThatCannotBeReadIsNoEmptyRecord) {
  store_.FailReads(absl::DataLossError("a table is damaged"));
  Tables tables;
  EXPECT_EQ(LoadResources(store_, tables).message(), "a table is damaged");
}

}  // namespace
}  // namespace viommu::server
