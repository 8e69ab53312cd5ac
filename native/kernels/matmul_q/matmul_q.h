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

void matmul_q_amx(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy);

int tile_code(const TileView& w, int64_t row_block, int64_t group, int64_t quad, int lane);  // ref.cc; dense
}  // namespace pl
