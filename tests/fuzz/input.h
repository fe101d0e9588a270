// What a fuzz target reads its values from, and how it complains.

#ifndef VIOMMU_TESTS_FUZZ_INPUT_H_
#define VIOMMU_TESTS_FUZZ_INPUT_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace viommu::fuzz {

// The bytes of one input, taken from the front. When they have run out, all that follows is zero: any input is a
// complete one, and a short one is a simple one.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // An integer, little-endian, or a std::array of them.
  template <typename T>
  T Take() {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool> && !std::is_enum_v<T>);
    T value = {};
    const size_t bytes = std::min(sizeof(value), size_);
    if (bytes > 0) std::memcpy(&value, data_, bytes);
    data_ += bytes;
    size_ -= bytes;
    return value;
  }
  bool TakeFlag() { return (Take<uint8_t>() & 1) != 0; }
  // A number below `bound` (> 0).
  uint32_t TakeBelow(uint32_t bound) { return Take<uint32_t>() % bound; }

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }

 private:
  const uint8_t* data_;
  size_t size_;
};

[[noreturn]] inline void Fail(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  std::abort();
}

}  // namespace viommu::fuzz

// Ends the process where `condition` does not hold; the fuzzer and the replay keep the input then.
#define FUZZ_CHECK(condition)                                               \
  do {                                                                      \
    if (!(condition)) ::viommu::fuzz::Fail(#condition, __FILE__, __LINE__); \
  } while (false)

#endif  // VIOMMU_TESTS_FUZZ_INPUT_H_
