#include "tests/simulation/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "common/error.h"
#include "server/api/digest.h"
#include "server/api/watch_feed.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "tests/simulation/guest.h"

namespace viommu::simulation {
namespace {

using server::Context;
using server::Draft;
using server::Kind;

// Takes the resources out of an answer, whatever its method.
template <typename Response>
Answer AnswerOf(const Response& response) {
  Answer answer;
  answer.bytes = response.SerializeAsString();
  const auto add = [&answer](const auto& resource) {
    using T = std::decay_t<decltype(resource)>;
    answer.kind = server::KindOf<T>::value;
    answer.resources.push_back(std::make_shared<const T>(resource));
  };
  if constexpr (requires { response.vdevices().begin(); }) {
    for (const auto& vdevice : response.vdevices()) add(vdevice);
  } else if constexpr (requires { response.vdevice(); }) {
    add(response.vdevice());
  } else if constexpr (requires { response.nested_domain(); }) {
    add(response.nested_domain());
  } else if constexpr (requires { response.viommu(); }) {
    add(response.viommu());
  } else if constexpr (requires { response.stage2_domain(); }) {
    add(response.stage2_domain());
  } else if constexpr (requires { response.hw_queue(); }) {
    add(response.hw_queue());
  } else if constexpr (requires { response.quota(); }) {
    add(response.quota());
  } else {
    add(response.host());
  }
  return answer;
}

template <typename Message>
std::shared_ptr<const Request> RequestOf(const Message& message, const std::string& id, bool wait) {
  using Response =
      typename decltype(server::Judge(message, std::declval<const Context&>(), std::declval<Draft&>()))::value_type;
  auto request = std::make_shared<Request>();
  request->method = Message::descriptor()->name();
  request->id = id;
  request->fingerprint = server::Fingerprint(message);
  request->wait = wait;
  request->judge = [message](const Context& context, Draft& draft) -> absl::StatusOr<Answer> {
    VIOMMU_ASSIGN_OR_RETURN(const Response response, server::Judge(message, context, draft));
    return AnswerOf(response);
  };
  request->parse = [](std::string_view bytes) -> std::optional<Answer> {
    Response response;
    if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
    return AnswerOf(response);
  };
  return request;
}

// Some name of that kind, or one that is not there.
std::string Some(const Timeline& timeline, Random& random, Kind kind) {
  std::vector<std::string> names;
  for (auto it = timeline.state.lower_bound({kind, ""}); it != timeline.state.end() && it->first.first == kind; ++it) {
    names.push_back(it->first.second);
  }
  if (names.empty()) return "";
  return random.Pick(names);
}

template <typename T>
const T* Find(const Timeline& timeline, const std::string& name) {
  const auto found = timeline.state.find({server::KindOf<T>::value, name});
  return found == timeline.state.end() ? nullptr : static_cast<const T*>(found->second.get());
}

// A device that is likely to fit the viommu.
std::string DeviceFor(const Timeline& timeline, Random& random, const v1::Viommu& viommu) {
  std::vector<std::string> fitting;
  const std::string prefix = server::DevicePrefix(viommu.host());
  for (auto it = timeline.state.lower_bound({Kind::kDevice, prefix}); it != timeline.state.end(); ++it) {
    if (it->first.first != Kind::kDevice || it->first.second.compare(0, prefix.size(), prefix) != 0) break;
    const auto& device = static_cast<const v1::Device&>(*it->second);
    if (random.OneIn(16) || (device.smmu() == viommu.smmu() && device.owner().empty())) {
      fitting.push_back(device.name());
    }
  }
  return fitting.empty() ? prefix + "0000:01:00.0" : random.Pick(fitting);
}

const std::vector<std::string>& Owners() {
  static const auto& owners = *new std::vector<std::string>{"acme", "bolt"};
  return owners;
}

// A host, rather one that is not connected.
std::string HostToForget(const Timeline& timeline, Random& random) {
  std::vector<std::string> lost;
  for (auto it = timeline.state.lower_bound({Kind::kHost, ""});
       it != timeline.state.end() && it->first.first == Kind::kHost; ++it) {
    const auto& host = static_cast<const v1::Host&>(*it->second);
    if (host.state() != v1::HOST_STATE_CONNECTED) lost.push_back(host.name());
  }
  return lost.empty() ? Some(timeline, random, Kind::kHost) : random.Pick(lost);
}

}  // namespace

// ---- Changes --------------------------------------------------------------------------------------------------------

void Client::Think() {
  scheduler_.After(scheduler_.random.Between(milliseconds(1), milliseconds(60)), [this] {
    if (quiet_) return;
    ServerProcess* const server = find_server_();
    if (server == nullptr) return Think();
    // One that has an answer already is asked again now and then, or another one under its id.
    if (!history_.empty() && scheduler_.random.OneIn(10)) {
      request_ = scheduler_.random.Pick(history_);
    } else {
      request_ = Choose(server->timeline());
      if (!history_.empty() && scheduler_.random.OneIn(25)) {
        auto reuse = std::make_shared<Request>(*request_);
        reuse->id = scheduler_.random.Pick(history_)->id;
        request_ = reuse;
      }
    }
    scheduler_.Trace(request_->method, request_->id);
    Try();
  });
}

std::shared_ptr<const Request> Client::Choose(const Timeline& timeline) {
  Random& random = scheduler_.random;
  const std::string id = random.Uuid();
  if (random.Chance(operations_)) return ChooseOperation(timeline, id);
  const bool wait = random.OneIn(2);
  const uint64_t vdev_id = random.Below(kVdevIds);
  const std::string stage2 = Some(timeline, random, Kind::kStage2Domain);
  const std::string queue = Some(timeline, random, Kind::kHwQueue);
  // Those with hardware queues need devices for these to be made.
  const std::string viommu_name = !queue.empty() && random.OneIn(3) ? Find<v1::HwQueue>(timeline, queue)->viommu()
                                                                    : Some(timeline, random, Kind::kViommu);
  const std::string vdevice = Some(timeline, random, Kind::kVdevice);
  const std::string nested = Some(timeline, random, Kind::kNestedDomain);
  const auto* viommu = Find<v1::Viommu>(timeline, viommu_name);
  const std::string host = Some(timeline, random, Kind::kHost);
  const uint64_t dice = random.Below(118);
  if (stage2.empty() || dice < 6) {
    v1::CreateStage2DomainRequest request;
    request.set_stage2_domain_id(fmt::format("{}-s{}", name_, ++next_id_ % 4));
    request.mutable_stage2_domain()->set_host(host.empty() ? "hosts/h1" : host);
    request.mutable_stage2_domain()->set_vm(random.Pick(Vms()));
    if (random.OneIn(2)) {
      (*request.mutable_stage2_domain()->mutable_labels())["owner"] = random.Pick(Owners());
    }
    return RequestOf(request, id, wait);
  }
  if (viommu == nullptr || dice < 14) return CreateViommu(timeline, id, wait);
  if (dice >= 100) return ChooseHwQueue(timeline, id, wait);
  if (dice < 36) {
    v1::SetVdevIdRequest request;
    request.set_viommu(viommu_name);
    request.set_device(DeviceFor(timeline, random, *viommu));
    request.set_vdev_id(vdev_id);
    return RequestOf(request, id, wait);
  }
  if (dice < 42) {
    v1::BatchSetVdevIdsRequest request;
    request.set_viommu(viommu_name);
    for (int i = 0; i < 2; ++i) {
      v1::VdevIdAssignment& assignment = *request.add_assignments();
      assignment.set_device(DeviceFor(timeline, random, *viommu));
      assignment.set_vdev_id((vdev_id + static_cast<uint64_t>(i)) % kVdevIds);
    }
    return RequestOf(request, id, wait);
  }
  if (dice < 50) {
    v1::CreateNestedDomainRequest request;
    request.set_viommu(viommu_name);
    request.set_nested_domain_id(fmt::format("n{}", random.Below(3)));
    v1::NestedConfig& config = *request.mutable_nested_domain()->mutable_config();
    const uint64_t kind = random.Below(5);
    if (kind == 0) {
      config.mutable_abort();
    } else if (kind == 1) {
      config.mutable_bypass();
    } else {
      config.mutable_translate()->set_word0(TranslatingVste().dw0);
      config.mutable_translate()->set_word1(TranslatingVste().dw1);
    }
    return RequestOf(request, id, wait);
  }
  if (!vdevice.empty() && dice < 64) {
    v1::UnsetVdevIdRequest request;
    request.set_name(vdevice);
    return RequestOf(request, id, wait);
  }
  if (!vdevice.empty() && dice < 76) {
    v1::RebindVdevIdRequest request;
    request.set_name(vdevice);
    request.set_new_vdev_id(vdev_id);
    return RequestOf(request, id, wait);
  }
  if (!nested.empty() && !vdevice.empty() && dice < 84) {
    v1::AttachDeviceRequest request;
    request.set_name(nested);
    const std::string in(server::ParentName(nested));
    const auto first = timeline.state.lower_bound({Kind::kVdevice, server::VdevicePrefix(in)});
    const auto* found = first != timeline.state.end() && first->first.first == Kind::kVdevice
                            ? static_cast<const v1::Vdevice*>(first->second.get())
                            : Find<v1::Vdevice>(timeline, vdevice);
    request.set_device(found->device());
    return RequestOf(request, id, wait);
  }
  if (!vdevice.empty() && dice < 88) {
    v1::DetachDeviceRequest request;
    request.set_vdevice(vdevice);
    return RequestOf(request, id, wait);
  }
  if (!nested.empty() && dice < 92) {
    v1::DeleteNestedDomainRequest request;
    request.set_name(nested);
    return RequestOf(request, id, wait);
  }
  if (dice < 96) {
    v1::DeleteViommuRequest request;
    request.set_name(viommu_name);
    request.set_cascade(random.OneIn(2));
    return RequestOf(request, id, wait);
  }
  if (dice < 98) {
    v1::DeleteStage2DomainRequest request;
    request.set_name(stage2);
    request.set_cascade(random.OneIn(2));
    return RequestOf(request, id, wait);
  }
  if (random.OneIn(3)) {
    v1::CordonHostRequest request;
    request.set_name(host);
    return RequestOf(request, id, false);
  }
  v1::UncordonHostRequest request;
  request.set_name(host);
  return RequestOf(request, id, false);
}

std::shared_ptr<const Request> Client::CreateViommu(const Timeline& timeline, const std::string& id, bool wait) {
  Random& random = scheduler_.random;
  const std::string stage2 = Some(timeline, random, Kind::kStage2Domain);
  v1::CreateViommuRequest request;
  request.set_viommu_id(fmt::format("{}-v{}", name_, ++next_id_ % 5));
  request.mutable_viommu()->set_stage2_domain(stage2);
  const uint64_t smmu = random.Below(2);
  const auto* on = Find<v1::Host>(timeline, Find<v1::Stage2Domain>(timeline, stage2)->host());
  request.mutable_viommu()->set_smmu(fmt::format("{}/smmus/s{}", on->name(), smmu));
  if (on->smmus(static_cast<int>(smmu)).has_hw_queue() ? random.OneIn(2) : random.OneIn(32)) {
    request.mutable_viommu()->set_type(v1::VIOMMU_TYPE_TEGRA241_CMDQV);
  }
  return RequestOf(request, id, wait);
}

std::shared_ptr<const Request> Client::ChooseHwQueue(const Timeline& timeline, const std::string& id, bool wait) {
  Random& random = scheduler_.random;
  const std::string present = Some(timeline, random, Kind::kHwQueue);
  if (!present.empty() && random.OneIn(6)) {
    v1::DeleteHwQueueRequest request;
    request.set_name(present);
    return RequestOf(request, id, wait);
  }
  std::vector<std::string> able;
  for (auto it = timeline.state.lower_bound({Kind::kViommu, ""});
       it != timeline.state.end() && it->first.first == Kind::kViommu; ++it) {
    const auto& viommu = static_cast<const v1::Viommu&>(*it->second);
    if (viommu.type() == v1::VIOMMU_TYPE_TEGRA241_CMDQV || random.OneIn(16)) able.push_back(viommu.name());
  }
  if (able.empty() && random.OneIn(2)) return CreateViommu(timeline, id, wait);
  v1::CreateHwQueueRequest request;
  request.set_viommu(able.empty() ? Some(timeline, random, Kind::kViommu) : random.Pick(able));
  v1::HwQueue& queue = *request.mutable_hw_queue();
  queue.set_index(static_cast<uint32_t>(random.Below(2)));
  queue.set_length_bytes(uint64_t{64} << random.Below(6));
  queue.set_nesting_parent_iova(GuestRing(random.Below(kGuestRings)));
  return RequestOf(request, id, wait);
}

std::shared_ptr<const Request> Client::ChooseOperation(const Timeline& timeline, const std::string& id) {
  Random& random = scheduler_.random;
  const std::string host = Some(timeline, random, Kind::kHost);
  switch (random.Below(12)) {
    case 0:
    case 1: {
      v1::DrainHostRequest request;
      request.set_name(host);
      request.set_evict(random.OneIn(2));
      const auto timeout = random.Between(milliseconds(100), milliseconds(3000)) / milliseconds(1);
      if (request.evict() || random.OneIn(2)) {
        request.mutable_timeout()->set_seconds(timeout / 1000);
        request.mutable_timeout()->set_nanos(static_cast<int32_t>(timeout % 1000 * 1'000'000));
      }
      return RequestOf(request, id, false);
    }
    case 2: {
      v1::AbortDrainRequest request;
      request.set_name(host);
      request.set_uncordon(random.OneIn(2));
      return RequestOf(request, id, false);
    }
    case 3: {
      if (!random.OneIn(3)) break;
      v1::EvictHostRequest request;
      request.set_name(host);
      return RequestOf(request, id, false);
    }
    case 4:
    case 5: {
      v1::ForgetHostRequest request;
      request.set_name(HostToForget(timeline, random));
      request.set_declare_dead(!random.OneIn(4));
      return RequestOf(request, id, false);
    }
    case 6:
    case 7:
    case 8: {
      v1::SetQuotaRequest request;
      request.mutable_quota()->set_name(server::QuotaName(random.OneIn(4) ? "default" : random.Pick(Owners())));
      if (!random.OneIn(4)) request.mutable_quota()->set_max_viommus(random.Below(4));
      if (!random.OneIn(4)) request.mutable_quota()->set_max_vdevices(random.Below(8));
      return RequestOf(request, id, false);
    }
    case 9: {
      v1::DeleteQuotaRequest request;
      request.set_name(server::QuotaName(random.OneIn(4) ? "default" : random.Pick(Owners())));
      return RequestOf(request, id, false);
    }
    default:
      break;
  }
  v1::UncordonHostRequest request;
  request.set_name(host);
  return RequestOf(request, id, false);
}

void Client::Detach(const std::string& vdevice) {
  v1::DetachDeviceRequest request;
  request.set_vdevice(vdevice);
  Ask(RequestOf(request, scheduler_.random.Uuid(), false));
}

void Client::Unset(const std::string& vdevice) {
  v1::UnsetVdevIdRequest request;
  request.set_name(vdevice);
  Ask(RequestOf(request, scheduler_.random.Uuid(), false));
}

void Client::Ask(std::shared_ptr<const Request> request) {
  request_ = std::move(request);
  scheduler_.Trace(request_->method, request_->id);
  Try();
}

void Client::Try() {
  const uint64_t number = ++tries_;
  Send(request_);
  if (scheduler_.random.OneIn(20)) Send(request_);
  // An answer that waits for a host takes longer.
  const nanoseconds patience = request_->wait ? milliseconds(2000) : milliseconds(400);
  scheduler_.After(scheduler_.random.Between(patience / 2, patience), [this, number] {
    if (number == tries_ && request_ != nullptr) Try();
  });
}

void Client::Send(const std::shared_ptr<const Request>& request) {
  const auto delay = [this] { return scheduler_.random.Between(weather_.least_delay, weather_.most_delay); };
  if (scheduler_.random.Chance(lost_)) return;
  scheduler_.After(delay(), [this, request, delay] {
    const auto answer = [this, request, delay](const absl::Status& status, int64_t) {
      if (scheduler_.random.Chance(lost_)) return;
      scheduler_.After(delay(), [this, request, status] { Hear(request, status); });
    };
    ServerProcess* const server = find_server_();
    if (server == nullptr) return answer(absl::UnavailableError("no server"), 0);
    server->Call(request, answer);
  });
}

void Client::Hear(const std::shared_ptr<const Request>& request, const absl::Status& status) {
  if (request != request_) return;  // another try has brought the answer before
  if (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) {
    const uint64_t number = ++tries_;
    // Exhausted VMIDs and the like are refusals; only an overload is worth another try.
    if (absl::IsUnavailable(status) || ReasonOf(status) == v1::ERROR_REASON_OVERLOADED) {
      scheduler_.After(scheduler_.random.Between(milliseconds(20), milliseconds(200)), [this, number] {
        if (number == tries_ && request_ != nullptr) Try();
      });
      return;
    }
  }
  ++answered_;
  scheduler_.Trace("client: answer", request_->id, static_cast<int64_t>(status.code()));
  if (status.ok()) {
    if (history_.size() < 16) {
      history_.push_back(request_);
    } else {
      history_[scheduler_.random.Below(history_.size())] = request_;
    }
  }
  request_ = nullptr;
  ++tries_;
  Think();
}

// ---- Watches --------------------------------------------------------------------------------------------------------

struct Watcher::Watch {
  int64_t number = 0;
  std::shared_ptr<Timeline> timeline;
  std::unique_ptr<server::WatchFeed> feed;
  MonotonicTime last_arrival{};
};

void Watcher::Open() {
  const int64_t number = ++watches_;
  // Watches break again and again; what was under way is lost.
  scheduler_.After(scheduler_.random.Between(milliseconds(100), milliseconds(1500)), [this, number] {
    if (number == watches_) Open();
  });
  v1::WatchRequest request;
  request.set_progress(true);
  if (complete_) {
    request.set_start_revision(revision_);
    request.set_origin(origin_);
  } else {
    resources_.clear();
    hash_ = 0;
    revision_ = 0;
  }
  scheduler_.After(scheduler_.random.Between(weather_.least_delay, weather_.most_delay), [this, number, request] {
    ServerProcess* const server = find_server_();
    if (server == nullptr || number != watches_) return;
    auto watch = std::make_shared<Watch>();
    watch->number = number;
    watch->timeline = server->timeline_ptr();
    auto feed = server::WatchFeed::Open(server->core(), request, scheduler_.now());
    if (!feed.ok()) return Refused(feed.status());
    watch->feed = *std::move(feed);
    Serve(server, watch);
  });
}

void Watcher::Refused(const absl::Status& status) {
  scheduler_.Trace("watch: refused", ReasonName(ReasonOf(status)));
  const v1::ErrorReason reason = ReasonOf(status);
  if (reason == v1::ERROR_REASON_REVISION_COMPACTED || reason == v1::ERROR_REASON_REVISION_UNKNOWN) {
    complete_ = false;
  } else if (!absl::IsUnavailable(status)) {
    checker_.Fail(fmt::format("a watch is refused: {}", status.ToString()));
  }
}

void Watcher::Serve(ServerProcess* server, const std::shared_ptr<Watch>& watch) {
  if (watch->number != watches_) return;
  for (int i = 0; i < 16; ++i) {
    v1::WatchResponse message;
    const auto step = watch->feed->Next(scheduler_.now(), &message);
    if (!step.ok()) return Refused(step.status());
    if (*step != server::WatchFeed::Step::kMessage) break;
    const bool change = message.has_events() && complete_;
    if (change && ActiveMutation() == Mutation::kDropWatchEvent && scheduler_.random.OneIn(20)) continue;
    Send(watch, message);
    if (change && ActiveMutation() == Mutation::kRepeatWatchEvent && scheduler_.random.OneIn(20)) Send(watch, message);
  }
  server->After(scheduler_.random.Between(milliseconds(1), milliseconds(20)),
                [this, server, watch] { Serve(server, watch); });
}

void Watcher::Send(const std::shared_ptr<Watch>& watch, const v1::WatchResponse& message) {
  const MonotonicTime arrival = scheduler_.now() + scheduler_.random.Between(weather_.least_delay, weather_.most_delay);
  watch->last_arrival = std::max(watch->last_arrival, arrival);
  scheduler_.After(watch->last_arrival - scheduler_.now(), [this, watch, message] {
    if (watch->number == watches_) Hear(*watch, message);
  });
}

void Watcher::Hear(const Watch& watch, const v1::WatchResponse& message) {
  if (!message.origin().empty()) origin_ = message.origin();
  const int64_t revision = message.revision();
  if (revision < revision_) {
    return checker_.Fail(fmt::format("a watch goes back from revision {} to {}", revision_, revision));
  }
  switch (message.kind_case()) {
    case v1::WatchResponse::kEvents: {
      if (complete_ && revision <= revision_) {
        return checker_.Fail(fmt::format("a watch tells of revision {} again", revision));
      }
      for (const v1::Event& event : message.events().events()) {
        ++changes_;
        const v1::Resource& resource = event.resource();
        const auto take = [&](const auto& each) {
          const Kind kind = server::KindOf<std::decay_t<decltype(each)>>::value;
          const auto key = std::make_pair(kind, each.name());
          hash_ -= resources_[key];
          resources_.erase(key);
          if (event.type() == v1::EVENT_TYPE_DELETED) return;
          hash_ += resources_[key] = HashOfResource(kind, each);
        };
        if (resource.has_host()) take(resource.host());
        if (resource.has_device()) take(resource.device());
        if (resource.has_stage2_domain()) take(resource.stage2_domain());
        if (resource.has_viommu()) take(resource.viommu());
        if (resource.has_vdevice()) take(resource.vdevice());
        if (resource.has_nested_domain()) take(resource.nested_domain());
        if (resource.has_hw_queue()) take(resource.hw_queue());
        if (resource.has_quota()) take(resource.quota());
      }
      if (message.events().more() || !complete_) return;
      break;
    }
    case v1::WatchResponse::kSyncMark:
      complete_ = true;
      break;
    case v1::WatchResponse::kProgress:
      if (!complete_) return;
      break;
    case v1::WatchResponse::KIND_NOT_SET:
      return checker_.Fail("a watch says nothing");
  }
  revision_ = revision;
  Compare(watch, revision);
}

void Watcher::Compare(const Watch& watch, int64_t revision) {
  const auto published = watch.timeline->published.find(revision);
  // Not among those from before a loss of power, which the checker has forgotten.
  if (published == watch.timeline->published.end()) return;
  if (published->second != hash_) {
    checker_.Fail(fmt::format("at revision {} a watch has seen something else than the record", revision));
  }
}

}  // namespace viommu::simulation
