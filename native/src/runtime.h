// What a model computes with: kernels, threads, and activations that are rounded once for all matrices that take them.
#pragma once
#include <initializer_list>
#include <vector>

#include "matrix.h"
#include "pool.h"

namespace pl {

// tokens x width floats, and their 8-bit copies by group size, made when a packed matrix first asks.
struct Activations {
  const float* x = nullptr;
  int64_t width = 0, stride = 0;
  int tokens = 0;
};

struct Product {
  const Matrix* matrix;
  float* y;
  int64_t stride;  // of y, between tokens
};

// Memory that grows and is kept from call to call.
class Scratch {
 public:
  template <class T>
  T* get(size_t count) {
    if (buffer_.size() < count * sizeof(T)) buffer_ = Buffer(count * sizeof(T) * 5 / 4);
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

class Runtime {
 public:
  // planes: of 8-bit activations, 1 or 2
  Runtime(const Kernels& kernels, int threads, int activation_planes)
      : k(kernels), pool(threads), planes(activation_planes) {}

  // y = x W^T + bias for every product; all share x.
  void multiply(const Activations& x, std::initializer_list<Product> products);
  // f(token) for all: on the caller alone where there are too few to be worth waking anyone.
  template <class F>
  void each(int tokens, F&& f) {
    if (tokens < 4) {
      for (int t = 0; t < tokens; ++t) f(t);
      return;
    }
    const int step = (tokens + pool.threads() * 4 - 1) / (pool.threads() * 4);
    pool.run((tokens + step - 1) / step, [&](int piece) {
      for (int t = piece * step; t < tokens && t < (piece + 1) * step; ++t) f(t);
    });
  }

  const Kernels& k;
  Pool pool;
  const int planes;

 private:
  struct Piece {
    const Product* product;
    int64_t first, last;
  };
  Int8View rounded(const Activations& x, int64_t group, int64_t padded, int slot);
  std::vector<const float*> low_ranks(const Activations& x, std::initializer_list<Product> products);
  std::vector<Piece> pieces_;
  Scratch codes_[2], scales_[2], sums_[2], low_;
};

}  // namespace pl
