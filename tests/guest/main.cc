// viommu-guest: stands in for a VMM and its guest in the demonstration and the end-to-end tests.

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "agent/local/handover_wire.h"
#include "agent/smmuv3/vintf/page.h"
#include "agent/smmuv3/vintf/producer.h"
#include "common/file_descriptor.h"
#include "tests/guest/guest_ram.h"

namespace viommu::guest {
namespace {

int Fail(std::string_view message) {
  fmt::print(stderr, "viommu-guest: {}\n", message);
  return 1;
}

// Waits until somebody ends this process, or the agent goes.
int Hold(int socket) {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  const FileDescriptor signals(::signalfd(-1, &ends, SFD_CLOEXEC));
  std::array<pollfd, 2> waits = {pollfd{signals.get(), POLLIN, 0}, pollfd{socket, POLLIN, 0}};
  while (::poll(waits.data(), waits.size(), -1) < 0) {
  }
  return waits[1].revents == 0 ? 0 : Fail("the agent has gone, and the memory with it");
}

// Hands the memory over, and holds it.
int Run(const std::string& socket, const std::string& vm, const std::string& file) {
  GuestRam ram = GuestRam::Open(file);
  auto client = agent::HandoverClient::Connect(socket);
  if (!client.ok()) return Fail(client.status().ToString());
  v1::HandoverRequest request;
  v1::MapMemory& map = *request.mutable_map_memory();
  map.set_vm(vm);
  map.set_iova(kRamBase);
  map.set_length(ram.bytes());
  map.set_readable(true);
  map.set_writable(true);
  const int fd = ram.fd();
  if (const auto answer = client->Call(request, {&fd, 1}); !answer.ok()) return Fail(answer.status().ToString());
  fmt::print("{} handed {} bytes at {:#x} over\n", vm, ram.bytes(), kRamBase);
  std::fflush(stdout);
  return Hold(client->socket());
}

// Puts raw commands into a hardware queue, `repeat` times, and waits until they are complete.
int Submit(const std::string& socket, const std::string& name, const std::vector<std::string>& words, int repeat) {
  if (words.empty() || words.size() % 2 != 0) return Fail("commands are pairs of 64-bit words");
  std::vector<smmuv3::RawCommand> commands;
  for (size_t i = 0; i < words.size(); i += 2) {
    commands.push_back({std::stoull(words[i], nullptr, 0), std::stoull(words[i + 1], nullptr, 0)});
  }
  auto client = agent::HandoverClient::Connect(socket);
  if (!client.ok()) return Fail(client.status().ToString());
  v1::HandoverRequest request;
  request.mutable_open_hw_queue()->set_name(name);
  auto answer = client->Call(request);
  if (!answer.ok()) return Fail(answer.status().ToString());
  const v1::HwQueueHandle& handle = answer->response.hw_queue();
  auto page =
      smmuv3::VintfPage::Map(answer->descriptors.at(0).get(), handle.registers_offset(), handle.registers_length());
  void* const memory = ::mmap(nullptr, handle.memory_length(), PROT_READ | PROT_WRITE, MAP_SHARED,
                              answer->descriptors.at(1).get(), static_cast<off_t>(handle.memory_offset()));
  if (page == nullptr || memory == MAP_FAILED) return Fail("the queue cannot be mapped");
  const auto deadline = [] { return std::chrono::steady_clock::now() + std::chrono::seconds(10); };
  smmuv3::VcmdqProducer queue(page, handle.index(), {static_cast<std::byte*>(memory), handle.memory_length()});
  if (!queue.Enable(deadline())) return Fail("the queue cannot be switched on");
  uint64_t submitted = 0;
  for (int i = 0; i < repeat; ++i) {
    const auto result = queue.Submit(commands, deadline());
    submitted += result.submitted;
    if (result.result != smmuv3::VcmdqProducer::WaitResult::kDone) break;
  }
  const auto synced = queue.Sync(deadline());
  if (const auto error = queue.error(); error.has_value()) {
    return Fail(
        fmt::format("the queue stands at {:#x} {:#x}: error {}", error->command.dw0, error->command.dw1, error->code));
  }
  if (synced != smmuv3::VcmdqProducer::WaitResult::kDone) return Fail("the queue did not complete in time");
  fmt::print("{} commands through {}, without a call of the agent\n", submitted, name);
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Stands in for a VMM and its guest.", "viommu-guest");
  app.require_subcommand(1);
  std::string file, socket, vm, name, text;
  uint64_t size = 16 << 20, va = 0, page = 0;
  int repeat = 1;
  std::vector<std::string> words;
  CLI::App& create = *app.add_subcommand("create", "Makes a guest's memory, and prints its vSTE");
  create.add_option("FILE", file)->required();
  create.add_option("--size", size, "bytes");
  CLI::App& map = *app.add_subcommand("map", "Lets a virtual address lead to a page of the guest");
  map.add_option("FILE", file)->required();
  map.add_option("VA", va)->required();
  map.add_option("PAGE", page)->required();
  CLI::App& unmap = *app.add_subcommand("unmap", "Takes a virtual address away");
  unmap.add_option("FILE", file)->required();
  unmap.add_option("VA", va)->required();
  CLI::App& put = *app.add_subcommand("put", "Writes text at the beginning of a page");
  put.add_option("FILE", file)->required();
  put.add_option("PAGE", page)->required();
  put.add_option("TEXT", text)->required();
  CLI::App& get = *app.add_subcommand("get", "Prints the text at the beginning of a page");
  get.add_option("FILE", file)->required();
  get.add_option("PAGE", page)->required();
  CLI::App& run = *app.add_subcommand("run", "Hands the memory to the agent, and holds it until it is ended");
  run.add_option("FILE", file)->required();
  run.add_option("--socket", socket, "the agent's handover socket")->required();
  run.add_option("--vm", vm, "as recorded")->required();
  CLI::App& submit = *app.add_subcommand("submit", "Puts commands into a hardware queue");
  submit.add_option("QUEUE", name, "viommus/V/hwQueues/N")->required();
  submit.add_option("--socket", socket, "the agent's handover socket")->required();
  submit.add_option("--repeat", repeat, "so often");
  submit.add_option("WORDS", words, "pairs of 64-bit words")->required();
  CLI11_PARSE(app, argc, argv);
  if (create.parsed()) {
    const GuestRam ram = GuestRam::Create(file, size);
    fmt::print("{:#x},{:#x}\n", ram.Vste().dw0, ram.Vste().dw1);
    return 0;
  }
  if (run.parsed()) return Run(socket, vm, file);
  if (submit.parsed()) return Submit(socket, name, words, repeat);
  GuestRam ram = GuestRam::Open(file);
  if (map.parsed()) ram.Map(va, page);
  if (unmap.parsed()) ram.Unmap(va);
  if (put.parsed()) ram.Put(page, text);
  if (get.parsed()) fmt::print("{}\n", ram.Get(page, kPageBytes).c_str());
  return 0;
}

}  // namespace
}  // namespace viommu::guest

int main(int argc, char** argv) { return viommu::guest::Main(argc, argv); }
