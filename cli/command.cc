#include "cli/command.h"

#include <utility>

namespace viommu::cli {

Command& Command::Sub(std::string name, std::string summary) {
  return *children_.emplace_back(std::make_unique<Command>(std::move(name), std::move(summary), this));
}

Command& Command::Details(std::string text) {
  details_ = std::move(text);
  return *this;
}

Command& Command::WithExample(std::string command, std::string meaning) {
  examples_.push_back({std::move(command), std::move(meaning)});
  return *this;
}

Command& Command::Changes(bool waits) {
  changes_ = true;
  records_ = true;
  waits_ = waits;
  guards_ = true;
  return *this;
}

Command& Command::MakesNew() {
  changes_ = true;
  records_ = true;
  waits_ = true;
  return *this;
}

Command& Command::ChangesHost() {
  changes_ = true;
  return *this;
}

bool Command::Takes(const Argument& root_flag) const {
  if (root_flag.group != kChangeGroup) return true;
  const std::string name = root_flag.LongName();
  return name == "--wait" ? waits_ : name == "--etag" ? guards_ : name == "--request-id" ? records_ : changes_;
}

Command& Command::Add(Argument argument) {
  arguments_.push_back(std::move(argument));
  return *this;
}

Command& Command::Positional(std::string name, std::string* value, std::string help, Values values) {
  return Add({std::move(name), true, true, "", std::move(help), std::move(values), "", value});
}

Command& Command::OptionalPositional(std::string name, std::string* value, std::string help, Values values) {
  return Add({std::move(name), true, false, "", std::move(help), std::move(values), "", value});
}

Command& Command::Positionals(std::string name, std::vector<std::string>* value, std::string help, bool required,
                              Values values) {
  return Add({std::move(name), true, required, "", std::move(help), std::move(values), "", value});
}

Command& Command::Switch(std::string names, bool* value, std::string help, std::string group) {
  return Add({std::move(names), false, false, "", std::move(help), {}, std::move(group), value});
}

Command& Command::Flag(std::string names, std::string* value, std::string value_name, std::string help, Values values,
                       std::string group) {
  return Add({std::move(names), false, false, std::move(value_name), std::move(help), std::move(values),
              std::move(group), value});
}

Command& Command::Flags(std::string names, std::vector<std::string>* value, std::string value_name, std::string help,
                        Values values) {
  return Add({std::move(names), false, false, std::move(value_name), std::move(help), std::move(values), "", value});
}

Command& Command::RequiredFlag(std::string names, std::string* value, std::string value_name, std::string help,
                               Values values) {
  return Add({std::move(names), false, true, std::move(value_name), std::move(help), std::move(values), "", value});
}

Command& Command::Runs(Action action) {
  action_ = std::move(action);
  return *this;
}

const Command* Command::Child(const std::string& name) const {
  for (const auto& child : children_) {
    if (child->name() == name) return child.get();
  }
  return nullptr;
}

std::string Command::Path() const {
  if (parent_ == nullptr) return "";
  const std::string above = parent_->Path();
  return above.empty() ? name_ : above + " " + name_;
}

}  // namespace viommu::cli
