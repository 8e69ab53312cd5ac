// NEON with the dot product of 8.2: a quad is four registers of 4 rows x 4 columns, which sdot takes with four
// activations broadcast. Whole sums are exact and floats are taken in the order of the other files: the same bits.
#include <arm_neon.h>

#include <algorithm>
#include <cmath>

#include "matmul_q.h"

namespace pl {
namespace {

template <int BITS>
inline int8x16_t quarter(const uint8_t* codes, const uint8_t* thirds, int64_t i, int part) {
  if constexpr (BITS == 8) return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + i * 64 + part * 16), vdupq_n_u8(128)));
  constexpr int per = BITS == 4 ? 2 : 4;  // codes to a byte
  const uint8x16_t v = vld1q_u8(codes + i / per * 64 + part * 16);
  const int8x16_t shift = vdupq_n_s8(int8_t(-(i % per * (8 / per))));
  const uint8x16_t low = vandq_u8(vshlq_u8(v, shift), vdupq_n_u8(BITS == 4 ? 15 : 3));
  if constexpr (BITS != 3) return vreinterpretq_s8_u8(low);
  const uint8_t select[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8_t* bits = thirds + i * 8 + part * 2;
  const uint8x16_t each = vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1]));
  return vreinterpretq_s8_u8(vorrq_u8(low, vandq_u8(vtstq_u8(each, vld1q_u8(select)), vdupq_n_u8(4))));
}

inline int8x16_t four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

inline float32x4_t halves(const uint16_t* h) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h))); }

// One sparse quad as dense bytes, absent ones as the code of 0. Returns where the next one begins.
inline const uint8_t* spread(const TileView& w, const uint8_t* codes, const uint64_t* masks, int64_t quad, uint8_t* out) {
  std::fill(out, out + 64, uint8_t(w.zero()));
  int held = 0;
  for (uint64_t mask = masks[quad]; mask; mask &= mask - 1) out[__builtin_ctzll(mask)] = uint8_t(sparse_code(w, codes, quad, held++));
  return codes + sparse_step(w.bits, masks, quad);
}

// BITS is how codes are read here: 8 also stands for sparse codes of either width once they are laid out as bytes.
template <int BITS, bool MINS, bool SPARSE, int T>
void blocks(const TileView& w, const Int8View& x, int64_t first, int64_t last, float* y, int64_t ldy) {
  const int64_t groups = w.groups(), group = w.group, quads = group / 4;
  // whole = sum of code * q as read, + offset * (sum of q); codes of 8 bits are read less 128
  const int offset = (MINS ? 0 : -w.zero()) + (BITS == 8 ? 128 : 0);
  alignas(16) uint8_t bytes[64];
  for (int64_t block = first; block < last; ++block) {
    const uint8_t* codes = SPARSE ? w.codes + w.starts[block] : w.codes + block * groups * w.group_bytes();
    const uint64_t* masks = SPARSE ? w.masks + block * w.padded / 4 : nullptr;
    float32x4_t sums[T][4];
    for (auto& of : sums)
      for (float32x4_t& sum : of) sum = vdupq_n_f32(0);
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* q = x.q + g * group;
      int32x4_t whole[T][4];
      for (int t = 0; t < T; ++t)
        for (int32x4_t& sum : whole[t]) sum = vdupq_n_s32(offset * x.sums[t * groups + g]);
      for (int64_t i = 0; i < quads; ++i) {
        if constexpr (SPARSE) codes = spread(w, codes, masks + g * quads, i, bytes);
        for (int part = 0; part < 4; ++part) {
          const int8x16_t v = SPARSE ? quarter<BITS>(bytes, nullptr, 0, part) : quarter<BITS>(codes, codes + group / 16 * 64, i, part);
          for (int t = 0; t < T; ++t) whole[t][part] = vdotq_s32(whole[t][part], v, four(q + t * x.padded + i * 4));
        }
      }
      if constexpr (!SPARSE) codes += w.group_bytes();
      const int64_t at = (block * groups + g) * 16;
      for (int t = 0; t < T; ++t) {
        const float sx = x.scales[t * groups + g];
        for (int part = 0; part < 4; ++part) {
          float32x4_t& sum = sums[t][part];
          sum = vfmaq_f32(sum, vcvtq_f32_s32(whole[t][part]), vmulq_n_f32(halves(w.scales + at + part * 4), sx));
          if constexpr (MINS) sum = vfmaq_f32(sum, halves(w.mins + at + part * 4), vdupq_n_f32(float(x.sums[t * groups + g]) * sx));
        }
      }
    }
    for (int t = 0; t < T; t += x.planes) {
      alignas(16) float all[16];
      for (int part = 0; part < 4; ++part) {
        const int other = std::min(t + 1, T - 1);
        vst1q_f32(all + part * 4, x.planes == 2 ? vaddq_f32(sums[t][part], sums[other][part]) : sums[t][part]);
      }
      for (int64_t i = 0, row = block * 16; i < 16 && row + i < w.rows; ++i)
        y[t / x.planes * ldy + row + i] = all[i] + (w.bias ? w.bias[row + i] : 0);
    }
  }
}

template <int BITS, bool MINS, bool SPARSE>
void all(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  for (int t = 0; t < tokens * x.planes;) {
    const Int8View part{x.q + t * x.padded, x.scales + t * x.groups, x.sums + t * x.groups, x.padded, x.groups, x.planes};
    float* out = y + t / x.planes * ldy;
    const int left = tokens * x.planes - t, take = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (take == 4) blocks<BITS, MINS, SPARSE, 4>(w, part, first, last, out, ldy);
    else if (take == 2) blocks<BITS, MINS, SPARSE, 2>(w, part, first, last, out, ldy);
    else blocks<BITS, MINS, SPARSE, 1>(w, part, first, last, out, ldy);
    t += take;
  }
}

}  // namespace

void matmul_q_neon(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy) {
  if (w.book) return matmul_q_ref(w, x, tokens, first, last, y, ldy);  // no kernel of its own yet
  const auto kernel = w.masks       ? all<8, false, true>
                      : w.bits == 8 ? (w.mins ? all<8, true, false> : all<8, false, false>)
                      : w.bits == 4 ? (w.mins ? all<4, true, false> : all<4, false, false>)
                      : w.bits == 3 ? (w.mins ? all<3, true, false> : all<3, false, false>)
                                    : (w.mins ? all<2, true, false> : all<2, false, false>);
  kernel(w, x, tokens, first, last, y, ldy);
}

// The plain one: it is a small part of a product, and its rounding is the same.
void quantize_neon(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q, float* scales,
                   int32_t* sums) {
  quantize_ref(x, columns, padded, group, planes, q, scales, sums);
}

}  // namespace pl
