#include "common/clock.h"

#include <gtest/gtest.h>

#include "common/fake_clock.h"
#include "common/timestamp.h"

namespace viommu {
namespace {

using std::chrono::hours;
using std::chrono::nanoseconds;
using std::chrono::seconds;

TEST(ClockTest, RealClockRuns) {
  const MonotonicTime before = RealClock().Monotonic();
  while (RealClock().Monotonic() == before) {
  }
  EXPECT_GT(RealClock().Monotonic(), before);
  EXPECT_GT(RealClock().Now(), FakeClock().Now() - hours(24 * 3650));
}

TEST(ClockTest, FakeClockMovesOnlyWhenTold) {
  FakeClock clock;
  const WallTime wall = clock.Now();
  const MonotonicTime monotonic = clock.Monotonic();
  EXPECT_EQ(clock.Now(), wall);
  clock.Advance(seconds(5));
  EXPECT_EQ(clock.Now() - wall, seconds(5));
  EXPECT_EQ(clock.Monotonic() - monotonic, seconds(5));
  clock.SetWall(wall - hours(1));
  EXPECT_EQ(wall - clock.Now(), hours(1));
  EXPECT_EQ(clock.Monotonic() - monotonic, seconds(5));
}

TEST(TimestampTest, KeepsNanoseconds) {
  const WallTime time(seconds(1'700'000'000) + nanoseconds(123'456'789));
  EXPECT_EQ(ToTimestamp(time).seconds(), 1'700'000'000);
  EXPECT_EQ(ToTimestamp(time).nanos(), 123'456'789);
  EXPECT_EQ(FromTimestamp(ToTimestamp(time)), time);
}

TEST(TimestampTest, BeforeTheEpochNanosStayPositive) {
  const WallTime time(nanoseconds(-1));
  EXPECT_EQ(ToTimestamp(time).seconds(), -1);
  EXPECT_EQ(ToTimestamp(time).nanos(), 999'999'999);
  EXPECT_EQ(FromTimestamp(ToTimestamp(time)), time);
}

TEST(TimestampTest, OutOfRangeIsClamped) {
  google::protobuf::Timestamp far;
  far.set_seconds(253'402'300'799);  // the end of the year 9999
  EXPECT_EQ(FromTimestamp(far), WallTime::max());
  far.set_seconds(-62'135'596'800);  // the start of the year 1
  EXPECT_EQ(FromTimestamp(far), WallTime::min());
}

TEST(TimestampTest, FormatsAsRfc3339) {
  EXPECT_EQ(FormatTime(FakeClock().Now()), "2026-01-01T00:00:00.000000Z");
  EXPECT_EQ(FormatTime(FakeClock().Now() + nanoseconds(1'500'001'999)), "2026-01-01T00:00:01.500001Z");
  EXPECT_EQ(FormatTime(FakeClock().Now() - nanoseconds(1)), "2025-12-31T23:59:59.999999Z");
}

}  // namespace
}  // namespace viommu
