#include "cache.h"

#include <algorithm>
#include <cmath>

#include "common.h"

namespace pl {
namespace {

constexpr int64_t kMost = 1024;  // columns of a head; what read_config allows

// Where column d of a position's keys lies, in codes; in 4 bits two codes share a place.
int64_t key_place(int bits, int64_t head, int64_t position, int64_t d) {
  return bits == 4 ? (position / 16 * (head / 2) + d / 2) * 16 + position % 16 : (position / 16 * head + d) * 16 + position % 16;
}

int64_t value_place(int bits, int64_t head, int64_t position, int64_t d) {
  return bits == 4 ? position * head / 2 + d / 16 * 8 + d % 8 : position * head + d;
}

// Rotates x in place, chooses a scale and gives each code to put(d, code).
template <class F>
uint16_t round_row(int bits, float* x, int64_t n, F put) {
  rotate(x, n);
  float most = 0;
  bool finite = true;
  for (int64_t d = 0; d < n; ++d) {
    finite = finite && std::isfinite(x[d]);
    most = std::max(most, std::fabs(x[d]));
  }
  // 7.75, not 7.5: the largest is cut by a quarter of a step, from which all others gain
  uint16_t scale = finite && most > 0x1p-100f ? float_to_bf16(most / (bits == 8 ? 127.0f : 7.75f)) : 0;
  const float inverse = scale ? 1 / bf16_to_float(scale) : 0;
  if (!finite) scale = 0x7fc0;
  for (int64_t d = 0; d < n; ++d) {
    const float v = finite ? x[d] * inverse : 0;
    if (bits == 8) put(d, int(std::nearbyint(std::clamp(v, -127.0f, 127.0f))));
    else put(d, int(std::nearbyint(std::clamp(v + 7.5f, 0.0f, 15.0f))));
  }
  return scale;
}

void set_half(uint8_t& byte, bool high, int code) { byte = uint8_t(high ? (byte & 15) | code << 4 : (byte & 0xf0) | code); }

}  // namespace

void rotate(float* x, int64_t n) {
  const int64_t size = n & -n;
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t begin = 0; begin < n; begin += 2 * half)
      for (int64_t i = begin; i < begin + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
  const float scale = 1 / std::sqrt(float(size));
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

void cache_put(const CacheView& c, int64_t position, const float* key, const float* value) {
  const auto plain = [&](auto* keys, auto* values, auto round) {
    for (int64_t d = 0; d < c.head; ++d) {
      keys[key_place(c.bits, c.head, position, d)] = round(key[d]);
      values[value_place(c.bits, c.head, position, d)] = round(value[d]);
    }
  };
  if (c.bits == 32) return plain(static_cast<float*>(c.keys), static_cast<float*>(c.values), [](float v) { return v; });
  if (c.bits == 16) return plain(static_cast<uint16_t*>(c.keys), static_cast<uint16_t*>(c.values), float_to_bf16);
  float row[kMost];
  auto *keys = static_cast<uint8_t*>(c.keys), *values = static_cast<uint8_t*>(c.values);
  const auto put = [&](uint8_t& byte, bool high, int code) {
    if (c.bits == 8) byte = uint8_t(code);
    else set_half(byte, high, code);
  };
  std::copy(key, key + c.head, row);
  c.key_scales[position] = round_row(c.bits, row, c.head, [&](int64_t d, int code) { put(keys[key_place(c.bits, c.head, position, d)], d % 2, code); });
  std::copy(value, value + c.head, row);
  c.value_scales[position] = round_row(c.bits, row, c.head, [&](int64_t d, int code) { put(values[value_place(c.bits, c.head, position, d)], d % 16 >= 8, code); });
}

void cache_get(const CacheView& c, int64_t position, float* key, float* value) {
  const auto read = [&](const void* data, int64_t place, bool high, float scale) {
    const uint8_t byte = static_cast<const uint8_t*>(data)[c.bits < 16 ? place : 0];
    switch (c.bits) {
      case 32: return static_cast<const float*>(data)[place];
      case 16: return bf16_to_float(static_cast<const uint16_t*>(data)[place]);
      case 8: return scale * float(int8_t(byte));
      default: return scale * (float(high ? byte >> 4 : byte & 15) - 7.5f);
    }
  };
  const bool few = c.bits < 16;
  const float of_key = few ? bf16_to_float(c.key_scales[position]) : 1, of_value = few ? bf16_to_float(c.value_scales[position]) : 1;
  for (int64_t d = 0; d < c.head; ++d) {
    key[d] = read(c.keys, key_place(c.bits, c.head, position, d), d % 2, of_key);
    value[d] = read(c.values, value_place(c.bits, c.head, position, d), d % 16 >= 8, of_value);
  }
  if (few) rotate(key, c.head), rotate(value, c.head);
}

void cache_fetch(const CacheView& cache, int64_t positions) {
  constexpr int64_t kMostBytes = 256 << 10;  // of each
  const int64_t bytes = std::min(round_up(positions, 16) * cache_bytes(cache.bits, cache.head), kMostBytes);
  for (const void* at : {cache.keys, cache.values})
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i, 0, 2);
}

}  // namespace pl
