#include <immintrin.h>

#include "matmul_f.h"

namespace pl {
namespace {

using Lanes = __m256;
constexpr int64_t kLanes = 8;

inline Lanes zero() { return _mm256_setzero_ps(); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
inline Lanes load_x(const float* x) { return _mm256_loadu_ps(x); }

inline float total(Lanes v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <Type TYPE>
inline Lanes widen(__m128i h) {
  if constexpr (TYPE == Type::F16) return _mm256_cvtph_ps(h);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

template <Type TYPE>
inline Lanes load(const char* p) {
  if constexpr (TYPE == Type::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  else return widen<TYPE>(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

template <Type TYPE>
inline Lanes load_part(const char* p, int64_t n) {
  alignas(32) char whole[32] = {};
  __builtin_memcpy(whole, p, size_t(n * type_bytes(TYPE)));
  return load<TYPE>(whole);
}

}  // namespace
}  // namespace pl

#include "matmul_f.inc"

namespace pl {

void matmul_f_avx2(const FloatView& w, const float* x, int64_t ldx, int tokens, int64_t first, int64_t last,
                     float* y, int64_t ldy) {
  const auto kernel = w.type == Type::F32 ? all<Type::F32> : w.type == Type::F16 ? all<Type::F16> : all<Type::BF16>;
  kernel(w, x, ldx, tokens, first, last, y, ldy);
}

}  // namespace pl
