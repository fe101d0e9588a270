// A folder of its own for a test, gone with its owner.

#ifndef VIOMMU_SERVER_STORE_TESTING_TEMP_FOLDER_H_
#define VIOMMU_SERVER_STORE_TESTING_TEMP_FOLDER_H_

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace viommu::server {

class TempFolder {
 public:
  TempFolder() {
    const char* base = std::getenv("TEST_TMPDIR");
    std::string name = (base != nullptr ? std::string(base) : std::filesystem::temp_directory_path().string());
    name += "/store-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    root_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  // A folder that is not there yet, for a store.
  std::string path() const { return root_ + "/store"; }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_TESTING_TEMP_FOLDER_H_
