#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "cli/commands/choose.h"
#include "cli/commands/commands.h"
#include "cli/filters.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/style.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/watch_position.h"

namespace viommu::cli {
namespace {

using Json = nlohmann::ordered_json;

// Streams that break one after the other without bringing anything: about five minutes of trying…
constexpr int kMaxFruitlessStreams = 60;
// …but a server that was never reached is soon given up.
constexpr int kMaxFirstStreams = 3;
constexpr std::chrono::milliseconds kFirstPause{200};
constexpr std::chrono::milliseconds kLongestPause{5000};

struct WatchArguments {
  std::vector<std::string> kinds;
  Filters filters;
  std::string from;
  bool only_existing = false;
  std::string length;
  std::string count;
};

absl::StatusOr<v1::ResourceKind> WatchKind(Kind kind) {
  switch (kind) {
    case Kind::kHost:
      return v1::RESOURCE_KIND_HOST;
    case Kind::kDevice:
      return v1::RESOURCE_KIND_DEVICE;
    case Kind::kStage2Domain:
      return v1::RESOURCE_KIND_STAGE2_DOMAIN;
    case Kind::kViommu:
      return v1::RESOURCE_KIND_VIOMMU;
    case Kind::kVdevice:
      return v1::RESOURCE_KIND_VDEVICE;
    case Kind::kNestedDomain:
      return v1::RESOURCE_KIND_NESTED_DOMAIN;
    case Kind::kHwQueue:
      return v1::RESOURCE_KIND_HW_QUEUE;
    case Kind::kQuota:
      return v1::RESOURCE_KIND_QUOTA;
    case Kind::kSmmu:
      break;
  }
  return UsageError("an SMMU is a part of its host: watch hosts");
}

// What there is to say of a resource in one column.
std::string Detail(const v1::Resource& resource) {
  switch (resource.kind_case()) {
    case v1::Resource::kHost:
      return resource.host().cordoned() ? "cordoned" : "";
    case v1::Resource::kDevice:
      return resource.device().owner().empty() ? "" : "owner " + ShortName(resource.device().owner());
    case v1::Resource::kStage2Domain:
      return "vm " + resource.stage2_domain().vm();
    case v1::Resource::kViommu:
      return fmt::format("vm {}, {}", resource.viommu().vm(), ShortName(resource.viommu().smmu()));
    case v1::Resource::kVdevice: {
      const v1::Vdevice& vdevice = resource.vdevice();
      return fmt::format("{}{}", ShortName(vdevice.device()),
                         vdevice.nested_domain().empty() ? "" : ", attached to " + ShortName(vdevice.nested_domain()));
    }
    default:
      return "";
  }
}

// Writes events as they come. A stream has no end to align its columns by: widths are those that names usually have.
class EventPrinter {
 public:
  explicit EventPrinter(Session& session) : session_(session), out_(*session.terminal().out) {}

  void Print(const v1::Event& event) {
    const google::protobuf::Message& resource = *Inside(event.resource());
    const CommonFields common = CommonOf(resource);
    const std::string type = EnumWord(*v1::EventType_descriptor(), event.type());
    switch (session_.settings().output) {
      case OutputFormat::kJson:
      case OutputFormat::kYaml: {
        Json document = Json::object();
        document["type"] = type;
        document["revision"] = event.revision();
        document["kind"] = std::string(InfoOf(KindOf(resource)).singular);
        document["resource"] = ToJson(resource);
        PrintDocument(document);
        break;
      }
      case OutputFormat::kName:
        out_ << common.name << "\n";
        break;
      case OutputFormat::kTable:
      case OutputFormat::kWide:
        PrintRow(event.revision(), type, common, Detail(event.resource()));
        break;
    }
    out_.flush();
  }

  void PrintSync(int64_t revision) {
    if (session_.settings().ForPrograms()) {
      Json document = Json::object();
      document["type"] = "SYNC";
      document["revision"] = revision;
      PrintDocument(document);
      out_.flush();
    } else {
      *session_.terminal().err << fmt::format("that is what there was at revision {}; changes follow\n", revision);
    }
  }

 private:
  void PrintDocument(const Json& document) {
    if (session_.settings().output == OutputFormat::kYaml) {
      out_ << "---\n" << PrintYaml(document);
    } else {
      out_ << PrintJsonLine(document);
    }
  }

  void PrintRow(int64_t revision, const std::string& type, const CommonFields& common, const std::string& detail) {
    const bool colour = session_.terminal().ColourOut();
    if (!headed_) {
      out_ << Styled(fmt::format("{:>8}  {:<8}  {:<40}  {:<12}  {}", "REVISION", "EVENT", "NAME", "STATE", "DETAIL"),
                     Style::kBold, colour)
           << "\n";
    }
    headed_ = true;
    const std::string state = StateText(common);
    const std::string why = common.reason.message().empty() || session_.settings().output != OutputFormat::kWide
                                ? detail
                                : fmt::format("{}{}{}", detail, detail.empty() ? "" : "; ", common.reason.message());
    // Padding comes before colour, whose sequences take no room on the screen; the last column has none.
    out_ << fmt::format("{:>8}  {}  {:<40}  {}{}{}\n", revision,
                        Styled(fmt::format("{:<8}", type), StyleOfState(type), colour), common.name,
                        Styled(why.empty() ? state : fmt::format("{:<12}", state), StyleOfState(state), colour),
                        why.empty() ? "" : "  ", why);
  }

  Session& session_;
  std::ostream& out_;
  bool headed_ = false;
};

class Watcher {
 public:
  Watcher(Session& session, v1::WatchRequest request, bool only_existing, std::optional<uint64_t> count,
          std::chrono::milliseconds length)
      : session_(session),
        request_(std::move(request)),
        only_existing_(only_existing),
        left_(count),
        length_(length),
        start_(session.terminal().clock->Monotonic()),
        position_(request_.start_revision()),
        printer_(session) {}

  absl::StatusOr<ExitCode> Run() {
    VIOMMU_ASSIGN_OR_RETURN(Client* const client, session_.Connect());
    std::chrono::milliseconds pause = kFirstPause;
    for (int fruitless = 0;;) {
      request_.set_start_revision(position_.StartRevision());
      position_.BeginStream();
      brought_something_ = false;
      v1::WatchResponse response;
      const absl::Status status = client->Stream(
          request_, response, [this, &response] { return Take(response); }, TimeLeft());
      if (status.ok()) {
        if (ended_ || TimeIsUp()) return ExitCode::kOk;
      } else if (!IsWorthAnotherTry(status)) {
        return status;
      }
      fruitless = brought_something_ ? 0 : fruitless + 1;
      if (brought_something_) last_words_.clear();
      if (brought_something_) pause = kFirstPause;
      reached_ = reached_ || brought_something_;
      if (fruitless == (reached_ ? kMaxFruitlessStreams : kMaxFirstStreams)) {
        return status.ok() ? absl::UnavailableError("the server ends each watch at once") : status;
      }
      const std::string why = status.ok() ? "the server ended the watch" : std::string(status.message());
      if (why != last_words_) {
        *session_.terminal().err << fmt::format("{}; going on after revision {}\n", why, position_.StartRevision());
      }
      last_words_ = why;  // said once, not with every try
      VIOMMU_RETURN_IF_ERROR(client->Pause(pause, nullptr));
      pause = std::min(pause * 2, kLongestPause);
    }
  }

 private:
  // False ends the watch.
  bool Take(const v1::WatchResponse& response) {
    brought_something_ = true;
    if (!response.origin().empty()) request_.set_origin(response.origin());
    const bool was_synced = position_.synced();
    for (const v1::Event& event : position_.Accept(response)) {
      printer_.Print(event);
      if (left_.has_value() && --*left_ == 0) ended_ = true;
      if (ended_) return false;
    }
    if (!was_synced && position_.synced()) {
      printer_.PrintSync(response.revision());
      ended_ = only_existing_;
    }
    // A reader that has gone away (| head) ends the watch, too.
    if (!*session_.terminal().out) ended_ = true;
    return !ended_;
  }

  static bool IsWorthAnotherTry(const absl::Status& status) {
    switch (status.code()) {
      case absl::StatusCode::kUnavailable:
      case absl::StatusCode::kInternal:  // a stream cut off in the middle
      case absl::StatusCode::kUnknown:
      case absl::StatusCode::kDeadlineExceeded:  // of a proxy in between
        return true;
      case absl::StatusCode::kResourceExhausted:  // the server's limit of watches or of this one's backlog
        return true;
      default:
        return false;
    }
  }

  std::chrono::milliseconds TimeLeft() const {
    if (length_.count() == 0) return length_;
    const auto passed =
        std::chrono::duration_cast<std::chrono::milliseconds>(session_.terminal().clock->Monotonic() - start_);
    return std::max(std::chrono::milliseconds(1), length_ - passed);
  }
  bool TimeIsUp() const { return length_.count() > 0 && session_.terminal().clock->Monotonic() - start_ >= length_; }

  Session& session_;
  v1::WatchRequest request_;
  const bool only_existing_;
  std::optional<uint64_t> left_;
  const std::chrono::milliseconds length_;
  const MonotonicTime start_;
  WatchPosition position_;
  EventPrinter printer_;
  bool brought_something_ = false;
  bool reached_ = false;
  std::string last_words_;
  bool ended_ = false;
};

absl::StatusOr<ExitCode> Watch(Session& session, const WatchArguments& arguments) {
  v1::WatchRequest request;
  for (const std::string& word : arguments.kinds) {
    VIOMMU_ASSIGN_OR_RETURN(const Kind kind, ParseKind(word));
    VIOMMU_ASSIGN_OR_RETURN(const v1::ResourceKind watched, WatchKind(kind));
    request.add_kinds(watched);
  }
  VIOMMU_RETURN_IF_ERROR(ApplyFilters(arguments.filters, request));
  request.set_progress(true);
  if (!arguments.from.empty()) {
    if (arguments.only_existing)
      return UsageError("--existing is about what is there; with --from there are only changes");
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t from, ParseNumber(arguments.from, "--from", INT64_MAX));
    request.set_start_revision(static_cast<int64_t>(from));
  }
  std::optional<uint64_t> count;
  if (!arguments.count.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(count, ParseNumber(arguments.count, "--count"));
    if (*count == 0) return ExitCode::kOk;
  }
  std::chrono::milliseconds length{0};
  if (!arguments.length.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(length, ParseTimeout(arguments.length, "--for"));
  }
  return Watcher(session, std::move(request), arguments.only_existing, count, length).Run();
}

}  // namespace

void DeclareWatch(Command& root) {
  const auto arguments = std::make_shared<WatchArguments>();
  root.Sub("watch", "Follow changes as they happen, each once, none left out")
      .Details(
          "Begins with what is there, or with --from after a revision. A broken connection is taken up again by itself "
          "where it\n"
          "broke. When the server no longer has the history after a revision, the watch ends with REVISION_COMPACTED "
          "and says the\n"
          "oldest revision that is left. With -o json each event is one line: {\"type\", \"revision\", \"kind\", "
          "\"resource\"}; the\n"
          "line of type SYNC tells that everything that was there has been said. --field takes host and vm.")
      .WithExample("watch", "everything that is there, then changes")
      .WithExample("watch vdevices --field vm=web-1", "the devices of one VM")
      .WithExample("watch --from 1200 -o json", "changes after revision 1200, for programs")
      .WithExample("watch hosts --existing", "only what is there")
      .Positionals("KIND", &arguments->kinds, "only these kinds; none: all", false, KindWords())
      .Flags("--field", &arguments->filters.fields, "KEY=VALUE,...", "only those of which all of this holds")
      .Flags("-l,--label", &arguments->filters.labels, "KEY=VALUE,...", "only those with all of these labels")
      .Flag("--from", &arguments->from, "REVISION", "changes after this store revision")
      .Switch("--existing", &arguments->only_existing, "end when everything that is there has been said")
      .Flag("--count", &arguments->count, "N", "end after this many events")
      .Flag("--for", &arguments->length, "DURATION", "end after this time")
      .Runs([arguments](Session& session) { return Watch(session, *arguments); });
}

}  // namespace viommu::cli
