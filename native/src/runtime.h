// What a model computes with: kernels, threads, and activations that are rounded once for all matrices that take them.
#pragma once
#include <algorithm>
#include <atomic>
#include <functional>
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
      : k(kernels), pool(threads), planes(activation_planes), runs_(size_t(pool.threads())) {}

  // y = x W^T + bias for every product, at most three groupings among them; all share x. next: what will be
  // multiplied after this; its first bytes are asked for while threads wait for each other, and what `also(thread)`
  // asks for.
  void multiply(const Activations& x, std::initializer_list<Product> products, std::initializer_list<const Matrix*> next = {},
                const std::function<void(int)>& also = nullptr);
  // Asks for the first bytes that a thread will read of matrices multiplied next.
  void fetch(std::initializer_list<const Matrix*> next, int thread) const;
  // f(first, last) over [0, count) in steps: each thread takes neighbours, so that what is fetched ahead of one step
  // serves the next; who is done early, because another has less of the machine, takes over from the others' runs.
  // after(run): on each thread that comes, when nothing is left to take.
  template <class F, class G>
  void spread(int64_t count, int64_t step, F&& f, G&& after) {
    const int runs = pool.threads();
    for (int r = 0; r < runs; ++r) runs_[size_t(r)].next.store(count * r / runs, std::memory_order_relaxed);
    pool.run(runs, [&](int mine) {
      for (int k = 0; k < runs; ++k) {
        const int r = (mine + k) % runs;
        const int64_t end = count * (r + 1) / runs;
        for (int64_t i; (i = runs_[size_t(r)].next.fetch_add(step, std::memory_order_relaxed)) < end;) f(i, std::min(i + step, end));
      }
      after(mine);
    });
  }
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
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
  };
  void multiply_kept(const Activations& x, std::initializer_list<Product> products);  // channels.cc
  Int8View rounded(const Activations& x, int64_t group, int64_t padded, int dim, int slot);
  std::vector<const float*> low_ranks(const Activations& x, std::initializer_list<Product> products);
  std::vector<Run> runs_;
  Scratch codes_[3], scales_[3], sums_[3], low_, gathered_, scattered_;
};

}  // namespace pl
