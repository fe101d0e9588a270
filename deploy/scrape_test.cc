// Prometheus looks for metrics where the example configurations offer them.

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <fstream>
#include <map>
#include <regex>
#include <string>

namespace {

std::string PortOf(const std::string& address) { return address.substr(address.rfind(':') + 1); }

std::string MetricsPort(const std::string& example) {
  return PortOf(YAML::LoadFile("deploy/config/" + example)["metrics"]["listen"].as<std::string>());
}

TEST(Scrape, TheJobsReachTheExamplesPorts) {
  const YAML::Node file = YAML::LoadFile("deploy/prometheus/scrape.yaml");
  std::map<std::string, YAML::Node> jobs;
  for (const YAML::Node& job : file["scrape_configs"]) jobs.emplace(job["job_name"].as<std::string>(), job);
  ASSERT_EQ(jobs.size(), 2u);

  const YAML::Node servers = jobs.at("viommu-server")["static_configs"][0]["targets"];
  ASSERT_GT(servers.size(), 0u);
  for (const YAML::Node& target : servers) EXPECT_EQ(PortOf(target.as<std::string>()), MetricsPort("server.yaml"));

  const YAML::Node agents = jobs.at("viommu-agent");
  EXPECT_TRUE(agents["file_sd_configs"][0]["files"].IsSequence());
  // Of the address the host is kept.
  const YAML::Node relabel = agents["relabel_configs"][0];
  EXPECT_EQ(relabel["source_labels"][0].as<std::string>(), "__address__");
  std::smatch host;
  const std::string address = "host-a.example:" + MetricsPort("agent.yaml");
  ASSERT_TRUE(std::regex_match(address, host, std::regex(relabel["regex"].as<std::string>())));
  EXPECT_EQ(host[1], "host-a.example");
  // The targets of agents are files of their own; the comment shows one.
  std::ifstream text("deploy/prometheus/scrape.yaml");
  int shown = 0;
  const std::regex target("\"(host-[^\"]*)\"");
  for (std::string line; std::getline(text, line);) {
    if (line.find("- targets:") == std::string::npos || line.find('#') == std::string::npos) continue;
    for (auto it = std::sregex_iterator(line.begin(), line.end(), target); it != std::sregex_iterator(); ++it) {
      EXPECT_EQ(PortOf((*it)[1]), MetricsPort("agent.yaml")) << line;
      ++shown;
    }
  }
  EXPECT_GT(shown, 0);
}

}  // namespace
