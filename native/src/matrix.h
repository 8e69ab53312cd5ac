// Weight matrices as the kernels take them: views into a mapped file, or memory of our own.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "tensors.h"

namespace pl {

// Zeroed memory that starts at a multiple of 64 bytes; large ones ask for large pages.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  template <class T>
  T* as() const { return reinterpret_cast<T*>(data_.get()); }
  size_t size() const { return size_; }

 private:
  struct Free { void operator()(void* p) const { std::free(p); } };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_ = 0;
};

// How a matrix of floats is to be packed. group 0: one scale for a whole row; -1, to load_model only:
// whole rows in encoders of 8 bits, else 64.
struct Packing {
  int bits = 0;  // 0: leave it as it is
  int64_t group = 64;
  bool symmetric = true;
};

struct Tiles {
  TileView view{};
  Buffer codes, scales, mins, masks, starts, book;
};

int64_t padded_columns(int64_t columns, int64_t group);
// Throws Error where bits, group or sizes are outside what kernels take.
void check_layout(int bits, int64_t rows, int64_t columns, int64_t group, bool sparse, bool mins);
// codes, keep: (rows, columns) bytes; scales, mins: (rows, groups) float16. keep and mins may be null.
Tiles lay_tiles(int64_t rows, int64_t columns, int bits, int64_t group, const uint8_t* codes, const uint16_t* scales,
                const uint16_t* mins, const uint8_t* keep);
// The same with a codebook of int8 entries (2^bits, dim); codes: (rows, columns / dim).
Tiles lay_codebook(int64_t rows, int64_t columns, int bits, int dim, int64_t group, const uint8_t* codes,
                   const uint16_t* scales, const int8_t* book);
void check_codebook(int bits, int dim, int64_t columns, int64_t group);
Buffer book_tables(int bits, int dim, const int8_t* book);  // as kernels look entries up
// Nearest codes, with the scale of each group that loses least among a few. Throws Error where a weight is not finite.
void round_to_nearest(const float* weight, int64_t rows, int64_t columns, const Packing& packing, uint8_t* codes,
                      uint16_t* scales, uint16_t* mins, const uint8_t* keep);
// The same on the caller's thread alone. above: rows before the first, which errors count from.
void round_rows(const float* weight, int64_t rows, int64_t columns, const Packing& packing, uint8_t* codes,
                uint16_t* scales, uint16_t* mins, const uint8_t* keep, int64_t above);
// (last - first) rows of a tiled matrix as floats.
void read_rows(const TileView& view, int64_t first, int64_t last, float* out);

// What a packed matrix has beside its codes: a low-rank part, and weights kept exactly.
struct Beside {
  BesideView view;
  FloatView a{};  // (rank, columns) float16
  Tensor values;  // the exact weights
  std::vector<float> differences;
  uint64_t bytes() const;
  void add_low_rank(int64_t row, float* out) const;
  void put_exact(int64_t row, float* out) const;
};

struct Channels;

struct Matrix {
  bool tiled = false;
  FloatView floats{};
  TileView tiles{};
  int64_t rows = 0, columns = 0;
  std::shared_ptr<const Beside> beside;  // tiled ones may have it
  std::shared_ptr<Channels> channels;    // where it is there, it has the weights, and nothing above it
  std::vector<std::shared_ptr<void>> owns;
  uint64_t bytes() const;  // read by one product, bias left out
  void row(int64_t index, float* out) const;
  void set_bias(const float* bias);
};

// A matrix of which only some rows and columns are there; the others are zero. Lists ascend; an empty one names all.
struct Channels {
  std::vector<int32_t> rows, columns;
  Matrix small;
  const float* bias = nullptr;  // one per row of the whole matrix; where rows are absent, in the small one's place
  void row(int64_t index, int64_t width, float* out) const;
};

// What the description of NAME in the file's metadata says of absent rows and columns, `small` left to be loaded; null
// where all are there. Throws Error.
std::shared_ptr<Channels> load_channels(const Tensors& tensors, const std::string& name, const Json& about, int64_t rows, int64_t columns);
// Where exactly the same inner channels of a gated MLP are absent everywhere, its matrices become the small ones.
void narrow(Matrix& gate, Matrix& up, Matrix& down);

// NAME.weight, or NAME.codes with its companions. Throws Error naming the tensor where it is missing or misshapen.
Matrix load_matrix(const Tensors& tensors, const std::string& name, int64_t rows, int64_t columns, const Packing& packing);
// (n,) floats as float32.
const float* load_vector(const Tensors& tensors, const std::string& name, int64_t n, Matrix& owner);

}  // namespace pl
