// iort_canwbs: reads an IORT on its standard input, writes it with CANWBS on its standard output (iort.h).

#include <iostream>
#include <iterator>
#include <string>

#include "tests/kernel/iort.h"

int main() {
  const auto table = viommu::kernel::AssertCanwbs(std::string(std::istreambuf_iterator<char>(std::cin), {}));
  if (!table.has_value()) {
    std::cerr << "iort_canwbs: this is no IORT in which a root complex leads to an SMMUv3\n";
    return 1;
  }
  std::cout << *table << std::flush;
  return std::cout.good() ? 0 : 1;
}
