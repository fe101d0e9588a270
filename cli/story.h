// What `describe` tells, as data: facts, tables and the document for programs.

#ifndef VIOMMU_CLI_STORY_H_
#define VIOMMU_CLI_STORY_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/fetch.h"
#include "cli/output/resources.h"
#include "cli/output/table.h"
#include "cli/session.h"

namespace viommu::cli {

struct StorySection {
  std::string heading;
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<Table> tables;  // at most one
  std::string nothing;        // said when there are no rows
};

struct Story {
  std::string kind;  // "vdevice"
  std::string name;
  std::vector<std::pair<std::string, Cell>> facts;
  std::vector<StorySection> sections;
  nlohmann::ordered_json document = nlohmann::ordered_json::object();
};

// Reads what the resource belongs to and what it holds. Of these, what cannot be read (gone in between) is left out; an
// interruption is an error.
absl::StatusOr<Story> TellStory(Session& session, Kind kind, const Fetched& fetched);

// "READY since 3m", and what that means for this resource.
std::string StandingOf(const CommonFields& common);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_STORY_H_
