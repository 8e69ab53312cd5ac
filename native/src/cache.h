// Keys and values of one head as they are kept: rounding in, and reading back.
#pragma once
#include "kernels.h"

namespace pl {

// Bytes of one position's keys, or values, without its scale.
inline int64_t cache_bytes(int bits, int64_t head) { return head * bits / 8; }

// An orthonormal Hadamard matrix times x (n a multiple of 16), in parts of the largest power of two that divides n; its
// own inverse. Rotated alike, queries and keys have the products that they had, while an outlying channel is spread
// over its whole head, which few bits need.
void rotate(float* x, int64_t n);

// Keep one position's key and value. Caches of 8 and 4 bits rotate them first; what is not finite becomes a scale of
// NaN, so that nothing that looks at the position looks sound. 4 bits round halves of bytes that no other position has.
void cache_put(const CacheView& cache, int64_t position, const float* key, const float* value);
// What `cache_put` kept, rotated back.
void cache_get(const CacheView& cache, int64_t position, float* key, float* value);
// Asks for the first positions' keys and values, up to what the second-level cache holds besides.
void cache_fetch(const CacheView& cache, int64_t positions);

}  // namespace pl
