#include "server/api/list.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/api/digest.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"
#include "server/api/page_token.h"
#include "server/api/scan.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

using Labels = google::protobuf::Map<std::string, std::string>;

// Hosts are copied, with their budgets, while the writer waits: fewer at a time.
constexpr int64_t kHostChunkRecords = 64;

absl::Status CheckLabels(const Labels& labels) {
  return static_cast<int>(labels.size()) > kMaxLabels ? TooMany("labels", kMaxLabels) : absl::OkStatus();
}

template <typename Values>
absl::Status CheckStates(const Values& states, bool (*is_valid)(int)) {
  if (states.size() > kMaxFilterValues) return TooMany("states", kMaxFilterValues);
  for (const int state : states) {
    if (state == 0 || !is_valid(state)) return InvalidField("states", "{} is no state to filter by", state);
  }
  return absl::OkStatus();
}

absl::Status CheckFilterName(std::string_view field, Kind kind, std::string_view name) {
  return name.empty() ? absl::OkStatus() : CheckName(field, kind, name);
}

absl::Status CheckFilterSmmu(std::string_view name) {
  return name.empty() ? absl::OkStatus() : CheckSmmuName("smmu", name);
}

bool HasLabels(const Labels& labels, const Labels& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& each) {
    const auto found = labels.find(each.first);
    return found != labels.end() && found->second == each.second;
  });
}

template <typename Values, typename State>
bool OneOf(const Values& wanted, State state) {
  return wanted.empty() || std::find(wanted.begin(), wanted.end(), state) != wanted.end();
}

// Whether a filter lets `value` through.
bool Passes(std::string_view wanted, std::string_view value) { return wanted.empty() || wanted == value; }

// "viommus/-" asks for all, as no filter does.
std::string ParentFilter(const std::string& viommu) { return viommu == "viommus/-" ? "" : viommu; }

// Whether a viommu is on an SMMU, for records that come viommu by viommu: one look at each viommu's record is enough.
class OnSmmu {
 public:
  // Empty: every viommu is.
  explicit OnSmmu(const std::string& smmu) : smmu_(smmu) {}

  bool operator()(const View& view, const std::string& viommu) {
    if (smmu_.empty()) return true;
    if (viommu != viommu_) {
      viommu_ = viommu;
      const auto record = view.Find<v1::Viommu>(viommu);
      is_on_ = record != nullptr && record->smmu() == smmu_;
    }
    return is_on_;
  }

 private:
  const std::string& smmu_;
  std::string viommu_;
  bool is_on_ = false;
};

// Whether a stage-2 domain belongs to the SMMU alone or has a viommu on it.
bool Serves(const View& view, const v1::Stage2Domain& domain, const std::string& smmu) {
  if (domain.smmu() == smmu) return true;
  const std::vector<std::string> viommus = view.Children(Relation::kStage2Viommus, domain.name());
  return std::any_of(viommus.begin(), viommus.end(), [&](const std::string& name) {
    const auto viommu = view.Find<v1::Viommu>(name);
    return viommu != nullptr && viommu->smmu() == smmu;
  });
}

// Does the work of every List.
//   plan(view)            the ranges to look at; called once, with the record of the page's revision
//   take(view, record)    the record as it shall be answered; null: does not match
//   add(response, record) puts one into the response
template <typename T, typename Request, typename Response, typename Plan, typename Take, typename Add>
absl::Status ReadPage(const CommitCore& core, const Request& request, Response* response, const ListLimits& limits,
                      Plan plan, Take take, Add add) {
  if (request.page_size() < 0) return InvalidField("page_size", "{} is negative", request.page_size());
  const auto page_size =
      static_cast<size_t>(request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize));
  const std::string& store = core.identity().store_incarnation;
  const std::string query = QueryDigest(request);
  VIOMMU_ASSIGN_OR_RETURN(std::string after, ReadPageToken(store, query, request.page_token()));

  ScanPlan ranges;
  std::vector<std::shared_ptr<const T>> page;
  size_t page_bytes = 0;
  int64_t looked_at = 0;
  bool first = true;
  bool ended = false;  // nothing is left to look at
  bool full = false;   // there is more than fits
  std::string last;    // looked at, and in the page if it matches
  while (!ended && !full && looked_at < limits.scan_records) {
    std::vector<std::shared_ptr<const T>> found;
    core.Read([&](const Tables& tables, int64_t revision) {
      if (first) {
        response->set_revision(revision);
        ranges = plan(tables);
        first = false;
      }
      int64_t left = std::min(limits.chunk_records, limits.scan_records - looked_at);
      ended = true;
      ScanPlanned(tables, KindOf<T>::value, ranges, after, [&](const RecordPtr& record) {
        // What does not fit is looked for too: it decides whether there is a next page.
        if (left == 0 || page.size() + found.size() > page_size) {
          ended = false;
          return false;
        }
        --left;
        ++looked_at;
        after = NameOf(KindOf<T>::value, *record);
        auto taken = take(tables, std::static_pointer_cast<const T>(record));
        if (taken != nullptr) found.push_back(std::move(taken));
        return true;
      });
    });
    for (auto& record : found) {
      const size_t bytes = record->ByteSizeLong();
      full = full || page.size() == page_size || (!page.empty() && page_bytes + bytes > limits.page_bytes);
      if (full) break;
      page_bytes += bytes;
      last = record->name();
      page.push_back(std::move(record));
    }
    if (!full) last = after;
  }
  for (const auto& record : page) add(response, *record);
  if (full || !ended) response->set_next_page_token(MakePageToken(store, query, last));
  return absl::OkStatus();
}

// For resources that are answered as they are recorded.
template <typename T, typename Match>
auto Taking(Match match) {
  return [match](const View& view, std::shared_ptr<const T> record) {
    return match(view, *record) ? std::move(record) : nullptr;
  };
}

// What is in a viommu and has no filter of its own.
template <typename T, typename Request, typename Response, typename Add>
absl::Status ListInViommu(const CommitCore& core, const Request& request, Response* response, const ListLimits& limits,
                          Add add) {
  const std::string parent = ParentFilter(request.viommu());
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("viommu", Kind::kViommu, parent));
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("host", Kind::kHost, request.host()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterSmmu(request.smmu()));
  VIOMMU_RETURN_IF_ERROR(CheckStates(request.states(), v1::State_IsValid));
  VIOMMU_RETURN_IF_ERROR(CheckLabels(request.labels()));
  OnSmmu on_smmu(request.smmu());
  return ReadPage<T>(
      core, request, response, limits,
      [&](const View& view) {
        if (!parent.empty()) return PlanBelow({parent});
        std::optional<std::vector<std::string>> viommus;
        if (!request.smmu().empty()) {
          viommus = ViommusOfSmmu(view, request.smmu());
        } else if (!request.host().empty()) {
          viommus = ViommusOfHost(view, request.host());
        }
        return viommus.has_value() ? PlanBelow(*std::move(viommus)) : PlanAll();
      },
      Taking<T>([&](const View& view, const T& record) {
        return Passes(parent, record.viommu()) && Passes(request.host(), record.host()) &&
               Passes(request.vm(), record.vm()) && OneOf(request.states(), record.state()) &&
               HasLabels(record.labels(), request.labels()) && on_smmu(view, record.viommu());
      }),
      add);
}

}  // namespace

absl::Status List(const CommitCore& core, const v1::ListHostsRequest& request, v1::ListHostsResponse* response,
                  const ListLimits& limits) {
  VIOMMU_RETURN_IF_ERROR(CheckStates(request.states(), v1::HostState_IsValid));
  VIOMMU_RETURN_IF_ERROR(CheckLabels(request.labels()));
  ListLimits hosts_limits = limits;
  hosts_limits.chunk_records = std::min(limits.chunk_records, kHostChunkRecords);
  return ReadPage<v1::Host>(
      core, request, response, hosts_limits, [](const View&) { return PlanAll(); },
      [&](const View& view, const std::shared_ptr<const v1::Host>& host) -> std::shared_ptr<const v1::Host> {
        if (!OneOf(request.states(), host->state()) || !HasLabels(host->labels(), request.labels()) ||
            (request.has_cordoned() && request.cordoned() != host->cordoned())) {
          return nullptr;
        }
        return std::make_shared<const v1::Host>(WithBudgets(*host, view));
      },
      [](v1::ListHostsResponse* to, const v1::Host& host) { *to->add_hosts() = host; });
}

absl::Status List(const CommitCore& core, const v1::ListDevicesRequest& request, v1::ListDevicesResponse* response,
                  const ListLimits& limits) {
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("host", Kind::kHost, request.host()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterSmmu(request.smmu()));
  VIOMMU_RETURN_IF_ERROR(CheckStates(request.states(), v1::DeviceState_IsValid));
  VIOMMU_RETURN_IF_ERROR(CheckLabels(request.labels()));
  // Devices come host by host: one look at each host's record is enough.
  std::string host_name;
  bool host_open = false;
  return ReadPage<v1::Device>(
      core, request, response, limits,
      [&](const View&) {
        const std::string host = request.host().empty() ? std::string(ParentName(request.smmu())) : request.host();
        return host.empty() ? PlanAll() : PlanPrefix(DevicePrefix(host));
      },
      Taking<v1::Device>([&](const View& view, const v1::Device& device) {
        if (!request.vm().empty()) {
          const auto holder = device.owner().empty() ? nullptr : view.Find<v1::Vdevice>(device.owner());
          if (holder == nullptr || holder->vm() != request.vm()) return false;
        }
        if (!Passes(request.smmu(), device.smmu()) || !OneOf(request.states(), device.state()) ||
            !HasLabels(device.labels(), request.labels())) {
          return false;
        }
        if (!request.has_free()) return true;
        if (const std::string_view name = ParentName(device.name()); name != host_name) {
          host_name = std::string(name);
          const auto host = view.Find<v1::Host>(host_name);
          host_open = host != nullptr && !host->cordoned();
        }
        return request.free() == (host_open && device.state() == v1::DEVICE_STATE_FREE);
      }),
      [](v1::ListDevicesResponse* to, const v1::Device& device) { *to->add_devices() = device; });
}

absl::Status List(const CommitCore& core, const v1::ListStage2DomainsRequest& request,
                  v1::ListStage2DomainsResponse* response, const ListLimits& limits) {
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("host", Kind::kHost, request.host()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterSmmu(request.smmu()));
  VIOMMU_RETURN_IF_ERROR(CheckStates(request.states(), v1::State_IsValid));
  VIOMMU_RETURN_IF_ERROR(CheckLabels(request.labels()));
  return ReadPage<v1::Stage2Domain>(
      core, request, response, limits,
      [&](const View& view) {
        const std::string host = request.host().empty() ? std::string(ParentName(request.smmu())) : request.host();
        if (host.empty() || view.Count(Relation::kHostStage2s, host) > kMaxScanRecords) return PlanAll();
        return PlanNames(view.Children(Relation::kHostStage2s, host));
      },
      Taking<v1::Stage2Domain>([&](const View& view, const v1::Stage2Domain& domain) {
        return Passes(request.host(), domain.host()) && Passes(request.vm(), domain.vm()) &&
               OneOf(request.states(), domain.state()) && HasLabels(domain.labels(), request.labels()) &&
               (request.smmu().empty() || Serves(view, domain, request.smmu()));
      }),
      [](v1::ListStage2DomainsResponse* to, const v1::Stage2Domain& domain) { *to->add_stage2_domains() = domain; });
}

absl::Status List(const CommitCore& core, const v1::ListViommusRequest& request, v1::ListViommusResponse* response,
                  const ListLimits& limits) {
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("host", Kind::kHost, request.host()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterSmmu(request.smmu()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("stage2_domain", Kind::kStage2Domain, request.stage2_domain()));
  VIOMMU_RETURN_IF_ERROR(CheckStates(request.states(), v1::State_IsValid));
  VIOMMU_RETURN_IF_ERROR(CheckLabels(request.labels()));
  return ReadPage<v1::Viommu>(
      core, request, response, limits,
      [&](const View& view) {
        std::optional<std::vector<std::string>> names;
        if (!request.stage2_domain().empty()) {
          names = view.Children(Relation::kStage2Viommus, request.stage2_domain());
        } else if (!request.smmu().empty()) {
          names = ViommusOfSmmu(view, request.smmu());
        } else if (!request.host().empty()) {
          names = ViommusOfHost(view, request.host());
        }
        return names.has_value() ? PlanNames(*std::move(names)) : PlanAll();
      },
      Taking<v1::Viommu>([&](const View&, const v1::Viommu& viommu) {
        return Passes(request.host(), viommu.host()) && Passes(request.vm(), viommu.vm()) &&
               Passes(request.smmu(), viommu.smmu()) && Passes(request.stage2_domain(), viommu.stage2_domain()) &&
               OneOf(request.states(), viommu.state()) && HasLabels(viommu.labels(), request.labels());
      }),
      [](v1::ListViommusResponse* to, const v1::Viommu& viommu) { *to->add_viommus() = viommu; });
}

absl::Status List(const CommitCore& core, const v1::ListVdevicesRequest& request, v1::ListVdevicesResponse* response,
                  const ListLimits& limits) {
  const std::string parent = ParentFilter(request.viommu());
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("viommu", Kind::kViommu, parent));
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("host", Kind::kHost, request.host()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterSmmu(request.smmu()));
  VIOMMU_RETURN_IF_ERROR(CheckFilterName("device", Kind::kDevice, request.device()));
  VIOMMU_RETURN_IF_ERROR(CheckStates(request.states(), v1::State_IsValid));
  VIOMMU_RETURN_IF_ERROR(CheckLabels(request.labels()));
  OnSmmu on_smmu(request.smmu());
  return ReadPage<v1::Vdevice>(
      core, request, response, limits,
      [&](const View& view) {
        if (!request.device().empty()) {
          const auto device = view.Find<v1::Device>(request.device());
          return device == nullptr || device->owner().empty() ? ScanPlan() : PlanNames({device->owner()});
        }
        if (!parent.empty()) return PlanBelow({parent});
        std::optional<std::vector<std::string>> viommus;
        if (!request.smmu().empty()) {
          viommus = ViommusOfSmmu(view, request.smmu());
        } else if (!request.host().empty()) {
          viommus = ViommusOfHost(view, request.host());
        }
        return viommus.has_value() ? PlanBelow(*std::move(viommus)) : PlanAll();
      },
      Taking<v1::Vdevice>([&](const View& view, const v1::Vdevice& vdevice) {
        return Passes(parent, vdevice.viommu()) && Passes(request.host(), vdevice.host()) &&
               Passes(request.vm(), vdevice.vm()) && Passes(request.device(), vdevice.device()) &&
               OneOf(request.states(), vdevice.state()) && HasLabels(vdevice.labels(), request.labels()) &&
               on_smmu(view, vdevice.viommu());
      }),
      [](v1::ListVdevicesResponse* to, const v1::Vdevice& vdevice) { *to->add_vdevices() = vdevice; });
}

absl::Status List(const CommitCore& core, const v1::ListNestedDomainsRequest& request,
                  v1::ListNestedDomainsResponse* response, const ListLimits& limits) {
  return ListInViommu<v1::NestedDomain>(
      core, request, response, limits,
      [](v1::ListNestedDomainsResponse* to, const v1::NestedDomain& domain) { *to->add_nested_domains() = domain; });
}

absl::Status List(const CommitCore& core, const v1::ListHwQueuesRequest& request, v1::ListHwQueuesResponse* response,
                  const ListLimits& limits) {
  return ListInViommu<v1::HwQueue>(
      core, request, response, limits,
      [](v1::ListHwQueuesResponse* to, const v1::HwQueue& queue) { *to->add_hw_queues() = queue; });
}

absl::Status List(const CommitCore& core, const v1::ListQuotasRequest& request, v1::ListQuotasResponse* response,
                  const ListLimits& limits) {
  return ReadPage<v1::Quota>(
      core, request, response, limits, [](const View&) { return PlanAll(); },
      [](const View& view, const std::shared_ptr<const v1::Quota>& quota) {
        return std::make_shared<const v1::Quota>(WithUsage(*quota, view));
      },
      [](v1::ListQuotasResponse* to, const v1::Quota& quota) { *to->add_quotas() = quota; });
}

}  // namespace viommu::server
