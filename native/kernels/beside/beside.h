// What the files of this folder define.
#pragma once
#include "kernels.h"

namespace pl {
#define PAPERLAB_DECLARE(isa)                                                                                        \
  void add_beside_##isa(const BesideView& w, const float* z, const float* x, int64_t ldx, int tokens, int64_t first, \
                        int64_t last, float* y, int64_t ldy);
PAPERLAB_DECLARE(ref)
PAPERLAB_DECLARE(avx2)
PAPERLAB_DECLARE(avx512)
PAPERLAB_DECLARE(neon)
#undef PAPERLAB_DECLARE
}  // namespace pl
