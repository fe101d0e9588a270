// Looking at what a device reaches, by making it access memory. Only emulated devices do so on request.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "cli/commands/commands.h"
#include "cli/output/document.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/error.h"
#include "viommu/v1/local_service.pb.h"

namespace viommu::cli {
namespace {

constexpr uint64_t kMaxDmaBytes = 65536;  // of one access
constexpr size_t kBytesPerLine = 16;

struct DmaArguments {
  std::string kind;
  std::string device;
  std::string address;
  std::string length = "16";
  std::string hex;
  std::string text;
  std::string pasid;
  bool ats = false;
  bool privileged = false;
};

absl::StatusOr<v1::AccessDmaRequest> RequestOf(const DmaArguments& arguments) {
  v1::AccessDmaRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_device(), FullName(Kind::kDevice, arguments.device));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t address, ParseNumber(arguments.address, "ADDRESS"));
  request.set_address(address);
  const bool writes = arguments.kind == "write";
  if (writes != (arguments.hex.empty() != arguments.text.empty())) {
    return UsageError(writes ? "say what to write: one of --text, --hex" : "--text and --hex are of a write");
  }
  if (writes) {
    request.set_kind(v1::AccessDmaRequest::KIND_WRITE);
    request.set_data(arguments.text);
    if (!arguments.hex.empty()) {
      const bool digits = arguments.hex.size() % 2 == 0 &&
                          std::all_of(arguments.hex.begin(), arguments.hex.end(), absl::ascii_isxdigit);
      if (!digits) return UsageError("--hex: write two hexadecimal digits for each byte");
      request.set_data(absl::HexStringToBytes(arguments.hex));
    }
  } else if (arguments.kind == "read") {
    request.set_kind(v1::AccessDmaRequest::KIND_READ);
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t length, ParseNumber(arguments.length, "--length", kMaxDmaBytes));
    request.set_length(static_cast<uint32_t>(length));
  } else {
    request.set_kind(v1::AccessDmaRequest::KIND_TRANSLATE);
  }
  if (!arguments.pasid.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t pasid, ParseNumber(arguments.pasid, "--pasid", UINT32_MAX));
    request.set_pasid(static_cast<uint32_t>(pasid));
  }
  request.set_use_ats(arguments.ats);
  request.set_privileged(arguments.privileged);
  return request;
}

// "00000000  68 65 6c 6c 6f ...  |hello...|"
std::string HexDump(uint64_t address, std::string_view bytes) {
  std::string dump;
  for (size_t at = 0; at < bytes.size(); at += kBytesPerLine) {
    const std::string_view line = bytes.substr(at, kBytesPerLine);
    std::string hex;
    std::string text;
    for (const char c : line) {
      hex += fmt::format(" {:02x}", static_cast<unsigned char>(c));
      text += absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : '.';
    }
    dump += fmt::format("{:016x} {:<{}}  |{}|\n", address + at, hex, 3 * kBytesPerLine, text);
  }
  return dump;
}

void PrintDone(Session& session, const v1::AccessDmaRequest& request, const v1::AccessDmaResponse& response) {
  std::ostream& out = *session.terminal().out;
  if (request.kind() == v1::AccessDmaRequest::KIND_READ) out << HexDump(request.address(), response.data());
  const std::string_view what = request.kind() == v1::AccessDmaRequest::KIND_TRANSLATE ? "leads to"
                                : request.kind() == v1::AccessDmaRequest::KIND_READ    ? "read from"
                                                                                       : "written to";
  out << fmt::format("{} {} physical {} (a block of {} bytes)\n", Hex(request.address()), what,
                     Hex(response.physical_address()), response.block_bytes());
}

absl::StatusOr<ExitCode> Dma(Session& session, const DmaArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const v1::AccessDmaRequest request, RequestOf(arguments));
  session.UseAgent();
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Call<v1::AccessDmaResponse>(request));
  const bool done = response.outcome() == v1::AccessDmaResponse::OUTCOME_DONE;
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(response));
    return done ? ExitCode::kOk : ExitCode::kRefused;
  }
  if (done) {
    PrintDone(session, request, response);
    return ExitCode::kOk;
  }
  const std::string outcome =
      Lower(v1::AccessDmaResponse::Outcome_Name(response.outcome()).substr(std::string_view("OUTCOME_").size()));
  *session.terminal().out << fmt::format("{} at {}: {}{}\n", request.device(), Hex(request.address()), outcome,
                                         response.event().empty() ? "" : ": " + response.event());
  return ExitCode::kRefused;
}

}  // namespace

void DeclareDebug(Command& root) {
  Command& debug = root.Sub("debug", "Look closer, through the agent of this host (--socket)");
  const auto arguments = std::make_shared<DmaArguments>();
  debug.Sub("dma", "Make an emulated device access memory, to see what it reaches")
      .Details(
          "The access takes the way of the device's stream: stream table, context descriptor, both stages, and "
          "whatever\n"
          "the SMMU's caches remember of them. Exit code 1 when the access is refused; the output then has the SMMU's\n"
          "event.")
      .WithExample("debug dma translate a/01:00.0 0x1000", "where an address leads")
      .WithExample("debug dma read a/01:00.0 0x1000 --length 64", "what the device sees there")
      .WithExample("debug dma write a/01:00.0 0x1000 --text hello --pasid 3", "with a PASID")
      .Positional("ACCESS", &arguments->kind, "what it does",
                  {.words = {"translate", "read", "write"}, .only_words = true})
      .Positional("DEVICE", &arguments->device, "HOST/PCI-ADDRESS or its full name", {.names_of = Kind::kDevice})
      .Positional("ADDRESS", &arguments->address, "as the device sees it, decimal or 0x hex")
      .Flag("--length", &arguments->length, "N", "bytes to read; 16 unless given, at most 65536")
      .Flag("--text", &arguments->text, "TEXT", "bytes to write")
      .Flag("--hex", &arguments->hex, "DIGITS", "bytes to write, two digits each")
      .Flag("--pasid", &arguments->pasid, "N", "with this PASID")
      .Switch("--ats", &arguments->ats, "ask for a translation first, and go by the device's own cache of them")
      .Switch("--privileged", &arguments->privileged, "as a privileged access")
      .Runs([arguments](Session& session) { return Dma(session, *arguments); });
}

}  // namespace viommu::cli
