#include <immintrin.h>

#include "matmul_f.h"

namespace pl {
namespace {

using Lanes = __m512;
constexpr int64_t kLanes = 16;

inline Lanes zero() { return _mm512_setzero_ps(); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes load_x(const float* x) { return _mm512_loadu_ps(x); }
inline float total(Lanes v) { return _mm512_reduce_add_ps(v); }

template <Type TYPE>
inline Lanes widen(__m256i h) {
  if constexpr (TYPE == Type::F16) return _mm512_cvtph_ps(h);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

template <Type TYPE>
inline Lanes load(const char* p) {
  if constexpr (TYPE == Type::F32) return _mm512_loadu_ps(p);
  else return widen<TYPE>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

template <Type TYPE>
inline Lanes load_part(const char* p, int64_t n) {
  const __mmask16 mask = __mmask16((1u << n) - 1);
  if constexpr (TYPE == Type::F32) return _mm512_maskz_loadu_ps(mask, p);
  else return widen<TYPE>(_mm256_maskz_loadu_epi16(mask, p));
}

}  // namespace
}  // namespace pl

#include "matmul_f.inc"

namespace pl {

void matmul_f_avx512(const FloatView& w, const float* x, int64_t ldx, int tokens, int64_t first, int64_t last,
                     float* y, int64_t ldy) {
  const auto kernel = w.type == Type::F32 ? all<Type::F32> : w.type == Type::F16 ? all<Type::F16> : all<Type::BF16>;
  kernel(w, x, ldx, tokens, first, last, y, ldy);
}

}  // namespace pl
