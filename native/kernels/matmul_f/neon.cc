// Two registers of four floats stand for the eight lanes that the other files have: sums are added up in the same order.
#include <arm_neon.h>
#include <stddef.h>

#include "matmul_f.h"

namespace pl {
namespace {

struct Lanes {
  float32x4_t low, high;
};
constexpr int64_t kLanes = 8;

inline Lanes zero() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
inline Lanes load_x(const float* x) { return {vld1q_f32(x), vld1q_f32(x + 4)}; }
inline float total(Lanes v) {
  const float32x4_t four = vaddq_f32(v.low, v.high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

template <Type TYPE>
inline Lanes load(const char* p) {
  if constexpr (TYPE == Type::F32) return load_x(reinterpret_cast<const float*>(p));
  const uint16x8_t h = vld1q_u16(reinterpret_cast<const uint16_t*>(p));
  if constexpr (TYPE == Type::F16)
    return {vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h))), vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h)))};
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)), vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16))};
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

void matmul_f_neon(const FloatView& w, const float* x, int64_t ldx, int tokens, int64_t first, int64_t last, float* y,
                   int64_t ldy) {
  const auto kernel = w.type == Type::F32 ? all<Type::F32> : w.type == Type::F16 ? all<Type::F16> : all<Type::BF16>;
  kernel(w, x, ldx, tokens, first, last, y, ldy);
}

}  // namespace pl
