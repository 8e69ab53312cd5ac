// AMX: sums of 16 tokens x 16 rows x 64 columns in one instruction. A tile of the formats here is what it takes: 16
// quads of 64 bytes. Codes of fewer bits, or sparse ones, are laid out as bytes first, once for all tokens. Whole sums
// and the order of floats are those of AVX-512, so results are the same to the bit; few tokens go there.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "../matmul_codebook/matmul_codebook.h"
#include "matmul_q.h"

namespace pl {
namespace {

// Tiles 0-3: sums of 16 tokens x 16 rows; 4, 5: 16 tokens x `columns` activations; 6, 7: as many columns of 16 rows.
struct alignas(64) TileShapes {
  explicit TileShapes(int columns) {
    for (int i = 0; i < 8; ++i) bytes[i] = 64, rows[i] = 16;
    bytes[4] = bytes[5] = uint16_t(columns);
    rows[6] = rows[7] = uint8_t(columns / 4);
  }
  uint8_t palette = 1, start = 0, zero[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// One row block's codes as bytes, quad after quad.
void spread(const TileView& w, int64_t block, uint8_t* out) {
  if (w.book) return spread_codebook_avx512(w, block, out);
  const int64_t quads = w.padded / 4, per_group = w.group / 4;
  const uint8_t* codes = w.masks ? w.codes + w.starts[block] : w.codes + block * w.groups() * w.group_bytes();
  const __m512i nibble = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(3);
  const auto put = [&](int64_t quad, __m512i v) { _mm512_storeu_si512(out + quad * 64, v); };
  if (w.masks) {
    const uint64_t* masks = w.masks + block * quads;
    const __m512i zero = _mm512_set1_epi8(char(w.zero()));
    for (int64_t i = 0; i < quads; ++i) {
      __m512i v = _mm512_maskz_expand_epi8(masks[i], _mm512_loadu_si512(codes));
      codes += sparse_step(w.bits, masks, i);
      if (w.bits == 4) v = _mm512_and_si512(i % 2 ? _mm512_srli_epi16(v, 4) : v, nibble);
      put(i, _mm512_xor_si512(v, zero));
    }
  } else if (w.bits == 4) {
    for (int64_t i = 0; i < quads; i += 2, codes += 64) {
      const __m512i v = _mm512_loadu_si512(codes);
      put(i, _mm512_and_si512(v, nibble));
      put(i + 1, _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble));
    }
  } else {
    for (int64_t first = 0; first < quads; first += per_group, codes += w.group_bytes())
      for (int64_t i = 0; i < per_group; ++i) {
        const __m512i word = _mm512_loadu_si512(codes + i / 4 * 64);
        __m512i v = _mm512_and_si512(_mm512_srl_epi16(word, _mm_cvtsi32_si128(int(i % 4 * 2))), pair);
        if (w.bits == 3) {
          uint64_t third;
          std::memcpy(&third, codes + w.group / 16 * 64 + i * 8, 8);
          v = _mm512_mask_add_epi8(v, third, v, _mm512_set1_epi8(4));
        }
        put(first + i, v);
      }
  }
}

constexpr int64_t kBlocks = 4;  // row blocks that a strip of activations meets while it is in the first-level cache

struct Work {
  const TileView& w;
  const Int8View& x;
  float* y;
  int64_t ldy;
  int step;  // columns at a time: 64, or as many of them as divide the group
};

inline __m512 halves(const uint16_t* h) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)));
}

// The whole sums of one group of one tile, added to its floats. t: the tile's first token.
inline void scale(const Work& k, int64_t block, int64_t t, int64_t tokens, int64_t g, const int32_t* whole, float* sums) {
  const int64_t groups = k.w.groups(), at = (block * groups + g) * 16;
  const __m512 sw = halves(k.w.scales + at), m = k.w.mins ? halves(k.w.mins + at) : _mm512_setzero_ps();
  const int zero = k.w.mins ? 0 : k.w.zero();
  for (int64_t i = 0; i < tokens; ++i) {
    const int32_t sum = k.x.sums[(t + i) * groups + g];
    const __m512 sx = _mm512_set1_ps(k.x.scales[(t + i) * groups + g]);
    const __m512i v = _mm512_sub_epi32(_mm512_loadu_si512(whole + i * 16), _mm512_set1_epi32(zero * sum));
    __m512 total = g ? _mm512_loadu_ps(sums + i * 16) : _mm512_setzero_ps();
    total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(v), _mm512_mul_ps(sw, sx), total);
    if (k.w.mins) total = _mm512_fmadd_ps(m, _mm512_mul_ps(_mm512_set1_ps(float(sum)), sx), total);
    _mm512_storeu_ps(sums + i * 16, total);
  }
}

void write(const Work& k, int64_t block, int64_t t, int64_t tokens, const float* sums) {
  const int64_t left = k.w.rows - block * 16;
  const __mmask16 rows = left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
  const __m512 bias = k.w.bias ? _mm512_maskz_loadu_ps(rows, k.w.bias + block * 16) : _mm512_setzero_ps();
  for (int64_t i = 0; i < tokens; i += k.x.planes) {
    __m512 v = _mm512_loadu_ps(sums + i * 16);
    if (k.x.planes == 2) v = _mm512_add_ps(v, _mm512_loadu_ps(sums + i * 16 + 16));
    if (k.w.bias) v = _mm512_add_ps(v, bias);
    _mm512_mask_storeu_ps(k.y + (t + i) / k.x.planes * k.ldy + block * 16, rows, v);
  }
}

// scale and write in one where a row is one group: nothing is kept in between.
inline void finish(const Work& k, int64_t block, int64_t t, int64_t tokens, const int32_t* whole) {
  const int64_t left = k.w.rows - block * 16;
  const __mmask16 rows = left >= 16 ? 0xffff : __mmask16((1u << left) - 1);
  const __m512 sw = halves(k.w.scales + block * 16);
  const __m512 bias = k.w.bias ? _mm512_maskz_loadu_ps(rows, k.w.bias + block * 16) : _mm512_setzero_ps();
  const int zero = k.w.zero();
  float* y = k.y + t / k.x.planes * k.ldy + block * 16;
  const auto scaled = [&](int64_t i) {
    const __m512i v = _mm512_sub_epi32(_mm512_loadu_si512(whole + i * 16), _mm512_set1_epi32(zero * k.x.sums[t + i]));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_mul_ps(sw, _mm512_set1_ps(k.x.scales[t + i])));
  };
  if (k.x.planes == 1)
    for (int64_t i = 0; i < tokens; ++i, y += k.ldy) _mm512_mask_storeu_ps(y, rows, _mm512_add_ps(scaled(i), bias));
  else
    for (int64_t i = 0; i < tokens; i += 2, y += k.ldy)
      _mm512_mask_storeu_ps(y, rows, _mm512_add_ps(_mm512_add_ps(scaled(i), scaled(i + 1)), bias));
}

// 32 tokens x 2 row blocks. b: their codes as bytes.
void large(const Work& k, int64_t block, int64_t t, const uint8_t* b0, const uint8_t* b1) {
  alignas(64) int32_t whole[4][256];
  alignas(64) float sums[4][256];
  const int64_t padded = k.x.padded, group = k.w.group;
  const int8_t *a0 = k.x.q + t * padded, *a1 = a0 + 16 * padded;
  const bool single = k.w.groups() == 1 && !k.w.mins;
  for (int64_t g = 0; g < k.w.groups(); ++g) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t c = g * group; c < (g + 1) * group; c += k.step) {
      _tile_loadd(4, a0 + c, padded);
      _tile_loadd(6, b0 + c * 16, 64);
      _tile_dpbsud(0, 4, 6);
      _tile_loadd(7, b1 + c * 16, 64);
      _tile_dpbsud(1, 4, 7);
      _tile_loadd(5, a1 + c, padded);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, whole[0], 64);
    _tile_stored(1, whole[1], 64);
    _tile_stored(2, whole[2], 64);
    _tile_stored(3, whole[3], 64);
    for (int i = 0; i < 4; ++i) {
      if (single) finish(k, block + i % 2, t + i / 2 * 16, 16, whole[i]);
      else scale(k, block + i % 2, t + i / 2 * 16, 16, g, whole[i], sums[i]);
    }
  }
  if (single) return;
  for (int i = 0; i < 4; ++i) write(k, block + i % 2, t + i / 2 * 16, 16, sums[i]);
}

// Up to 16 tokens x 1 row block; a: 16 rows of activations from token t on, those past `tokens` of no account.
void small(const Work& k, int64_t block, int64_t t, int64_t tokens, const int8_t* a, const uint8_t* b) {
  alignas(64) int32_t whole[256];
  alignas(64) float sums[256];
  for (int64_t g = 0; g < k.w.groups(); ++g) {
    _tile_zero(0);
    for (int64_t c = g * k.w.group; c < (g + 1) * k.w.group; c += k.step) {
      _tile_loadd(4, a + c, k.x.padded);
      _tile_loadd(6, b + c * 16, 64);
      _tile_dpbsud(0, 4, 6);
    }
    _tile_stored(0, whole, 64);
    scale(k, block, t, tokens, g, whole, sums);
  }
  write(k, block, t, tokens, sums);
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Memory of this thread, kept; null where there is none.
uint8_t* scratch(size_t bytes) {
  thread_local std::unique_ptr<uint8_t, Free> held;
  thread_local size_t size = 0;
  if (size < bytes) {
    size = (bytes + 4095) / 4096 * 4096;
    held.reset(static_cast<uint8_t*>(std::aligned_alloc(64, size)));
    if (!held) size = 0;
  }
  return held.get();
}

}  // namespace

void matmul_q_amx(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y,
                  int64_t ldy) {
  const int64_t rows = int64_t(tokens) * x.planes, whole = rows / 16 * 16, rest = rows - whole;
  const bool bytes = w.bits == 8 && !w.masks && !w.book;
  const size_t block_bytes = size_t(w.padded) * 16;
  uint8_t* held = rows < 16 ? nullptr : scratch(block_bytes * (bytes ? 1 : 1 + kBlocks));
  if (!held) return matmul_q_avx512(w, x, tokens, first, last, y, ldy);
  const int step = int(w.group % 64 ? w.group & -w.group : 64);  // groups are multiples of 16
  const TileShapes shapes(step);
  _tile_loadconfig(&shapes);
  const Work k{w, x, y, ldy, step};
  int8_t* tail = reinterpret_cast<int8_t*>(held);  // the last tokens, filled up to 16
  if (rest) {
    std::memcpy(tail, x.q + whole * x.padded, size_t(rest * x.padded));
    std::memset(tail + rest * x.padded, 0, size_t((16 - rest) * x.padded));
  }
  for (int64_t block = first; block < last; block += kBlocks) {
    const int64_t count = std::min(kBlocks, last - block);
    const uint8_t* b[kBlocks];
    for (int64_t i = 0; i < count; ++i) {
      b[i] = bytes ? w.codes + size_t(block + i) * block_bytes : held + size_t(1 + i) * block_bytes;
      if (!bytes) spread(w, block + i, held + size_t(1 + i) * block_bytes);
    }
    int64_t t = 0;
    for (; t + 32 <= whole; t += 32) {
      for (int64_t i = 0; i + 2 <= count; i += 2) large(k, block + i, t, b[i], b[i + 1]);
      if (count % 2)
        for (int64_t half = 0; half < 32; half += 16)
          small(k, block + count - 1, t + half, 16, x.q + (t + half) * x.padded, b[count - 1]);
    }
    for (; t < whole; t += 16)
      for (int64_t i = 0; i < count; ++i) small(k, block + i, t, 16, x.q + t * x.padded, b[i]);
    if (rest)
      for (int64_t i = 0; i < count; ++i) small(k, block + i, whole, rest, tail, b[i]);
  }
  _tile_release();
}

}  // namespace pl
