#include "common/units.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <limits>

namespace viommu {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

TEST(UnitsTest, DurationsRoundTrip) {
  EXPECT_EQ(ParseDuration("1m30s").value(), seconds(90));
  EXPECT_EQ(ParseDuration("250ms").value(), milliseconds(250));
  EXPECT_EQ(ParseDuration("0").value(), nanoseconds(0));
  EXPECT_EQ(ParseDuration("1.5s").value(), milliseconds(1500));
  for (const nanoseconds duration : {nanoseconds(0), nanoseconds(1), nanoseconds(seconds(90)), nanoseconds::max()}) {
    EXPECT_EQ(ParseDuration(FormatDuration(duration)).value(), duration);
  }
}

TEST(UnitsTest, RefusesOtherDurations) {
  for (const char* text : {"", "10", "ten seconds", "-1s", "inf", "2562048h", "1s "}) {
    EXPECT_EQ(ParseDuration(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(UnitsTest, SizesRoundTrip) {
  EXPECT_EQ(ParseByteSize("4096").value(), 4096u);
  EXPECT_EQ(ParseByteSize("64KiB").value(), 65536u);
  EXPECT_EQ(ParseByteSize("4M").value(), 4u << 20);
  EXPECT_EQ(ParseByteSize("4MB").value(), 4'000'000u);
  EXPECT_EQ(ParseByteSize("7B").value(), 7u);
  EXPECT_EQ(FormatByteSize(4u << 20), "4MiB");
  EXPECT_EQ(FormatByteSize(1000), "1000");
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1025}, uint64_t{1} << 40, std::numeric_limits<uint64_t>::max()}) {
    EXPECT_EQ(ParseByteSize(FormatByteSize(bytes)).value(), bytes);
  }
}

TEST(UnitsTest, RefusesOtherSizes) {
  for (const char* text :
       {"", "-1", "MiB", "4 MiB", "4mib", "1.5GiB", "18446744073709551616", "16777216TiB", "99999999999999999999KiB"}) {
    EXPECT_EQ(ParseByteSize(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace viommu
