#include <algorithm>
#include <cmath>

#include "matrix.h"

namespace pl {

void round_to_nearest(const float* weight, int64_t rows, int64_t columns, const Packing& packing, uint8_t* codes,
                      uint16_t* scales, uint16_t* mins, const uint8_t* keep) {
  const int64_t padded = padded_columns(columns, packing.group), group = packing.group ? packing.group : padded;
  const int64_t groups = padded / group;
  const int top = (1 << packing.bits) - 1, zero = 1 << (packing.bits - 1);
  const auto round = [](float v, int most) { return int(std::nearbyint(std::min(std::max(v, 0.0f), float(most)))); };
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group, last = std::min(first + group, columns);
      const float* w = weight + row * columns;
      const auto kept = [&](int64_t c) { return !keep || keep[row * columns + c]; };
      float low = 0, high = 0;
      for (int64_t c = first; c < last; ++c) {
        if (!std::isfinite(w[c])) fail("a weight is NaN or infinite (row %lld, column %lld)", (long long)row, (long long)c);
        if (!kept(c)) continue;
        low = std::min(low, w[c]);
        high = std::max(high, w[c]);
      }
      if (std::max(-low, high) > 65504.0f * float(zero - 1)) fail("weights up to %g are too large for float16 scales", double(std::max(-low, high)));
      // The scale is rounded to float16 before the codes are chosen, so that they fit what is stored.
      uint16_t best_scale = 0, best_min = 0;
      float least = INFINITY;
      const auto attempt = [&](float scale, float minimum) {
        const uint16_t s = float_to_half(scale), m = float_to_half(minimum);
        const float stored = half_to_float(s), offset = half_to_float(m), inverse = stored != 0 ? 1 / stored : 0;
        float loss = 0;
        for (int64_t c = first; c < last; ++c) {
          if (!kept(c)) continue;
          const int code = packing.symmetric ? round(w[c] * inverse + float(zero), top) - zero : round((w[c] - offset) * inverse, top);
          const float error = w[c] - (float(code) * stored + offset);
          loss += error * error;
        }
        if (loss < least) least = loss, best_scale = s, best_min = m;
      };
      if (packing.symmetric) {
        // The larger side goes to the code that the other side lacks (-zero), or the range is even; at few bits a
        // little clipping pays.
        const float even = std::max(-low, high) / float(zero - 1), extreme = -(-low > high ? low : high) / float(zero);
        attempt(even, 0);
        if (packing.bits < 8)
          for (int step = 0; step <= 12; ++step) {
            attempt(extreme * (1.06f - 0.03f * float(step)), 0);
            attempt(even * (1.0f - 0.03f * float(step)), 0);
          }
      } else {
        for (int step = 0; step <= (packing.bits < 8 ? 10 : 0); ++step) {
          const float shrink = 1.0f - 0.03f * float(step);
          attempt((high - low) * shrink / float(top), low * shrink);
        }
      }
      scales[row * groups + g] = best_scale;
      if (mins) mins[row * groups + g] = best_min;
      const float stored = half_to_float(best_scale), offset = half_to_float(best_min), inverse = stored != 0 ? 1 / stored : 0;
      for (int64_t c = first; c < last; ++c)
        codes[row * columns + c] = uint8_t(packing.symmetric ? round(w[c] * inverse + float(zero), top) : round((w[c] - offset) * inverse, top));
    }
}

}  // namespace pl
