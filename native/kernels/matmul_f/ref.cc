#include "../../src/common.h"
#include "matmul_f.h"

namespace pl {

void matmul_f_ref(const FloatView& w, const float* x, int64_t ldx, int tokens, int64_t first, int64_t last, float* y,
                  int64_t ldy) {
  const auto at = [&](int64_t i) -> double {
    if (w.type == Type::F32) return static_cast<const float*>(w.data)[i];
    const uint16_t bits = static_cast<const uint16_t*>(w.data)[i];
    return w.type == Type::F16 ? half_to_float(bits) : bf16_to_float(bits);
  };
  for (int64_t row = first; row < last; ++row)
    for (int t = 0; t < tokens; ++t) {
      double sum = 0;
      for (int64_t c = 0; c < w.columns; ++c) sum += at(row * w.columns + c) * x[t * ldx + c];
      y[t * ldy + row] = float(sum + (w.bias ? w.bias[row] : 0));
    }
}

}  // namespace pl
