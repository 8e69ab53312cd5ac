// What the files of this folder define: what happens to one row of activations between two matrix products.
#pragma once
#include "kernels.h"

namespace pl {
#define PAPERLAB_DECLARE(isa)                                                                                     \
  void rms_norm_##isa(const float* x, const float* weight, float epsilon, int64_t n, float* y);                   \
  void layer_norm_##isa(const float* x, const float* weight, const float* bias, float epsilon, int64_t n, float* y); \
  void silu_mul_##isa(const float* gate, const float* up, int64_t n, float* y);                                   \
  void gelu_##isa(float* x, int64_t n);                                                                           \
  void gelu_tanh_##isa(float* x, int64_t n);                                                                      \
  void softmax_##isa(float* x, int64_t n);
PAPERLAB_DECLARE(ref)
PAPERLAB_DECLARE(avx2)
PAPERLAB_DECLARE(avx512)
PAPERLAB_DECLARE(neon)
#undef PAPERLAB_DECLARE
}  // namespace pl
