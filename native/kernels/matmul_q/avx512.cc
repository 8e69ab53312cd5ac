// AVX-512 with VNNI and VBMI2. One register holds a quad's 16 x 4 codes; vpdpbusd multiplies them with four
// activations that are broadcast, and adds to one sum per row.
#include <immintrin.h>

#include <cmath>

#include "../matmul_codebook/matmul_codebook.h"
#include "matmul_q.h"

namespace pl {
namespace {

inline __m512i four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm512_set1_epi32(word);
}

inline __m512i load(const uint8_t* codes) { return _mm512_loadu_si512(codes); }
inline __m512i dot(__m512i sum, __m512i codes, const int8_t* x) { return _mm512_dpbusd_epi32(sum, codes, four(x)); }

// Bytes before their use that weights are asked for. The hardware's own prefetcher stops at every page of 4 KiB and
// has too few lines under way: without this a core reads a third to a half of what memory gives.
constexpr int64_t kAhead = 4096;

inline void ahead(const void* at, int64_t bytes) {
  const char* from = static_cast<const char*>(at) + kAhead;
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(from + i, _MM_HINT_T0);
}

// Whole sums over one group for one or two rows of activations: with so few every shift counts, so codes stay where
// they are in their bytes and the sums are shifted back at the end (exact: every product is a multiple). Four sums are
// kept apart per row, which hides the latency of a single chain. whole: where the sums start, and where they end.
template <int BITS, int T>
inline void few_sums(const uint8_t* codes, const int8_t* x, int64_t stride, int64_t group, __m512i (&whole)[T]) {
  __m512i sums[T][4];
  for (int t = 0; t < T; ++t) {
    sums[t][0] = whole[t];
    sums[t][1] = sums[t][2] = sums[t][3] = _mm512_setzero_si512();
  }
  const auto take = [&](int k, __m512i v, int64_t column) {
    for (int t = 0; t < T; ++t) sums[t][k] = dot(sums[t][k], v, x + t * stride + column);
  };
  if constexpr (BITS == 8) {
    for (int64_t i = 0; i < group; i += 16, codes += 256) {
      take(0, load(codes), i);
      take(1, load(codes + 64), i + 4);
      take(2, load(codes + 128), i + 8);
      take(3, load(codes + 192), i + 12);
    }
    for (int t = 0; t < T; ++t)
      whole[t] = _mm512_add_epi32(_mm512_add_epi32(sums[t][0], sums[t][1]), _mm512_add_epi32(sums[t][2], sums[t][3]));
  } else if constexpr (BITS == 4) {
    const __m512i low = _mm512_set1_epi8(0x0f), high = _mm512_set1_epi8(char(0xf0));
    for (int64_t i = 0; i < group; i += 16, codes += 128) {
      const __m512i v = load(codes), w = load(codes + 64);
      take(0, _mm512_and_si512(v, low), i);
      take(1, _mm512_and_si512(v, high), i + 4);
      take(2, _mm512_and_si512(w, low), i + 8);
      take(3, _mm512_and_si512(w, high), i + 12);
    }
    for (int t = 0; t < T; ++t)
      whole[t] = _mm512_add_epi32(_mm512_add_epi32(sums[t][0], sums[t][2]),
                                  _mm512_srai_epi32(_mm512_add_epi32(sums[t][1], sums[t][3]), 4));
  } else {
    const __m512i m0 = _mm512_set1_epi8(3), m1 = _mm512_set1_epi8(12), m2 = _mm512_set1_epi8(48);
    const __m512i m3 = _mm512_set1_epi8(char(192));
    const uint8_t* thirds = codes + group / 16 * 64;
    for (int64_t i = 0; i < group; i += 16, codes += 64) {
      const __m512i v = load(codes);
      __m512i p = _mm512_and_si512(v, m0), q = _mm512_and_si512(v, m1), r = _mm512_and_si512(v, m2);
      __m512i s = _mm512_and_si512(v, m3);
      if constexpr (BITS == 3) {
        // The third bit is worth 4; in its quad's place in the byte that is 4, 16, 64 and, for the last quad, more
        // than a byte holds: that one is moved down first.
        uint64_t bit[4];
        __builtin_memcpy(bit, thirds, 32);
        thirds += 32;
        s = _mm512_and_si512(_mm512_srli_epi16(v, 6), m0);
        p = _mm512_mask_add_epi8(p, bit[0], p, _mm512_set1_epi8(4));
        q = _mm512_mask_add_epi8(q, bit[1], q, _mm512_set1_epi8(16));
        r = _mm512_mask_add_epi8(r, bit[2], r, _mm512_set1_epi8(64));
        s = _mm512_mask_add_epi8(s, bit[3], s, _mm512_set1_epi8(4));
      }
      take(0, p, i);
      take(1, q, i + 4);
      take(2, r, i + 8);
      take(3, s, i + 12);
    }
    for (int t = 0; t < T; ++t) {
      const __m512i middle = _mm512_add_epi32(_mm512_srai_epi32(sums[t][1], 2), _mm512_srai_epi32(sums[t][2], 4));
      const __m512i last = BITS == 2 ? _mm512_srai_epi32(sums[t][3], 6) : sums[t][3];
      whole[t] = _mm512_add_epi32(_mm512_add_epi32(sums[t][0], middle), last);
    }
  }
}

// Codes of quad `i` (counted in the group) as bytes.
template <int BITS>
inline __m512i quad(const uint8_t* codes, int64_t i, int64_t group) {
  if constexpr (BITS == 8) {
    return load(codes + i * 64);
  } else if constexpr (BITS == 4) {
    const __m512i v = load(codes + i / 2 * 64);
    return _mm512_and_si512(i % 2 ? _mm512_srli_epi16(v, 4) : v, _mm512_set1_epi8(15));
  } else {
    const __m512i v = _mm512_srl_epi16(load(codes + i / 4 * 64), _mm_cvtsi32_si128(int(i % 4 * 2)));
    const __m512i low = _mm512_and_si512(v, _mm512_set1_epi8(3));
    if constexpr (BITS == 2) return low;
    uint64_t bit;
    __builtin_memcpy(&bit, codes + group / 16 * 64 + i * 8, 8);
    return _mm512_mask_add_epi8(low, bit, low, _mm512_set1_epi8(4));
  }
}

inline __m512 halves(const uint16_t* h) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)));
}

// The sums of one row block, with its biases; y: the token's row of results.
inline void store(const TileView& w, int64_t block, float* y, __m512 sums) {
  const int64_t left = w.rows - block * 16;
  const __mmask16 mask = left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
  if (w.bias) sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, w.bias + block * 16));
  _mm512_mask_storeu_ps(y + block * 16, mask, sums);
}

// The sums of T rows of activations, two of them to a token where it has two planes.
template <int T>
inline void finish(const TileView& w, const Int8View& x, int64_t block, float* y, int64_t ldy, const __m512 (&sums)[T]) {
  if (x.planes == 1)
    for (int t = 0; t < T; ++t) store(w, block, y + t * ldy, sums[t]);
  else
    for (int t = 0; t + 1 < T; t += 2) store(w, block, y + t / 2 * ldy, _mm512_add_ps(sums[t], sums[t + 1]));
}

// One or two rows of activations and B blocks at once, a group of each in turn: memory beyond the caches gives a fifth
// more to two streams than to one.
template <int BITS, bool MINS, int T, int B>
inline void few(const TileView& w, const Int8View& x, int64_t block, float* y, int64_t ldy) {
  const int64_t groups = w.groups(), bytes = w.group_bytes(), group = w.group;
  const int zero = MINS ? 0 : w.zero();
  __m512 sums[B][T];
  for (auto& of : sums)
    for (__m512& sum : of) sum = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const int64_t at = (block + b) * groups + g;
      const uint8_t* codes = w.codes + at * bytes;
      ahead(codes, bytes);
      if (g % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(w.scales + at * 16) + kAhead / 8, _MM_HINT_T0);
      __m512i whole[T];
      for (int t = 0; t < T; ++t) whole[t] = _mm512_set1_epi32(-zero * x.sums[t * groups + g]);
      few_sums<BITS>(codes, x.q + g * group, x.padded, group, whole);
      const __m512 sw = halves(w.scales + at * 16);
      __m512 m;
      if constexpr (MINS) m = halves(w.mins + at * 16);
      for (int t = 0; t < T; ++t) {
        const __m512 sx = _mm512_set1_ps(x.scales[t * groups + g]);
        sums[b][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[t]), _mm512_mul_ps(sw, sx), sums[b][t]);
        if constexpr (MINS)
          sums[b][t] = _mm512_fmadd_ps(m, _mm512_mul_ps(_mm512_set1_ps(float(x.sums[t * groups + g])), sx), sums[b][t]);
      }
    }
  }
  for (int b = 0; b < B; ++b) finish<T>(w, x, block + b, y, ldy, sums[b]);
}

template <int BITS, bool MINS, int T>
void several(const TileView& w, const Int8View& x, int64_t first, int64_t last, float* y, int64_t ldy) {
  if constexpr (T <= 2) {
    constexpr int64_t kLong = 8192;  // bytes of a block, below which what is asked for ahead lies in the next one
    if (w.groups() * w.group_bytes() >= kLong)
      for (; first + 2 <= last; first += 2) few<BITS, MINS, T, 2>(w, x, first, y, ldy);
    for (; first < last; ++first) few<BITS, MINS, T, 1>(w, x, first, y, ldy);
    return;
  }
  const int64_t groups = w.groups(), bytes = w.group_bytes(), group = w.group;
  const int zero = MINS ? 0 : w.zero();
  for (int64_t block = first; block < last; ++block) {
    const uint8_t* codes = w.codes + block * groups * bytes;
    const uint16_t* scales = w.scales + block * groups * 16;
    const uint16_t* mins = MINS ? w.mins + block * groups * 16 : nullptr;
    __m512 sums[T];
    for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g, codes += bytes) {
      __m512i whole[T];
      for (int t = 0; t < T; ++t) whole[t] = _mm512_set1_epi32(-zero * x.sums[t * groups + g]);
      const int8_t* q = x.q + g * group;
      ahead(codes, bytes);
      if (g % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(scales + g * 16 + kAhead / 16), _MM_HINT_T0);
      constexpr int kUnroll = BITS == 8 ? 2 : 4;
      for (int64_t i = 0; i < group / 4; i += kUnroll) {
#pragma GCC unroll 4
        for (int u = 0; u < kUnroll; ++u) {
          const __m512i v = quad<BITS>(codes, i + u, group);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) whole[t] = dot(whole[t], v, q + t * x.padded + (i + u) * 4);
        }
      }
      const __m512 sw = halves(scales + g * 16);
      __m512 m;
      if constexpr (MINS) m = halves(mins + g * 16);
      for (int t = 0; t < T; ++t) {
        const __m512 sx = _mm512_set1_ps(x.scales[t * groups + g]);
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[t]), _mm512_mul_ps(sw, sx), sums[t]);
        if constexpr (MINS)
          sums[t] = _mm512_fmadd_ps(m, _mm512_mul_ps(_mm512_set1_ps(float(x.sums[t * groups + g])), sx), sums[t]);
      }
    }
    finish<T>(w, x, block, y, ldy, sums);
  }
}

// A sparse quad as bytes, absent ones as the code of 0: its weights go to their places, and the bit that makes two's
// complement a code is turned. HALF: the half of the bytes where four bits lie; codes of the high half stay there.
template <int BITS, int HALF>
inline __m512i placed(uint64_t mask, __m512i held) {
  const __m512i v = _mm512_maskz_expand_epi8(mask, held);
  if constexpr (BITS == 8) return _mm512_xor_si512(v, _mm512_set1_epi8(char(128)));
  constexpr int kAndXor = 0x6a;  // (v & taken) ^ sign
  return _mm512_ternarylogic_epi64(v, _mm512_set1_epi8(char(HALF ? 0xf0 : 15)), _mm512_set1_epi8(char(HALF ? 128 : 8)), kAndXor);
}

// Sparse: from its spreading on, all is as in a dense quad. Reads up to 64 bytes past a quad's codes: the format pads
// the end. With one or two rows of activations codes of the high half are summed where they are, and the sums moved
// at the end.
template <int BITS, int T>
void sparse(const TileView& w, const Int8View& x, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t groups = w.groups(), group = w.group, quads = w.padded / 4;
  constexpr bool kStay = BITS == 4 && T <= 2;
  constexpr int kChains = T == 1 ? 4 : T == 2 ? 2 : 1;  // sums kept apart, which hides the latency of a single one
  for (int64_t block = first; block < last; ++block) {
    const uint8_t* codes = w.codes + w.starts[block];
    const uint64_t* masks = w.masks + block * quads;
    const uint16_t* scales = w.scales + block * groups * 16;
    __m512 sums[T];
    for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* q = x.q + g * group;
      __m512i whole[T][kChains];
      for (int t = 0; t < T; ++t) {
        whole[t][0] = _mm512_set1_epi32(-w.zero() * x.sums[t * groups + g]);
        for (int k = 1; k < kChains; ++k) whole[t][k] = _mm512_setzero_si512();
      }
      _mm_prefetch(reinterpret_cast<const char*>(masks) + kAhead, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(masks) + kAhead + 64, _MM_HINT_T0);
      const auto take = [&](int k, __m512i v, int64_t column) {
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) whole[t][k] = dot(whole[t][k], v, q + t * x.padded + column);
      };
      for (int64_t i = 0; i < group; i += 16, masks += 4) {
        _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
        if constexpr (BITS == 8) {
          _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead + 64, _MM_HINT_T0);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) {
            take(j % kChains, placed<8, 0>(masks[j], load(codes)), i + j * 4);
            codes += __builtin_popcountll(masks[j]);
          }
        } else {
#pragma GCC unroll 2
          for (int j = 0; j < 4; j += 2) {
            const uint64_t m0 = masks[j], m1 = masks[j + 1];
            const int64_t n0 = __builtin_popcountll(m0), n1 = __builtin_popcountll(m1);
            const __m512i both = load(codes);
            codes += n0 > n1 ? n0 : n1;
            const __m512i high = placed<4, 1>(m1, both);
            take(j % kChains, placed<4, 0>(m0, both), i + j * 4);
            take((j + 1) % kChains, kStay ? high : _mm512_srli_epi16(high, 4), i + j * 4 + 4);
          }
        }
      }
      const __m512 sw = halves(scales + g * 16);
      for (int t = 0; t < T; ++t) {
        __m512i sum = whole[t][0];
        if constexpr (kStay) {
          __m512i high = whole[t][1];
          if constexpr (kChains == 4) sum = _mm512_add_epi32(sum, whole[t][2]), high = _mm512_add_epi32(high, whole[t][3]);
          sum = _mm512_add_epi32(sum, _mm512_srai_epi32(high, 4));
        } else {
          for (int k = 1; k < kChains; ++k) sum = _mm512_add_epi32(sum, whole[t][k]);
        }
        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(sw, _mm512_set1_ps(x.scales[t * groups + g])), sums[t]);
      }
    }
    finish<T>(w, x, block, y, ldy, sums);
  }
}

// Up to eight rows of activations share what one reading of the weights costs. A few blocks at a time for all tokens:
// they stay in the second-level cache, and are read from memory once.
template <class Kernel>
void over_tokens(const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy, Kernel kernel) {
  const int64_t step = tokens * x.planes > 8 ? 8 : last - first;
  for (int64_t from = first; from < last; from += step) {
    const int64_t to = from + step < last ? from + step : last;
    for (int t = 0; t < tokens * x.planes;) {
      const int left = tokens * x.planes - t, take = left < 8 ? left : 8;
      const Int8View part{x.q + t * x.padded, x.scales + t * x.groups, x.sums + t * x.groups, x.padded, x.groups, x.planes};
      kernel(take, part, from, to, y + t / x.planes * ldy);
      t += take;
    }
  }
}

// kernel.template operator()<T>() for a T known only at run time, 1 to 8.
template <class Kernel>
void rows(int take, Kernel kernel) {
  switch (take) {
    case 8: return kernel.template operator()<8>();
    case 7: return kernel.template operator()<7>();
    case 6: return kernel.template operator()<6>();
    case 5: return kernel.template operator()<5>();
    case 4: return kernel.template operator()<4>();
    case 3: return kernel.template operator()<3>();
    case 2: return kernel.template operator()<2>();
    default: return kernel.template operator()<1>();
  }
}

template <int BITS, bool MINS>
void dense(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  over_tokens(x, tokens, first, last, y, ldy, [&](int take, const Int8View& part, int64_t from, int64_t to, float* out) {
    rows(take, [&]<int T>() { several<BITS, MINS, T>(w, part, from, to, out, ldy); });
  });
}

template <int BITS>
void masked(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  over_tokens(x, tokens, first, last, y, ldy, [&](int take, const Int8View& part, int64_t from, int64_t to, float* out) {
    rows(take, [&]<int T>() { sparse<BITS, T>(w, part, from, to, out, ldy); });
  });
}

}  // namespace

void matmul_q_avx512(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y,
                     int64_t ldy) {
  if (w.book) return matmul_codebook_avx512(w, x, tokens, first, last, y, ldy);
  const auto kernel = w.masks       ? (w.bits == 8 ? masked<8> : masked<4>)
                      : w.bits == 8 ? (w.mins ? dense<8, true> : dense<8, false>)
                      : w.bits == 4 ? (w.mins ? dense<4, true> : dense<4, false>)
                      : w.bits == 3 ? (w.mins ? dense<3, true> : dense<3, false>)
                                    : (w.mins ? dense<2, true> : dense<2, false>);
  kernel(w, x, tokens, first, last, y, ldy);
}

void quantize_avx512(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q,
                     float* scales, int32_t* sums) {
  const int64_t groups = padded / group;
  const __m512i absolute = _mm512_set1_epi32(0x7fffffff);
  for (int64_t begin = 0, g = 0; begin < padded; begin += group, ++g) {
    // As integers, magnitudes order like floats, with NaN above infinity above all: nothing hides.
    __m512i most = _mm512_setzero_si512();
    for (int64_t c = begin; c < begin + group; c += 16) {
      const int64_t left = columns - c;
      const __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : __mmask16((1u << left) - 1);
      most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(_mm512_maskz_loadu_ps(mask, x + c)), absolute));
    }
    const int32_t bits = _mm512_reduce_max_epi32(most);
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const bool finite = bits < 0x7f800000, empty = !finite || largest < 0x1p-100f;
    scales[g] = !finite ? NAN : empty ? 0.0f : largest / 127.0f;
    const __m512 inverse = _mm512_set1_ps(empty ? 0.0f : 127.0f / largest);
    __m512i sum = _mm512_setzero_si512(), rest_sum = _mm512_setzero_si512();
    for (int64_t c = begin; c < begin + group; c += 16) {
      const int64_t left = columns - c;
      const __mmask16 mask = empty || left <= 0 ? 0 : left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
      const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + c), inverse);
      const __m512i whole = _mm512_cvtps_epi32(v);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + c), _mm512_cvtepi32_epi8(whole));
      sum = _mm512_add_epi32(sum, whole);
      if (planes == 1) continue;
      const __m512 left_over = _mm512_sub_ps(v, _mm512_cvtepi32_ps(whole));
      const __m512i rest = _mm512_cvtps_epi32(_mm512_mul_ps(left_over, _mm512_set1_ps(254)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + padded + c), _mm512_cvtepi32_epi8(rest));
      rest_sum = _mm512_add_epi32(rest_sum, rest);
    }
    sums[g] = _mm512_reduce_add_epi32(sum);
    if (planes == 2) {
      scales[groups + g] = scales[g] / 254;
      sums[groups + g] = _mm512_reduce_add_epi32(rest_sum);
    }
  }
}

}  // namespace pl
