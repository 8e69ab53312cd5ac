// What the files of this folder define: products of matrices with a codebook. Activations come in the order that
// `interleave` gives them.
#pragma once
#include "kernels.h"

namespace pl {
#define PAPERLAB_DECLARE(isa)                                                                                         \
  void matmul_codebook_##isa(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, \
                             int64_t ldy);
PAPERLAB_DECLARE(ref)
PAPERLAB_DECLARE(avx2)
PAPERLAB_DECLARE(avxvnni)
PAPERLAB_DECLARE(avx512)
#undef PAPERLAB_DECLARE

// One row block's entries as bytes, quad after quad of the interleaved columns.
void spread_codebook_avx512(const TileView& w, int64_t block, uint8_t* out);
// In each 4 x dim columns: first the four that are first in their vectors, then the four second ones, and so on.
void interleave(int8_t* q, int64_t columns, int dim);
}  // namespace pl
