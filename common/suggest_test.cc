#include "common/suggest.h"

#include <gtest/gtest.h>

namespace viommu {
namespace {

TEST(SuggestTest, FindsTheNearest) {
  const std::vector<std::string> names = {"listen", "log.level", "log.format", "tls.cert"};
  EXPECT_EQ(Suggest("lisen", names), "listen");
  EXPECT_EQ(Suggest("listne", names), "listen");
  EXPECT_EQ(Suggest("log.leve", names), "log.level");
  EXPECT_EQ(Suggest("logformat", names), "log.format");
  EXPECT_EQ(Suggest("something.else", names), "");
  EXPECT_EQ(Suggest("x", {"y"}), "");
  EXPECT_EQ(Suggest("x", {}), "");
}

TEST(SuggestTest, Phrases) {
  EXPECT_EQ(DidYouMean("lisen", {"listen"}), "; did you mean \"listen\"?");
  EXPECT_EQ(DidYouMean("zzz", {"listen"}), "");
}

}  // namespace
}  // namespace viommu
