#include "runtime.h"

#include <algorithm>

namespace pl {

Int8View Runtime::rounded(const Activations& x, int64_t group, int64_t padded, int slot) {
  const int64_t groups = padded / group, rows = x.tokens * planes;
  int8_t* q = codes_[slot].get<int8_t>(size_t(rows * padded));
  float* scales = scales_[slot].get<float>(size_t(rows * groups));
  int32_t* sums = sums_[slot].get<int32_t>(size_t(rows * groups));
  each(x.tokens, [&](int t) {
    const int64_t row = t * planes;
    k.quantize(x.x + t * x.stride, x.width, padded, group, planes, q + row * padded, scales + row * groups, sums + row * groups);
  });
  return {q, scales, sums, padded, groups, planes};
}

// A x of each product that has a low-rank part, (tokens, rank); null for the others.
std::vector<const float*> Runtime::low_ranks(const Activations& x, std::initializer_list<Product> products) {
  std::vector<const float*> out;
  int64_t total = 0;
  for (const Product& product : products) total += product.matrix->beside ? product.matrix->beside->view.rank : 0;
  if (!total) return std::vector<const float*>(products.size(), nullptr);
  float* z = low_.get<float>(size_t(total * x.tokens));
  for (const Product& product : products) {
    const FloatView* a = product.matrix->beside ? &product.matrix->beside->a : nullptr;
    out.push_back(a ? z : nullptr);
    if (!a || !a->rows) continue;
    const int64_t step = std::max<int64_t>(4, round_up((1 << 16) / (a->columns * x.tokens), 4));  // rows worth a piece
    pool.run(int((a->rows + step - 1) / step), [&](int i) {
      k.matmul_f(*a, x.x, x.stride, x.tokens, i * step, std::min((i + 1) * step, a->rows), z, a->rows);
    });
    z += a->rows * x.tokens;
  }
  return out;
}

void Runtime::multiply(const Activations& x, std::initializer_list<Product> products) {
  // Products of one call nearly always share their grouping; a second one gets a slot of its own.
  Int8View views[2];
  int64_t grouping[2][2] = {};
  int slots = 0;
  std::vector<int> slot_of;
  std::vector<const Product*> later;
  pieces_.clear();
  int64_t total = 0;
  for (const Product& product : products) total += product.matrix->rows * product.matrix->columns;
  const int64_t wanted = std::max<int64_t>(total * x.tokens / (pool.threads() * 6), 1 << 15);
  for (const Product& product : products) {
    const Matrix& m = *product.matrix;
    if (m.tiled) {
      int slot = 0;
      while (slot < slots && (grouping[slot][0] != m.tiles.group || grouping[slot][1] != m.tiles.padded)) ++slot;
      if (slot == 2) {  // a third grouping: a call of its own
        later.push_back(&product);
        slot_of.push_back(-1);
        continue;
      }
      if (slot == slots) {
        grouping[slot][0] = m.tiles.group, grouping[slot][1] = m.tiles.padded;
        views[slot] = rounded(x, m.tiles.group, m.tiles.padded, slot);
        ++slots;
      }
      slot_of.push_back(slot);
    } else {
      slot_of.push_back(0);
    }
    const int64_t units = m.tiled ? m.tiles.row_blocks() : m.rows, unit = m.columns * (m.tiled ? 16 : 1) * x.tokens;
    int64_t step = std::clamp<int64_t>(wanted / unit, 1, units);
    if (!m.tiled) step = round_up(step, 4);
    for (int64_t first = 0; first < units; first += step)
      pieces_.push_back({&product, first, std::min(first + step, units)});
  }
  const Product* begin = products.begin();
  const std::vector<const float*> low = low_ranks(x, products);
  pool.run(int(pieces_.size()), [&](int i) {
    const Piece& piece = pieces_[size_t(i)];
    const Product& product = *piece.product;
    const Matrix& m = *product.matrix;
    if (m.tiled) {
      const Int8View& view = views[slot_of[size_t(&product - begin)]];
      k.matmul_q(m.tiles, view, x.tokens, piece.first, piece.last, product.y, product.stride);
      if (m.beside) k.add_beside(m.beside->view, low[size_t(&product - begin)], x.x, x.stride, x.tokens, piece.first, piece.last, product.y, product.stride);
    } else {
      k.matmul_f(m.floats, x.x, x.stride, x.tokens, piece.first, piece.last, product.y, product.stride);
    }
  });
  for (const Product* product : later) multiply(x, {*product});
}

}  // namespace pl
