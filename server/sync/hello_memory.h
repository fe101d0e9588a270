// What the hellos hold that are being worked off: each from its arrival until its inventory is recorded, what it holds
// is compared with the record, and what the record does not know is told to the agent. Agents connect together after
// every outage, and large hosts say much. What is left to be sent is not counted here: it is names of what is recorded
// anyway.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_SYNC_HELLO_MEMORY_H_
#define VIOMMU_SERVER_SYNC_HELLO_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <optional>
#include <utility>

namespace viommu::server {

class HelloMemory {
 public:
  // One hello's. Gives back what it has; must not outlive its memory.
  class Share {
   public:
    Share(Share&& other) noexcept : memory_(other.memory_), bytes_(std::exchange(other.bytes_, 0)) {}
    Share& operator=(Share&&) = delete;
    ~Share() { ShrinkTo(0); }

    void ShrinkTo(size_t bytes) {
      if (bytes >= bytes_) return;
      memory_->bytes_ -= bytes_ - bytes;
      bytes_ = bytes;
    }

   private:
    friend class HelloMemory;
    Share(HelloMemory* memory, size_t bytes) : memory_(memory), bytes_(bytes) {}

    HelloMemory* memory_;
    size_t bytes_;
  };

  explicit HelloMemory(size_t max_bytes) : max_bytes_(max_bytes) {}

  // nullopt: there is too much already. One for each thread that asks may go beyond the limit, so that no hello is too
  // large for it.
  std::optional<Share> Take(size_t bytes) {
    if (bytes_ >= max_bytes_) return std::nullopt;
    bytes_ += bytes;
    return Share(this, bytes);
  }

  size_t bytes() const { return bytes_; }

 private:
  const size_t max_bytes_;
  std::atomic<size_t> bytes_ = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_HELLO_MEMORY_H_
