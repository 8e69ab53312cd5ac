#include "matrix.h"
#include "matmul_q/matmul_q.h"

#include <sys/mman.h>

#include <algorithm>

namespace pl {

Buffer::Buffer(size_t bytes) : size_(bytes) {
  constexpr size_t kLarge = size_t(2) << 20;
  const size_t alignment = bytes >= kLarge ? kLarge : 64, whole = std::max((bytes + alignment - 1) / alignment, size_t(1)) * alignment;
  void* at = std::aligned_alloc(alignment, whole);
  if (!at) fail("no memory for %zu bytes", bytes);
#if defined(__linux__)
  if (bytes >= kLarge) madvise(at, whole, MADV_HUGEPAGE);
#endif
  std::memset(at, 0, whole);
  data_.reset(static_cast<uint8_t*>(at));
}

void Matrix::set_bias(const float* bias) {
  if (!channels) floats.bias = tiles.bias = bias;
  else if (channels->rows.empty()) channels->small.set_bias(channels->bias = bias);
  else channels->bias = bias;
}

uint64_t Matrix::bytes() const {
  if (channels) return channels->small.bytes() + 4 * (channels->rows.size() + channels->columns.size());
  if (!tiled) return uint64_t(rows * columns * type_bytes(floats.type));
  const uint64_t extra = (beside ? beside->bytes() : 0) + (tiles.book ? uint64_t(tiles.dim) << tiles.bits : 0);
  const uint64_t per_group = uint64_t(tiles.row_blocks() * tiles.groups()) * (tiles.mins ? 64 : 32) + extra;
  if (!tiles.masks) return uint64_t(tiles.row_blocks() * tiles.groups() * tiles.group_bytes()) + per_group;
  const int64_t quads = tiles.row_blocks() * tiles.padded / 4;
  uint64_t held = 0;
  for (int64_t i = 0; i < quads; ++i) held += uint64_t(sparse_step(tiles.bits, tiles.masks, i));
  return held + uint64_t(quads) * 8 + uint64_t(tiles.row_blocks()) * 8 + per_group;
}

void Matrix::row(int64_t index, float* out) const {
  if (channels) return channels->row(index, columns, out);
  if (tiled) {
    read_rows(tiles, index, index + 1, out);
    if (!beside) return;
    beside->add_low_rank(index, out);
    return beside->put_exact(index, out);
  }
  Tensor tensor;
  tensor.dtype = floats.type == Type::F32 ? "F32" : floats.type == Type::F16 ? "F16" : "BF16";
  tensor.data = static_cast<const uint8_t*>(floats.data);
  to_float(tensor, index * columns, columns, out);
}

}  // namespace pl
