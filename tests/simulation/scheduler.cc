#include "tests/simulation/scheduler.h"

#include <fmt/format.h>

#include <cstdio>

namespace viommu::simulation {

std::string Random::Uuid() {
  const uint64_t a = Next(), b = Next();
  return fmt::format("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xfff, b >> 52,
                     b & 0xffff'ffff'ffff);
}

bool Scheduler::Step(MonotonicTime until) {
  if (events_.empty() || events_.top().at > until) return false;
  // The top of a priority_queue is const only to protect its order, and this element leaves it.
  Event event = std::move(const_cast<Event&>(events_.top()));
  events_.pop();
  now_ = event.at;
  ++steps_;
  event.run();
  return true;
}

void Scheduler::Trace(std::string_view what, std::string_view who, int64_t a, int64_t b) {
  const int64_t numbers[] = {now_.time_since_epoch().count(), a, b};
  hash_ = HashOf({reinterpret_cast<const char*>(numbers), sizeof(numbers)}, hash_);
  hash_ = HashOf(what, hash_);
  hash_ = HashOf(who, hash_);
  if (!verbose_) return;
  fmt::print(stderr, "{:10.3f} ms {:<24} {} {} {}\n", static_cast<double>(numbers[0] - 3'600'000'000'000) / 1e6, what,
             who, a, b);
}

uint64_t HashOf(std::string_view bytes, uint64_t seed) {
  uint64_t hash = seed;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  return hash;
}

}  // namespace viommu::simulation
