#include "server/store/rocksdb_logger.h"

#include <array>
#include <cstdio>
#include <string_view>

#include "common/log.h"

namespace viommu::server {

RocksDbLogger::RocksDbLogger()
    : rocksdb::Logger(LogEnabled(LogLevel::kDebug) ? rocksdb::InfoLogLevel::INFO_LEVEL
                                                   : rocksdb::InfoLogLevel::WARN_LEVEL) {}

void RocksDbLogger::Logv(const char* format, va_list arguments) {
  Logv(rocksdb::InfoLogLevel::INFO_LEVEL, format, arguments);
}

void RocksDbLogger::Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) {
  if (level < GetInfoLogLevel()) return;
  const LogLevel as = level >= rocksdb::InfoLogLevel::ERROR_LEVEL && level != rocksdb::InfoLogLevel::HEADER_LEVEL
                          ? LogLevel::kWarning
                      : level == rocksdb::InfoLogLevel::WARN_LEVEL ? LogLevel::kInfo
                                                                   : LogLevel::kDebug;
  if (!LogEnabled(as)) return;
  std::array<char, kMaxMessageBytes> text;
  if (std::vsnprintf(text.data(), text.size(), format, arguments) < 0) return;
  Log(as, "rocksdb", {{"message", std::string_view(text.data())}});
}

}  // namespace viommu::server
