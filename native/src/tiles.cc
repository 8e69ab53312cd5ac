// Codes into tiles, and weights out of them.
#include <algorithm>
#include <utility>

#include "matmul_q/matmul_q.h"
#include "matrix.h"
#include "share.h"

namespace pl {

int64_t padded_columns(int64_t columns, int64_t group) { return round_up(columns, group ? group : 64); }

void check_layout(int bits, int64_t rows, int64_t columns, int64_t group, bool sparse, bool mins) {
  if (bits != 8 && bits != 4 && bits != 3 && bits != 2) fail("%d bits per weight; known are 8, 4, 3 and 2", bits);
  if (sparse && (bits == 3 || bits == 2)) fail("sparse weights take 8 or 4 bits, not %d", bits);
  if (sparse && mins) fail("sparse weights are symmetric: no minimum per group");
  if (rows < 1 || columns < 1 || rows > (1 << 24) || columns > (1 << 24)) fail("impossible matrix of %lld x %lld", (long long)rows, (long long)columns);
  if (group % 16 || group < 16 || group > 65536) fail("groups of %lld columns; a multiple of 16 up to 65536 is needed", (long long)group);
}

namespace {

constexpr uint64_t kOnes = 0x0101010101010101;

// Bit i of the answer is bit 0 of byte i.
uint64_t gathered(uint64_t bytes) { return ((bytes & kOnes) * 0x0102040810204080) >> 56; }

uint64_t eight(const uint8_t* at) {
  uint64_t value;
  std::memcpy(&value, at, 8);
  return value;
}

// 16 rows x 4 columns from (block * 16, column) on, [row][column]; what lies outside the matrix is `filler`.
void take_quad(const uint8_t* from, int64_t rows, int64_t columns, int64_t block, int64_t column, int filler, uint8_t* quad) {
  const int64_t held = std::min<int64_t>(rows - block * 16, 16), wide = std::min<int64_t>(columns - column, 4);
  if (held < 16 || wide < 4) std::memset(quad, filler, 64);
  if (wide < 1) return;
  const uint8_t* at = from + block * 16 * columns + column;
  if (wide >= 4)
    for (int64_t row = 0; row < held; ++row) std::memcpy(quad + row * 4, at + row * columns, 4);
  else
    for (int64_t row = 0; row < held; ++row) std::memcpy(quad + row * 4, at + row * columns, size_t(wide));
}

// A quad's codes into their group's bytes, which were zero.
void put_quad(uint8_t* codes, int bits, int64_t group, int64_t quad, const uint8_t* from) {
  if (bits == 8) return void(std::memcpy(codes + quad * 64, from, 64));
  if (bits == 4) {
    uint8_t* to = codes + quad / 2 * 64;
    const int shift = int(quad % 2 * 4);
    for (int lane = 0; lane < 64; ++lane) to[lane] |= uint8_t(from[lane] << shift);
    return;
  }
  uint8_t* to = codes + quad / 4 * 64;
  const int shift = int(quad % 4 * 2);
  for (int lane = 0; lane < 64; ++lane) to[lane] |= uint8_t((from[lane] & 3) << shift);
  for (int i = 0; bits == 3 && i < 8; ++i) codes[group / 16 * 64 + quad * 8 + i] = uint8_t(gathered(eight(from + i * 8) >> 2));
}

// A sparse quad's codes, those of the ones of its mask, to `to`, where the bytes are zero or have the quad before.
void put_some(uint8_t* to, int bits, int64_t quad, uint64_t mask, const uint8_t* from) {
  const int shift = bits == 8 ? 0 : int(quad % 2 * 4), zero = 1 << (bits - 1);
  for (; mask; mask &= mask - 1) *to++ |= uint8_t((from[__builtin_ctzll(mask)] ^ zero) << shift);
}

}  // namespace

Tiles lay_tiles(int64_t rows, int64_t columns, int bits, int64_t group, const uint8_t* codes, const uint16_t* scales,
                const uint16_t* mins, const uint8_t* keep) {
  const int64_t padded = padded_columns(columns, group);
  if (!group) group = padded;
  check_layout(bits, rows, columns, group, keep != nullptr, mins != nullptr);
  Tiles tiles;
  TileView& v = tiles.view;
  v.bits = bits, v.rows = rows, v.columns = columns, v.padded = padded, v.group = group;
  const int64_t blocks = v.row_blocks(), groups = v.groups(), quads = padded / 4;
  const int64_t step = std::max<int64_t>(1, (1 << 18) / (padded * 16));  // blocks worth a piece
  const int filler = mins ? 0 : v.zero();  // padding: the weight 0, as far as the format has one
  tiles.scales = Buffer(size_t(blocks * groups) * 32);
  if (mins) tiles.mins = Buffer(size_t(blocks * groups) * 32);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = (row / 16 * groups + g) * 16 + row % 16;
      tiles.scales.as<uint16_t>()[at] = scales[row * groups + g];
      if (mins) tiles.mins.as<uint16_t>()[at] = mins[row * groups + g];
    }
  share_rows(rows, std::max<int64_t>(1, (1 << 20) / columns), [&](int64_t first, int64_t last) {
    uint8_t all = 0;
    for (int64_t i = first * columns; i < last * columns; ++i) all |= codes[i];
    if (all >> bits) fail("a code is too large for %d bits", bits);
  });
  if (!keep) {
    tiles.codes = Buffer(size_t(blocks * groups * v.group_bytes()));
    share_rows(blocks, step, [&](int64_t first, int64_t last) {
      uint8_t quad[64];
      for (int64_t i = first * quads; i < last * quads; ++i) {
        const int64_t block = i / quads, column = i % quads * 4, g = column / group;
        take_quad(codes, rows, columns, block, column, filler, quad);
        put_quad(tiles.codes.as<uint8_t>() + (block * groups + g) * v.group_bytes(), bits, group, (column - g * group) / 4, quad);
      }
    });
  } else {
    tiles.masks = Buffer(size_t(blocks * quads) * 8);
    tiles.starts = Buffer(size_t(blocks) * 8);
    uint64_t *masks = tiles.masks.as<uint64_t>(), *starts = tiles.starts.as<uint64_t>();
    share_rows(blocks, step, [&](int64_t first, int64_t last) {
      uint8_t quad[64];
      for (int64_t i = first * quads; i < last * quads; ++i) {
        take_quad(keep, rows, columns, i / quads, i % quads * 4, 0, quad);
        for (int byte = 0; byte < 8; ++byte) {
          const uint64_t some = eight(quad + byte * 8);  // any number but 0 keeps a weight
          masks[i] |= gathered((((some & ~(kOnes << 7)) + ~(kOnes << 7)) | some) >> 7) << (byte * 8);
        }
        starts[i / quads] += uint64_t(sparse_step(bits, masks, i));
      }
    });
    uint64_t total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += std::exchange(starts[block], total);
    tiles.codes = Buffer(total + 64);
    share_rows(blocks, step, [&](int64_t first, int64_t last) {
      uint8_t quad[64];
      for (int64_t block = first; block < last; ++block) {
        uint8_t* to = tiles.codes.as<uint8_t>() + starts[block];
        for (int64_t i = 0; i < quads; ++i) {
          take_quad(codes, rows, columns, block, i * 4, 0, quad);
          put_some(to, bits, i, masks[block * quads + i], quad);
          to += sparse_step(bits, masks + block * quads, i);
        }
      }
    });
    v.masks = masks;
    v.starts = starts;
  }
  v.codes = tiles.codes.as<uint8_t>();
  v.scales = tiles.scales.as<uint16_t>();
  v.mins = mins ? tiles.mins.as<uint16_t>() : nullptr;
  return tiles;
}

void check_codebook(int bits, int dim, int64_t columns, int64_t group) {
  if (dim != 1 && dim != 2 && dim != 4) fail("a codebook of vectors of %d weights; 1, 2 and 4 are possible", dim);
  if (columns % dim) fail("%lld columns are no whole number of vectors of %d", (long long)columns, dim);
  if (group % (16 * dim)) fail("groups of %lld columns; vectors of %d need a multiple of %d", (long long)group, dim, 16 * dim);
  if (bits != 8 && bits != 4 && bits != 3 && bits != 2) fail("%d bits per code; known are 8, 4, 3 and 2", bits);
}

Buffer book_tables(int bits, int dim, const int8_t* book) {
  const int64_t entries = bits == 8 ? 256 : 16;
  Buffer out{size_t(dim * entries)};
  for (int i = 0; i < 1 << bits; ++i)
    for (int j = 0; j < dim; ++j) out.as<uint8_t>()[j * entries + i] = uint8_t(book[i * dim + j] + 128);
  return out;
}

Tiles lay_codebook(int64_t rows, int64_t columns, int bits, int dim, int64_t group, const uint8_t* codes, const uint16_t* scales, const int8_t* book) {
  const int64_t step = group ? group : padded_columns(columns, 0);
  check_codebook(bits, dim, columns, step);
  Tiles tiles = lay_tiles(rows, columns / dim, bits, step / dim, codes, scales, nullptr, nullptr);
  tiles.book = book_tables(bits, dim, book);
  TileView& v = tiles.view;
  v.columns = columns, v.padded *= dim, v.group *= dim, v.dim = dim, v.book = tiles.book.as<uint8_t>();
  return tiles;
}

void read_rows(const TileView& v, int64_t first, int64_t last, float* out) {
  const int zero = v.mins ? 0 : v.zero();
  for (int64_t row = first; row < last; ++row, out += v.columns) {
    const int64_t block = row / 16;
    const auto scaled = [&](int64_t column, int code) {
      const int64_t at = (block * v.groups() + column / v.group) * 16 + row % 16;
      return half_to_float(v.scales[at]) * float(code) + (v.mins ? half_to_float(v.mins[at]) : 0.0f);
    };
    if (!v.masks) {
      for (int64_t column = 0; v.book && column < v.columns; ++column) {
        const int64_t place = column % v.group / v.dim;
        const int code = tile_code(v, block, column / v.group, place / 4, int(row % 16 * 4 + place % 4));
        out[column] = scaled(column, v.book[column % v.dim * v.entries() + code] - 128);
      }
      for (int64_t column = 0; !v.book && column < v.columns; ++column)
        out[column] = scaled(column, tile_code(v, block, column / v.group, column % v.group / 4, int(row % 16 * 4 + column % 4)) - zero);
      continue;
    }
    const uint8_t* codes = v.codes + v.starts[block];
    for (int64_t quad = 0; quad < v.padded / 4; ++quad) {
      const uint64_t mask = v.masks[block * (v.padded / 4) + quad];
      for (int i = 0; i < 4 && quad * 4 + i < v.columns; ++i) {
        const int lane = int(row % 16 * 4 + i);
        const int before = __builtin_popcountll(mask & ((uint64_t(1) << lane) - 1));
        out[quad * 4 + i] = mask >> lane & 1 ? scaled(quad * 4 + i, sparse_code(v, codes, quad, before) - zero) : 0.0f;
      }
      codes += sparse_step(v.bits, v.masks + block * (v.padded / 4), quad);
    }
  }
}

}  // namespace pl
