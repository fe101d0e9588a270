#include "agent/smmuv3/spec/layout.h"

#include <charconv>
#include <utility>

namespace viommu::smmuv3 {

LayoutPrinter::LayoutPrinter(std::string_view title) : text_(title) { text_ += '{'; }

std::string LayoutPrinter::Finish() && {
  text_ += '}';
  return std::move(text_);
}

void LayoutPrinter::Separate() {
  if (!empty_) text_ += ' ';
  empty_ = false;
}

void LayoutPrinter::Word(const char* name, std::string_view word) {
  Separate();
  text_ += name;
  text_ += '=';
  text_ += word;
}

void LayoutPrinter::Number(const char* name, uint64_t value, uint32_t width) {
  if (value == 0) return;
  if (width == 1) {
    Separate();
    text_ += name;
    return;
  }
  char digits[18] = {'0', 'x'};
  char* const begin = value > 9 ? digits + 2 : digits;
  const char* const end = std::to_chars(begin, digits + sizeof(digits), value, 16).ptr;
  Word(name, std::string_view(digits, static_cast<size_t>(end - digits)));
}

}  // namespace viommu::smmuv3
