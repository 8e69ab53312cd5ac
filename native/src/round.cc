// Nearest codes. For each group a few scales are tried side by side, one to a lane of the vector registers: every sum is
// taken in the order of the columns, so that the choice is the same on every machine.
#include <algorithm>
#include <cmath>

#include "matrix.h"
#include "share.h"

namespace pl {
namespace {

constexpr int kLanes = 32;

struct Trials {
  alignas(64) float scale[kLanes], offset[kLanes], inverse[kLanes], loss[kLanes];
  uint16_t stored[kLanes], minimum[kLanes];
  int count = 0;
  // The scale is rounded to float16 before the codes are chosen, so that they fit what is stored.
  void add(float wanted, float low) {
    const int i = count++;
    stored[i] = float_to_half(wanted), minimum[i] = float_to_half(low);
    scale[i] = half_to_float(stored[i]), offset[i] = half_to_float(minimum[i]);
    inverse[i] = scale[i] != 0 ? 1 / scale[i] : 0;
  }
};

// To the nearest whole number, ties to even: what is added makes room for none of the digits after the point.
inline __attribute__((always_inline)) float whole(float v, float most) {
  v = v < 0.0f ? 0.0f : v;
  v = most < v ? most : v;
  return (v + 12582912.0f) - 12582912.0f;
}

// The squares of what each trial loses; symmetric: codes are counted from `zero`.
inline __attribute__((always_inline)) void lose(Trials& trials, const float* w, int64_t n, bool symmetric, float zero, float top) {
  for (int from = 0; from < trials.count; from += 16) {
    alignas(64) float loss[16] = {};
    const float *scale = trials.scale + from, *offset = trials.offset + from, *inverse = trials.inverse + from;
    for (int64_t c = 0; c < n; ++c) {
      const float v = w[c];
      if (symmetric)
        for (int i = 0; i < 16; ++i) {
          const float error = v - (whole(v * inverse[i] + zero, top) - zero) * scale[i];
          loss[i] += error * error;
        }
      else
        for (int i = 0; i < 16; ++i) {
          const float error = v - (whole((v - offset[i]) * inverse[i], top) * scale[i] + offset[i]);
          loss[i] += error * error;
        }
    }
    std::copy(loss, loss + 16, trials.loss + from);
  }
}

inline __attribute__((always_inline)) void code(const float* w, int64_t n, bool symmetric, float zero, float top, float offset, float inverse, uint8_t* out) {
  if (symmetric)
    for (int64_t c = 0; c < n; ++c) out[c] = uint8_t(int(whole(w[c] * inverse + zero, top)));
  else
    for (int64_t c = 0; c < n; ++c) out[c] = uint8_t(int(whole((w[c] - offset) * inverse, top)));
}

// The lowest and highest weight, 0 among them; whether all are finite.
inline __attribute__((always_inline)) bool range(const float* w, int64_t n, float& low, float& high) {
  alignas(64) float least[16] = {}, most[16] = {}, odd[16] = {};
  int64_t c = 0;
  for (; c + 16 <= n; c += 16)
    for (int i = 0; i < 16; ++i) {
      const float v = w[c + i];
      least[i] = v < least[i] ? v : least[i];
      most[i] = most[i] < v ? v : most[i];
      odd[i] += v - v;  // NaN of what is infinite or NaN
    }
  for (; c < n; ++c) {
    least[0] = std::min(least[0], w[c]), most[0] = std::max(most[0], w[c]);
    odd[0] += w[c] - w[c];
  }
  low = *std::min_element(least, least + 16), high = *std::max_element(most, most + 16);
  return std::all_of(odd, odd + 16, [](float v) { return v == 0; });
}

struct Steps {
  void (*lose)(Trials&, const float*, int64_t, bool, float, float);
  void (*code)(const float*, int64_t, bool, float, float, float, float, uint8_t*);
  bool (*range)(const float*, int64_t, float&, float&);
};

#define PL_STEPS(name, target)                                                                                            \
  target void lose_##name(Trials& t, const float* w, int64_t n, bool s, float zero, float top) {                          \
    if (s) lose(t, w, n, true, zero, top);                                                                                \
    else lose(t, w, n, false, zero, top);                                                                                 \
  }                                                                                                                       \
  target void code_##name(const float* w, int64_t n, bool s, float zero, float top, float o, float i, uint8_t* out) {     \
    if (s) code(w, n, true, zero, top, o, i, out);                                                                        \
    else code(w, n, false, zero, top, o, i, out);                                                                         \
  }                                                                                                                       \
  target bool range_##name(const float* w, int64_t n, float& low, float& high) { return range(w, n, low, high); }         \
  constexpr Steps name{lose_##name, code_##name, range_##name};

PL_STEPS(plain, )
#if defined(__x86_64__)
PL_STEPS(avx2, __attribute__((target("avx2"))))
PL_STEPS(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))))
#endif

const Steps& steps() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) return avx512;
  if (__builtin_cpu_supports("avx2")) return avx2;
#endif
  return plain;
}

}  // namespace

void round_rows(const float* weight, int64_t rows, int64_t columns, const Packing& packing, uint8_t* codes,
                uint16_t* scales, uint16_t* mins, const uint8_t* keep, int64_t above) {
  const int64_t padded = padded_columns(columns, packing.group), group = packing.group ? packing.group : padded;
  const int64_t groups = padded / group;
  const float top = float((1 << packing.bits) - 1), zero = float(1 << (packing.bits - 1));
  const bool symmetric = packing.symmetric;
  const Steps& use = steps();
  std::vector<float> some(keep ? size_t(std::min(group, columns)) : 0);  // what is kept of a group
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group, all = std::min(first + group, columns) - first;
      const float *here = weight + row * columns + first, *w = here;
      int64_t n = all;
      float low, high;
      if (!use.range(here, all, low, high)) {
        int64_t c = 0;
        while (std::isfinite(here[c])) ++c;
        fail("a weight is NaN or infinite (row %lld, column %lld)", (long long)(above + row), (long long)(first + c));
      }
      if (keep) {
        n = 0;
        for (int64_t c = 0; c < all; ++c)
          if (keep[row * columns + first + c]) some[size_t(n++)] = here[c];
        w = some.data();
        use.range(w, n, low, high);
      }
      if (std::max(-low, high) > 65504.0f * (zero - 1)) fail("weights up to %g are too large for float16 scales", double(std::max(-low, high)));
      Trials trials{};
      if (symmetric) {
        // The larger side goes to the code that the other side lacks (-zero), or the range is even; at few bits a
        // little clipping pays.
        const float even = std::max(-low, high) / (zero - 1), extreme = -(-low > high ? low : high) / zero;
        trials.add(even, 0);
        for (int step = 0; packing.bits < 8 && step <= 12; ++step) {
          trials.add(extreme * (1.06f - 0.03f * float(step)), 0);
          if (step) trials.add(even * (1.0f - 0.03f * float(step)), 0);
        }
      } else {
        if (-low > 65504.0f) fail("weights down to %g are too far below 0 for float16 minima", double(low));
        for (int step = 0; step <= (packing.bits < 8 ? 10 : 0); ++step) {
          const float shrink = 1.0f - 0.03f * float(step);
          trials.add((high - low) * shrink / top, low * shrink);
        }
      }
      int best = 0;
      if (trials.count > 1) {
        use.lose(trials, w, n, symmetric, zero, top);
        for (int i = 1; i < trials.count; ++i)
          if (trials.loss[i] < trials.loss[best]) best = i;
      }
      scales[row * groups + g] = trials.stored[best];
      if (mins) mins[row * groups + g] = trials.minimum[best];
      use.code(here, all, symmetric, zero, top, trials.offset[best], trials.inverse[best], codes + row * columns + first);
    }
}

void round_to_nearest(const float* weight, int64_t rows, int64_t columns, const Packing& packing, uint8_t* codes,
                      uint16_t* scales, uint16_t* mins, const uint8_t* keep) {
  const int64_t groups = packing.group ? padded_columns(columns, packing.group) / packing.group : 1;
  share_rows(rows, rows_of_a_piece(columns), [&](int64_t first, int64_t last) {
    round_rows(weight + first * columns, last - first, columns, packing, codes + first * columns, scales + first * groups,
               mins ? mins + first * groups : nullptr, keep ? keep + first * columns : nullptr, first);
  });
}

}  // namespace pl
