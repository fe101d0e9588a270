#include "common/rpc_metrics.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/support/server_interceptor.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/error.h"
#include "common/grpc_error.h"

namespace viommu {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;
using Steady = std::chrono::steady_clock;

constexpr size_t kCodes = static_cast<size_t>(grpc::StatusCode::UNAUTHENTICATED) + 1;

struct Method {
  std::string name;
  bool changes_nothing = false;
  Histogram* seconds = nullptr;
  std::array<Counter, kCodes> by_code;
};

// Built once, then only read; what it counts into is atomic.
struct Table {
  std::shared_ptr<MetricSet> metrics;  // owns the histograms and the gauge
  Gauge* in_flight = nullptr;
  Gauge* unsent = nullptr;
  int64_t max_unsent = 0;
  std::deque<Method> methods;
  absl::flat_hash_map<std::string, Method*> by_path;  // "/viommu.v1.FleetService/GetHost"
  Method* other = nullptr;
};

class Recorder final : public Interceptor {
 public:
  Recorder(Table& table, Method& method, bool unary)
      : table_(table), method_(method), unary_(unary), start_(Steady::now()) {
    table_.in_flight->Add(1);
  }
  // gRPC destroys it with the call, also when the call never got a status because the server went down.
  ~Recorder() override {
    if (!done_) Finish(grpc::StatusCode::CANCELLED);
    if (unsent_ != 0) table_.unsent->Add(-unsent_);
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    // An answer and its status come together.
    if (unary_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      if (method_.changes_nothing && table_.unsent->value() >= table_.max_unsent) {
        methods->ModifySendMessage(nullptr);
        methods->ModifySendStatus(
            ToGrpcStatus(Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
                             .Message("{} bytes of answers wait for their callers to take them; try again later",
                                      table_.unsent->value())
                             .RetryAfter(std::chrono::seconds(1))));
      } else {
        unsent_ = static_cast<int64_t>(methods->GetSerializedSendMessage()->Length());
        table_.unsent->Add(unsent_);
      }
    }
    if (!done_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Finish(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void Finish(grpc::StatusCode code) {
    done_ = true;
    const auto index = static_cast<size_t>(code);
    method_.by_code[index < kCodes ? index : static_cast<size_t>(grpc::StatusCode::UNKNOWN)].Add();
    method_.seconds->Record(std::chrono::nanoseconds(Steady::now() - start_));
    table_.in_flight->Add(-1);
  }

  Table& table_;
  Method& method_;
  const bool unary_;
  int64_t unsent_ = 0;
  const Steady::time_point start_;
  bool done_ = false;
};

class Factory final : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(std::shared_ptr<Table> table) : table_(std::move(table)) {}

  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    const auto found = table_->by_path.find(info->method());
    return new Recorder(*table_, found == table_->by_path.end() ? *table_->other : *found->second,
                        info->type() == ServerRpcInfo::Type::UNARY);
  }

 private:
  std::shared_ptr<Table> table_;
};

std::vector<MetricSample> CodesOf(const Table& table) {
  std::vector<MetricSample> samples;
  for (const Method& method : table.methods) {
    for (size_t code = 0; code < kCodes; ++code) {
      const uint64_t count = method.by_code[code].value();
      // OK is always there, so that the rate of errors has something to be divided by; most other codes never come.
      if (count == 0 && code != 0) continue;
      samples.push_back(
          {{{"method", method.name}, {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}},
           static_cast<double>(count)});
    }
  }
  return samples;
}

}  // namespace

bool ChangesNothing(std::string_view method) {
  constexpr std::array<std::string_view, 4> kVerbs = {"Get", "List", "Find", "Compare"};
  return std::any_of(kVerbs.begin(), kVerbs.end(),
                     [&](std::string_view verb) { return method.substr(0, verb.size()) == verb; });
}

void InstallRpcMetrics(grpc::ServerBuilder& builder, std::shared_ptr<MetricSet> metrics, std::string_view prefix,
                       const std::vector<std::string>& services, uint64_t max_unsent_bytes) {
  auto table = std::make_shared<Table>();
  table->metrics = metrics;
  table->in_flight = &metrics->AddGauge(fmt::format("{}_rpcs_in_flight", prefix), "RPCs that have no status yet");
  table->unsent =
      &metrics->AddGauge(fmt::format("{}_rpc_unsent_bytes", prefix), "Answers that their callers have not taken yet");
  table->max_unsent = static_cast<int64_t>(max_unsent_bytes);
  const auto add = [&](std::string name) {
    Method& method = table->methods.emplace_back();
    method.seconds = &metrics->AddHistogram(fmt::format("{}_rpc_seconds", prefix),
                                            "Time from an RPC's arrival to its status", kLatency, {{"method", name}});
    method.name = std::move(name);
    return &method;
  };
  for (const std::string& service : services) {
    const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
    if (descriptor == nullptr) {
      fmt::print(stderr, "RPC metrics: there is no service {} in this program\n", service);
      std::abort();
    }
    for (int i = 0; i < descriptor->method_count(); ++i) {
      Method* method = add(fmt::format("{}/{}", service, descriptor->method(i)->name()));
      method->changes_nothing = ChangesNothing(descriptor->method(i)->name());
      table->by_path.emplace("/" + method->name, method);
    }
  }
  table->other = add("other");
  // The set must not own what owns the set.
  metrics->AddCallback(fmt::format("{}_rpcs_total", prefix), "Finished RPCs by method and code", MetricKind::kCounter,
                       [weak = std::weak_ptr<Table>(table)] {
                         const auto alive = weak.lock();
                         return alive ? CodesOf(*alive) : std::vector<MetricSample>();
                       });
  std::vector<std::unique_ptr<ServerInterceptorFactoryInterface>> creators;
  creators.push_back(std::make_unique<Factory>(std::move(table)));
  builder.experimental().SetInterceptorCreators(std::move(creators));
}

}  // namespace viommu
