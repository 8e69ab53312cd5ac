// Codes into tiles, and weights out of them.
#include <algorithm>

#include "matmul_q/matmul_q.h"
#include "matrix.h"

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

void put_code(Tiles& tiles, int64_t row, int64_t column, int code) {
  const TileView& v = tiles.view;
  const int64_t group = column / v.group, quad = column % v.group / 4;
  const int lane = int(row % 16 * 4 + column % 4);
  uint8_t* codes = tiles.codes.as<uint8_t>() + (row / 16 * v.groups() + group) * v.group_bytes();
  if (v.bits == 8) {
    codes[quad * 64 + lane] = uint8_t(code);
  } else if (v.bits == 4) {
    codes[quad / 2 * 64 + lane] |= uint8_t(code << (quad % 2 * 4));
  } else {
    codes[quad / 4 * 64 + lane] |= uint8_t((code & 3) << (quad % 4 * 2));
    if (v.bits == 3) codes[v.group / 16 * 64 + quad * 8 + lane / 8] |= uint8_t((code >> 2) << (lane % 8));
  }
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
  const int64_t blocks = v.row_blocks(), groups = v.groups();
  const int filler = mins ? 0 : v.zero();  // padding: the weight 0, as far as the format has one
  tiles.scales = Buffer(size_t(blocks * groups) * 32);
  if (mins) tiles.mins = Buffer(size_t(blocks * groups) * 32);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = (row / 16 * groups + g) * 16 + row % 16;
      tiles.scales.as<uint16_t>()[at] = scales[row * groups + g];
      if (mins) tiles.mins.as<uint16_t>()[at] = mins[row * groups + g];
    }
  const auto code_at = [&](int64_t row, int64_t column) {
    return row < rows && column < columns ? int(codes[row * columns + column]) : filler;
  };
  if (!keep) {
    tiles.codes = Buffer(size_t(blocks * groups * v.group_bytes()));
    for (int64_t row = 0; row < blocks * 16; ++row)
      for (int64_t column = 0; column < padded; ++column) put_code(tiles, row, column, code_at(row, column));
  } else {
    const int64_t quads = padded / 4;
    tiles.masks = Buffer(size_t(blocks * quads) * 8);
    tiles.starts = Buffer(size_t(blocks) * 8);
    std::vector<uint8_t> out;
    for (int64_t block = 0; block < blocks; ++block) {
      tiles.starts.as<uint64_t>()[block] = out.size();
      for (int64_t quad = 0; quad < quads; ++quad) {
        uint64_t mask = 0;
        int held = 0;
        for (int lane = 0; lane < 64; ++lane) {
          const int64_t row = block * 16 + lane / 4, column = quad * 4 + lane % 4;
          if (row >= rows || column >= columns || !keep[row * columns + column]) continue;
          mask |= uint64_t(1) << lane;
          const int code = code_at(row, column);
          if (bits == 8 || held % 2 == 0) out.push_back(uint8_t(code));
          else out.back() |= uint8_t(code << 4);
          ++held;
        }
        tiles.masks.as<uint64_t>()[block * quads + quad] = mask;
      }
    }
    tiles.codes = Buffer(out.size() + 64);
    std::copy(out.begin(), out.end(), tiles.codes.as<uint8_t>());
    v.masks = tiles.masks.as<uint64_t>();
    v.starts = tiles.starts.as<uint64_t>();
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
        const int code = v.bits == 8 ? codes[before] : codes[before / 2] >> (before % 2 * 4) & 15;
        out[quad * 4 + i] = mask >> lane & 1 ? scaled(quad * 4 + i, code - zero) : 0.0f;
      }
      const int held = __builtin_popcountll(mask);
      codes += v.bits == 8 ? held : (held + 1) / 2;
    }
  }
}

}  // namespace pl
