#include "beside.h"

#include "../../src/common.h"

namespace pl {

void add_beside_ref(const BesideView& w, const float* z, const float* x, int64_t ldx, int tokens, int64_t first,
                    int64_t last, float* y, int64_t ldy) {
  for (int t = 0; t < tokens; ++t)
    for (int64_t row = first * 16; row < last * 16 && row < w.rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < w.rank; ++k)
        sum += double(half_to_float(w.b[(row / 16 * w.rank + k) * 16 + row % 16])) * z[t * w.rank + k];
      for (uint32_t i = w.starts ? w.starts[row] : 0; w.starts && i < w.starts[row + 1]; ++i)
        sum += double(w.differences[i]) * x[t * ldx + w.columns[i]];
      y[t * ldy + row] += float(sum);
    }
}

}  // namespace pl
