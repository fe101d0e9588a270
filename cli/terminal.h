// The outside of the process: its streams, environment, clock and interruption. Tests hand in their own.

#ifndef VIOMMU_CLI_TERMINAL_H_
#define VIOMMU_CLI_TERMINAL_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"

namespace viommu::cli {

// What is pointed to outlives the command.
struct Terminal {
  std::istream* in;
  std::ostream* out;  // data
  std::ostream* err;  // words
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  std::function<std::optional<std::string>(const std::string& name)> environment;
  const Clock* clock;
  // Becomes true with Ctrl-C.
  const std::atomic<bool>* interrupted;

  bool ColourOut() const { return out_is_terminal && ColourWanted(); }
  bool ColourErr() const { return err_is_terminal && ColourWanted(); }

 private:
  // no-color.org: any value that is not empty switches colour off; so does a terminal that cannot.
  bool ColourWanted() const {
    const std::optional<std::string> no_colour = environment("NO_COLOR");
    return (!no_colour.has_value() || no_colour->empty()) && environment("TERM").value_or("") != "dumb";
  }
};

// The process's own, with a handler for SIGINT: the first one sets the flag, the second one ends the process at once.
Terminal ProcessTerminal();

// Asks on the terminal and reads one line; true for "y" or "yes".
bool Confirm(const Terminal& terminal, std::string_view question);

// A line at the bottom of the terminal that says what is being waited for. Shows nothing for the first 300 ms and
// nothing at all where words do not go to a terminal. Gone when destroyed.
class Progress {
 public:
  Progress(const Terminal& terminal, std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Draws the line anew; cheap, to be called about ten times a second.
  void Tick();

 private:
  const Terminal& terminal_;
  const std::string what_;
  const MonotonicTime start_;
  size_t frame_ = 0;
  bool shown_ = false;
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_TERMINAL_H_
