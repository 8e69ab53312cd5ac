#include "blocks.h"

#include <cstring>

namespace pl {

const int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

namespace {

const BlockKind kKinds[] = {
    {"Q4_0", 2, 32, 18, 4, 32, false, false},    {"Q4_1", 3, 32, 20, 4, 32, true, false},    {"Q5_0", 6, 32, 22, 8, 32, false, false},
    {"Q5_1", 7, 32, 24, 8, 32, true, false},     {"Q8_0", 8, 32, 34, 8, 32, false, false},   {"Q2_K", 10, 256, 84, 2, 16, true, false},
    {"Q3_K", 11, 256, 110, 4, 16, false, false}, {"Q4_K", 12, 256, 144, 4, 32, true, false}, {"Q5_K", 13, 256, 176, 8, 32, true, false},
    {"Q6_K", 14, 256, 210, 8, 16, false, false}, {"IQ4_NL", 20, 32, 18, 4, 32, false, true}, {"IQ4_XS", 23, 256, 136, 4, 32, false, true},
};

float half(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return half_to_float(h);
}

}  // namespace

const BlockKind* block_kind(uint32_t number) {
  for (const BlockKind& kind : kKinds)
    if (kind.number == number) return &kind;
  return nullptr;
}

const BlockKind* block_kind(const std::string& name) {
  for (const BlockKind& kind : kKinds)
    if (name == kind.name) return &kind;
  return nullptr;
}

std::string block_names() {
  std::string out;
  for (const BlockKind& kind : kKinds) out += (out.empty() ? "" : ", ") + std::string(kind.name);
  return out;
}

void open_block(const BlockKind& kind, const uint8_t* b, uint8_t* codes, float* scales, float* mins) {
  // Halves of bytes: the first sixteen values in the low ones, the others in the high ones.
  const auto nibbles = [&](const uint8_t* from, uint8_t* to) {
    for (int i = 0; i < 16; ++i) to[i] = from[i] & 15, to[i + 16] = from[i] >> 4;
  };
  switch (kind.number) {
    case 2:
    case 20:
      scales[0] = half(b);
      return nibbles(b + 2, codes);
    case 3:
      scales[0] = half(b), mins[0] = half(b + 2);
      return nibbles(b + 4, codes);
    case 6:
    case 7: {
      const uint8_t* fifths = b + (kind.mins ? 4 : 2);
      scales[0] = half(b);
      if (kind.mins) mins[0] = half(b + 2);
      nibbles(fifths + 4, codes);
      for (int i = 0; i < 32; ++i) codes[i] = uint8_t((codes[i] | (fifths[i / 8] >> i % 8 & 1) << 4) + (kind.mins ? 0 : 128 - 16));
      return;
    }
    case 8:
      scales[0] = half(b);
      for (int i = 0; i < 32; ++i) codes[i] = b[2 + i] ^ 128;
      return;
    case 10:  // sixteen scales and minima of 4 bits, codes of 2
      for (int i = 0; i < 16; ++i) scales[i] = half(b + 80) * float(b[i] & 15), mins[i] = -half(b + 82) * float(b[i] >> 4);
      for (int i = 0; i < 256; ++i) codes[i] = b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
      return;
    case 11:  // third bits, codes of 2, sixteen scales of 6 bits: their low four in eight bytes, the rest in four more
      for (int i = 0; i < 16; ++i) {
        const int low = i < 8 ? b[96 + i] & 15 : b[96 + i - 8] >> 4, high = b[104 + i % 4] >> (i / 4 * 2) & 3;
        scales[i] = half(b + 108) * float((low | high << 4) - 32);
      }
      for (int i = 0; i < 256; ++i) {
        const int side = i / 128, part = i % 128 / 32, column = i % 32;
        codes[i] = uint8_t((b[32 + side * 32 + column] >> (part * 2) & 3) + ((b[column] >> (side * 4 + part) & 1) << 2) + 4);
      }
      return;
    case 12:
    case 13: {
      // 8 parts of 32 values, each with a scale and a minimum of 6 bits: the first four pairs in bytes of their own, of
      // the last four the low halves in four more bytes and the rest in the first eight's upper two bits.
      const int fifth = kind.number == 13 ? 32 : 0;
      const uint8_t* six = b + 4;
      for (int part = 0; part < 8; ++part) {
        const int scale = part < 4 ? six[part] & 63 : (six[part + 4] & 15) | six[part - 4] >> 6 << 4;
        const int minimum = part < 4 ? six[part + 4] & 63 : six[part + 4] >> 4 | six[part] >> 6 << 4;
        scales[part] = half(b) * float(scale), mins[part] = -half(b + 2) * float(minimum);
        for (int i = 0; i < 32; ++i) {
          int code = b[16 + fifth + part / 2 * 32 + i] >> (part % 2 * 4) & 15;
          if (fifth) code |= (b[16 + i] >> part & 1) << 4;
          codes[part * 32 + i] = uint8_t(code);
        }
      }
      return;
    }
    case 14:
      for (int i = 0; i < 16; ++i) scales[i] = half(b + 208) * float(int8_t(b[192 + i]));
      for (int i = 0; i < 256; ++i) {
        const int side = i / 128, rest = i % 128, quarter = rest / 32, column = rest % 32;
        const uint8_t low = b[side * 64 + quarter % 2 * 32 + column], high = b[128 + side * 32 + column];
        codes[i] = uint8_t(((quarter < 2 ? low & 15 : low >> 4) | (high >> (quarter * 2) & 3) << 4) + 128 - 32);
      }
      return;
    default:  // IQ4_XS: eight scales of 6 bits
      for (int part = 0; part < 8; ++part) {
        const int low = b[4 + part / 2] >> (part % 2 * 4) & 15, high = (b[2] | b[3] << 8) >> (part * 2) & 3;
        scales[part] = half(b) * float((low | high << 4) - 32);
        nibbles(b + 8 + part * 16, codes + part * 32);
      }
  }
}

}  // namespace pl
