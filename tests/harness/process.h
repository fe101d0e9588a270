// Real processes for tests: started with arguments, killed as hard as wanted, their output kept.

#ifndef VIOMMU_TESTS_HARNESS_PROCESS_H_
#define VIOMMU_TESTS_HARNESS_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace viommu::tests {

// A folder of its own, deleted with the object. Its path is short enough for a unix socket in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// Path of a binary or file of this tree that the test depends on: "server/viommu-server".
std::string Runfile(std::string_view path);

void WriteFile(const std::string& path, std::string_view contents);
std::string ReadFile(const std::string& path);  // empty when there is none

// A running program; killed when the object goes. Not thread-safe.
class Process {
 public:
  // stdout and stderr are appended to `output_path`.
  Process(std::vector<std::string> argv, std::string output_path);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void Signal(int signal) const;
  // SIGKILL, and waits until it is gone.
  void Kill();
  // Waits for its end; the exit status, or 128 + signal.
  int Wait();
  // The same, nullopt when it still runs after `seconds`.
  std::optional<int> WaitFor(double seconds);
  bool running();
  pid_t pid() const { return pid_; }
  std::string output() const { return ReadFile(output_path_); }

 private:
  std::string output_path_;
  pid_t pid_ = -1;
  std::optional<int> status_;
};

// Runs a program to its end.
struct Finished {
  int status = 0;
  std::string out;
  std::string err;
};
Finished Run(const std::vector<std::string>& argv);

}  // namespace viommu::tests

#endif  // VIOMMU_TESTS_HARNESS_PROCESS_H_
