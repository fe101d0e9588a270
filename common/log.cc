#include "common/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/clock.h"
#include "common/timestamp.h"

namespace viommu {
namespace {

// JSON text of a string. Bytes that are no UTF-8 become U+FFFD: a log line must never throw.
std::string Quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool IsPlain(std::string_view text) {
  for (const char c : text) {
    if (c <= ' ' || c >= 0x7f || c == '"' || c == '=') return false;
  }
  return !text.empty();
}

std::string_view LevelName(LogLevel level, LogFormat format) {
  const bool json = format == LogFormat::kJson;
  switch (level) {
    case LogLevel::kDebug:
      return json ? "debug" : "DEBUG";
    case LogLevel::kInfo:
      return json ? "info" : "INFO";
    case LogLevel::kWarning:
      return json ? "warning" : "WARNING";
    case LogLevel::kError:
      return json ? "error" : "ERROR";
    case LogLevel::kOff:
      break;
  }
  return "";
}

// Hands each line to a function; the base class holds its mutex around sink_it_.
class FunctionSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FunctionSink(std::function<void(std::string_view)> write) : write_(std::move(write)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    write_(std::string_view(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}

  std::function<void(std::string_view)> write_;
};

struct Logging {
  LogFormat format = LogFormat::kText;
  std::shared_ptr<spdlog::logger> logger;
};

std::shared_ptr<spdlog::logger> MakeLogger(std::function<void(std::string_view)> writer) {
  std::shared_ptr<spdlog::sinks::sink> sink;
  if (writer) {
    sink = std::make_shared<FunctionSink>(std::move(writer));
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  }
  auto logger = std::make_shared<spdlog::logger>("viommu", std::move(sink));
  logger->set_pattern("%v");
  logger->set_level(spdlog::level::trace);
  return logger;
}

// Never destroyed: threads may log while static objects die.
Logging& TheLogging() {
  static auto* logging = new Logging{LogFormat::kText, MakeLogger({})};
  return *logging;
}

}  // namespace

std::string LogValue::StatusText(const absl::Status& status) {
  if (status.ok()) return "OK";
  return absl::StatusCodeToString(status.code()) + ": " + std::string(status.message());
}

std::string LogValue::Json() const {
  struct Visitor {
    std::string operator()(std::string_view value) const { return Quoted(value); }
    std::string operator()(const std::string& value) const { return Quoted(value); }
    // nlohmann writes what JSON cannot hold (NaN, infinities) as null.
    std::string operator()(double value) const { return nlohmann::json(value).dump(); }
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(int64_t value) const { return fmt::format("{}", value); }
    std::string operator()(uint64_t value) const { return fmt::format("{}", value); }
  };
  return std::visit(Visitor{}, value_);
}

std::string LogValue::Text() const {
  if (const auto* view = std::get_if<std::string_view>(&value_); view != nullptr && IsPlain(*view)) {
    return std::string(*view);
  }
  if (const auto* text = std::get_if<std::string>(&value_); text != nullptr && IsPlain(*text)) return *text;
  return Json();
}

void InitLogging(LogOptions options) {
  TheLogging() = Logging{options.format, MakeLogger(std::move(options.writer))};
  log_internal::level.store(options.level, std::memory_order_relaxed);
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (!LogEnabled(level) || level == LogLevel::kOff) return;
  const Logging& logging = TheLogging();
  fmt::memory_buffer line;
  const auto out = fmt::appender(line);
  const std::string time = FormatTime(RealClock().Now());
  const std::string_view name = LevelName(level, logging.format);
  if (logging.format == LogFormat::kJson) {
    fmt::format_to(out, R"({{"time":"{}","level":"{}","event":{})", time, name, Quoted(event));
    for (const LogField& field : fields) fmt::format_to(out, ",{}:{}", Quoted(field.key), field.value.Json());
    line.push_back('}');
  } else {
    fmt::format_to(out, "{} {} {}", time, name, event);
    for (const LogField& field : fields) fmt::format_to(out, " {}={}", field.key, field.value.Text());
  }
  logging.logger->log(level == LogLevel::kError ? spdlog::level::err : spdlog::level::info,
                      spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace viommu
