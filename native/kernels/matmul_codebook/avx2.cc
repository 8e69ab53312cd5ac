// Some quads of entries are laid out as bytes, less 128, by shuffles where there are up to 16 of them; the products of
// those with all tokens follow.
#include <immintrin.h>

#include <algorithm>

#include "../matmul_q/matmul_q.h"
#include "matmul_codebook.h"

namespace pl {
namespace {

constexpr int64_t kQuads = 32;  // of codes, laid out at a time

inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// Quads [from, to) of a group's codes -> entries as signed bytes, [quad][dim][row][4].
void lay(const TileView& w, int64_t block, int64_t g, int64_t from, int64_t to, int8_t* out) {
  const uint8_t* codes = w.codes + (block * w.groups() + g) * w.group_bytes();
  const __m256i half = _mm256_set1_epi8(char(128));
  for (int64_t i = from; i < to; ++i)
    for (int side = 0; side < 2; ++side) {
      int8_t* to_side = out + ((i - from) * w.dim * 2 + side) * 32;
      if (w.bits == 8) {
        const uint8_t* code = codes + i * 64 + side * 32;
        for (int j = 0; j < w.dim; ++j)
          for (int lane = 0; lane < 32; ++lane) to_side[j * 64 + lane] = int8_t(w.book[j * 256 + code[lane]] ^ 128);
        continue;
      }
      const int per = w.bits == 4 ? 2 : 4;  // codes to a byte
      const __m128i shift = _mm_cvtsi32_si128(int(i % per * (8 / per)));
      __m256i code = _mm256_and_si256(_mm256_srl_epi16(load(codes + i / per * 64 + side * 32), shift), _mm256_set1_epi8(w.bits == 4 ? 15 : 3));
      if (w.bits == 3) {
        uint32_t bits;
        __builtin_memcpy(&bits, codes + w.coded() / 16 * 64 + i * 8 + side * 4, 4);
        const __m256i places = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i select = _mm256_set1_epi64x(int64_t(0x8040201008040201));
        const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(int(bits)), places), select);
        code = _mm256_or_si256(code, _mm256_and_si256(_mm256_cmpeq_epi8(set, select), _mm256_set1_epi8(4)));
      }
      for (int j = 0; j < w.dim; ++j) {
        const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.book + j * w.entries())));
        const __m256i entries = _mm256_xor_si256(_mm256_shuffle_epi8(table, code), half);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to_side + j * 64), entries);
      }
    }
}

inline __m256i dot(__m256i sum, __m256i entries, const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(entries), _mm256_sign_epi8(_mm256_set1_epi32(word), entries));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

inline __m256 halves(const uint16_t* h) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h))); }

template <int T>
void blocks(const TileView& w, const Int8View& x, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t groups = w.groups(), quads = w.coded() / 4;
  alignas(32) int8_t entries[kQuads * 4 * 64];
  alignas(32) float out[T][16];
  for (int64_t block = first; block < last; ++block) {
    __m256 sums[T][2];
    for (auto& sum : sums) sum[0] = sum[1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* q = x.q + g * w.group;
      __m256i whole[T][2];
      for (auto& sum : whole) sum[0] = sum[1] = _mm256_setzero_si256();
      for (int64_t from = 0; from < quads; from += kQuads) {
        const int64_t to = std::min(from + kQuads, quads);
        lay(w, block, g, from, to, entries);
        for (int64_t i = from * w.dim; i < to * w.dim; ++i)
          for (int side = 0; side < 2; ++side) {
            const __m256i v = load(reinterpret_cast<const uint8_t*>(entries) + (i - from * w.dim) * 64 + side * 32);
            for (int t = 0; t < T; ++t) whole[t][side] = dot(whole[t][side], v, q + t * x.padded + i * 4);
          }
      }
      for (int t = 0; t < T; ++t)
        for (int side = 0; side < 2; ++side) {
          const __m256 scale = _mm256_mul_ps(halves(w.scales + (block * groups + g) * 16 + side * 8), _mm256_set1_ps(x.scales[t * groups + g]));
          sums[t][side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[t][side]), scale, sums[t][side]);
        }
    }
    for (int t = 0; t < T; ++t)
      for (int side = 0; side < 2; ++side) _mm256_store_ps(out[t] + side * 8, sums[t][side]);
    for (int t = 0; t < T; t += x.planes)
      for (int64_t row = 0; row < 16 && block * 16 + row < w.rows; ++row) {
        const float sum = x.planes == 2 ? out[t][row] + out[t + (T > 1)][row] : out[t][row];
        y[t / x.planes * ldy + block * 16 + row] = w.bias ? sum + w.bias[block * 16 + row] : sum;
      }
  }
}

}  // namespace

void matmul_codebook_avx2(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  for (int t = 0; t < tokens * x.planes;) {
    const Int8View part{x.q + t * x.padded, x.scales + t * x.groups, x.sums + t * x.groups, x.padded, x.groups, x.planes};
    float* out = y + t / x.planes * ldy;
    const int left = tokens * x.planes - t, take = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (take == 4) blocks<4>(w, part, first, last, out, ldy);
    else if (take == 2) blocks<2>(w, part, first, last, out, ldy);
    else blocks<1>(w, part, first, last, out, ldy);
    t += take;
  }
}

}  // namespace pl
