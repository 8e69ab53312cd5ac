// The plain reading of the formats, in double precision: what every other file here is tested against, and what runs
// where no other file fits.
#include <cmath>
#include <vector>

#include "../../src/common.h"
#include "../matmul_codebook/matmul_codebook.h"
#include "matmul_q.h"

namespace pl {

// The code at `lane` = row * 4 + column of a quad of a dense group.
int tile_code(const TileView& w, int64_t row_block, int64_t group, int64_t quad, int lane) {
  const uint8_t* codes = w.codes + (row_block * w.groups() + group) * w.group_bytes();
  switch (w.bits) {
    case 8: return codes[quad * 64 + lane];
    case 4: return codes[quad / 2 * 64 + lane] >> (quad % 2 * 4) & 15;
    default: {
      const int low = codes[quad / 4 * 64 + lane] >> (quad % 4 * 2) & 3;
      if (w.bits == 2) return low;
      const uint8_t third = codes[w.coded() / 16 * 64 + quad * 8 + lane / 8];
      return low | (third >> (lane % 8) & 1) << 2;
    }
  }
}

namespace {

// One group of 16 rows as whole numbers, zero taken off: out[row * group + column]; absent weights are 0. Returns how
// far into the sparse codes it read.
int64_t read_group(const TileView& w, int64_t block, int64_t group, int64_t at, int* out) {
  const int zero = w.mins ? 0 : w.zero();
  for (int64_t quad = 0; quad < w.group / 4; ++quad) {
    const int64_t index = block * w.padded / 4 + group * w.group / 4 + quad;
    const uint64_t mask = w.masks ? w.masks[index] : 0;
    int64_t held = 0;
    for (int lane = 0; lane < 64; ++lane) {
      int& to = out[lane / 4 * w.group + quad * 4 + lane % 4];
      if (!w.masks) {
        to = tile_code(w, block, group, quad, lane) - zero;
      } else if (mask >> lane & 1) {
        to = sparse_code(w, w.codes + at, quad, held++) - zero;
      } else {
        to = 0;
      }
    }
    if (w.masks) at += sparse_step(w.bits, w.masks, index);
  }
  return at;
}

}  // namespace

void matmul_q_ref(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y,
                  int64_t ldy) {
  if (w.book) return matmul_codebook_ref(w, x, tokens, first, last, y, ldy);
  std::vector<int> codes(16 * w.group);
  std::vector<double> sums(16 * tokens);
  for (int64_t block = first; block < last; ++block) {
    std::fill(sums.begin(), sums.end(), 0.0);
    int64_t at = w.starts ? int64_t(w.starts[block]) : 0;
    for (int64_t group = 0; group < w.groups(); ++group) {
      at = read_group(w, block, group, at, codes.data());
      for (int row = 0; row < 16; ++row) {
        const int64_t index = (block * w.groups() + group) * 16 + row;
        const double scale = half_to_float(w.scales[index]), minimum = w.mins ? half_to_float(w.mins[index]) : 0;
        for (int t = 0; t < tokens * x.planes; ++t) {
          const int8_t* q = x.q + t * x.padded + group * w.group;
          double sum = 0;
          for (int64_t c = 0; c < w.group; ++c)
            sum += (scale * codes[row * w.group + c] + minimum) * q[c];
          sums[t / x.planes * 16 + row] += sum * x.scales[t * x.groups + group];
        }
      }
    }
    for (int t = 0; t < tokens; ++t)
      for (int row = 0; row < 16 && block * 16 + row < w.rows; ++row)
        y[t * ldy + block * 16 + row] = float(sums[t * 16 + row] + (w.bias ? w.bias[block * 16 + row] : 0));
  }
}

void quantize_ref(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q, float* scales,
                  int32_t* sums) {
  const int64_t groups = padded / group;
  for (int64_t g = 0; g < groups; ++g) {
    float largest = 0;
    bool finite = true;
    for (int64_t c = g * group; c < (g + 1) * group && c < columns; ++c) {
      finite = finite && std::isfinite(x[c]);
      largest = std::fmax(largest, std::fabs(x[c]));
    }
    const bool empty = !finite || largest < 0x1p-100f;  // its reciprocal would overflow; 1e-30 is nothing
    const float inverse = empty ? 0.0f : 127.0f / largest;
    scales[g] = !finite ? NAN : empty ? 0.0f : largest / 127.0f;
    int32_t sum = 0, rest_sum = 0;
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      const float v = empty || c >= columns ? 0 : x[c] * inverse;
      q[c] = int8_t(std::nearbyint(v));
      sum += q[c];
      if (planes == 2) rest_sum += q[padded + c] = int8_t(std::nearbyint((v - float(q[c])) * 254));
    }
    sums[g] = sum;
    if (planes == 2) {
      scales[groups + g] = scales[g] / 254;
      sums[groups + g] = rest_sum;
    }
  }
}

}  // namespace pl
