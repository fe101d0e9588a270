// An operations service for the tests of the CLI: every call is noted and answered with what a test has prepared.

#ifndef VIOMMU_CLI_FAKE_OPERATIONS_SERVICE_H_
#define VIOMMU_CLI_FAKE_OPERATIONS_SERVICE_H_

#include <map>
#include <string>
#include <vector>

#include "common/grpc_error.h"
#include "common/mutex.h"
#include "viommu/v1/operations_service.grpc.pb.h"

namespace viommu::cli {

class FakeOperationsService final : public v1::OperationsService::Service {
 public:
  // What calls whose response has this type answer; the last one given is repeated. Without any: an empty message.
  template <typename Response>
  void Answer(const Response& response) {
    MutexLock lock(mu_);
    answers_[response.GetTypeName()].push_back(response.SerializeAsString());
  }
  // Calls whose request has this type fail with `error` from now on.
  template <typename Request>
  void Fail(const absl::Status& error) {
    MutexLock lock(mu_);
    failures_[Request().GetTypeName()] = error;
  }
  // The requests of this type so far.
  template <typename Request>
  std::vector<Request> All() {
    MutexLock lock(mu_);
    std::vector<Request> all;
    for (const std::string& bytes : requests_[Request().GetTypeName()]) all.emplace_back().ParseFromString(bytes);
    return all;
  }
  template <typename Request>
  Request Last() {
    const std::vector<Request> all = All<Request>();
    return all.empty() ? Request() : all.back();
  }

#define VIOMMU_FAKE_METHOD(name)                                                                                     \
  grpc::Status name(grpc::ServerContext*, const v1::name##Request* request, v1::name##Response* response) override { \
    return Play(*request, *response);                                                                                \
  }
  VIOMMU_FAKE_METHOD(DrainHost)
  VIOMMU_FAKE_METHOD(AbortDrain)
  VIOMMU_FAKE_METHOD(GetDrain)
  VIOMMU_FAKE_METHOD(EvictHost)
  VIOMMU_FAKE_METHOD(ForgetHost)
  VIOMMU_FAKE_METHOD(FindPlacement)
  VIOMMU_FAKE_METHOD(CompareHosts)
  VIOMMU_FAKE_METHOD(GetDrift)
  VIOMMU_FAKE_METHOD(SetQuota)
  VIOMMU_FAKE_METHOD(GetQuota)
  VIOMMU_FAKE_METHOD(ListQuotas)
  VIOMMU_FAKE_METHOD(DeleteQuota)
  VIOMMU_FAKE_METHOD(ListAuditEntries)
  VIOMMU_FAKE_METHOD(CreateBackup)
  VIOMMU_FAKE_METHOD(ListBackups)
#undef VIOMMU_FAKE_METHOD

  // Sends every prepared answer, then ends.
  grpc::Status WatchDrain(grpc::ServerContext*, const v1::WatchDrainRequest* request,
                          grpc::ServerWriter<v1::WatchDrainResponse>* writer) override {
    v1::WatchDrainResponse response;
    while (true) {
      const grpc::Status status = Play(*request, response);
      if (!status.ok() || !response.has_progress()) return status;
      writer->Write(response);
    }
  }

 private:
  grpc::Status Play(const google::protobuf::Message& request, google::protobuf::Message& response) {
    MutexLock lock(mu_);
    requests_[request.GetTypeName()].push_back(request.SerializeAsString());
    if (const auto failure = failures_.find(request.GetTypeName()); failure != failures_.end()) {
      return ToGrpcStatus(failure->second);
    }
    auto& answers = answers_[response.GetTypeName()];
    response.Clear();
    if (answers.empty()) return grpc::Status::OK;
    response.ParseFromString(answers.front());
    if (answers.size() > 1) answers.erase(answers.begin());
    return grpc::Status::OK;
  }

  Mutex mu_;
  std::map<std::string, std::vector<std::string>> requests_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::vector<std::string>> answers_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, absl::Status> failures_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_FAKE_OPERATIONS_SERVICE_H_
