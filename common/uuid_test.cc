#include "common/uuid.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace viommu {
namespace {

TEST(UuidTest, NewOnesDifferAndAreWellFormed) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string uuid = NewUuid();
    EXPECT_TRUE(IsUuid(uuid)) << uuid;
    EXPECT_EQ(uuid[14], '4') << "version 4: " << uuid;
    EXPECT_TRUE(seen.insert(uuid).second) << uuid;
  }
}

TEST(UuidTest, RefusesOtherForms) {
  EXPECT_TRUE(IsUuid("3b241101-e2bb-4255-8caf-4136c566a962"));
  EXPECT_FALSE(IsUuid(""));
  EXPECT_FALSE(IsUuid("3B241101-E2BB-4255-8CAF-4136C566A962"));
  EXPECT_FALSE(IsUuid("3b241101e2bb42558caf4136c566a962"));
  EXPECT_FALSE(IsUuid("3b241101-e2bb-4255-8caf-4136c566a96"));
  EXPECT_FALSE(IsUuid("3b241101-e2bb-4255-8caf-4136c566a9622"));
  EXPECT_FALSE(IsUuid("3b241101-e2bb-4255-8caf+4136c566a962"));
  EXPECT_FALSE(IsUuid("3b241101-e2bb-4255-8caf-4136c566a96g"));
}

}  // namespace
}  // namespace viommu
