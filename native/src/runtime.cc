#include "runtime.h"

#include <algorithm>
#include <array>

#include "matmul_codebook/matmul_codebook.h"

namespace pl {

Int8View Runtime::rounded(const Activations& x, int64_t group, int64_t padded, int dim, int slot) {
  const int64_t groups = padded / group, rows = x.tokens * planes;
  int8_t* q = codes_[slot].get<int8_t>(size_t(rows * padded));
  float* scales = scales_[slot].get<float>(size_t(rows * groups));
  int32_t* sums = sums_[slot].get<int32_t>(size_t(rows * groups));
  each(x.tokens, [&](int t) {
    const int64_t row = t * planes;
    k.quantize(x.x + t * x.stride, x.width, padded, group, planes, q + row * padded, scales + row * groups, sums + row * groups);
    for (int plane = 0; plane < planes; ++plane) interleave(q + (row + plane) * padded, padded, dim);
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

namespace {

int64_t blocks_of(const Matrix& m) { return (m.rows + 15) / 16; }

// f(product or matrix, first block, last block) for the parts of a run of blocks, counted over all of a list.
template <class List, class Of, class F>
void parts(const List& list, int64_t first, int64_t last, Of&& of, F&& f) {
  for (const auto& item : list) {
    const int64_t blocks = blocks_of(*of(item));
    if (first < blocks && last > 0) f(item, std::max<int64_t>(first, 0), std::min(last, blocks));
    first -= blocks, last -= blocks;
  }
}

// The first bytes of a matrix from a block on.
void ask_for(const Matrix& m, int64_t block) {
  constexpr int64_t kLead = 8192;
  if (!m.tiled) return;
  const TileView& w = m.tiles;
  const auto ask = [](const void* at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i, 0, 2);
  };
  ask(w.scales + block * w.groups() * 16, 512);
  if (w.mins) ask(w.mins + block * w.groups() * 16, 512);
  if (w.masks) ask(w.masks + block * (w.padded / 4), kLead / 2);
  ask(w.masks ? w.codes + w.starts[block] : w.codes + block * w.groups() * w.group_bytes(), w.masks ? kLead / 2 : kLead);
}

}  // namespace

void Runtime::fetch(std::initializer_list<const Matrix*> next, int run) const {
  int64_t total = 0;
  for (const Matrix* m : next) total += blocks_of(*m);
  const int64_t first = total * run / pool.threads();
  parts(next, first, first + 1, [](const Matrix* m) { return m; }, [&](const Matrix* m, int64_t at, int64_t) { ask_for(*m, at); });
}

void Runtime::multiply(const Activations& x, std::initializer_list<Product> products, std::initializer_list<const Matrix*> next,
                       const std::function<void(int)>& also) {
  for (const Product& product : products)
    if (product.matrix->channels) return multiply_kept(x, products);
  // Products of one call nearly always share their grouping.
  std::array<Int8View, 3> views;
  std::array<std::array<int64_t, 3>, 3> grouping;
  int slots = 0;
  const auto slot = [&](const TileView& w) {
    int s = 0;
    while (s < slots && grouping[size_t(s)] != std::array{w.group, w.padded, int64_t(w.dim)}) ++s;
    return s;
  };
  int64_t total = 0;
  for (const Product& product : products) {
    total += blocks_of(*product.matrix);
    if (!product.matrix->tiled) continue;
    const TileView& w = product.matrix->tiles;
    const int s = slot(w);
    if (s < slots) continue;
    grouping[size_t(s)] = {w.group, w.padded, w.dim};
    views[size_t(s)] = rounded(x, w.group, w.padded, w.dim, s);
    ++slots;
  }
  const std::vector<const float*> low = low_ranks(x, products);
  const int64_t block = products.begin()->matrix->columns * 16 * x.tokens;  // multiplications
  const int64_t least = std::max<int64_t>({1, total / (pool.threads() * 6), (1 << 15) / block});
  const int64_t step = x.tokens * planes < 16 ? least : round_up(least, 4);  // many tokens take blocks by fours
  const auto work = [&](int64_t first, int64_t last) {
    // A matrix that begins in this stretch, or with the next: its bytes come while those before it are multiplied.
    int64_t at = 0;
    for (const Product& product : products) {
      if (first < at && at <= last) ask_for(*product.matrix, 0);
      at += blocks_of(*product.matrix);
    }
    parts(products, first, last, [](const Product& p) { return p.matrix; }, [&](const Product& p, int64_t from, int64_t to) {
      const Matrix& m = *p.matrix;
      if (m.tiled) k.matmul_q(m.tiles, views[size_t(slot(m.tiles))], x.tokens, from, to, p.y, p.stride);
      if (m.beside) k.add_beside(m.beside->view, low[size_t(&p - products.begin())], x.x, x.stride, x.tokens, from, to, p.y, p.stride);
      if (!m.tiled) k.matmul_f(m.floats, x.x, x.stride, x.tokens, from * 16, std::min(to * 16, m.rows), p.y, p.stride);
    });
  };
  spread(total, step, work, [&](int run) {
    if (next.size()) fetch(next, run);
    if (also) also(run);
  });
}

}  // namespace pl
