// "Did you mean …?"

#ifndef VIOMMU_COMMON_SUGGEST_H_
#define VIOMMU_COMMON_SUGGEST_H_

#include <string>
#include <string_view>
#include <vector>

namespace viommu {

// The candidate that is the fewest typing errors away from `word`; empty when none is close (more than a third of the
// word, at least two, would have to change).
std::string Suggest(std::string_view word, const std::vector<std::string>& candidates);

// "; did you mean \"listen\"?", or nothing: to be appended to a message.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace viommu

#endif  // VIOMMU_COMMON_SUGGEST_H_
