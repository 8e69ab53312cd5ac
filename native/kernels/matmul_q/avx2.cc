// AVX2 with FMA and F16C. A quad is two registers of 8 rows; vpmaddubsw multiplies unsigned by signed bytes and adds
// pairs in 16 bits, so 8-bit codes are made signed first and their sign is moved to the activation (127 * 128 * 2 fits,
// 127 * 255 * 2 would not).
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "../matmul_codebook/matmul_codebook.h"
#include "matmul_q.h"

namespace pl {
namespace {

struct Quad {
  __m256i low, high;  // rows 0-7, rows 8-15; each 8 rows x 4 columns
};

inline __m256i load(const uint8_t* codes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)); }

// 32 bytes, 0xff where the bit is one
inline __m256i spread_bits(uint32_t bits) {
  const __m256i places = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i select = _mm256_set1_epi64x(int64_t(0x8040201008040201));
  const __m256i each = _mm256_shuffle_epi8(_mm256_set1_epi32(int(bits)), places);
  return _mm256_cmpeq_epi8(_mm256_and_si256(each, select), select);
}

template <int BITS>
inline __m256i half_quad(const uint8_t* codes, const uint8_t* thirds, int64_t i, int half) {
  if constexpr (BITS == 8) return load(codes + i * 64 + half * 32);
  constexpr int per = BITS == 4 ? 2 : 4;  // codes to a byte
  const __m256i v = load(codes + i / per * 64 + half * 32);
  const __m128i shift = _mm_cvtsi32_si128(int(i % per * (8 / per)));
  const __m256i low = _mm256_and_si256(_mm256_srl_epi16(v, shift), _mm256_set1_epi8(BITS == 4 ? 15 : 3));
  if constexpr (BITS != 3) return low;
  uint32_t bits;
  __builtin_memcpy(&bits, thirds + i * 8 + half * 4, 4);
  return _mm256_or_si256(low, _mm256_and_si256(spread_bits(bits), _mm256_set1_epi8(4)));
}

inline __m256i four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm256_set1_epi32(word);
}

// sum + code * q, where a code is unsigned below 16, or (BITS == 8) signed
template <int BITS>
inline __m256i dot(__m256i sum, __m256i codes, __m256i q) {
  const __m256i pairs = BITS == 8 ? _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(q, codes))
                                  : _mm256_maddubs_epi16(codes, q);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// The quads of one sparse group as dense bytes, absent ones as the code of 0. Returns where the next group begins.
const uint8_t* spread(const TileView& w, const uint8_t* codes, const uint64_t* masks, int64_t quads, uint8_t* out) {
  for (int64_t i = 0; i < quads; ++i, out += 64) {
    std::fill(out, out + 64, uint8_t(w.zero()));
    int held = 0;
    for (uint64_t mask = masks[i]; mask; mask &= mask - 1) out[__builtin_ctzll(mask)] = uint8_t(sparse_code(w, codes, i, held++));
    codes += sparse_step(w.bits, masks, i);
  }
  return codes;
}

// The sums of 8 rows, with their biases; y: the token's row of results.
inline void store(const TileView& w, int64_t row, float* y, __m256 sums) {
  const int64_t left = w.rows - row;
  if (left >= 8) {
    if (w.bias) sums = _mm256_add_ps(sums, _mm256_loadu_ps(w.bias + row));
    return _mm256_storeu_ps(y + row, sums);
  }
  alignas(32) float all[8];
  _mm256_store_ps(all, sums);
  for (int64_t i = 0; i < left; ++i) y[row + i] = all[i] + (w.bias ? w.bias[row + i] : 0);
}

inline __m256 halves(const uint16_t* h) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h))); }

constexpr int64_t kSpread = 128;  // quads of a sparse group that are laid out at a time

// BITS is how codes are read here: 8 also stands for sparse codes of either width once they are laid out as bytes.
template <int BITS, bool MINS, bool SPARSE, int T>
void blocks(const TileView& w, const Int8View& x, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t groups = w.groups(), group = w.group, quads = group / 4;
  // whole = sum of code * q as read, + offset * (sum of q); codes of 8 bits are read less 128
  const int offset = (MINS ? 0 : -w.zero()) + (BITS == 8 ? 128 : 0);
  alignas(32) uint8_t bytes[SPARSE ? kSpread * 64 : 1];
  for (int64_t block = first; block < last; ++block) {
    const uint8_t* codes = SPARSE ? w.codes + w.starts[block] : w.codes + block * groups * w.group_bytes();
    const uint64_t* masks = SPARSE ? w.masks + block * w.padded / 4 : nullptr;
    __m256 sums[T][2];
    for (int t = 0; t < T; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* q = x.q + g * group;
      __m256i whole[T][2];
      for (int t = 0; t < T; ++t) whole[t][0] = whole[t][1] = _mm256_set1_epi32(offset * x.sums[t * groups + g]);
      const auto take = [&](const uint8_t* from, const uint8_t* thirds, int64_t i, int64_t column) {
        for (int half = 0; half < 2; ++half) {
          __m256i v = half_quad<BITS>(from, thirds, i, half);
          if constexpr (BITS == 8) v = _mm256_xor_si256(v, _mm256_set1_epi8(char(128)));
          for (int t = 0; t < T; ++t) whole[t][half] = dot<BITS>(whole[t][half], v, four(q + t * x.padded + column));
        }
      };
      if constexpr (SPARSE) {
        for (int64_t done = 0; done < quads; done += kSpread) {
          const int64_t now = std::min(kSpread, quads - done);
          codes = spread(w, codes, masks, now, bytes);
          masks += now;
          for (int64_t i = 0; i < now; ++i) take(bytes, nullptr, i, (done + i) * 4);
        }
      } else {
        for (int64_t i = 0; i < quads; ++i) take(codes, codes + group / 16 * 64, i, i * 4);
        codes += w.group_bytes();
      }
      const int64_t at = (block * groups + g) * 16;
      for (int t = 0; t < T; ++t) {
        const __m256 sx = _mm256_set1_ps(x.scales[t * groups + g]);
        for (int half = 0; half < 2; ++half) {
          __m256& sum = sums[t][half];
          sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[t][half]), _mm256_mul_ps(halves(w.scales + at + half * 8), sx), sum);
          if constexpr (MINS)
            sum = _mm256_fmadd_ps(halves(w.mins + at + half * 8),
                                  _mm256_mul_ps(_mm256_set1_ps(float(x.sums[t * groups + g])), sx), sum);
        }
      }
    }
    for (int half = 0; half < 2; ++half) {
      const int64_t row = block * 16 + half * 8;
      if (x.planes == 1)
        for (int t = 0; t < T; ++t) store(w, row, y + t * ldy, sums[t][half]);
      else
        for (int t = 0; t + 1 < T; t += 2)
          store(w, row, y + t / 2 * ldy, _mm256_add_ps(sums[t][half], sums[t + 1][half]));
    }
  }
}

template <int BITS, bool MINS, bool SPARSE>
void all(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t step = tokens > 4 ? 8 : last - first;
  for (int64_t from = first; from < last; from += step) {
    const int64_t to = std::min(from + step, last);
    for (int t = 0; t < tokens * x.planes;) {
      const Int8View part{x.q + t * x.padded, x.scales + t * x.groups, x.sums + t * x.groups, x.padded, x.groups, x.planes};
      float* out = y + t / x.planes * ldy;
      const int left = tokens * x.planes - t, take = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (take == 4) blocks<BITS, MINS, SPARSE, 4>(w, part, from, to, out, ldy);
      else if (take == 2) blocks<BITS, MINS, SPARSE, 2>(w, part, from, to, out, ldy);
      else blocks<BITS, MINS, SPARSE, 1>(w, part, from, to, out, ldy);
      t += take;
    }
  }
}

}  // namespace

void matmul_q_avx2(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y,
                   int64_t ldy) {
  if (w.book) return matmul_codebook_avx2(w, x, tokens, first, last, y, ldy);
  const auto kernel = w.masks       ? all<8, false, true>
                      : w.bits == 8 ? (w.mins ? all<8, true, false> : all<8, false, false>)
                      : w.bits == 4 ? (w.mins ? all<4, true, false> : all<4, false, false>)
                      : w.bits == 3 ? (w.mins ? all<3, true, false> : all<3, false, false>)
                                    : (w.mins ? all<2, true, false> : all<2, false, false>);
  kernel(w, x, tokens, first, last, y, ldy);
}

void quantize_avx2(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q, float* scales,
                   int32_t* sums) {
  const int64_t groups = padded / group;
  const __m256i absolute = _mm256_set1_epi32(0x7fffffff), lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const auto floats = [&](int64_t c) {
    const int64_t left = columns - c;
    if (left >= 8) return _mm256_loadu_ps(x + c);
    if (left <= 0) return _mm256_setzero_ps();
    return _mm256_maskload_ps(x + c, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(left)), lanes));
  };
  alignas(32) int32_t each[8];
  const auto bytes = [](__m256i whole, int8_t* to) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
  };
  const auto total = [&](__m256i v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), v);
    int32_t all = 0;
    for (int32_t one : each) all += one;
    return all;
  };
  for (int64_t begin = 0, g = 0; begin < padded; begin += group, ++g) {
    // As integers, magnitudes order like floats, with NaN above infinity above all: nothing hides.
    __m256i most = _mm256_setzero_si256();
    for (int64_t c = begin; c < begin + group; c += 8)
      most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(floats(c)), absolute));
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), most);
    const int32_t bits = *std::max_element(each, each + 8);
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const bool finite = bits < 0x7f800000, empty = !finite || largest < 0x1p-100f;
    scales[g] = !finite ? NAN : empty ? 0.0f : largest / 127.0f;
    const __m256 inverse = _mm256_set1_ps(empty ? 0.0f : 127.0f / largest);
    __m256i sum = _mm256_setzero_si256(), rest_sum = _mm256_setzero_si256();
    for (int64_t c = begin; c < begin + group; c += 8) {
      const __m256 v = empty ? _mm256_setzero_ps() : _mm256_mul_ps(floats(c), inverse);
      const __m256i whole = _mm256_cvtps_epi32(v);
      bytes(whole, q + c);
      sum = _mm256_add_epi32(sum, whole);
      if (planes == 1) continue;
      const __m256 left_over = _mm256_sub_ps(v, _mm256_cvtepi32_ps(whole));
      const __m256i rest = _mm256_cvtps_epi32(_mm256_mul_ps(left_over, _mm256_set1_ps(254)));
      bytes(rest, q + padded + c);
      rest_sum = _mm256_add_epi32(rest_sum, rest);
    }
    sums[g] = total(sum);
    if (planes == 2) {
      scales[groups + g] = scales[g] / 254;
      sums[groups + g] = total(rest_sum);
    }
  }
}

}  // namespace pl
