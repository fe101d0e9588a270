#include "cli/terminal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <sstream>

#include "common/fake_clock.h"

namespace viommu::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

class TerminalTest : public testing::Test {
 protected:
  TerminalTest() {
    terminal_.in = &in_;
    terminal_.out = &std::cout;
    terminal_.err = &err_;
    terminal_.err_is_terminal = true;
    terminal_.clock = &clock_;
    terminal_.environment = [](const std::string&) { return std::nullopt; };
  }

  FakeClock clock_;
  std::istringstream in_;
  std::ostringstream err_;
  Terminal terminal_;
};

TEST_F(TerminalTest, ProgressIsShownWhenItTakesLong) {
  {
    Progress progress(terminal_, "waiting for host a");
    clock_.Advance(milliseconds(299));
    progress.Tick();
    EXPECT_THAT(err_.str(), IsEmpty()) << "most calls are done before anybody looks";
    clock_.Advance(milliseconds(1));
    progress.Tick();
    EXPECT_THAT(err_.str(), EndsWith("waiting for host a … 0s"));
    const std::string first = err_.str();
    clock_.Advance(seconds(12));
    progress.Tick();
    EXPECT_THAT(err_.str(), EndsWith("waiting for host a … 12s"));
    EXPECT_THAT(err_.str().substr(first.size()), HasSubstr("\r\033[K")) << "in place of the line before";
  }
  EXPECT_THAT(err_.str(), EndsWith("\r\033[K")) << "nothing is left behind";
}

TEST_F(TerminalTest, ProgressIsForTerminals) {
  terminal_.err_is_terminal = false;
  {
    Progress progress(terminal_, "waiting");
    clock_.Advance(seconds(5));
    progress.Tick();
  }
  EXPECT_THAT(err_.str(), IsEmpty());
}

TEST_F(TerminalTest, OnlyYesIsYes) {
  for (const auto& [answer, yes] : {std::pair("y\n", true), std::pair(" YES \n", true), std::pair("n\n", false),
                                    std::pair("\n", false), std::pair("", false)}) {
    in_.clear();
    in_.str(answer);
    EXPECT_EQ(Confirm(terminal_, "Sure?"), yes) << answer;
  }
}

}  // namespace
}  // namespace viommu::cli
