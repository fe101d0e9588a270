#include <string>
#include <vector>

#include "cli/app.h"

int main(int argc, char** argv) {
  return viommu::cli::RunViommuctl(std::vector<std::string>(argv + 1, argv + argc), viommu::cli::ProcessTerminal());
}
