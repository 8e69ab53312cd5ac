// Each file as it is, then ROUNDS copies of it that are cut and damaged, the same ones every time: what the fuzzers' readers
// make of them, for compilers without libFuzzer.
//     replay_KIND ROUNDS FILE...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

Bytes damaged(Bytes data, std::mt19937& source) {
  const auto below = [&](size_t n) { return size_t(source() % std::max<size_t>(n, 1)); };
  const uint8_t loud[] = {0, 1, 0x7f, 0x80, 0xff, '"', '9', '-', '{', '['};
  const size_t head = std::min<size_t>(data.size(), 1500);  // most of what is read and believed lies in front
  for (size_t left = 1 + below(4); left-- && !data.empty();) {
    const size_t at = below(below(3) ? head : data.size()) % data.size();
    switch (below(6)) {
      case 0: data[at] ^= uint8_t(1 << below(8)); break;
      case 1: data[at] = loud[below(sizeof loud)]; break;
      case 2: data.resize(at); break;
      case 3: data.erase(data.begin() + int64_t(at), data.begin() + int64_t(std::min(at + 1 + below(9), data.size()))); break;
      case 4: data.insert(data.begin() + int64_t(at), 1 + below(9), loud[below(sizeof loud)]); break;
      default: data[at] = data[below(data.size())];
    }
  }
  return data;
}

void read(const Bytes& data) {
  uint8_t* own = new uint8_t[data.size()];  // of exactly this size: a byte past the end is another's
  std::copy(data.begin(), data.end(), own);
  LLVMFuzzerTestOneInput(own, data.size());
  delete[] own;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return std::puts("replay_KIND ROUNDS FILE..."), 2;
  const int rounds = std::atoi(words[1]);
  for (int i = 2; i < count; ++i) {
    FILE* file = std::fopen(words[i], "rb");
    if (!file) return std::perror(words[i]), 1;
    Bytes data;
    for (int c; (c = std::fgetc(file)) != EOF;) data.push_back(uint8_t(c));
    std::fclose(file);
    read(data);
    std::mt19937 source(1);
    for (int round = 0; round < rounds; ++round) read(damaged(data, source));
  }
  std::printf("%s: %d files, each as it is and damaged %d times\n", words[0], count - 2, rounds);
}
