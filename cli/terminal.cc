#include "cli/terminal.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <iostream>

#include "cli/exit_code.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

constexpr std::chrono::milliseconds kQuiet{300};
constexpr std::array<std::string_view, 8> kFrames = {"⣾", "⣽", "⣻", "⢿", "⡿", "⣟", "⣯", "⣷"};

std::atomic<bool> process_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch what needs no lock");

void OnInterrupt(int) {
  if (process_interrupted.exchange(true)) _exit(static_cast<int>(ExitCode::kInterrupted));
}

std::optional<std::string> ProcessEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

}  // namespace

Terminal ProcessTerminal() {
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;  // without SA_RESTART: a question that waits for an answer ends, too
  sigaction(SIGINT, &action, nullptr);
  Terminal terminal;
  terminal.in = &std::cin;
  terminal.out = &std::cout;
  terminal.err = &std::cerr;
  terminal.in_is_terminal = isatty(STDIN_FILENO) == 1;
  terminal.out_is_terminal = isatty(STDOUT_FILENO) == 1;
  terminal.err_is_terminal = isatty(STDERR_FILENO) == 1;
  terminal.environment = ProcessEnvironment;
  terminal.clock = &RealClock();
  terminal.interrupted = &process_interrupted;
  return terminal;
}

bool Confirm(const Terminal& terminal, std::string_view question) {
  *terminal.err << question << " [y/N] " << std::flush;
  std::string answer;
  if (!std::getline(*terminal.in, answer)) {
    *terminal.err << "\n";
    return false;
  }
  const std::string word = Lower(Trim(answer));
  return word == "y" || word == "yes";
}

Progress::Progress(const Terminal& terminal, std::string what)
    : terminal_(terminal), what_(std::move(what)), start_(terminal.clock->Monotonic()) {}

Progress::~Progress() {
  if (shown_) *terminal_.err << "\r\033[K" << std::flush;
}

void Progress::Tick() {
  const auto waited = terminal_.clock->Monotonic() - start_;
  if (!terminal_.err_is_terminal || waited < kQuiet) return;
  shown_ = true;
  *terminal_.err << fmt::format("\r\033[K{} {} … {}s", kFrames[frame_++ % kFrames.size()], what_,
                                std::chrono::duration_cast<std::chrono::seconds>(waited).count())
                 << std::flush;
}

}  // namespace viommu::cli
