#include "tests/bench/report.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

namespace viommu::bench {
namespace {

// Four digits that mean something, thousands apart: 13,600 or 4.213 or 0.0312.
std::string Number(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::fabs(value);
  if (size < 1000) return fmt::format("{:.4g}", value);
  std::string digits = fmt::format("{:.0f}", value);
  const size_t first = value < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

// Columns of text are left-aligned, columns of numbers right-aligned.
constexpr std::array<bool, 7> kRight = {false, false, true, false, false, true, true};

using Line = std::array<std::string, 7>;

Line LineOf(const Row& row) {
  Line line = {row.subject, row.metric, Number(row.value), row.unit, row.rival, "", ""};
  if (!row.rival.empty()) line[5] = Number(row.rival_value);
  if (const auto ratio = Ratio(row)) {
    line[6] = fmt::format("{:.2f}", *ratio);
    if (row.aim) line[6] += fmt::format(" ({} {:.2f})", *ratio >= *row.aim ? "aim" : "MISSED", *row.aim);
  }
  return line;
}

}  // namespace

std::optional<double> Ratio(const Row& row) {
  if (row.rival.empty() || !(row.value > 0) || !(row.rival_value > 0)) return std::nullopt;
  return row.better == Better::kHigher ? row.value / row.rival_value : row.rival_value / row.value;
}

Report::Report(std::string name, int argc, const char* const* argv) : name_(std::move(name)) {
  CLI::App app("Benchmark " + name_, name_ + "_bench");
  app.add_flag("--quick", quick_, "A short run: shows that everything works, not how fast");
  app.add_option("--json", json_file_, "Write the rows to this file as a JSON array")->type_name("FILE");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? 0 : 2);
  }
}

void Report::Add(Row row) {
  // The run may be long: whoever watches sees each result when it is there.
  fmt::print(stderr, "{}: {} {} = {} {}\n", name_, row.subject, row.metric, Number(row.value), row.unit);
  rows_.push_back(std::move(row));
}

void Report::Note(std::string text) { notes_.push_back(std::move(text)); }

std::string Report::Table() const {
  std::vector<Line> lines = {{"case", "metric", "value", "unit", "rival", "rival's", "ratio"}};
  for (const Row& row : rows_) lines.push_back(LineOf(row));
  std::array<size_t, kRight.size()> widths = {};
  for (const Line& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string out;
  for (size_t n = 0; n < lines.size(); ++n) {
    std::string text;
    for (size_t i = 0; i < kRight.size(); ++i) {
      text +=
          kRight[i] ? fmt::format("{:>{}}  ", lines[n][i], widths[i]) : fmt::format("{:<{}}  ", lines[n][i], widths[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
    if (n == 0) {
      for (const size_t width : widths) out += std::string(width, '-') + "  ";
      out.replace(out.size() - 2, 2, "\n");
    }
  }
  return out;
}

std::string Report::Json() const {
  auto array = nlohmann::ordered_json::array();
  for (const Row& row : rows_) {
    nlohmann::ordered_json object = {{"case", row.subject}, {"metric", row.metric}, {"unit", row.unit},
                                     {"value", row.value},  {"rival", nullptr},     {"rival_value", nullptr},
                                     {"ratio", nullptr}};
    if (!row.rival.empty()) {
      object["rival"] = row.rival;
      object["rival_value"] = row.rival_value;
    }
    if (const auto ratio = Ratio(row)) object["ratio"] = *ratio;
    array.push_back(std::move(object));
  }
  return array.dump(2) + "\n";
}

int Report::Finish() const {
  fmt::print("\n{}\n", Table());
  fmt::print("ratio: how much better than the rival; above 1 is better, whichever way the metric is good\n");
  for (const std::string& note : notes_) fmt::print("note: {}\n", note);
  if (quick_) fmt::print("note: a quick run; the numbers are not to be trusted\n");
  if (json_file_.empty()) return 0;
  std::ofstream file(json_file_);
  file << Json();
  file.close();
  if (file.good()) return 0;
  fmt::print(stderr, "error: cannot write {}\n", json_file_);
  return 1;
}

}  // namespace viommu::bench
