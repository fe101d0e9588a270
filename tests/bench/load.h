// A closed-loop load on a unary method: a fixed number of callers, each of which calls again as soon as it was
// answered.
//
// The callers are callbacks on gRPC's own threads, not threads of their own: on a small machine hundreds of threads
// would measure the scheduler.

#ifndef VIOMMU_TESTS_BENCH_LOAD_H_
#define VIOMMU_TESTS_BENCH_LOAD_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace viommu::bench {

struct LoadResult {
  double calls_per_s = 0;
  double p50_us = 0;
  double p99_us = 0;
  int64_t calls = 0;
};

// Fills from latencies in microseconds; sorts them.
inline LoadResult Summarize(std::vector<double>& latencies_us, double seconds) {
  LoadResult result;
  std::sort(latencies_us.begin(), latencies_us.end());
  result.calls = static_cast<int64_t>(latencies_us.size());
  result.calls_per_s = static_cast<double>(latencies_us.size()) / seconds;
  if (!latencies_us.empty()) {
    result.p50_us = latencies_us[latencies_us.size() / 2];
    result.p99_us = latencies_us[latencies_us.size() * 99 / 100];
  }
  return result;
}

// `start(caller, context, request, response, done)` sends one call; `fill(caller, request)` says what, and returns
// false when there is nothing left to ask: then the load ends early. A failed call ends the program: it would not be a
// benchmark of what it says.
template <typename Request, typename Response>
class Load {
 public:
  using Done = std::function<void(grpc::Status)>;
  using Start = std::function<void(int caller, grpc::ClientContext*, const Request*, Response*, Done)>;
  using Fill = std::function<bool(int caller, Request*)>;

  Load(Start start, Fill fill) : start_(std::move(start)), fill_(std::move(fill)) {}

  LoadResult Run(int callers, double seconds) {
    const auto begin = Clock::now();
    end_ = begin + std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
    running_ = callers;
    std::vector<std::unique_ptr<Caller>> all;
    for (int i = 0; i < callers; ++i) all.push_back(std::make_unique<Caller>());
    for (int i = 0; i < callers; ++i) Next(i, *all[static_cast<size_t>(i)]);
    {
      std::unique_lock lock(mu_);
      stopped_.wait(lock, [this] { return running_ == 0; });
    }
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    std::vector<double> latencies;
    for (const auto& caller : all) {
      latencies.insert(latencies.end(), caller->latencies_us.begin(), caller->latencies_us.end());
    }
    return Summarize(latencies, took);
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct Caller {
    std::unique_ptr<grpc::ClientContext> context;
    Request request;
    Response response;
    Clock::time_point begin;
    std::vector<double> latencies_us;
  };

  void Next(int index, Caller& caller) {
    if (Clock::now() >= end_ || !fill_(index, &caller.request)) {
      std::lock_guard lock(mu_);
      if (--running_ == 0) stopped_.notify_one();
      return;
    }
    caller.context = std::make_unique<grpc::ClientContext>();
    caller.begin = Clock::now();
    start_(
        index, caller.context.get(), &caller.request, &caller.response,
        [this, index, &caller](const grpc::Status& status) {
          if (!status.ok()) {
            std::fprintf(stderr, "a call failed: %s\n", status.error_message().c_str());
            std::abort();
          }
          caller.latencies_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - caller.begin).count());
          Next(index, caller);
        });
  }

  const Start start_;
  const Fill fill_;
  Clock::time_point end_;
  std::mutex mu_;
  std::condition_variable stopped_;
  int running_ = 0;
};

}  // namespace viommu::bench

#endif  // VIOMMU_TESTS_BENCH_LOAD_H_
