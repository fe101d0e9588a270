#include "server/api/audit.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/timestamp.h"
#include "server/api/test_service.h"

namespace viommu::server {
namespace {

class AuditApiTest : public FleetServiceTest {
 protected:
  // A stage 2, a viommu, a refused call and a vdevice, in this order.
  void MakeHistory() {
    MakeViommu();
    v1::CordonHostRequest cordon;
    cordon.set_name("hosts/nowhere");
    EXPECT_FALSE(Call(cordon).ok());
    v1::SetVdevIdRequest set;
    set.set_viommu("viommus/v");
    set.set_device(DeviceOf(kGrace, 0));
    set.set_vdev_id(7);
    set.set_request_id("3b241101-e2bb-4255-8caf-4136c566a962");
    Do(set);
  }

  static std::vector<std::string> Methods(const v1::ListAuditEntriesResponse& response) {
    std::vector<std::string> methods;
    for (const auto& entry : response.entries()) methods.push_back(entry.method());
    return methods;
  }

  v1::ListAuditEntriesRequest request_;
};

using Names = std::vector<std::string>;

TEST_F(AuditApiTest, TellsWhoDidWhatLatestFirst) {
  const WallTime begin = RealClock().Now();
  MakeHistory();
  const auto response = Do(request_);
  ASSERT_EQ(Methods(response), (Names{"SetVdevId", "CordonHost", "CreateViommu", "CreateStage2Domain"}));
  EXPECT_EQ(response.next_page_token(), "");
  EXPECT_EQ(response.revision(), core_->revision());
  EXPECT_GE(FromTimestamp(response.oldest_time()), begin);

  const v1::AuditEntry& set = response.entries(0);
  EXPECT_EQ(set.caller(), "anonymous") << "no listener, no certificate";
  EXPECT_NE(set.peer(), "");
  EXPECT_EQ(set.target(), "viommus/v");
  EXPECT_EQ(set.request_id(), "3b241101-e2bb-4255-8caf-4136c566a962");
  EXPECT_EQ(set.code(), "OK");
  EXPECT_EQ(set.revision(), core_->revision());
  bool device = false;
  bool vdevice = false;
  for (const auto& change : set.changes()) {
    if (change.name() == "viommus/v/vdevices/7") {
      vdevice = true;
      EXPECT_FALSE(change.has_before());
      EXPECT_EQ(change.after().vdevice().device(), DeviceOf(kGrace, 0));
    } else if (change.name() == DeviceOf(kGrace, 0)) {
      device = true;
      EXPECT_EQ(change.before().device().state(), v1::DEVICE_STATE_FREE);
      EXPECT_NE(change.after().device().state(), v1::DEVICE_STATE_FREE);
    }
  }
  EXPECT_TRUE(device) << "the request names it";
  EXPECT_TRUE(vdevice);

  const v1::AuditEntry& refused = response.entries(1);
  EXPECT_EQ(refused.code(), "NOT_FOUND");
  EXPECT_EQ(refused.reason(), "HOST_NOT_FOUND");
  EXPECT_NE(refused.message(), "");
  EXPECT_EQ(refused.revision(), 0);
  EXPECT_EQ(refused.target(), "hosts/nowhere");
}

TEST_F(AuditApiTest, Filters) {
  MakeHistory();
  request_.set_resource("viommus/v");
  EXPECT_EQ(Methods(Do(request_)), (Names{"SetVdevId", "CreateViommu"}));
  request_.set_resource("viommus/v/vdevices/7");
  EXPECT_EQ(Methods(Do(request_)), (Names{"SetVdevId"}));
  request_.set_resource("viommus/");
  EXPECT_EQ(Methods(Do(request_)), (Names{}));
  request_.clear_resource();

  request_.set_refused(true);
  EXPECT_EQ(Methods(Do(request_)), (Names{"CordonHost"}));
  request_.set_refused(false);
  EXPECT_EQ(Do(request_).entries_size(), 3);
  request_.clear_refused();

  request_.add_methods("CreateViommu");
  request_.add_methods("CordonHost");
  EXPECT_EQ(Methods(Do(request_)), (Names{"CordonHost", "CreateViommu"}));
  request_.clear_methods();

  request_.set_caller("somebody");
  EXPECT_EQ(Methods(Do(request_)), (Names{}));
  request_.clear_caller();

  request_.set_request_id("3b241101-e2bb-4255-8caf-4136c566a962");
  EXPECT_EQ(Methods(Do(request_)), (Names{"SetVdevId"}));
  request_.clear_request_id();

  *request_.mutable_start_time() = ToTimestamp(RealClock().Now() + std::chrono::hours(1));
  EXPECT_EQ(Methods(Do(request_)), (Names{}));
  *request_.mutable_end_time() = request_.start_time();
  request_.clear_start_time();
  EXPECT_EQ(Do(request_).entries_size(), 4);
}

TEST_F(AuditApiTest, ComesInPages) {
  MakeHistory();
  request_.set_page_size(3);
  auto first = Do(request_);
  EXPECT_EQ(first.entries_size(), 3);
  request_.set_page_token(first.next_page_token());
  const auto second = Do(request_);
  EXPECT_EQ(Methods(second), (Names{"CreateStage2Domain"}));
  EXPECT_EQ(second.next_page_token(), "");
  request_.set_caller("somebody");
  Refused(request_, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID);
}

TEST_F(AuditApiTest, APageLooksAtALimitedNumberOfEntries) {
  MakeHistory();
  request_.set_resource("stage2Domains/s");
  Names methods;
  int pages = 0;
  do {
    v1::ListAuditEntriesResponse response;
    ASSERT_TRUE(ListAuditEntries(*core_, request_, &response, /*scan_entries=*/1).ok());
    for (const std::string& method : Methods(response)) methods.push_back(method);
    request_.set_page_token(response.next_page_token());
    ++pages;
  } while (!request_.page_token().empty());
  EXPECT_EQ(methods, (Names{"CreateStage2Domain"}));
  EXPECT_EQ(pages, 4);
}

TEST_F(AuditApiTest, RefusesWhatIsOutOfRange) {
  request_.set_page_size(-1);
  Refused(request_, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request_.set_page_size(0);
  for (int i = 0; i <= kMaxFilterValues; ++i) request_.add_methods("SetVdevId");
  Refused(request_, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
}

TEST_F(AuditApiTest, ARepeatedCallIsAuditedOnce) {
  MakeHistory();
  v1::SetVdevIdRequest set;
  set.set_viommu("viommus/v");
  set.set_device(DeviceOf(kGrace, 0));
  set.set_vdev_id(7);
  set.set_request_id("3b241101-e2bb-4255-8caf-4136c566a962");
  Do(set);
  request_.add_methods("SetVdevId");
  EXPECT_EQ(Do(request_).entries_size(), 1);
}

}  // namespace
}  // namespace viommu::server
