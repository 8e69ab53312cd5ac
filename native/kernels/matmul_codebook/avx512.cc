// Codes become entries by look-ups in registers: one shuffle of bytes for up to 16 entries, two permutations of two
// registers each for 256. From there on all is as with dense codes of 8 bits.
#include <immintrin.h>

#include "matmul_codebook.h"

namespace pl {
namespace {

template <int BITS, int D>
struct Table {
  static constexpr int kParts = BITS == 8 ? 4 : 1;
  __m512i part[D][kParts];

  explicit Table(const TileView& w) {
    for (int j = 0; j < D; ++j) {
      const uint8_t* at = w.book + j * w.entries();
      if constexpr (BITS == 8)
        for (int p = 0; p < kParts; ++p) part[j][p] = _mm512_loadu_si512(at + p * 64);
      else
        part[j][0] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
    }
  }

  __m512i entry(int j, __m512i code) const {
    if constexpr (BITS == 8) {
      const __m512i low = _mm512_permutex2var_epi8(part[j][0], code, part[j][1]);
      const __m512i high = _mm512_permutex2var_epi8(part[j][2], code, part[j][3]);
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), low, high);
    } else {
      return _mm512_shuffle_epi8(part[j][0], code);
    }
  }
};

// Codes of quad `i` of a group as bytes. coded: codes of a row in the group.
template <int BITS>
inline __m512i quad(const uint8_t* codes, int64_t i, int64_t coded) {
  if constexpr (BITS == 8) {
    return _mm512_loadu_si512(codes + i * 64);
  } else if constexpr (BITS == 4) {
    const __m512i v = _mm512_loadu_si512(codes + i / 2 * 64);
    return _mm512_and_si512(i % 2 ? _mm512_srli_epi16(v, 4) : v, _mm512_set1_epi8(15));
  } else {
    const __m512i v = _mm512_srl_epi16(_mm512_loadu_si512(codes + i / 4 * 64), _mm_cvtsi32_si128(int(i % 4 * 2)));
    const __m512i low = _mm512_and_si512(v, _mm512_set1_epi8(3));
    if constexpr (BITS == 2) return low;
    uint64_t third;
    __builtin_memcpy(&third, codes + coded / 16 * 64 + i * 8, 8);
    return _mm512_mask_add_epi8(low, third, low, _mm512_set1_epi8(4));
  }
}

inline __m512i dot(__m512i sum, __m512i entries, const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm512_dpbusd_epi32(sum, entries, _mm512_set1_epi32(word));
}

inline __m512 halves(const uint16_t* h) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h))); }

inline void store(const TileView& w, int64_t block, float* y, __m512 sums) {
  const int64_t left = w.rows - block * 16;
  const __mmask16 mask = left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
  if (w.bias) sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, w.bias + block * 16));
  _mm512_mask_storeu_ps(y + block * 16, mask, sums);
}

template <int BITS, int D, int T>
void several(const TileView& w, const Int8View& x, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t groups = w.groups(), bytes = w.group_bytes(), group = w.group, coded = w.coded();
  const Table<BITS, D> table(w);
  constexpr int kSums = T <= 2 ? 4 : 1;  // apart from each other, so that one need not wait for the last
  const uint8_t* codes = w.codes + first * groups * bytes;
  for (int64_t block = first; block < last; ++block) {
    __m512 sums[T];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g, codes += bytes) {
      _mm_prefetch(reinterpret_cast<const char*>(codes + 4096), _MM_HINT_T0);
      const int8_t* q = x.q + g * group;
      __m512i whole[T][kSums];
      for (int t = 0; t < T; ++t) {
        whole[t][0] = _mm512_set1_epi32(-128 * x.sums[t * groups + g]);
        for (int s = 1; s < kSums; ++s) whole[t][s] = _mm512_setzero_si512();
      }
      for (int64_t i = 0; i < coded / 4; i += 4) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) {
          const __m512i code = quad<BITS>(codes, i + u, coded);
#pragma GCC unroll 4
          for (int j = 0; j < D; ++j) {
            const __m512i entries = table.entry(j, code);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) {
              __m512i& sum = whole[t][(u * D + j) % kSums];
              sum = dot(sum, entries, q + t * x.padded + ((i + u) * D + j) * 4);
            }
          }
        }
      }
      const __m512 sw = halves(w.scales + (block * groups + g) * 16);
      for (int t = 0; t < T; ++t) {
        for (int s = 1; s < kSums; ++s) whole[t][0] = _mm512_add_epi32(whole[t][0], whole[t][s]);
        const __m512 sx = _mm512_set1_ps(x.scales[t * groups + g]);
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[t][0]), _mm512_mul_ps(sw, sx), sums[t]);
      }
    }
    if (x.planes == 1)
      for (int t = 0; t < T; ++t) store(w, block, y + t * ldy, sums[t]);
    else
      for (int t = 0; t + 1 < T; t += 2) store(w, block, y + t / 2 * ldy, _mm512_add_ps(sums[t], sums[t + 1]));
  }
}

// A few blocks at a time for all tokens: they stay in the second-level cache, and are read from memory once.
template <int BITS, int D>
void all(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t step = tokens > 8 ? 8 : last - first;
  for (int64_t from = first; from < last; from += step) {
    const int64_t to = from + step < last ? from + step : last;
    for (int t = 0; t < tokens * x.planes;) {
      const int left = tokens * x.planes - t, take = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const Int8View part{x.q + t * x.padded, x.scales + t * x.groups, x.sums + t * x.groups, x.padded, x.groups, x.planes};
      float* out = y + t / x.planes * ldy;
      switch (take) {
        case 8: several<BITS, D, 8>(w, part, from, to, out, ldy); break;
        case 4: several<BITS, D, 4>(w, part, from, to, out, ldy); break;
        case 2: several<BITS, D, 2>(w, part, from, to, out, ldy); break;
        default: several<BITS, D, 1>(w, part, from, to, out, ldy);
      }
      t += take;
    }
  }
}

template <int BITS, int D>
void spread(const TileView& w, int64_t block, uint8_t* out) {
  const Table<BITS, D> table(w);
  const uint8_t* codes = w.codes + block * w.groups() * w.group_bytes();
  for (int64_t g = 0; g < w.groups(); ++g, codes += w.group_bytes())
    for (int64_t i = 0; i < w.coded() / 4; ++i) {
      const __m512i code = quad<BITS>(codes, i, w.coded());
      for (int j = 0; j < D; ++j, out += 64) _mm512_storeu_si512(out, table.entry(j, code));
    }
}

// f<BITS, D>() by what the matrix says
template <class F>
void chosen(const TileView& w, F f) {
  const auto by_dim = [&]<int BITS>() {
    w.dim == 4 ? f.template operator()<BITS, 4>() : w.dim == 2 ? f.template operator()<BITS, 2>() : f.template operator()<BITS, 1>();
  };
  switch (w.bits) {
    case 8: return by_dim.template operator()<8>();
    case 4: return by_dim.template operator()<4>();
    case 3: return by_dim.template operator()<3>();
    default: return by_dim.template operator()<2>();
  }
}

}  // namespace

void matmul_codebook_avx512(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  chosen(w, [&]<int BITS, int D>() { all<BITS, D>(w, x, tokens, first, last, y, ldy); });
}

void spread_codebook_avx512(const TileView& w, int64_t block, uint8_t* out) {
  chosen(w, [&]<int BITS, int D>() { spread<BITS, D>(w, block, out); });
}

}  // namespace pl
