#include "server/store/testing/numbered_batches.h"

#include <fmt/format.h>

#include <algorithm>

#include "server/store/format.h"

namespace viommu::server {
namespace {

constexpr char kRevision[] = "revision";
constexpr int64_t kResources = 20;
constexpr int64_t kChangesKept = 50;
constexpr int64_t kCompactionEvery = 10;
constexpr size_t kPayloadBytes = 150;

std::string ChangeKey(int64_t number) { return fmt::format("{:016x}", number); }
std::string ResourceKey(int64_t number) { return fmt::format("hosts/{}", number % kResources); }
std::string RequestKey(int64_t number) { return fmt::format("request-{}", number % kResources); }

std::string Value(int64_t number, std::string_view flavour) {
  std::string value = fmt::format("{}{}:", number, flavour);
  for (size_t i = 0; value.size() < kPayloadBytes; ++i) {
    value += static_cast<char>('a' + (static_cast<size_t>(number) * 7 + i * i) % 26);
  }
  return value;
}

std::string ContentsKey(KeySpace space, std::string_view key) {
  return fmt::format("{}/{}", static_cast<int>(space), key);
}

}  // namespace

Batch NumberedBatch(int64_t number, std::string_view flavour) {
  Batch batch;
  const std::string value = Value(number, flavour);
  batch.Put(KeySpace::kResources, ResourceKey(number), value);
  batch.Delete(KeySpace::kResources, ResourceKey(number + kResources / 2));
  batch.Put(KeySpace::kChanges, ChangeKey(number), value);
  batch.Put(KeySpace::kRequests, RequestKey(number), value);
  if (number % kCompactionEvery == 0 && number > kChangesKept) {
    batch.DeleteRange(KeySpace::kChanges, ChangeKey(0), ChangeKey(number - kChangesKept));
  }
  batch.Put(KeySpace::kMeta, kRevision, std::to_string(number));
  return batch;
}

Contents ContentsAfter(int64_t last, std::string_view flavour) {
  Contents contents;
  for (int64_t number = 1; number <= last; ++number) {
    const Batch batch = NumberedBatch(number, flavour);
    for (size_t i = 0; i < batch.size(); ++i) {
      const Batch::Op op = batch.op(i);
      const std::string key = ContentsKey(op.space, op.key);
      if (op.value.has_value()) {
        contents[key] = *op.value;
      } else if (op.end.has_value()) {
        contents.erase(contents.lower_bound(key), contents.lower_bound(ContentsKey(op.space, *op.end)));
      } else {
        contents.erase(key);
      }
    }
  }
  return contents;
}

absl::StatusOr<Contents> ReadContents(const Store& store) {
  Contents contents;
  for (const KeySpace space : kKeySpaces) {
    const absl::Status status = store.Scan(space, "", "", [&](std::string_view key, std::string_view value) {
      if (space != KeySpace::kMeta || key != kFormatVersionKey) contents[ContentsKey(space, key)] = value;
      return true;
    });
    if (!status.ok()) return status;
  }
  return contents;
}

absl::StatusOr<int64_t> LastBatch(const Store& store, std::string_view flavour) {
  const absl::StatusOr<Contents> contents = ReadContents(store);
  if (!contents.ok()) return contents.status();
  const auto revision = contents->find(ContentsKey(KeySpace::kMeta, kRevision));
  const int64_t last = revision == contents->end() ? 0 : std::stoll(revision->second);
  const Contents expected = ContentsAfter(last, flavour);
  if (*contents == expected) return last;
  const auto [have, want] = std::mismatch(contents->begin(), contents->end(), expected.begin(), expected.end());
  return absl::InternalError(fmt::format("with revision {} the store differs at {}, expected {}", last,
                                         have == contents->end() ? "its end" : have->first + "=" + have->second,
                                         want == expected.end() ? "its end" : want->first + "=" + want->second));
}

}  // namespace viommu::server
