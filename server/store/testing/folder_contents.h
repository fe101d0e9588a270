// All files of a folder, to see whether somebody changed it.

#ifndef VIOMMU_SERVER_STORE_TESTING_FOLDER_CONTENTS_H_
#define VIOMMU_SERVER_STORE_TESTING_FOLDER_CONTENTS_H_

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

namespace viommu::server {

// Name to content.
inline std::map<std::string, std::string> FolderContents(const std::string& path) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    std::ifstream file(entry.path(), std::ios::binary);
    contents[entry.path().filename().string()] = std::string(std::istreambuf_iterator<char>(file), {});
  }
  return contents;
}

inline void WriteWholeFile(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

// Makes the folder hold exactly that.
inline void RestoreFolder(const std::string& path, const std::map<std::string, std::string>& contents) {
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  for (const auto& [name, content] : contents) WriteWholeFile(path + "/" + name, content);
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_TESTING_FOLDER_CONTENTS_H_
