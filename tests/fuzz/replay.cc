// Runs a fuzz target's entry point without a fuzzer: over its corpus, over mutations of it, and over made-up inputs.
// The same inputs every time.
//
//   NAME_fuzz_test --corpus=FOLDER --random-inputs=N --max-len=BYTES

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace viommu::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;

struct Options {
  std::string corpus;
  uint32_t random_inputs = 1000;
  uint32_t max_len = 4096;
};
Options options;

// From a buffer of exactly its size: a sanitizer sees a byte too many.
void RunInput(const Bytes& input) {
  const Bytes copy(input.begin(), input.end());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

// In the order of their names.
std::vector<Bytes> Corpus() {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(options.corpus, error)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return corpus;
}

// Changes, inserts or removes a few bytes.
void Mutate(Bytes& input, std::mt19937_64& random) {
  static constexpr uint8_t kInteresting[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
  for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
    const size_t at = input.empty() ? 0 : random() % input.size();
    switch (random() % 4) {
      case 0:
        if (!input.empty()) input[at] ^= static_cast<uint8_t>(1u << (random() % 8));
        break;
      case 1:
        if (!input.empty()) input[at] = kInteresting[random() % std::size(kInteresting)];
        break;
      case 2:
        if (input.size() < options.max_len) {
          input.insert(input.begin() + static_cast<ptrdiff_t>(at), static_cast<uint8_t>(random()));
        }
        break;
      default:
        if (!input.empty()) input.erase(input.begin() + static_cast<ptrdiff_t>(at));
        break;
    }
  }
}

TEST(Replay, Corpus) {
  const std::vector<Bytes> corpus = Corpus();
  ASSERT_FALSE(corpus.empty()) << options.corpus << " has no inputs";
  for (const Bytes& input : corpus) RunInput(input);
}

TEST(Replay, MutatedCorpus) {
  const std::vector<Bytes> corpus = Corpus();
  ASSERT_FALSE(corpus.empty()) << options.corpus << " has no inputs";
  std::mt19937_64 random(1);
  for (uint32_t i = 0; i < options.random_inputs; ++i) {
    Bytes input = corpus[random() % corpus.size()];
    Mutate(input, random);
    RunInput(input);
  }
}

TEST(Replay, RandomInputs) {
  RunInput({});
  std::mt19937_64 random(2);
  for (uint32_t i = 0; i < options.random_inputs; ++i) {
    // Short ones more often than long ones.
    Bytes input(random() % (1 + random() % options.max_len));
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    RunInput(input);
  }
}

bool TakeOption(std::string_view arg, std::string_view name, std::string& value) {
  if (!arg.starts_with(name)) return false;
  value = arg.substr(name.size());
  return true;
}

}  // namespace
}  // namespace viommu::fuzz

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    std::string value;
    if (viommu::fuzz::TakeOption(argv[i], "--corpus=", value)) {
      viommu::fuzz::options.corpus = value;
    } else if (viommu::fuzz::TakeOption(argv[i], "--random-inputs=", value)) {
      viommu::fuzz::options.random_inputs = static_cast<uint32_t>(std::stoul(value));
    } else if (viommu::fuzz::TakeOption(argv[i], "--max-len=", value)) {
      viommu::fuzz::options.max_len = static_cast<uint32_t>(std::stoul(value));
    } else {
      std::fprintf(stderr, "what is %s?\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
