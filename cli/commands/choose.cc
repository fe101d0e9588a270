#include "cli/commands/choose.h"

#include <fmt/format.h>

#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {

absl::StatusOr<Choice> Choose(const std::string& kind_or_name, const std::vector<std::string>& names) {
  Choice choice;
  std::vector<std::string> given = names;
  if (kind_or_name.find('/') == std::string::npos) {
    VIOMMU_ASSIGN_OR_RETURN(choice.kind, ParseKind(kind_or_name));
  } else {
    const std::optional<Kind> kind = KindOfFullName(kind_or_name);
    if (!kind.has_value()) {
      return UsageError(
          fmt::format("\"{}\" is no full name; write the kind before it, as in: vdevice v1/16", kind_or_name));
    }
    choice.kind = *kind;
    given.insert(given.begin(), kind_or_name);
  }
  for (const std::string& name : given) {
    VIOMMU_ASSIGN_OR_RETURN(std::string full, FullName(choice.kind, name));
    choice.names.push_back(std::move(full));
  }
  return choice;
}

Values KindWords() {
  Values values;
  for (const KindInfo& info : AllKinds()) values.words.emplace_back(info.plural);
  return values;
}

}  // namespace viommu::cli
