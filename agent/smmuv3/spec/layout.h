// One description of a layout of bits, used to encode, to decode, to mask and to print.
//
// A description is a function template over the structure and a visitor. Per field it calls one of
//   visit.Value("NAME", member, word, field)            numbers, flags and enumerations: moved to bit 0
//   visit.Address("NAME", member, word, field)          addresses: they keep their place in the word
//   visit.Coded("NAME", member, word, field, Codec{})   members that are not what stands in the field; Codec has
//                                                       static Encode(member) -> bits and Decode(bits) -> member
// with `word` an index into the words of the raw structure. Decoding is total: every field has a value for all bits.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_LAYOUT_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "agent/smmuv3/spec/bits.h"

namespace viommu::smmuv3 {

// `Words` is a std::array of unsigned integers.

// Builds the words. Values are cut to their field; bits outside of fields stay as they are in `words`.
template <typename Words>
struct LayoutEncoder {
  Words words = {};

  template <typename T>
  constexpr void Value(const char*, const T& value, size_t word, BitField field) {
    Put(word, field, static_cast<uint64_t>(value));
  }
  constexpr void Address(const char*, uint64_t value, size_t word, BitField field) {
    Put(word, field, value >> field.lo);
  }
  template <typename T, typename Codec>
  constexpr void Coded(const char*, const T& value, size_t word, BitField field, Codec) {
    Put(word, field, Codec::Encode(value));
  }

 private:
  constexpr void Put(size_t word, BitField field, uint64_t bits) {
    words[word] = static_cast<typename Words::value_type>(field.Set(words[word], bits));
  }
};

// Fills the members.
template <typename Words>
struct LayoutDecoder {
  const Words& words;

  template <typename T>
  constexpr void Value(const char*, T& value, size_t word, BitField field) {
    value = static_cast<T>(field.Get(words[word]));
  }
  constexpr void Address(const char*, uint64_t& value, size_t word, BitField field) {
    value = words[word] & field.mask();
  }
  template <typename T, typename Codec>
  constexpr void Coded(const char*, T& value, size_t word, BitField field, Codec) {
    value = Codec::Decode(field.Get(words[word]));
  }
};

// Collects the bits of all fields, and sees whether each has its bits for itself.
template <typename Words>
struct LayoutMasker {
  Words words = {};
  bool disjoint = true;

  template <typename T>
  constexpr void Value(const char*, const T&, size_t word, BitField field) {
    const auto mask = static_cast<typename Words::value_type>(field.mask());
    disjoint = disjoint && mask == field.mask() && (words[word] & mask) == 0;
    words[word] |= mask;
  }
  constexpr void Address(const char* name, uint64_t value, size_t word, BitField field) {
    Value(name, value, word, field);
  }
  template <typename T, typename Codec>
  constexpr void Coded(const char* name, const T& value, size_t word, BitField field, Codec) {
    Value(name, value, word, field);
  }
};

// Writes "TITLE{FLAG NAME=1 NAME=0x1000 NAME=word}": enumerations always, by the ToString() beside them; all else where
// it is not 0, numbers above 9 in hexadecimal.
class LayoutPrinter {
 public:
  explicit LayoutPrinter(std::string_view title);

  template <typename T>
  void Value(const char* name, const T& value, size_t, BitField field) {
    Print(name, value, field.width());
  }
  void Address(const char* name, uint64_t value, size_t, BitField) { Print(name, value, 64); }
  template <typename T, typename Codec>
  void Coded(const char* name, const T& value, size_t, BitField, Codec) {
    Print(name, value, 64);
  }

  std::string Finish() &&;

 private:
  template <typename T>
  void Print(const char* name, const T& value, uint32_t width) {
    if constexpr (std::is_enum_v<T>) {
      Word(name, ToString(value));
    } else {
      Number(name, static_cast<uint64_t>(value), width);
    }
  }
  void Word(const char* name, std::string_view word);
  void Number(const char* name, uint64_t value, uint32_t width);
  void Separate();

  std::string text_;
  bool empty_ = true;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_LAYOUT_H_
