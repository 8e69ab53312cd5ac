// Every kernel of every instruction set that runs here, against the plain one, on random shapes, through the C
// interface. For machines and emulators without Python; tests/native says more where there is one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "paperlab.h"

namespace {

std::mt19937 source(7);
int failures = 0, checks = 0;

int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(source); }

std::vector<float> normal(size_t n) {
  std::vector<float> out(n);
  std::normal_distribution<float> draw;
  for (float& v : out) v = draw(source);
  return out;
}

void need(int64_t result) {
  if (result >= 0) return;
  std::printf("%s\n", pl_error());
  std::exit(1);
}

void same(const std::string& what, const std::vector<float>& mine, const std::vector<float>& truth, double most) {
  double difference = 0, size = 1e-30;
  for (size_t i = 0; i < truth.size(); ++i) {
    difference = std::max(difference, double(std::fabs(mine[i] - truth[i])));
    size = std::max(size, double(std::fabs(truth[i])));
  }
  ++checks;
  if (difference / size <= most) return;
  ++failures;
  std::printf("%s: differs by %.2g of the largest, %.2g is allowed\n", what.c_str(), difference / size, most);
}

void products(const char* isa) {
  const int layouts[][3] = {{8, 1, 0}, {8, 0, 0}, {4, 1, 0}, {4, 0, 0}, {3, 1, 0}, {3, 0, 0}, {2, 1, 0}, {2, 0, 0}, {8, 1, 1}, {4, 1, 1}};
  for (const auto& [bits, symmetric, sparse] : layouts)
    for (int round = 0; round < 6; ++round) {
      const int rows = whole(1, 70), columns = whole(1, 200), tokens = whole(1, 9), planes = whole(1, 2);
      const int64_t group = round % 3 == 0 ? 0 : round % 3 == 1 ? 16 : 64, step = group ? group : 64;
      const int64_t padded = (columns + step - 1) / step * step, groups = group ? padded / group : 1;
      const std::vector<float> weight = normal(size_t(rows * columns)), x = normal(size_t(tokens * columns));
      std::vector<uint8_t> codes(weight.size()), keep(weight.size());
      for (uint8_t& one : keep) one = uint8_t(whole(0, 1));
      std::vector<uint16_t> scales(size_t(rows * groups)), mins(scales.size());
      const uint8_t* kept = sparse ? keep.data() : nullptr;
      uint16_t* low = symmetric ? nullptr : mins.data();
      need(pl_round(weight.data(), rows, columns, bits, group, kept, codes.data(), scales.data(), low));
      pl_tiles* tiles = pl_lay(rows, columns, bits, group, codes.data(), scales.data(), low, kept);
      if (!tiles) need(-1);
      std::vector<float> y[2];
      for (int which = 0; which < 2; ++which) {
        const char* name = which ? isa : "ref";
        std::vector<int8_t> q(size_t(tokens * planes * padded));
        std::vector<float> steps(size_t(tokens * planes * groups));
        std::vector<int32_t> sums(steps.size());
        need(pl_kernel_quantize(name, x.data(), tokens, columns, group, planes, q.data(), steps.data(), sums.data()));
        y[which].resize(size_t(tokens * rows));
        need(pl_kernel_matmul_q(name, tiles, q.data(), steps.data(), sums.data(), tokens, planes, y[which].data()));
      }
      pl_tiles_free(tiles);
      same("matmul_q of " + std::to_string(bits) + " bits" + (sparse ? ", sparse" : symmetric ? "" : ", minima"), y[1], y[0], 2e-6);
    }
}

void floats(const char* isa) {
  for (int type = 0; type < 3; ++type)
    for (int round = 0; round < 8; ++round) {
      const int rows = whole(1, 40), columns = whole(1, 150), tokens = whole(1, 9);
      const std::vector<float> weight = normal(size_t(rows * columns)), x = normal(size_t(tokens * columns));
      std::vector<uint16_t> narrow(weight.size());
      for (size_t i = 0; i < weight.size(); ++i) {
        uint32_t word;
        std::memcpy(&word, &weight[i], 4);
        narrow[i] = type == 2 ? uint16_t(word >> 16) : uint16_t(whole(0, 1) << 15 | whole(0x2c00, 0x3fff));
      }
      const void* data = type ? static_cast<const void*>(narrow.data()) : weight.data();
      std::vector<float> y[2];
      for (int which = 0; which < 2; ++which) {
        y[which].resize(size_t(tokens * rows));
        need(pl_kernel_matmul_f(which ? isa : "ref", type, data, rows, columns, x.data(), tokens, y[which].data()));
      }
      same("matmul_f of type " + std::to_string(type), y[1], y[0], 1e-5);
    }
}

void attention(const char* isa) {
  for (const int bits : {32, 16, 8, 4})
    for (int round = 0; round < 6; ++round) {
      const int head = 16 * whole(1, 6), queries = whole(1, 17), positions = queries + whole(0, 60);
      const std::vector<float> q = normal(size_t(queries * head)), keys = normal(size_t(positions * head)), values = normal(keys.size());
      std::vector<float> out[2], kept_keys(keys.size()), kept_values(keys.size());
      for (int which = 0; which < 2; ++which) {
        out[which].resize(q.size());
        need(pl_kernel_attend(which ? isa : "ref", q.data(), queries, head, float(1 / std::sqrt(head)), bits, keys.data(), values.data(),
                              positions, round % 2, kept_keys.data(), kept_values.data(), out[which].data()));
      }
      same("attend with a cache of " + std::to_string(bits) + " bits", out[1], out[0], 1e-5);
    }
}

void rows(const char* isa) {
  for (const char* name : {"rms_norm", "layer_norm", "silu_mul", "gelu", "gelu_tanh", "softmax"})
    for (int round = 0; round < 8; ++round) {
      const int n = whole(1, 90);
      const std::vector<float> x = normal(size_t(n)), a = normal(size_t(n)), b = normal(size_t(n));
      std::vector<float> y[2];
      for (int which = 0; which < 2; ++which) {
        y[which].resize(size_t(n));
        need(pl_kernel_row(which ? isa : "ref", name, x.data(), a.data(), b.data(), 1e-5f, n, y[which].data()));
      }
      same(name, y[1], y[0], 2e-6);
    }
}

void beside(const char* isa) {
  for (int round = 0; round < 12; ++round) {
    const int count = whole(1, 50), width = whole(8, 90), tokens = whole(1, 9), rank = round % 3 ? whole(1, 9) : 0;
    const std::vector<float> x = normal(size_t(tokens * width)), z = normal(size_t(tokens * std::max(rank, 1)));
    std::vector<uint16_t> b(size_t((count + 15) / 16 * 16 * std::max(rank, 1))), columns;
    for (uint16_t& one : b) one = uint16_t(whole(0, 1) << 15 | whole(0x2c00, 0x3fff));
    std::vector<uint32_t> starts{0};
    for (int row = 0; row < count; ++row) {
      for (int c = whole(0, 9); c < width; c += whole(3, 30)) columns.push_back(uint16_t(c));
      starts.push_back(uint32_t(columns.size()));
    }
    const std::vector<float> differences = normal(columns.size() + 1), before = normal(size_t(tokens * count));
    std::vector<float> y[2] = {before, before};
    for (int which = 0; which < 2; ++which)
      need(pl_kernel_beside(which ? isa : "ref", count, rank, rank ? b.data() : nullptr, starts.data(), columns.data(), differences.data(),
                            z.data(), x.data(), width, tokens, y[which].data()));
    same("beside", y[1], y[0], 1e-5);
  }
}

}  // namespace

int main() {
  std::istringstream names(pl_isas());
  for (std::string isa; names >> isa;) {
    if (isa == "ref") continue;
    checks = 0;
    products(isa.c_str()), floats(isa.c_str()), attention(isa.c_str()), rows(isa.c_str()), beside(isa.c_str());
    std::printf("%s: %d checks, %d failures so far\n", isa.c_str(), checks, failures);
  }
  return failures != 0;
}
