// What the files of this folder define. Each is compiled for its own instruction set.
#pragma once
#include "kernels.h"

namespace pl {
#define PAPERLAB_DECLARE(isa)                                                                                   \
  void matmul_q_##isa(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y,  \
                      int64_t ldy);                                                                             \
  void quantize_##isa(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q,    \
                      float* scales, int32_t* sums);
PAPERLAB_DECLARE(ref)
PAPERLAB_DECLARE(avx2)
PAPERLAB_DECLARE(avx512)
PAPERLAB_DECLARE(neon)
#undef PAPERLAB_DECLARE

void matmul_q_avxvnni(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy);
void matmul_q_amx(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy);

// Sparse: the code of the weight stored as number `held` of a quad whose bytes begin at `codes`, and how many bytes the
// next quad's lie behind them. masks: those of the row block, or of several; a quad and the next share bytes where
// that is 0.
inline int sparse_code(const TileView& w, const uint8_t* codes, int64_t quad, int64_t held) {
  return (w.bits == 8 ? codes[held] : codes[held] >> (quad % 2 * 4) & 15) ^ w.zero();
}

inline int64_t sparse_step(int bits, const uint64_t* masks, int64_t quad) {
  const int64_t held = __builtin_popcountll(masks[quad]);
  if (bits == 8) return held;
  const int64_t before = __builtin_popcountll(masks[quad - quad % 2]);
  return quad % 2 == 0 ? 0 : held > before ? held : before;
}

int tile_code(const TileView& w, int64_t row_block, int64_t group, int64_t quad, int lane);  // ref.cc; dense
}  // namespace pl
