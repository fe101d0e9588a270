// Prints docs/cli.md.

#include <iostream>

#include "cli/app.h"
#include "cli/help.h"

int main() { std::cout << viommu::cli::Reference(*viommu::cli::MakeCommands()); }
