#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>

#include <set>
#include <thread>

#include "server/api/limits.h"
#include "server/api/list.h"
#include "server/api/test_service.h"

namespace viommu::server {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class ReadTest : public FleetServiceTest {
 protected:
  // grace: viommus "a" and "a-b" on SMMU 0 and "c" on SMMU 1, of VM "vm"; devices 0 in a, 1 in a-b, 2 in c.
  void MakeFleet() {
    Do(CreateStage2("s", kGrace));
    Do(CreateViommu("a", SmmuOf(kGrace, 0), "s"));
    Do(CreateViommu("a-b", SmmuOf(kGrace, 0), "s"));
    Do(CreateViommu("c", SmmuOf(kGrace, 1), "s"));
    Do(SetVdevId("a", DeviceOf(kGrace, 0), 1));
    Do(SetVdevId("a-b", DeviceOf(kGrace, 1), 1));
    Do(SetVdevId("c", DeviceOf(kGrace, 2), 1));
  }

  std::vector<std::string> Vdevices(const std::function<void(v1::ListVdevicesRequest&)>& filter) {
    v1::ListVdevicesRequest request;
    filter(request);
    std::vector<std::string> names;
    const auto page = Do(request);
    for (const auto& vdevice : page.vdevices()) names.push_back(vdevice.name());
    return names;
  }
  std::vector<std::string> Viommus(const std::function<void(v1::ListViommusRequest&)>& filter) {
    v1::ListViommusRequest request;
    filter(request);
    std::vector<std::string> names;
    const auto page = Do(request);
    for (const auto& viommu : page.viommus()) names.push_back(viommu.name());
    return names;
  }
  std::vector<std::string> Devices(const std::function<void(v1::ListDevicesRequest&)>& filter) {
    v1::ListDevicesRequest request;
    filter(request);
    std::vector<std::string> names;
    const auto page = Do(request);
    for (const auto& device : page.devices()) names.push_back(device.name());
    return names;
  }
};

TEST_F(ReadTest, HostsTellWhatTheirAgentsSaidIsInUse) {
  MakeFleet();
  v1::SmmuUsage& usage = sessions_.usage.emplace_back();
  v1::GetHostRequest get;
  get.set_name(kGrace);
  usage.set_name(Do(get).host().smmus(1).name());
  usage.set_vmids_used(9);
  usage.set_vmids_total(255);
  const v1::Host host = Do(get).host();
  EXPECT_FALSE(host.smmus(0).has_host_vmids());
  EXPECT_EQ(host.smmus(1).host_vmids().used(), 9U);
  EXPECT_EQ(host.smmus(1).host_vmids().total(), 255U);
  int told = 0;
  const auto listed = Do(v1::ListHostsRequest());
  for (const auto& each : listed.hosts()) {
    for (const auto& smmu : each.smmus()) told += smmu.has_host_vmids() ? 1 : 0;
  }
  EXPECT_EQ(told, 1);
}

TEST_F(ReadTest, GetsWhatIsThere) {
  MakeFleet();
  Do(CreateNested("a", "n"));
  v1::GetHostRequest host;
  host.set_name(kGrace);
  const auto grace = Do(host);
  EXPECT_EQ(grace.revision(), core_->revision());
  EXPECT_EQ(grace.host().smmus(0).vmids().used(), 2U) << "budgets are filled in";
  EXPECT_EQ(grace.host().smmus(0).vmids().total(), 65535U);
  EXPECT_FALSE(grace.host().smmus(0).has_host_vmids()) << "its agent has not told";
  v1::GetDeviceRequest device;
  device.set_name(DeviceOf(kGrace, 0));
  EXPECT_EQ(Do(device).device().owner(), "viommus/a/vdevices/1");
  v1::GetStage2DomainRequest stage2;
  stage2.set_name("stage2Domains/s");
  EXPECT_EQ(Do(stage2).stage2_domain().vm(), "vm");
  v1::GetViommuRequest viommu;
  viommu.set_name("viommus/a");
  EXPECT_EQ(Do(viommu).viommu().host(), kGrace);
  v1::GetVdeviceRequest vdevice;
  vdevice.set_name("viommus/a/vdevices/1");
  EXPECT_EQ(Do(vdevice).vdevice().device(), DeviceOf(kGrace, 0));
  EXPECT_EQ(Do(vdevice).revision(), core_->revision());
  v1::GetNestedDomainRequest nested;
  nested.set_name("viommus/a/nestedDomains/n");
  EXPECT_EQ(Do(nested).nested_domain().viommu(), "viommus/a");
}

TEST_F(ReadTest, SaysWhatIsNotThere) {
  const auto missing = [&](auto request, const std::string& name, v1::ErrorReason reason) {
    request.set_name(name);
    Refused(request, StatusCode::kNotFound, reason);
    request.set_name("nonsense/" + name);
    Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  };
  missing(v1::GetHostRequest(), "hosts/no", v1::ERROR_REASON_HOST_NOT_FOUND);
  missing(v1::GetDeviceRequest(), DeviceOf("hosts/no", 0), v1::ERROR_REASON_DEVICE_NOT_FOUND);
  missing(v1::GetStage2DomainRequest(), "stage2Domains/no", v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND);
  missing(v1::GetViommuRequest(), "viommus/no", v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  missing(v1::GetVdeviceRequest(), "viommus/no/vdevices/1", v1::ERROR_REASON_VDEVICE_NOT_FOUND);
  missing(v1::GetNestedDomainRequest(), "viommus/no/nestedDomains/n", v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND);
  missing(v1::GetHwQueueRequest(), "viommus/no/hwQueues/0", v1::ERROR_REASON_HW_QUEUE_NOT_FOUND);
}

TEST_F(ReadTest, FiltersVdevices) {
  MakeFleet();
  const std::string a = "viommus/a/vdevices/1";
  const std::string ab = "viommus/a-b/vdevices/1";
  const std::string c = "viommus/c/vdevices/1";
  // By name: '-' comes before '/'.
  EXPECT_THAT(Vdevices([](auto&) {}), ElementsAre(ab, a, c));
  EXPECT_THAT(Vdevices([](auto& r) { r.set_viommu("viommus/-"); }), ElementsAre(ab, a, c));
  EXPECT_THAT(Vdevices([](auto& r) { r.set_viommu("viommus/a"); }), ElementsAre(a));
  EXPECT_THAT(Vdevices([](auto& r) { r.set_host(kGrace); }), ElementsAre(ab, a, c));
  EXPECT_THAT(Vdevices([](auto& r) { r.set_host(kSmall); }), IsEmpty());
  EXPECT_THAT(Vdevices([](auto& r) { r.set_smmu(SmmuOf(kGrace, 0)); }), ElementsAre(ab, a));
  EXPECT_THAT(Vdevices([](auto& r) { r.set_device(DeviceOf(kGrace, 2)); }), ElementsAre(c));
  EXPECT_THAT(Vdevices([](auto& r) { r.set_device(DeviceOf(kGrace, 3)); }), IsEmpty());
  EXPECT_THAT(Vdevices([](auto& r) { r.set_vm("other"); }), IsEmpty());
  EXPECT_THAT(Vdevices([](auto& r) { r.add_states(v1::STATE_PENDING); }), ElementsAre(ab, a, c));
  EXPECT_THAT(Vdevices([](auto& r) { r.add_states(v1::STATE_READY); }), IsEmpty());
  EXPECT_THAT(Vdevices([](auto& r) {
                r.set_smmu(SmmuOf(kGrace, 1));
                r.set_viommu("viommus/a");
              }),
              IsEmpty())
      << "all filters must hold";
}

TEST_F(ReadTest, FiltersViommusAndDomains) {
  MakeFleet();
  v1::UpdateViommuLabelsRequest labels;
  labels.set_name("viommus/c");
  (*labels.mutable_labels())["tier"] = "gold";
  Do(labels);
  EXPECT_THAT(Viommus([](auto&) {}), SizeIs(3));
  EXPECT_THAT(Viommus([](auto& r) { r.set_smmu(SmmuOf(kGrace, 1)); }), ElementsAre("viommus/c"));
  EXPECT_THAT(Viommus([](auto& r) { r.set_host(kGrace); }), SizeIs(3));
  EXPECT_THAT(Viommus([](auto& r) { r.set_host(kSmall); }), IsEmpty());
  EXPECT_THAT(Viommus([](auto& r) { r.set_stage2_domain("stage2Domains/s"); }), SizeIs(3));
  EXPECT_THAT(Viommus([](auto& r) { r.set_stage2_domain("stage2Domains/t"); }), IsEmpty());
  EXPECT_THAT(Viommus([](auto& r) { (*r.mutable_labels())["tier"] = "gold"; }), ElementsAre("viommus/c"));
  EXPECT_THAT(Viommus([](auto& r) { (*r.mutable_labels())["tier"] = "tin"; }), IsEmpty());

  v1::ListStage2DomainsRequest stage2s;
  stage2s.set_host(kGrace);
  stage2s.set_vm("vm");
  EXPECT_THAT(Do(stage2s).stage2_domains(), SizeIs(1));
  stage2s.set_vm("other");
  EXPECT_THAT(Do(stage2s).stage2_domains(), IsEmpty());
  Do(CreateNested("a", "n"));
  v1::ListNestedDomainsRequest nested;
  nested.set_viommu("viommus/a");
  EXPECT_THAT(Do(nested).nested_domains(), SizeIs(1));
  nested.set_viommu("viommus/a-b");
  EXPECT_THAT(Do(nested).nested_domains(), IsEmpty());
  nested.set_viommu("viommus/-");
  nested.set_host(kGrace);
  EXPECT_THAT(Do(nested).nested_domains(), SizeIs(1));
}

TEST_F(ReadTest, FiltersDevicesAndHosts) {
  MakeFleet();
  EXPECT_THAT(Devices([](auto&) {}), SizeIs(8));
  EXPECT_THAT(Devices([](auto& r) { r.set_host(kGrace); }), SizeIs(4));
  EXPECT_THAT(Devices([](auto& r) { r.set_smmu(SmmuOf(kGrace, 1)); }),
              ElementsAre(DeviceOf(kGrace, 2), DeviceOf(kGrace, 3)));
  const auto free_on_grace = [](auto& r) {
    r.set_host(kGrace);
    r.set_free(true);
  };
  EXPECT_THAT(Devices(free_on_grace), ElementsAre(DeviceOf(kGrace, 3)));
  EXPECT_THAT(Devices([](auto& r) { r.set_free(false); }), SizeIs(3));
  EXPECT_THAT(Devices([](auto& r) { r.add_states(v1::DEVICE_STATE_ASSIGNED); }), SizeIs(3));
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Do(cordon);
  EXPECT_THAT(Devices(free_on_grace), IsEmpty()) << "nothing of a cordoned host can be assigned";

  v1::ListHostsRequest hosts;
  EXPECT_THAT(Do(hosts).hosts(), SizeIs(2));
  EXPECT_EQ(Do(hosts).hosts(0).smmus(0).vmids().used(), 2U);
  hosts.set_cordoned(false);
  ASSERT_THAT(Do(hosts).hosts(), SizeIs(1));
  EXPECT_EQ(Do(hosts).hosts(0).name(), kSmall);
  hosts.add_states(v1::HOST_STATE_DISCONNECTED);
  EXPECT_THAT(Do(hosts).hosts(), IsEmpty());
}

// Every filter of every list: what it lets through, and a value that nothing has.
TEST_F(ReadTest, EveryFilterHitsAndMisses) {
  MakeFleet();
  Do(CreateStage2("p", kSmall, SmmuOf(kSmall, 0), "vm-2"));
  Do(CreateNested("a", "n"));
  Do(CreateNested("c", "m"));
  Do(CreateViommu("q", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  Do(CreateHwQueue("q", 0));
  Do(CreateHwQueue("q", 1));
  Answer(*Recorded<v1::HwQueue>("viommus/q/hwQueues/0"), v1::OUTCOME_APPLIED);
  Answer(*Recorded<v1::Viommu>("viommus/c"), v1::OUTCOME_APPLIED);
  Answer(*Recorded<v1::Vdevice>("viommus/c/vdevices/1"), v1::OUTCOME_APPLIED);
  Answer(*Recorded<v1::NestedDomain>("viommus/c/nestedDomains/m"), v1::OUTCOME_APPLIED);
  Answer(*Recorded<v1::Stage2Domain>("stage2Domains/p"), v1::OUTCOME_APPLIED);
  ASSERT_TRUE(FunctionCommand::Run(*committer_, [](const Context&, Draft& draft) {
                const auto label = [&draft]<typename T>(const std::string& name, T) {
                  T record = *draft.Find<T>(name);
                  (*record.mutable_labels())["tier"] = "gold";
                  draft.Put(std::move(record));
                };
                label(kSmall, v1::Host());
                label(DeviceOf(kSmall, 1), v1::Device());
                label("stage2Domains/p", v1::Stage2Domain());
                label("viommus/c", v1::Viommu());
                label("viommus/c/vdevices/1", v1::Vdevice());
                label("viommus/c/nestedDomains/m", v1::NestedDomain());
                label("viommus/q/hwQueues/1", v1::HwQueue());
                return absl::OkStatus();
              }).ok());
  const auto check = [this](auto request, const std::string& filter, const std::string& value, size_t hits) {
    using Request = decltype(request);
    const auto* field = Request::descriptor()->FindFieldByName(filter);
    ASSERT_NE(field, nullptr) << Request::descriptor()->name() << "." << filter;
    const std::string text =
        field->type() == google::protobuf::FieldDescriptor::TYPE_STRING ? "\"" + value + "\"" : value;
    ASSERT_TRUE(google::protobuf::TextFormat::MergeFromString(filter + ": " + text, &request)) << filter;
    const auto answer = Do(request);
    const auto* list = answer.GetDescriptor()->field(0);
    EXPECT_EQ(static_cast<size_t>(answer.GetReflection()->FieldSize(answer, list)), hits)
        << Request::descriptor()->name() << " with " << filter << " " << value;
  };
  const std::string gold = "{key: \"tier\" value: \"gold\"}";
  const std::string tin = "{key: \"tier\" value: \"tin\"}";
  const std::string on_1 = SmmuOf(kGrace, 1);
  const std::string nowhere = "hosts/nowhere";

  const v1::ListHostsRequest hosts;
  check(hosts, "states", "HOST_STATE_CONNECTED", 2);
  check(hosts, "states", "HOST_STATE_DISCONNECTED", 0);
  check(hosts, "labels", gold, 1);
  check(hosts, "labels", tin, 0);
  check(hosts, "cordoned", "false", 2);
  check(hosts, "cordoned", "true", 0);

  const v1::ListDevicesRequest devices;
  check(devices, "host", kGrace, 4);
  check(devices, "host", nowhere, 0);
  check(devices, "vm", "vm", 3);
  check(devices, "vm", "vm-2", 0);
  check(devices, "states", "DEVICE_STATE_ASSIGNED", 3);
  check(devices, "states", "DEVICE_STATE_MISSING", 0);
  check(devices, "smmu", on_1, 2);
  check(devices, "smmu", SmmuOf(kGrace, 9), 0);
  check(devices, "labels", gold, 1);
  check(devices, "labels", tin, 0);
  check(devices, "free", "true", 5);
  check(devices, "free", "false", 3);

  const v1::ListStage2DomainsRequest stage2s;
  check(stage2s, "host", kSmall, 1);
  check(stage2s, "host", nowhere, 0);
  check(stage2s, "vm", "vm-2", 1);
  check(stage2s, "vm", "vm-3", 0);
  check(stage2s, "states", "STATE_READY", 1);
  check(stage2s, "states", "STATE_FAILED", 0);
  check(stage2s, "smmu", SmmuOf(kSmall, 0), 1);  // it belongs to it alone
  check(stage2s, "smmu", on_1, 1);               // it has a viommu there
  check(stage2s, "smmu", SmmuOf(kSmall, 1), 0);
  check(stage2s, "labels", gold, 1);
  check(stage2s, "labels", tin, 0);

  const v1::ListViommusRequest viommus;
  check(viommus, "host", kGrace, 4);
  check(viommus, "host", kSmall, 0);
  check(viommus, "vm", "vm", 4);
  check(viommus, "vm", "vm-2", 0);
  check(viommus, "states", "STATE_READY", 1);
  check(viommus, "states", "STATE_FAILED", 0);
  check(viommus, "smmu", on_1, 1);
  check(viommus, "smmu", SmmuOf(kSmall, 0), 0);
  check(viommus, "labels", gold, 1);
  check(viommus, "labels", tin, 0);
  check(viommus, "stage2_domain", "stage2Domains/s", 4);
  check(viommus, "stage2_domain", "stage2Domains/p", 0);

  const v1::ListVdevicesRequest vdevices;
  check(vdevices, "host", kGrace, 3);
  check(vdevices, "host", kSmall, 0);
  check(vdevices, "vm", "vm", 3);
  check(vdevices, "vm", "vm-2", 0);
  check(vdevices, "states", "STATE_READY", 1);
  check(vdevices, "states", "STATE_FAILED", 0);
  check(vdevices, "smmu", on_1, 1);
  check(vdevices, "smmu", SmmuOf(kSmall, 0), 0);
  check(vdevices, "labels", gold, 1);
  check(vdevices, "labels", tin, 0);
  check(vdevices, "viommu", "viommus/a", 1);
  check(vdevices, "viommu", "viommus/no", 0);
  check(vdevices, "device", DeviceOf(kGrace, 0), 1);
  check(vdevices, "device", DeviceOf(kGrace, 3), 0);

  const v1::ListNestedDomainsRequest nested;
  check(nested, "host", kGrace, 2);
  check(nested, "host", kSmall, 0);
  check(nested, "vm", "vm", 2);
  check(nested, "vm", "vm-2", 0);
  check(nested, "states", "STATE_READY", 1);
  check(nested, "states", "STATE_FAILED", 0);
  check(nested, "smmu", on_1, 1);
  check(nested, "smmu", SmmuOf(kSmall, 0), 0);
  check(nested, "labels", gold, 1);
  check(nested, "labels", tin, 0);
  check(nested, "viommu", "viommus/c", 1);
  check(nested, "viommu", "viommus/a-b", 0);

  const v1::ListHwQueuesRequest queues;
  check(queues, "host", kGrace, 2);
  check(queues, "host", kSmall, 0);
  check(queues, "vm", "vm", 2);
  check(queues, "vm", "vm-2", 0);
  check(queues, "states", "STATE_READY", 1);
  check(queues, "states", "STATE_FAILED", 0);
  check(queues, "smmu", SmmuOf(kGrace, 0), 2);
  check(queues, "smmu", on_1, 0);
  check(queues, "labels", gold, 1);
  check(queues, "labels", tin, 0);
  check(queues, "viommu", "viommus/q", 2);
  check(queues, "viommu", "viommus/a", 0);
}

// A page ends where its limits say, with a token to go on; nothing is left out and nothing comes twice.
TEST_F(ReadTest, PagesEndAtTheirLimits) {
  MakeFleet();
  const auto all = [this](v1::ListDevicesRequest request, const ListLimits& limits, int* pages, int* empty) {
    std::vector<std::string> names;
    do {
      v1::ListDevicesResponse page;
      EXPECT_TRUE(List(*core_, request, &page, limits).ok());
      for (const auto& device : page.devices()) names.push_back(device.name());
      *empty += page.devices().empty() ? 1 : 0;
      ++*pages;
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return names;
  };
  const std::vector<std::string> whole = Devices([](auto&) {});
  int pages = 0;
  int empty = 0;
  EXPECT_EQ(all({}, {.page_bytes = 1}, &pages, &empty), whole) << "at least one each";
  EXPECT_EQ(pages, 8);
  EXPECT_EQ(empty, 0);

  pages = 0;
  EXPECT_EQ(all({}, {.scan_records = 3}, &pages, &empty), whole);
  EXPECT_EQ(pages, 3);
  pages = 0;
  EXPECT_EQ(all({}, {.chunk_records = 1}, &pages, &empty), whole) << "chunks do not end a page";
  EXPECT_EQ(pages, 1);

  // What is looked at and does not match counts: pages may be empty and have a token.
  v1::ListDevicesRequest one;
  one.add_states(v1::DEVICE_STATE_ASSIGNED);
  pages = 0;
  EXPECT_EQ(all(one, {.scan_records = 2}, &pages, &empty),
            (std::vector<std::string>{DeviceOf(kGrace, 0), DeviceOf(kGrace, 1), DeviceOf(kGrace, 2)}));
  EXPECT_EQ(pages, 4);
  EXPECT_EQ(empty, 2);
}

TEST_F(ReadTest, PagesHoldAcrossChanges) {
  MakeFleet();
  v1::ListDevicesRequest request;
  request.set_page_size(3);
  std::vector<std::string> names;
  int pages = 0;
  do {
    const auto page = Do(request);
    for (const auto& device : page.devices()) names.push_back(device.name());
    request.set_page_token(page.next_page_token());
    if (++pages == 1) Do(UnsetVdevId("a", 1));  // changes, but takes no name away
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_THAT(names, SizeIs(8));
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 8U);

  // The last page of exactly the right size has no token.
  request.Clear();
  request.set_page_size(8);
  EXPECT_EQ(Do(request).next_page_token(), "");
  // A page larger than the limit is cut to it, and not refused.
  request.set_page_size(1'000'000);
  EXPECT_THAT(Do(request).devices(), SizeIs(8));
}

TEST_F(ReadTest, ForeignPageTokensAreRefused) {
  MakeFleet();
  v1::ListDevicesRequest request;
  request.set_page_size(3);
  const std::string token = Do(request).next_page_token();
  ASSERT_NE(token, "");
  request.set_page_token(token);
  request.set_page_size(2);
  EXPECT_THAT(Do(request).devices(), SizeIs(2)) << "another size is the same query";
  request.set_host(kGrace);
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID);
  request.clear_host();
  for (const std::string& bad : {token.substr(1), token + "A", std::string("!"), std::string(10'000, 'A')}) {
    request.set_page_token(bad);
    Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID);
  }
  v1::ListVdevicesRequest other;
  other.set_page_token(token);
  Refused(other, StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID);
}

TEST_F(ReadTest, BadFiltersAreRefused) {
  v1::ListVdevicesRequest request;
  request.set_page_size(-1);
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.Clear();
  request.set_host("grace");
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.Clear();
  request.add_states(v1::STATE_UNSPECIFIED);
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.Clear();
  for (int i = 0; i <= kMaxFilterValues; ++i) request.add_states(v1::STATE_READY);
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
  request.Clear();
  for (int i = 0; i <= kMaxLabels; ++i) (*request.mutable_labels())[std::to_string(i)] = "x";
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
}

TEST_F(ReadTest, StatusTellsAboutTheServer) {
  MakeFleet();
  const auto status = Do(v1::GetServerStatusRequest());
  EXPECT_EQ(status.cluster_id(), "test");
  EXPECT_EQ(status.epoch(), 1);
  EXPECT_TRUE(status.writable());
  EXPECT_EQ(status.connected_hosts(), 2);
  EXPECT_EQ(status.resources().at("vdevices"), 3);
  EXPECT_EQ(status.revision(), core_->revision());
  EXPECT_NE(status.version(), "");
}

TEST_F(ReadTest, GetsAndFiltersHwQueues) {
  Do(CreateStage2("s", kGrace));
  Do(CreateViommu("q", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  Do(CreateViommu("other", SmmuOf(kGrace, 0), "s"));
  Do(CreateHwQueue("q", 0));
  Do(CreateHwQueue("q", 1));
  v1::GetHwQueueRequest get;
  get.set_name("viommus/q/hwQueues/1");
  EXPECT_EQ(Do(get).hw_queue().index(), 1U);
  v1::ListHwQueuesRequest list;
  EXPECT_THAT(Do(list).hw_queues(), SizeIs(2));
  list.set_viommu("viommus/q");
  list.set_vm("vm");
  list.add_states(v1::STATE_PENDING);
  EXPECT_THAT(Do(list).hw_queues(), SizeIs(2));
  list.set_viommu("viommus/other");
  EXPECT_THAT(Do(list).hw_queues(), IsEmpty());
  list.set_viommu("viommus/-");
  list.set_host(kSmall);
  EXPECT_THAT(Do(list).hw_queues(), IsEmpty());
}

TEST_F(ReadTest, InvalidateGoesToTheHostOfItsTarget) {
  MakeFleet();
  v1::InvalidateRequest request;
  request.set_target("viommus/a");
  request.add_commands()->mutable_tlbi_nh_all();
  request.add_commands()->set_raw(std::string(16, '\0'));
  v1::InvalidationResult result;
  result.set_handled(1);
  result.mutable_stop()->set_reason("OPCODE_FORBIDDEN");
  sessions_.answer = result;
  const int64_t revision = core_->revision();
  const auto answer = Do(request);
  EXPECT_EQ(answer.result().handled(), 1U);
  EXPECT_EQ(answer.result().stop().reason(), "OPCODE_FORBIDDEN");
  EXPECT_EQ(answer.revision(), revision);
  EXPECT_EQ(core_->revision(), revision) << "not recorded";
  ASSERT_TRUE(sessions_.last.has_value());
  EXPECT_EQ(sessions_.last->host, kGrace);
  EXPECT_EQ(sessions_.last->target_uid, Recorded<v1::Viommu>("viommus/a")->uid());
  EXPECT_THAT(sessions_.last->commands, SizeIs(2));

  sessions_.answer =
      Error(StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED).Message("gone").RetryAfter(kReconnectDelay);
  Refused(request, StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED);
}

TEST_F(ReadTest, TooManyInvalidationsAtOnceAreRefused) {
  MakeFleet();
  v1::InvalidateRequest request;
  request.set_target("viommus/a");
  request.add_commands()->mutable_tlbi_nh_all();
  sessions_.Hold();
  std::vector<std::thread> callers;
  for (size_t i = 0; i < kMaxTestInvalidations; ++i) callers.emplace_back([&] { Do(request); });
  while (sessions_.held() < kMaxTestInvalidations) std::this_thread::yield();
  Refused(request, StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED);
  sessions_.Release();
  for (std::thread& caller : callers) caller.join();
  Do(request);
}

TEST_F(ReadTest, InvalidateIsJudgedBeforeItIsSent) {
  MakeFleet();
  Do(CreateNested("a", "n"));
  v1::InvalidateRequest request;
  request.set_target("viommus/a");
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);  // no commands
  request.add_commands();
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);  // an empty one
  request.mutable_commands(0)->set_raw("short");
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.mutable_commands(0)->mutable_tlbi_nh_all();
  request.set_target(kGrace);
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.set_target("viommus/no");
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  request.set_target("viommus/a/nestedDomains/no");
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND);
  request.set_target("viommus/a/nestedDomains/n");
  Refused(request, StatusCode::kFailedPrecondition, v1::ERROR_REASON_TARGET_NOT_SUPPORTED);
  request.set_target("viommus/a");
  for (int i = 0; i < kMaxInvalidateCommands; ++i) request.add_commands()->mutable_tlbi_nh_all();
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_FALSE(sessions_.last.has_value());

  // A host that takes nested domains gets them.
  auto hello = GraceHello();
  hello.mutable_host()->set_invalidate_by_nested_domain(true);
  ASSERT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) {
                return JudgeHello(hello, context, draft);
              }).ok());
  request.set_target("viommus/a/nestedDomains/n");
  request.mutable_commands()->DeleteSubrange(1, kMaxInvalidateCommands);
  Do(request);
  EXPECT_EQ(sessions_.last->target_uid, Recorded<v1::NestedDomain>("viommus/a/nestedDomains/n")->uid());
  Answer(*Recorded<v1::Viommu>("viommus/a"), v1::OUTCOME_APPLIED);
  Do(DeleteViommu("a", true));
  request.set_target("viommus/a");
  Refused(request, StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
}

}  // namespace
}  // namespace viommu::server
