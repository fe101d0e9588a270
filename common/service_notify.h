// Telling systemd how a service does (sd_notify(3)). Without systemd (no NOTIFY_SOCKET) every call does nothing.

#ifndef VIOMMU_COMMON_SERVICE_NOTIFY_H_
#define VIOMMU_COMMON_SERVICE_NOTIFY_H_

#include <chrono>
#include <optional>
#include <string_view>

namespace viommu {

// The service works; `status` is one line for `systemctl status`.
void NotifyReady(std::string_view status);

// The service winds down.
void NotifyStopping(std::string_view status);

// Changes the line.
void NotifyStatus(std::string_view status);

// Says that the service is alive. Call it at least every WatchdogInterval().
void NotifyWatchdog();

// Half of what the unit's WatchdogSec= allows; nothing when no watchdog is armed for this process.
std::optional<std::chrono::microseconds> WatchdogInterval();

}  // namespace viommu

#endif  // VIOMMU_COMMON_SERVICE_NOTIFY_H_
