#include "matmul_codebook.h"

#include <vector>

#include "../../src/common.h"
#include "../matmul_q/matmul_q.h"

namespace pl {

void interleave(int8_t* q, int64_t columns, int dim) {
  int8_t held[16];
  for (int64_t c = 0; dim > 1 && c < columns; c += 4 * dim) {
    for (int i = 0; i < 4 * dim; ++i) held[i % dim * 4 + i / dim] = q[c + i];
    for (int i = 0; i < 4 * dim; ++i) q[c + i] = held[i];
  }
}

void matmul_codebook_ref(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  std::vector<double> sums(static_cast<size_t>(tokens));
  for (int64_t row = first * 16; row < last * 16 && row < w.rows; ++row) {
    for (double& sum : sums) sum = w.bias ? w.bias[row] : 0;
    for (int64_t g = 0; g < w.groups(); ++g) {
      const double scale = half_to_float(w.scales[(row / 16 * w.groups() + g) * 16 + row % 16]);
      for (int t = 0; t < tokens * x.planes; ++t) {
        const int8_t* q = x.q + t * x.padded + g * w.group;
        int64_t sum = 0;
        for (int64_t i = 0; i < w.coded(); ++i) {
          const int code = tile_code(w, row / 16, g, i / 4, int(row % 16 * 4 + i % 4));
          for (int j = 0; j < w.dim; ++j) sum += (w.book[j * w.entries() + code] - 128) * q[(i / 4 * w.dim + j) * 4 + i % 4];
        }
        sums[size_t(t / x.planes)] += scale * double(sum) * x.scales[t * x.groups + g];
      }
    }
    for (int t = 0; t < tokens; ++t) y[t * ldy + row] = float(sums[size_t(t)]);
  }
}

}  // namespace pl
