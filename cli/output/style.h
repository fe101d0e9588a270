// Colour of words on a terminal. Pure; whether there is colour at all is decided by the caller (Terminal).

#ifndef VIOMMU_CLI_OUTPUT_STYLE_H_
#define VIOMMU_CLI_OUTPUT_STYLE_H_

#include <string>
#include <string_view>

namespace viommu::cli {

enum class Style { kPlain, kBold, kFaint, kGood, kBusy, kBad };

// `text` in that style; unchanged without colour or for kPlain.
std::string Styled(std::string_view text, Style style, bool colour);

// The style of a state's word: READY, FAILED (…), CONNECTED, FREE, ….
Style StyleOfState(std::string_view state);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_OUTPUT_STYLE_H_
