#include "common/service_notify.h"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <cstdint>
#include <string>

namespace viommu {
namespace {

constexpr int kKeepEnvironment = 0;

// The protocol is lines of KEY=VALUE: a line break in the text would start another key.
std::string OneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return line;
}

void Send(const std::string& state) { sd_notify(kKeepEnvironment, state.c_str()); }

}  // namespace

void NotifyReady(std::string_view status) { Send(fmt::format("READY=1\nSTATUS={}", OneLine(status))); }

void NotifyStopping(std::string_view status) { Send(fmt::format("STOPPING=1\nSTATUS={}", OneLine(status))); }

void NotifyStatus(std::string_view status) { Send(fmt::format("STATUS={}", OneLine(status))); }

void NotifyWatchdog() { Send("WATCHDOG=1"); }

std::optional<std::chrono::microseconds> WatchdogInterval() {
  uint64_t limit_us = 0;
  if (sd_watchdog_enabled(kKeepEnvironment, &limit_us) <= 0) return std::nullopt;
  return std::chrono::microseconds(limit_us / 2);
}

}  // namespace viommu
