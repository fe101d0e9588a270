// Structured logs: one line per event on stderr, as text or JSON.
//
//   VIOMMU_LOG(kInfo, "agent connected", {{"host", host}, {"revision", revision}});
//
//   2026-11-23T22:16:18.123456Z INFO agent connected host=hosts/a revision=42
//   {"time":"2026-11-23T22:16:18.123456Z","level":"info","event":"agent connected","host":"hosts/a","revision":42}
//
// An event is a fixed phrase, so that it can be searched for; what varies goes into fields with stable snake_case keys
// (not "time", "level" or "event"). Any thread may log; lines never mix. Nothing is evaluated while the level is off.

#ifndef VIOMMU_COMMON_LOG_H_
#define VIOMMU_COMMON_LOG_H_

#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"

namespace viommu {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };
enum class LogFormat { kText, kJson };

// The value of a field. Strings are borrowed for the duration of the call.
class LogValue {
 public:
  LogValue(std::string_view value) : value_(value) {}  // NOLINT: fields convert from what is at hand
  LogValue(const std::string& value) : value_(std::string_view(value)) {}  // NOLINT
  LogValue(const char* value) : value_(std::string_view(value)) {}         // NOLINT
  LogValue(bool value) : value_(value) {}                                  // NOLINT
  LogValue(double value) : value_(value) {}                                // NOLINT
  template <std::signed_integral T>
  LogValue(T value) : value_(static_cast<int64_t>(value)) {}  // NOLINT
  template <std::unsigned_integral T>
  requires(!std::same_as<T, bool>) LogValue(T value) : value_(static_cast<uint64_t>(value)) {}  // NOLINT
  // "OK" or "NOT_FOUND: message".
  LogValue(const absl::Status& status) : value_(StatusText(status)) {}  // NOLINT

  // The value as JSON.
  std::string Json() const;
  // The value as text: quoted and escaped like JSON when it is empty or has anything but visible ASCII without " and =.
  std::string Text() const;

 private:
  static std::string StatusText(const absl::Status& status);

  std::variant<std::string_view, std::string, bool, int64_t, uint64_t, double> value_;
};

struct LogField {
  std::string_view key;
  LogValue value;
};

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  // Where lines go (without the newline; one call at a time); stderr when empty.
  std::function<void(std::string_view line)> writer;
};

// Sets up logging for the process. Before the first call the defaults hold. Not while other threads log.
void InitLogging(LogOptions options);

// One event. Use VIOMMU_LOG, which asks for the level first.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

namespace log_internal {
inline std::atomic<LogLevel> level{LogLevel::kInfo};
}  // namespace log_internal

inline bool LogEnabled(LogLevel level) { return level >= log_internal::level.load(std::memory_order_relaxed); }

}  // namespace viommu

#define VIOMMU_LOG(level, ...)                               \
  do {                                                       \
    if (::viommu::LogEnabled(::viommu::LogLevel::level)) {   \
      ::viommu::Log(::viommu::LogLevel::level, __VA_ARGS__); \
    }                                                        \
  } while (false)

#endif  // VIOMMU_COMMON_LOG_H_
