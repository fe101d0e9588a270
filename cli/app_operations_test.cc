// Whole command lines against a server in this process: draining, evicting and forgetting hosts, planning, quotas.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/app_fixture.h"
#include "common/error.h"
#include "common/uuid.h"

namespace viommu::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

v1::WatchDrainResponse Left(int64_t viommus) {
  v1::WatchDrainResponse response;
  v1::DrainProgress& progress = *response.mutable_progress();
  progress.mutable_drain();
  progress.set_empty(viommus == 0);
  progress.set_viommus(viommus);
  if (viommus > 0) {
    v1::Remaining& remaining = *progress.add_remaining();
    remaining.set_name("viommus/v1");
    remaining.set_vm("web-1");
    remaining.set_state(v1::STATE_READY);
    remaining.set_why("in use: move or end its VM, then delete it");
  }
  return response;
}

TEST_F(AppTest, ADrainIsFollowedUntilTheHostIsEmpty) {
  for (const int64_t viommus : {2, 1, 0}) operations_.Answer(Left(viommus));
  operations_.Answer(v1::WatchDrainResponse());
  EXPECT_EQ(Run({"drain", "a", "--within", "2h"}), 0) << err();
  const auto request = operations_.Last<v1::DrainHostRequest>();
  EXPECT_EQ(request.name(), "hosts/a");
  EXPECT_EQ(request.timeout().seconds(), 7200);
  EXPECT_TRUE(IsUuid(request.request_id()));
  EXPECT_THAT(out(), HasSubstr("2 viommus"));
  EXPECT_THAT(out(), HasSubstr("in use: move or end its VM"));
  EXPECT_THAT(out(), HasSubstr("empty: nothing is left"));
}

TEST_F(AppTest, ADrainThatWasEndedIsNotDone) {
  operations_.Answer(Left(1));
  operations_.Answer(v1::WatchDrainResponse());
  EXPECT_EQ(Run({"drain", "a", "--resume", "-o", "json"}), 5);
  EXPECT_EQ(OutJson()["viommus"], "1");
  EXPECT_TRUE(operations_.All<v1::DrainHostRequest>().empty());
  EXPECT_THAT(err(), HasSubstr("no drain of a is under way, and it is not empty; viommuctl drain a begins one"));
}

TEST_F(AppTest, DrainsThatDeleteAskFirst) {
  EXPECT_EQ(Run({"drain", "a", "--within", "1h", "--evict"}), 2);
  EXPECT_THAT(err(), HasSubstr("say --yes"));
  EXPECT_TRUE(operations_.All<v1::DrainHostRequest>().empty());
  EXPECT_EQ(Run({"drain", "a", "--within", "1h", "--evict", "--yes", "--no-follow"}), 0) << err();
  EXPECT_TRUE(operations_.Last<v1::DrainHostRequest>().evict());
}

TEST_F(AppTest, FlagsOfADrainThatContradict) {
  EXPECT_EQ(Run({"drain", "a", "--abort", "--evict"}), 2);
  EXPECT_EQ(Run({"drain", "a", "--uncordon"}), 2);
  EXPECT_EQ(Run({"drain", "a", "--resume", "--within", "1h"}), 2);
  for (const char* bad : {"soon", "10ms", "720h"}) EXPECT_EQ(Run({"drain", "a", "--within", bad}), 2) << err();
  EXPECT_EQ(Run({"drain", "a", "--within", "719h", "--no-follow"}), 0) << err();
  EXPECT_EQ(operations_.Last<v1::DrainHostRequest>().timeout().seconds(), 719 * 3600);
}

TEST_F(AppTest, ADrainIsAborted) {
  v1::AbortDrainResponse response;
  response.mutable_host()->set_name("hosts/a");
  operations_.Answer(response);
  EXPECT_EQ(Run({"drain", "a", "--abort", "--uncordon"}), 0) << err();
  EXPECT_TRUE(operations_.Last<v1::AbortDrainRequest>().uncordon());
  EXPECT_THAT(out(), HasSubstr("no longer drained"));
}

TEST_F(AppTest, EvictingAsks) {
  EXPECT_EQ(Run({"evict", "a"}), 2);
  EXPECT_TRUE(operations_.All<v1::EvictHostRequest>().empty());
  v1::EvictHostResponse response;
  response.mutable_host()->set_name("hosts/a");
  response.set_deleted(7);
  operations_.Answer(response);
  EXPECT_EQ(Run({"evict", "a", "--yes"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("7 resources on their way out"));
}

TEST_F(AppTest, ForgettingSaysWhatGoesBeforeItAsks) {
  v1::ForgetHostResponse response;
  response.mutable_host()->set_name("hosts/a");
  response.set_stage2_domains(1);
  response.set_viommus(3);
  response.set_vdevices(5);
  response.set_vms(2);
  operations_.Answer(response);
  on_terminal_ = true;
  in_.str("n\n");
  EXPECT_EQ(Run({"forget", "a", "--declare-dead"}), 1);
  EXPECT_THAT(err(), HasSubstr("3 viommus and 5 vdevices of 2 VMs"));
  EXPECT_THAT(err(), HasSubstr("still access its memory"));
  ASSERT_EQ(operations_.All<v1::ForgetHostRequest>().size(), 1U);
  EXPECT_TRUE(operations_.Last<v1::ForgetHostRequest>().validate_only());
  in_.str("y\n");
  EXPECT_EQ(Run({"forget", "a", "--declare-dead"}), 0) << err();
  EXPECT_FALSE(operations_.Last<v1::ForgetHostRequest>().validate_only());
  EXPECT_TRUE(operations_.Last<v1::ForgetHostRequest>().declare_dead());
}

TEST_F(AppTest, AConnectedHostIsNotForgottenAndTheHintSaysWhatToDo) {
  operations_.Fail<v1::ForgetHostRequest>(Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CONNECTED)
                                              .Message("the agent of hosts/a is connected")
                                              .Meta("host", "hosts/a"));
  EXPECT_EQ(Run({"forget", "a", "--yes"}), 1);
  EXPECT_THAT(err(), HasSubstr("viommuctl drain hosts/a"));
}

TEST_F(AppTest, PlacesAreFound) {
  v1::FindPlacementResponse response;
  v1::Placement& placement = *response.add_placements();
  placement.set_smmu("hosts/a/smmus/smmu0");
  placement.add_devices("hosts/a/devices/0000:01:00.0");
  placement.set_vmids_free(9);
  placement.set_stage2_domain("stage2Domains/blue-1");
  v1::Refusal& refusal = *response.add_refusals();
  refusal.set_name("hosts/b");
  refusal.set_reason("HOST_CORDONED");
  refusal.set_message("it is cordoned");
  response.set_hosts(2);
  operations_.Answer(response);
  EXPECT_EQ(Run({"place", "2,kind=gpu,ats", "pasid=4", "--host-label", "zone=a", "--hw-queue", "--vm", "blue"}), 0)
      << err();
  const auto request = operations_.Last<v1::FindPlacementRequest>();
  ASSERT_EQ(request.devices_size(), 2);
  EXPECT_EQ(request.devices(0).count(), 2);
  EXPECT_TRUE(request.devices(0).ats());
  EXPECT_EQ(request.devices(0).labels().at("kind"), "gpu");
  EXPECT_EQ(request.devices(1).min_pasid_log2(), 4U);
  EXPECT_EQ(request.host_labels().at("zone"), "a");
  EXPECT_EQ(request.type(), v1::VIOMMU_TYPE_TEGRA241_CMDQV);
  EXPECT_EQ(request.vm(), "blue");
  EXPECT_THAT(out(), HasSubstr("a/smmu0"));
  EXPECT_THAT(out(), HasSubstr("blue-1"));
  EXPECT_THAT(out(), HasSubstr("HOST_CORDONED"));
  EXPECT_THAT(err(), HasSubstr("1 SMMUs have a place, on 2 hosts looked at"));
  EXPECT_EQ(Run({"place", "1", "-o", "name"}), 0) << err();
  EXPECT_EQ(out(), "hosts/a/smmus/smmu0\n");
  EXPECT_EQ(Run({"place", "1", "--stage2domain", "blue-1"}), 0) << err();
  EXPECT_EQ(operations_.Last<v1::FindPlacementRequest>().stage2_domain(), "stage2Domains/blue-1");
}

TEST_F(AppTest, NoPlaceIsAnAnswerOfItsOwn) {
  EXPECT_EQ(Run({"place", "1"}), 4);
  EXPECT_EQ(Run({"place", "0"}), 2);
  EXPECT_EQ(Run({"place", "many"}), 2);
  EXPECT_EQ(Run({"place", "pasid=99"}), 2);
  EXPECT_EQ(Run({"place"}), 2);
}

TEST_F(AppTest, ComparisonsShowWhatBlocks) {
  v1::CompareHostsResponse response;
  v1::Comparison& comparison = *response.add_comparisons();
  comparison.set_source("hosts/a/smmus/smmu0");
  comparison.set_target("hosts/b/smmus/smmu0");
  for (const bool blocking : {true, false}) {
    v1::Difference& difference = *comparison.add_differences();
    difference.set_field(blocking ? "IDR3.RIL" : "IDR0.MSI");
    difference.set_source("1");
    difference.set_target("0");
    difference.set_blocking(blocking);
  }
  operations_.Answer(response);
  EXPECT_EQ(Run({"compare", "viommus/v1", "b"}), 1);
  EXPECT_EQ(operations_.Last<v1::CompareHostsRequest>().source(), "viommus/v1");
  EXPECT_EQ(operations_.Last<v1::CompareHostsRequest>().target(), "hosts/b");
  EXPECT_THAT(out(), HasSubstr("does not fit"));
  EXPECT_THAT(out(), HasSubstr("IDR3.RIL"));
  EXPECT_THAT(out(), Not(HasSubstr("IDR0.MSI")));
  EXPECT_EQ(Run({"compare", "a/smmu0", "b/smmu0", "--all"}), 1);
  EXPECT_EQ(operations_.Last<v1::CompareHostsRequest>().source(), "hosts/a/smmus/smmu0");
  EXPECT_THAT(out(), HasSubstr("IDR0.MSI"));
  EXPECT_EQ(Run({"compare", "a", "viommus/v1"}), 2);
}

TEST_F(AppTest, Quotas) {
  v1::SetQuotaResponse set;
  set.mutable_quota()->set_name("quotas/acme");
  operations_.Answer(set);
  EXPECT_EQ(Run({"set", "quota", "acme", "--max-viommus", "16"}), 0) << err();
  const auto request = operations_.Last<v1::SetQuotaRequest>();
  EXPECT_EQ(request.quota().name(), "quotas/acme");
  EXPECT_EQ(request.quota().max_viommus(), 16U);
  EXPECT_FALSE(request.quota().has_max_vdevices());
  v1::ListQuotasResponse list;
  v1::Quota& quota = *list.add_quotas();
  quota.set_name("quotas/acme");
  quota.set_max_viommus(16);
  quota.mutable_usage()->set_viommus(3);
  operations_.Answer(list);
  EXPECT_EQ(Run({"get", "quotas"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("MAX-VIOMMUS"));
  EXPECT_THAT(out(), HasSubstr("16"));
  v1::GetQuotaResponse one;
  *one.mutable_quota() = quota;
  operations_.Answer(one);
  EXPECT_EQ(Run({"describe", "quota", "acme"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("at most 16, 3 used"));
  v1::DeleteQuotaResponse gone;
  *gone.mutable_quota() = quota;
  operations_.Answer(gone);
  EXPECT_EQ(Run({"delete", "quota", "acme", "--yes"}), 0) << err();
  EXPECT_EQ(operations_.Last<v1::DeleteQuotaRequest>().name(), "quotas/acme");
}

v1::GetDriftResponse DriftPage(const std::string& name, bool expected, const std::string& next = "") {
  v1::GetDriftResponse page;
  v1::Drift& drift = *page.add_drifts();
  drift.set_name(name);
  drift.set_expected(expected);
  v1::DriftField& field = *drift.add_fields();
  field.set_field("presence");
  field.set_recorded("yes");
  field.set_believed("yes");
  field.set_actual("no");
  page.set_compared(500);
  page.set_backend_can_tell(true);
  page.set_next_page_token(next);
  return page;
}

TEST_F(AppTest, DriftIsShownOverAllPages) {
  operations_.Answer(DriftPage("viommus/v", true, "next"));
  auto last = DriftPage("viommus/w", false);
  last.add_strays("ioas 7 in the context of vm1");
  operations_.Answer(last);
  EXPECT_EQ(Run({"drift", "a"}), 1) << err();
  const auto requests = operations_.All<v1::GetDriftRequest>();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].host(), "hosts/a");
  EXPECT_FALSE(requests[0].repair());
  EXPECT_EQ(requests[1].page_token(), "next");
  EXPECT_THAT(out(), HasSubstr("viommus/w"));
  EXPECT_THAT(out(), Not(HasSubstr("viommus/v"))) << "it explains itself";
  EXPECT_THAT(out(), HasSubstr("stray: ioas 7"));
  EXPECT_THAT(err(), HasSubstr("1000 resources compared"));
  EXPECT_EQ(Run({"drift", "a", "--all", "-o", "json"}), 1);
  EXPECT_EQ(OutJson()["compared"], "500");
}

TEST_F(AppTest, NoDriftIsSuccessAndSaysWhatWasNotCompared) {
  v1::GetDriftResponse none;
  none.set_compared(3);
  operations_.Answer(none);
  EXPECT_EQ(Run({"drift", "a"}), 0) << err();
  EXPECT_EQ(out(), "");
  EXPECT_THAT(err(), HasSubstr("cannot list its objects"));
}

TEST_F(AppTest, ARepairOfDriftAsksFirst) {
  operations_.Answer(DriftPage("viommus/w", false));
  EXPECT_EQ(Run({"drift", "a", "--repair"}), 2);
  EXPECT_TRUE(operations_.All<v1::GetDriftRequest>().empty());
  EXPECT_EQ(Run({"drift", "a", "--repair", "--dry-run"}), 1) << err();
  EXPECT_FALSE(operations_.Last<v1::GetDriftRequest>().repair());
  EXPECT_EQ(Run({"drift", "a", "--repair", "--yes"}), 0) << err();
  EXPECT_TRUE(operations_.Last<v1::GetDriftRequest>().repair());
  EXPECT_THAT(err(), HasSubstr("being mended"));
  for (const char* flag : {"--etag", "--request-id"}) {
    EXPECT_EQ(Run({"drift", "a", "--repair", flag, "x"}), 2);
    EXPECT_THAT(err(), HasSubstr(std::string(flag) + ": `drift` changes nothing of the record"));
    EXPECT_EQ(Run({"drift", "--help"}), 0);
    EXPECT_THAT(out(), Not(HasSubstr(flag)));
  }
}

}  // namespace
}  // namespace viommu::cli
