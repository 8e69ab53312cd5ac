// One head's attention over a whole text by AMX, in bfloat16: scores and what values are weighed with are rounded to 8
// bits of mantissa, sums and the softmax are float32. For encoders whose weights are packed.
#include "attention.h"

#define ISA amx
#define LANES 16
#include "lanes.inc"

namespace pl {
namespace {

struct alignas(64) Tiles {  // eight of 16 rows of 64 bytes
  Tiles() {
    for (int i = 0; i < 8; ++i) bytes[i] = 64, rows[i] = 16;
  }
  uint8_t palette = 1, start = 0, zero[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// 32 floats as bfloat16
inline __m512i rounded(const float* x) {
  return __m512i(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x)));
}

// 2^t: relative error below 5e-5, far below a bfloat16's
inline __m512 power(__m512 t) {
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(t, n);
  __m512 p = _mm512_set1_ps(9.618129e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550411e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402265e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931472e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

}  // namespace

void attend_text_amx(const TextAttention& job) {
  const int64_t head = job.head, tokens = job.tokens, span = (tokens + 31) / 32 * 32;
  auto* at = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(job.scratch) + 63) / 64 * 64);
  const auto take = [&](int64_t bytes) {
    uint8_t* here = at;
    at += bytes;
    return here;
  };
  uint8_t* keys = take(2 * span * head);    // [position / 16][head / 32][pair of columns][16 positions][2]
  uint8_t* values = take(2 * span * head);  // [position / 32][head / 16][pair of positions][16 columns][2]
  uint8_t* queries = take(32 * head);       // [16][head]
  float* scores = reinterpret_cast<float*>(take(64 * span));  // [16][span]
  uint8_t* weights = take(32 * span);                         // [16][span]
  float* sums = reinterpret_cast<float*>(take(1024));
  const __m512i lanes = _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
  const __m512i none = _mm512_setzero_si512();
  for (int64_t j = 0; j < span; ++j)
    for (int64_t d = 0; d < head; d += 32) {
      const __m512i pairs = j < tokens ? rounded(job.k + j * job.stride + d) : none;
      _mm512_i32scatter_epi32(keys + j / 16 * 32 * head + d * 32 + j % 16 * 4, lanes, pairs, 4);
    }
  for (int64_t j = 0; j < span; j += 2)
    for (int64_t d = 0; d < head; d += 16) {
      const auto half = [&](int64_t i) {
        return _mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(i < tokens ? _mm512_loadu_ps(job.v + i * job.stride + d) : _mm512_setzero_ps())));
      };
      const __m512i both = _mm512_or_si512(half(j), _mm512_slli_epi32(half(j + 1), 16));
      _mm512_storeu_si512(values + j / 32 * 64 * head + d * 64 + j % 32 * 32, both);
    }
  const Tiles shapes;
  _tile_loadconfig(&shapes);
  const __m512 scale = _mm512_set1_ps(job.scale * 1.44269504f);
  for (int64_t first = 0; first < tokens; first += 16) {
    const int64_t count = tokens - first < 16 ? tokens - first : 16;
    for (int64_t i = 0; i < 16; ++i)
      for (int64_t d = 0; d < head; d += 32)
        _mm512_storeu_si512(queries + i * 2 * head + d * 2, i < count ? rounded(job.q + (first + i) * job.stride + d) : none);
    for (int64_t j = 0; j < span; j += 32) {
      const uint8_t* key = keys + j * 2 * head;
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t d = 0; d < head; d += 32) {
        _tile_loadd(4, queries + d * 2, 2 * head);
        _tile_loadd(6, key + d * 32, 64);
        _tile_loadd(7, key + 32 * head + d * 32, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
      }
      _tile_stored(0, scores + j, span * 4);
      _tile_stored(1, scores + j + 16, span * 4);
    }
    float inverse[16];
    for (int64_t i = 0; i < count; ++i) {
      float* row = scores + i * span;
      for (int64_t j = tokens; j < span; ++j) row[j] = -INFINITY;
      __m512 most = _mm512_loadu_ps(row), total = _mm512_setzero_ps();
      for (int64_t j = 16; j < span; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(row + j));
      const __m512 top = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(most)), scale);
      for (int64_t j = 0; j < span; j += 16) {
        const __m512 e = power(_mm512_fmsub_ps(_mm512_loadu_ps(row + j), scale, top));
        total = _mm512_add_ps(total, e);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + (i * span + j) * 2), __m256i(_mm512_cvtneps_pbh(e)));
      }
      inverse[i] = 1 / _mm512_reduce_add_ps(total);
    }
    for (int64_t d = 0; d < head; d += 16) {
      _tile_zero(2);
      for (int64_t j = 0; j < span; j += 32) {
        _tile_loadd(5, weights + j * 2, span * 2);
        _tile_loadd(6, values + j * 2 * head + d * 64, 64);
        _tile_dpbf16ps(2, 5, 6);
      }
      _tile_stored(2, sums, 64);
      for (int64_t i = 0; i < count; ++i)
        _mm512_storeu_ps(job.out + (first + i) * job.out_stride + d, _mm512_mul_ps(_mm512_loadu_ps(sums + i * 16), _mm512_set1_ps(inverse[i])));
    }
  }
  _tile_release();
}

}  // namespace pl
