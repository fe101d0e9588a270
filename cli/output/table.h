// Aligned tables: two spaces between columns, no lines, no trailing spaces, an empty cell as "-".
//
//   Table table({{"NAME"}, {"VMIDS", Align::kRight}});
//   table.Add({"hosts/a", "3"});
//   out << table.Print(/*colour=*/false);

#ifndef VIOMMU_CLI_OUTPUT_TABLE_H_
#define VIOMMU_CLI_OUTPUT_TABLE_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/output/style.h"

namespace viommu::cli {

enum class Align { kLeft, kRight };

struct Column {
  std::string heading;
  Align align = Align::kLeft;
};

struct Cell {
  Cell(std::string cell_text, Style cell_style = Style::kPlain)  // NOLINT: most cells are just text
      : text(std::move(cell_text)), style(cell_style) {}
  Cell(const char* cell_text) : text(cell_text) {}  // NOLINT
  std::string text;
  Style style = Style::kPlain;
};

using Row = std::vector<Cell>;

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // A row has exactly one cell for each column. Line breaks in a cell become spaces: one row is one line.
  void Add(Row row);

  bool empty() const { return rows_.empty(); }

  // Headings and rows, every line indented by `indent` spaces.
  std::string Print(bool colour, size_t indent = 0) const;

 private:
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

// Columns that `text` takes on a terminal: code points, which is right for what names and messages hold.
size_t DisplayWidth(std::string_view text);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_OUTPUT_TABLE_H_
