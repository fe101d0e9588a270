#include "server/commit/verify.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/error.h"
#include "common/fake_clock.h"
#include "server/commit/codec.h"
#include "server/commit/core.h"
#include "server/commit/test_command.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

class VerifyTest : public testing::Test {
 protected:
  VerifyTest() {
    int uids = 0;
    const auto core =
        CommitCore::Open(store_, clock_, [&uids] { return "uid-" + std::to_string(++uids); }, {.boot_id = "boot"});
    for (const char* host : {"hosts/a", "hosts/b", "hosts/c"}) {
      TestCommand command(PutHost(host));
      command.method = "CordonHost";
      command.request_id = host;
      EXPECT_TRUE(command.RunOn(**core).ok());
    }
    EXPECT_TRUE((*core)->Close().ok());
  }

  std::string DamageAfter(Batch batch) {
    EXPECT_TRUE(store_.Commit(batch, Durability::kSynced).ok());
    const auto verified = VerifyRecord(store_);
    EXPECT_EQ(ReasonOf(verified.status()), v1::ERROR_REASON_STORE_DAMAGED) << verified.status();
    return std::string(verified.status().message());
  }

  MemoryStore store_;
  FakeClock clock_;
};

TEST_F(VerifyTest, CountsWhatIsRight) {
  const auto verified = VerifyRecord(store_);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->revision, 3);
  EXPECT_EQ(verified->epoch, 1);
  EXPECT_EQ(verified->resources, 3);
  EXPECT_EQ(verified->changes, 3);
  EXPECT_EQ(verified->requests, 3);
  EXPECT_EQ(verified->audit_entries, 3);
}

TEST_F(VerifyTest, AGapInTheChangeLog) {
  Batch batch;
  batch.Delete(KeySpace::kChanges, EncodeNumber(2));
  EXPECT_NE(DamageAfter(batch).find("after 1 comes 3"), std::string::npos);
}

TEST_F(VerifyTest, AChangeLogThatEndsTooEarly) {
  Batch batch;
  batch.Delete(KeySpace::kChanges, EncodeNumber(3));
  EXPECT_NE(DamageAfter(batch).find("ends at revision 2"), std::string::npos);
}

TEST_F(VerifyTest, AGapInTheAuditLog) {
  Batch batch;
  batch.Delete(KeySpace::kAudit, EncodeNumber(2));
  EXPECT_NE(DamageAfter(batch).find("audit log"), std::string::npos);
}

TEST_F(VerifyTest, WhatCannotBeRead) {
  for (const KeySpace space : {KeySpace::kAudit, KeySpace::kChanges}) {
    Batch batch;
    batch.Put(space, EncodeNumber(3), "no record");
    EXPECT_NE(DamageAfter(batch).find("cannot be read"), std::string::npos);
  }
}

TEST_F(VerifyTest, AnAnswerThatCannotBeRead) {
  Batch batch;
  batch.Put(KeySpace::kRequests, "r", "no record");
  EXPECT_NE(DamageAfter(batch).find("request id r"), std::string::npos);
}

TEST_F(VerifyTest, AResourceUnderAnothersName) {
  Batch batch;
  v1::Host host;
  host.set_name("hosts/other");
  batch.Put(KeySpace::kResources, ResourceKey(Kind::kHost, "hosts/a"), host.SerializeAsString());
  EXPECT_NE(DamageAfter(batch).find("hosts/other"), std::string::npos);
}

TEST_F(VerifyTest, AMissingIdentity) {
  Batch batch;
  batch.Delete(KeySpace::kMeta, std::string(kMetaIncarnation));
  EXPECT_NE(DamageAfter(batch).find("store_incarnation"), std::string::npos);
}

}  // namespace
}  // namespace viommu::server
