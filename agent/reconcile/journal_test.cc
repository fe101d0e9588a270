#include "agent/reconcile/journal.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <iterator>
#include <string>

#include "agent/reconcile/testing.h"
#include "common/crc32c.h"

namespace viommu::agent {
namespace {

std::string NewDirectory() {
  std::string path = testing::TempDir() + "/journal-XXXXXX";
  return ::mkdtemp(path.data());
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void WriteAll(const std::string& path, std::string_view content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(content.data(), static_cast<long>(content.size()));
}

journal::Record Intent(const v1::Resource& item) {
  journal::Record record;
  *record.mutable_intent()->add_items() = item;
  return record;
}

// The real files, with a disk of bounded size and a sync that can fail.
class FaultyFileSystem : public FileSystem {
 public:
  int64_t room_bytes = 1 << 30;
  int syncs_until_failure = -1;  // -1: never
  int syncs = 0;
  bool fail_directory_sync = false;

  absl::Status MakeDirectory(const std::string& path) override { return real_.MakeDirectory(path); }
  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override { return real_.Lock(path); }
  absl::StatusOr<std::string> Read(const std::string& path) override { return real_.Read(path); }
  absl::StatusOr<std::unique_ptr<AppendFile>> OpenForAppend(const std::string& path, uint64_t size) override {
    auto file = real_.OpenForAppend(path, size);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*this, *std::move(file));
  }
  absl::Status Rename(const std::string& from, const std::string& to) override { return real_.Rename(from, to); }
  absl::Status SyncDirectory(const std::string& path) override {
    if (fail_directory_sync) return absl::UnavailableError("injected");
    return real_.SyncDirectory(path);
  }

 private:
  class File : public AppendFile {
   public:
    File(FaultyFileSystem& fs, std::unique_ptr<AppendFile> real) : fs_(fs), real_(std::move(real)) {}
    absl::Status Append(std::string_view data) override {
      const auto n = std::min<int64_t>(fs_.room_bytes, static_cast<int64_t>(data.size()));
      fs_.room_bytes -= n;
      const absl::Status status = real_->Append(data.substr(0, static_cast<size_t>(n)));
      if (n < static_cast<int64_t>(data.size())) return absl::UnavailableError("no space left on device");
      return status;
    }
    absl::Status Sync() override {
      ++fs_.syncs;
      if (fs_.syncs_until_failure == 0) return absl::UnavailableError("injected");
      if (fs_.syncs_until_failure > 0) --fs_.syncs_until_failure;
      return real_->Sync();
    }

   private:
    FaultyFileSystem& fs_;
    std::unique_ptr<AppendFile> real_;
  };

  FileSystem& real_ = PosixFileSystem();
};

std::unique_ptr<Journal> MustOpen(const std::string& directory, Journal::Options options = {},
                                  FileSystem& fs = PosixFileSystem()) {
  auto journal = Journal::Open(fs, directory, std::move(options));
  EXPECT_TRUE(journal.ok()) << journal.status();
  return *std::move(journal);
}

TEST(JournalTest, RemembersAcrossOpens) {
  const std::string directory = NewDirectory();
  {
    auto journal = MustOpen(directory);
    ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kYes).ok());
    ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 6)), Journal::Sync::kNo).ok());
  }
  auto journal = MustOpen(directory);
  ASSERT_NE(journal->state().Find("u"), nullptr);
  EXPECT_EQ(journal->state().Find("u")->generation(), 6);
  EXPECT_EQ(journal->truncated_bytes(), 0u);
}

TEST(JournalTest, SyncsOnlyWhenAsked) {
  FaultyFileSystem fs;
  int timed = 0;
  Journal::Options options;
  options.on_sync = [&timed](std::chrono::nanoseconds) { ++timed; };
  auto journal = MustOpen(NewDirectory(), options, fs);
  const int before = fs.syncs;
  ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kNo).ok());
  EXPECT_EQ(fs.syncs, before);
  ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 6)), Journal::Sync::kYes).ok());
  EXPECT_EQ(fs.syncs, before + 1);
  EXPECT_EQ(timed, fs.syncs);
}

TEST(JournalTest, ASecondAgentIsRefused) {
  const std::string directory = NewDirectory();
  auto first = MustOpen(directory);
  const auto second = Journal::Open(PosixFileSystem(), directory, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(second.status().message().find(directory), std::string::npos);
  EXPECT_NE(second.status().message().find("--state-dir"), std::string::npos);
  first.reset();
  EXPECT_TRUE(Journal::Open(PosixFileSystem(), directory, {}).ok());
}

TEST(JournalTest, ATornTailIsCutAtEveryByte) {
  const std::string directory = NewDirectory();
  uint64_t whole = 0;
  {
    auto journal = MustOpen(directory);
    ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kYes).ok());
    whole = journal->size_bytes();
    ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 6)), Journal::Sync::kYes).ok());
  }
  const std::string content = ReadAll(directory + "/journal");
  ASSERT_GT(content.size(), whole);
  for (size_t size = whole; size < content.size(); ++size) {
    SCOPED_TRACE(size);
    WriteAll(directory + "/journal", content.substr(0, size));
    {
      auto journal = MustOpen(directory);
      EXPECT_EQ(journal->state().Find("u")->generation(), 5);
      EXPECT_EQ(journal->truncated_bytes(), size - whole);
      ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 7)), Journal::Sync::kYes).ok());
    }
    EXPECT_EQ(MustOpen(directory)->state().Find("u")->generation(), 7) << "what follows the cut is whole again";
  }
  // A tail of the right length whose bytes never reached the disk.
  std::string zeroed = content;
  std::fill(zeroed.begin() + static_cast<long>(whole), zeroed.end(), '\0');
  WriteAll(directory + "/journal", zeroed);
  EXPECT_EQ(MustOpen(directory)->state().Find("u")->generation(), 5);
}

TEST(JournalTest, DamageBeforeTheTailIsRefusedWithItsPlace) {
  const std::string directory = NewDirectory();
  uint64_t begin = 0;
  uint64_t end = 0;
  {
    auto journal = MustOpen(directory);
    begin = journal->size_bytes();
    ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kYes).ok());
    end = journal->size_bytes();
    ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 6)), Journal::Sync::kYes).ok());
  }
  const std::string content = ReadAll(directory + "/journal");
  for (size_t at = begin; at < end; ++at) {
    SCOPED_TRACE(at);
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    WriteAll(directory + "/journal", damaged);
    const auto journal = Journal::Open(PosixFileSystem(), directory, {});
    ASSERT_FALSE(journal.ok());
    EXPECT_EQ(journal.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(journal.status().message().find(fmt::format("{}/journal is damaged at offset {}", directory, begin)),
              std::string::npos)
        << journal.status();
    EXPECT_EQ(ReadAll(directory + "/journal"), damaged) << "nothing is repaired silently";
  }
  // A record that is missing whole.
  WriteAll(directory + "/journal", content.substr(0, begin) + content.substr(end));
  EXPECT_EQ(Journal::Open(PosixFileSystem(), directory, {}).status().code(), absl::StatusCode::kDataLoss);
  for (size_t at = 0; at < 16; ++at) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x01);
    WriteAll(directory + "/journal", damaged);
    EXPECT_EQ(Journal::Open(PosixFileSystem(), directory, {}).status().code(), absl::StatusCode::kDataLoss) << at;
  }
}

TEST(JournalTest, ANewerFormatIsRefused) {
  const std::string directory = NewDirectory();
  MustOpen(directory).reset();
  std::string content = ReadAll(directory + "/journal");
  content[8] = 2;
  const uint32_t crc = Crc32c(content.substr(0, 12));
  for (int i = 0; i < 4; ++i) content[12 + static_cast<size_t>(i)] = static_cast<char>((crc >> (8 * i)) & 0xff);
  WriteAll(directory + "/journal", content);
  const auto status = Journal::Open(PosixFileSystem(), directory, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(status.message().find("format version 2"), std::string::npos);
}

TEST(JournalTest, CompactsAndKeepsEverything) {
  const std::string directory = NewDirectory();
  Journal::Options options;
  options.compact_above_bytes = 20000;
  {
    auto journal = MustOpen(directory, options);
    ASSERT_TRUE(journal->Append(Intent(Viommu("kept", "kept", 1)), Journal::Sync::kYes).ok());
    for (int64_t i = 2; i < 2000; ++i) {
      ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", i)), Journal::Sync::kNo).ok());
      ASSERT_LE(journal->size_bytes(), 20500u);
    }
    EXPECT_GT(journal->compactions(), 5u);
  }
  auto journal = MustOpen(directory, options);
  EXPECT_EQ(journal->state().items().size(), 2u);
  EXPECT_EQ(journal->state().Find("u")->generation(), 1999);
}

TEST(JournalTest, AFullDiskChangesNothingAndIsSurvived) {
  // Full at every byte of a record.
  for (int64_t room = 0; room < 120; ++room) {
    SCOPED_TRACE(room);
    const std::string directory = NewDirectory();
    FaultyFileSystem fs;
    {
      auto journal = MustOpen(directory, {}, fs);
      ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kYes).ok());
      fs.room_bytes = room;
      const auto full = journal->Append(Intent(Viommu("u", "v", 6)), Journal::Sync::kYes);
      if (full.ok()) break;
      EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
      EXPECT_EQ(journal->state().Find("u")->generation(), 5);
      EXPECT_FALSE(journal->Append(Intent(Viommu("u", "v", 7)), Journal::Sync::kYes).ok()) << "still full";
      EXPECT_EQ(journal->state().Find("u")->generation(), 5);
      if (room % 2 == 0) {
        fs.room_bytes = 1 << 30;
        ASSERT_TRUE(journal->Append(Intent(Viommu("w", "w", 8)), Journal::Sync::kYes).ok());
      }
    }
    auto journal = MustOpen(directory);
    EXPECT_EQ(journal->state().Find("u")->generation(), 5);
    EXPECT_EQ(journal->state().Find("w") != nullptr, room % 2 == 0);
  }
}

TEST(JournalTest, AFailedSyncIsNotBuiltUpon) {
  const std::string directory = NewDirectory();
  FaultyFileSystem fs;
  auto journal = MustOpen(directory, {}, fs);
  fs.syncs_until_failure = 0;
  EXPECT_FALSE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kYes).ok());
  EXPECT_EQ(journal->state().Find("u"), nullptr);
  fs.syncs_until_failure = -1;
  const uint64_t compactions = journal->compactions();
  ASSERT_TRUE(journal->Append(Intent(Viommu("w", "w", 6)), Journal::Sync::kYes).ok());
  EXPECT_EQ(journal->compactions(), compactions + 1) << "the file was written anew";
  journal.reset();
  journal = MustOpen(directory);
  EXPECT_EQ(journal->state().Find("u"), nullptr);
  EXPECT_NE(journal->state().Find("w"), nullptr);
}

TEST(JournalTest, AnUnsyncedDirectoryIsNotBuiltUpon) {
  const std::string directory = NewDirectory();
  FaultyFileSystem fs;
  Journal::Options options;
  options.compact_above_bytes = 0;
  auto journal = MustOpen(directory, options, fs);
  ASSERT_TRUE(journal->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kYes).ok());
  fs.fail_directory_sync = true;
  EXPECT_FALSE(journal->Append(Intent(Viommu("u", "v", 6)), Journal::Sync::kYes).ok());
  EXPECT_FALSE(journal->Append(Intent(Viommu("u", "v", 7)), Journal::Sync::kYes).ok());
  fs.fail_directory_sync = false;
  EXPECT_TRUE(journal->Append(Intent(Viommu("u", "v", 8)), Journal::Sync::kYes).ok());
  EXPECT_EQ(journal->state().Find("u")->generation(), 8);
}

// The process ends between the write and its sync, and the next one acts on what it reads: then it has to be durable.
TEST(JournalTest, WhatAnotherProcessWroteIsDurableBeforeAnythingIsBuiltOnIt) {
  const std::string directory = NewDirectory();
  ASSERT_TRUE(MustOpen(directory)->Append(Intent(Viommu("u", "v", 5)), Journal::Sync::kNo).ok());
  FaultyFileSystem fs;
  {
    const auto journal = MustOpen(directory, {}, fs);
    EXPECT_NE(journal->state().Find("u"), nullptr);
    EXPECT_EQ(fs.syncs, 1);
    EXPECT_EQ(journal->compactions(), 1u)
        << "a file whose sync has failed before would not become durable by another one";
  }
  fs.fail_directory_sync = true;
  const auto journal = MustOpen(directory, {}, fs);
  EXPECT_NE(journal->state().Find("u"), nullptr) << "what runs goes on running";
  EXPECT_FALSE(journal->Append(Intent(Viommu("w", "w", 6)), Journal::Sync::kNo).ok());
  fs.fail_directory_sync = false;
  EXPECT_TRUE(journal->Append(Intent(Viommu("w", "w", 6)), Journal::Sync::kNo).ok());
}

TEST(JournalTest, RefusesARecordThatCannotFollow) {
  const std::string directory = NewDirectory();
  auto journal = MustOpen(directory);
  const uint64_t size = journal->size_bytes();
  journal::Record record;
  record.mutable_act()->set_uid("nobody");
  EXPECT_EQ(journal->Append(record, Journal::Sync::kYes).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(journal->size_bytes(), size);
}

}  // namespace
}  // namespace viommu::agent
