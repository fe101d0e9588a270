#include "common/crc32c.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <string>

namespace viommu {
namespace {

// Values of RFC 3720, B.4.
TEST(Crc32cTest, KnownValues) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising.push_back(static_cast<char>(i));
  EXPECT_EQ(Crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST(Crc32cTest, ContinuesFromASeed) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c("6789", Crc32c("12345")), 0xe3069283u);
}

// Wherever it is cut: eight bytes at a time and one by one come to the same.
RC_GTEST_PROP(Crc32cTest, APieceAndTheRestAreTheWhole, (const std::string& text)) {
  const size_t cut = *rc::gen::inRange<size_t>(0, text.size() + 1);
  uint32_t one_by_one = 0;
  for (const char c : text) one_by_one = Crc32c(std::string_view(&c, 1), one_by_one);
  RC_ASSERT(Crc32c(text) == one_by_one);
  RC_ASSERT(Crc32c(text.substr(cut), Crc32c(text.substr(0, cut))) == one_by_one);
}

}  // namespace
}  // namespace viommu
