// Matrices from files: our own container, floats, and the blocks of GGUF and compressed-tensors, whose codes and scales are kept.
#include <algorithm>
#include <cmath>

#include "blocks.h"
#include "companions.h"
#include "matmul_q/matmul_q.h"
#include "matrix.h"
#include "share.h"

namespace pl {
namespace {

void want_shape(const Tensor& tensor, const std::string& name, int64_t rows, int64_t columns) {
  if (tensor.shape.size() != 2 || tensor.shape[0] != rows || tensor.shape[1] != columns) {
    std::string is;
    for (int64_t d : tensor.shape) is += (is.empty() ? "" : " x ") + std::to_string(d);
    fail("%s is %s where the configuration says %lld x %lld", name.c_str(), is.c_str(), (long long)rows, (long long)columns);
  }
}

void take_tiles(Matrix& matrix, Tiles&& tiles) {
  auto kept = std::make_shared<Tiles>(std::move(tiles));
  matrix.tiled = true;
  matrix.tiles = kept->view;
  matrix.owns.push_back(kept);
}

void load_codes(const Tensors& tensors, const std::string& name, const Json& about, Matrix& matrix) {
  TileView& v = matrix.tiles;
  v.rows = matrix.rows, v.columns = matrix.columns;
  const int64_t bits = about.get_int("bits", 0);
  v.group = about.get_int("group", 0);
  const bool sparse = about.get_bool("sparse", false), mins = !about.get_bool("symmetric", true);
  check_layout(bits > 8 ? 0 : int(bits), v.rows, v.columns, v.group, sparse, mins);
  v.bits = int(bits);
  if (const int64_t dim = about.get_int("codebook", 0)) {
    if (sparse || mins) fail("%s: a codebook has neither minima nor absent weights", name.c_str());
    check_codebook(v.bits, dim < 0 || dim > 4 ? 0 : int(dim), v.columns, v.group);
    v.dim = int(dim);
    const auto* book = companion<int8_t>(tensors, name + ".book", "I8", dim << v.bits, matrix);
    auto tables = std::make_shared<Buffer>(book_tables(v.bits, v.dim, book));
    v.book = tables->as<uint8_t>();
    matrix.owns.push_back(std::move(tables));
  }
  v.padded = padded_columns(v.columns, v.group);
  const int64_t per_group = v.row_blocks() * v.groups() * 16, quads = v.row_blocks() * v.padded / 4;
  v.scales = companion<uint16_t>(tensors, name + ".scales", "F16", per_group, matrix);
  check_finite(v.scales, per_group, name + ".scales");
  if (mins) {
    v.mins = companion<uint16_t>(tensors, name + ".mins", "F16", per_group, matrix);
    check_finite(v.mins, per_group, name + ".mins");
  }
  const auto version = tensors.metadata.find("paperlab");
  if (sparse && version != tensors.metadata.end() && version->second == "1")
    fail("%s is sparse as files of version 1 had it, in another order; pack the model again", name.c_str());
  if (!sparse) {
    v.codes = companion<uint8_t>(tensors, name + ".codes", "U8", v.row_blocks() * v.groups() * v.group_bytes(), matrix);
    return;
  }
  v.masks = companion<uint64_t>(tensors, name + ".masks", "U64", quads, matrix);
  v.starts = companion<uint64_t>(tensors, name + ".starts", "U64", v.row_blocks(), matrix);
  // Where codes are read follows from the masks alone; the stated starts and the number of codes must agree with them.
  uint64_t held = 0;
  for (int64_t block = 0; block < v.row_blocks(); ++block) {
    if (v.starts[block] != held) fail("%s.starts disagrees with %s.masks; the file is damaged", name.c_str(), name.c_str());
    for (int64_t i = 0; i < v.padded / 4; ++i) held += uint64_t(sparse_step(v.bits, v.masks + block * (v.padded / 4), i));
  }
  v.codes = companion<uint8_t>(tensors, name + ".codes", "U8", int64_t(held) + 64, matrix);
}

void load_packed(const Tensors& tensors, const std::string& name, Matrix& matrix) {
  const auto described = tensors.metadata.find("paperlab." + name);
  if (described == tensors.metadata.end()) fail("%s.codes is there, but the file's metadata does not describe it", name.c_str());
  const Json about = Json::parse(described->second, "the description of " + name);
  const int64_t rows = matrix.rows, columns = matrix.columns;
  if (about.get_int("rows", -1) != rows || about.get_int("columns", -1) != columns)
    fail("%s is packed as %lld x %lld where the configuration says %lld x %lld", name.c_str(), (long long)about.get_int("rows", -1),
         (long long)about.get_int("columns", -1), (long long)rows, (long long)columns);
  matrix.channels = load_channels(tensors, name, about, rows, columns);
  Matrix& held = matrix.channels ? matrix.channels->small : matrix;
  held.rows = rows, held.columns = columns;
  if (matrix.channels && !matrix.channels->rows.empty()) held.rows = int64_t(matrix.channels->rows.size());
  if (matrix.channels && !matrix.channels->columns.empty()) held.columns = int64_t(matrix.channels->columns.size());
  load_codes(tensors, name, about, held);
  load_beside(tensors, name, held);
  held.tiled = true;
}

// GGUF's blocks keep their codes. Scales and minima are rounded to float16, which is exact for all but the K types and
// IQ4_XS, whose scales are products of a float16 and a few bits: those lose up to 2^-11 of themselves.
void repack(const Tensor& tensor, const BlockKind& kind, Matrix& matrix) {
  const int64_t per = kind.values / kind.group, blocks = matrix.rows * matrix.columns / kind.values;
  std::vector<uint8_t> codes(size_t(matrix.rows * matrix.columns));
  std::vector<uint16_t> scales(size_t(blocks * per)), mins(kind.mins ? scales.size() : 0);
  share_rows(blocks, 1 << 12, [&](int64_t first, int64_t last) {
    float scale[16], minimum[16];
    for (int64_t i = first; i < last; ++i) {
      open_block(kind, tensor.data + i * kind.bytes, codes.data() + i * kind.values, scale, minimum);
      for (int64_t g = 0; g < per; ++g) {
        scales[size_t(i * per + g)] = float_to_half(scale[g]);
        if (kind.mins) mins[size_t(i * per + g)] = float_to_half(minimum[g]);
      }
    }
  });
  check_finite(scales.data(), int64_t(scales.size()), "a scale in the file");
  check_finite(mins.data(), int64_t(mins.size()), "a minimum in the file");
  if (kind.book) take_tiles(matrix, lay_codebook(matrix.rows, matrix.columns, kind.bits, 1, kind.group, codes.data(), scales.data(), kIq4Values));
  else take_tiles(matrix, lay_tiles(matrix.rows, matrix.columns, kind.bits, kind.group, codes.data(), scales.data(), kind.mins ? mins.data() : nullptr, nullptr));
}

// compressed-tensors' "pack-quantized": NAME.weight_packed holds codes in 32-bit words along the columns, the first in
// the lowest bits, moved up by half their range; weight_scale one scale per row and group (or row); weight_zero_point,
// where it is, words along the rows.
void repack_compressed(const Tensors& tensors, const std::string& name, Matrix& matrix) {
  const Tensor &packed = tensors.need(name + ".weight_packed"), &scale = tensors.need(name + ".weight_scale");
  const Tensor* zeros = tensors.find(name + ".weight_zero_point");
  const int64_t rows = matrix.rows, columns = matrix.columns;
  if (tensors.find(name + ".weight_g_idx")) fail("%s has its columns reordered (weight_g_idx), which is not known here", name.c_str());
  if (packed.dtype != "I32" || packed.shape.size() != 2 || packed.shape[0] != rows || packed.shape[1] < 1)
    fail("%s.weight_packed should hold %lld rows of I32", name.c_str(), (long long)rows);
  const int64_t words = packed.shape[1];
  const int bits = words == (columns + 7) / 8 ? 4 : words == (columns + 3) / 4 ? 8 : 0;
  if (!bits) fail("%s.weight_packed has %lld words to a row of %lld columns: neither 4 nor 8 bits", name.c_str(), (long long)words, (long long)columns);
  if (scale.shape.size() != 2 || scale.shape[0] != rows || scale.shape[1] < 1 || columns % scale.shape[1])
    fail("%s.weight_scale has no shape that fits %lld x %lld", name.c_str(), (long long)rows, (long long)columns);
  const int64_t groups = scale.shape[1], group = groups == 1 ? 0 : columns / groups, each = 32 / bits;
  std::vector<float> plain(size_t(rows * groups));
  to_float(scale, 0, rows * groups, plain.data());
  const auto word_at = [](const Tensor& tensor, int64_t i) {
    uint32_t word;
    std::memcpy(&word, tensor.data + i * 4, 4);
    return word;
  };
  const uint32_t mask = (1u << bits) - 1;
  if (zeros && (zeros->dtype != "I32" || zeros->count() != (rows + each - 1) / each * groups))
    fail("%s.weight_zero_point has another size than its scales ask for", name.c_str());
  std::vector<uint16_t> scales(plain.size()), mins(zeros ? plain.size() : 0);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < groups; ++g) {
      const float s = plain[size_t(row * groups + g)];
      scales[size_t(row * groups + g)] = float_to_half(s);
      if (!zeros) continue;
      const uint32_t zero = word_at(*zeros, row / each * groups + g) >> (row % each * bits) & mask;
      mins[size_t(row * groups + g)] = float_to_half(-s * float(zero));
    }
  check_finite(scales.data(), int64_t(scales.size()), name + ".weight_scale");
  check_finite(mins.data(), int64_t(mins.size()), name + ".weight_zero_point");
  std::vector<uint8_t> codes(size_t(rows * columns));
  share_rows(rows, rows_of_a_piece(columns), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t c = 0; c < columns; ++c)
        codes[size_t(row * columns + c)] = uint8_t(word_at(packed, row * words + c / each) >> (c % each * bits) & mask);
  });
  take_tiles(matrix, lay_tiles(rows, columns, bits, group, codes.data(), scales.data(), zeros ? mins.data() : nullptr, nullptr));
  tensors.release(packed);
}

}  // namespace

Matrix load_matrix(const Tensors& tensors, const std::string& name, int64_t rows, int64_t columns, const Packing& packing) {
  Matrix matrix;
  matrix.rows = rows, matrix.columns = columns;
  if (tensors.find(name + ".codes")) {
    load_packed(tensors, name, matrix);
    return matrix;
  }
  if (tensors.find(name + ".weight_packed")) {
    repack_compressed(tensors, name, matrix);
    return matrix;
  }
  const Tensor& tensor = tensors.need(name + ".weight");
  want_shape(tensor, name + ".weight", rows, columns);
  const bool plain = tensor.dtype == "F32" || tensor.dtype == "F16" || tensor.dtype == "BF16";
  if (plain && !packing.bits) {
    const Type type = tensor.dtype == "F32" ? Type::F32 : tensor.dtype == "F16" ? Type::F16 : Type::BF16;
    matrix.floats = {type, rows, columns, tensor.data, nullptr};
    if (reinterpret_cast<uintptr_t>(tensor.data) % uintptr_t(type_bytes(type))) {
      auto copy = std::make_shared<Buffer>(tensor.bytes);
      std::memcpy(copy->as<uint8_t>(), tensor.data, tensor.bytes);
      matrix.floats.data = copy->as<uint8_t>();
      matrix.owns.push_back(copy);
      tensors.release(tensor);
    }
    return matrix;
  }
  const BlockKind* kind = block_kind(tensor.dtype);
  if (!packing.bits && kind) {
    repack(tensor, *kind, matrix);
    tensors.release(tensor);
    return matrix;
  }
  if (!plain && !kind) fail("%s.weight is of type %s; F32, F16 and BF16 are known", name.c_str(), tensor.dtype.c_str());
  const int64_t padded = padded_columns(columns, packing.group), groups = packing.group ? padded / packing.group : 1;
  std::vector<uint8_t> codes(size_t(rows * columns));
  std::vector<uint16_t> scales(rows * groups), mins(packing.symmetric ? 0 : rows * groups);
  try {
    share_rows(rows, rows_of_a_piece(columns), [&](int64_t first, int64_t last) {
      std::vector<float> strip(size_t((last - first) * columns));
      to_float(tensor, first * columns, int64_t(strip.size()), strip.data());
      round_rows(strip.data(), last - first, columns, packing, codes.data() + first * columns, scales.data() + first * groups,
                 packing.symmetric ? nullptr : mins.data() + first * groups, nullptr, first);
    });
  } catch (const Error& error) {
    fail("%s.weight: %s", name.c_str(), error.what());
  }
  take_tiles(matrix, lay_tiles(rows, columns, packing.bits, packing.group, codes.data(), scales.data(), packing.symmetric ? nullptr : mins.data(), nullptr));
  tensors.release(tensor);
  return matrix;
}

const float* load_vector(const Tensors& tensors, const std::string& name, int64_t n, Matrix& owner) {
  const Tensor& tensor = tensors.need(name);
  if (tensor.count() != n) fail("%s holds %lld values where the configuration says %lld", name.c_str(), (long long)tensor.count(), (long long)n);
  auto copy = std::make_shared<Buffer>(size_t(n) * 4);
  to_float(tensor, 0, n, copy->as<float>());
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(copy->as<float>()[i])) fail("%s holds NaN or infinite values; the file is damaged", name.c_str());
  owner.owns.push_back(copy);
  return copy->as<float>();
}

}  // namespace pl
