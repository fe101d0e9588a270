#include "cli/output/table.h"

#include <algorithm>
#include <cassert>

namespace viommu::cli {
namespace {

constexpr size_t kGap = 2;

// Control characters of a message must not move the cursor of the reader's terminal.
std::string OneLine(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text.empty() ? "-" : text;
}

}  // namespace

size_t DisplayWidth(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

void Table::Add(Row row) {
  assert(row.size() == columns_.size());
  for (Cell& cell : row) cell.text = OneLine(std::move(cell.text));
  rows_.push_back(std::move(row));
}

std::string Table::Print(bool colour, size_t indent) const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    size_t width = DisplayWidth(columns_[i].heading);
    for (const Row& row : rows_) width = std::max(width, DisplayWidth(row[i].text));
    widths.push_back(width);
  }
  std::string out;
  const auto add_line = [&](const auto& cell_at) {
    std::string line(indent, ' ');
    for (size_t i = 0; i < columns_.size(); ++i) {
      const Cell& cell = cell_at(i);
      const std::string padding(widths[i] - DisplayWidth(cell.text), ' ');
      const bool last = i + 1 == columns_.size();
      if (columns_[i].align == Align::kRight) line += padding;
      line += Styled(cell.text, cell.style, colour);
      if (columns_[i].align == Align::kLeft && !last) line += padding;
      if (!last) line.append(kGap, ' ');
    }
    out += line + "\n";
  };
  std::vector<Cell> headings;
  for (const Column& column : columns_) headings.emplace_back(column.heading, Style::kBold);
  add_line([&headings](size_t i) -> const Cell& { return headings[i]; });
  for (const Row& row : rows_) {
    add_line([&row](size_t i) -> const Cell& { return row[i]; });
  }
  return out;
}

}  // namespace viommu::cli
