// The one table of kernels, and the views that they work on. A kernel computes; it never allocates and never throws.
#pragma once
#include <cstdint>

namespace pl {

enum class Type : uint8_t { F32, F16, BF16 };

inline int64_t type_bytes(Type type) { return type == Type::F32 ? 4 : 2; }

// A (rows, columns) matrix of floats as files have it: one row after another.
struct FloatView {
  Type type;
  int64_t rows, columns;
  const void* data;
  const float* bias = nullptr;  // one per row, or none; added to the product
};

// A (rows, columns) matrix in few bits, in tiles: 16 rows side by side, so that one vector register holds one sum per
// row and no sum is ever taken across a register. `padded` columns (a multiple of the group) are stored, and
// `row_blocks` = ceil(rows / 16) blocks of rows.
//
//     W[r, c] = scales[r, c / group] * (code[r, c] - zero)          zero = 2^(bits-1)         mins absent: symmetric
//     W[r, c] = scales[r, c / group] * code[r, c] + mins[r, c / group]                        mins present
//
// codes of one tile (16 rows x 4 columns, called a quad), in the order [row][column]:
//     8 bits   64 bytes
//     4 bits   two quads in 64 bytes: the first in the low halves of the bytes, the second in the high halves
//     2 bits   four quads in 64 bytes: bits 0-1, 2-3, 4-5, 6-7
//     3 bits   per group: all quads' low two bits as above, then per quad 8 bytes with the third bits
// A group's quads follow one another; then comes the next group of the same 16 rows; then the next 16 rows.
// scales, mins: float16 [row block][group][16].
//
// Sparse (masks present; 8 or 4 bits, symmetric): a quad has a mask of 64 bits [row][column] and only its ones are
// stored, in order, as code - zero in two's complement, so that what is absent needs no filling but zeros. 8 bits: a byte
// each, quad after quad. 4 bits: two quads share bytes, the first in the low halves and the second in the high ones; the
// longer of the two says how many: no half is moved before its bytes are spread. masks [row block][quad]; starts[row
// block] is where the block's codes begin, in bytes; 64 bytes may be read past the last code.
//
// With a codebook (book present) a code stands for `dim` neighbouring columns, 1, 2 or 4: W[r, c] = scales[r, c / group]
// * (book[c % dim][code[r, c / dim]] - 128). Codes are laid as above, as a matrix of columns / dim columns in groups of
// group / dim. The kernels take activations in the order that `interleave` (matmul_codebook.h) gives them.
struct TileView {
  int bits;
  int64_t rows, columns, padded, group;
  const uint8_t* codes;
  const uint16_t* scales;
  const uint16_t* mins;
  const uint64_t* masks;
  const uint64_t* starts;
  const float* bias = nullptr;  // one per row, or none; added to the product
  const uint8_t* book = nullptr;  // [dim][entries()]
  int dim = 1;
  int64_t coded() const { return group / dim; }  // codes of a row in a group
  int64_t entries() const { return bits == 8 ? 256 : 16; }  // to a table of the book; those past 2^bits are not used
  int64_t groups() const { return padded / group; }
  int64_t row_blocks() const { return (rows + 15) / 16; }
  int64_t group_bytes() const { return 16 * coded() * bits / 8; }  // dense only
  int zero() const { return book ? 128 : 1 << (bits - 1); }
};

// What a packed matrix may have beside its codes: B (A x) of a low rank, and single weights kept exactly.
struct BesideView {
  int64_t rows = 0, rank = 0;
  const uint16_t* b = nullptr;  // float16 [row / 16][rank][16]; the other factor, A (rank, columns), is a FloatView
  // The exact weights of row r are those from starts[r] to starts[r + 1], by ascending column. differences: what each
  // is more than the rest of the matrix (codes, low rank) says.
  const uint32_t* starts = nullptr;
  const uint16_t* columns = nullptr;
  const float* differences = nullptr;
};

// Activations in 8 bits, per token and group: x[c] = scale[c / group] * q[c], |q| <= 127; sums[g]: the sum of q. With
// two planes a token has a second row right after its first, which holds what the first left over, in steps 254 times
// finer: 15 bits in all, and to a kernel just another token whose result is added to the first's.
// A group with a NaN or an infinity has scale NaN and q 0, so that no result that it enters looks sound.
struct Int8View {
  const int8_t* q;      // [token][plane][padded]
  const float* scales;  // [token][plane][groups]
  const int32_t* sums;  // [token][plane][groups]
  int64_t padded, groups;
  int planes;  // 1 or 2
};

// One head's keys and values in 32 (float32), 16 (bfloat16), 8 or 4 bits. Keys lie in blocks of 16 positions, so that a
// register holds the same column of several. In 8 bits x = scale * code, code -127 to 127; in 4 bits
// x = scale * (code - 7.5), code 0 to 15; a scale (bfloat16) per position.
//     32, 16, 8 bits   keys [position / 16][head][16], values [position][head]
//     4 bits           keys [position / 16][head / 2][16], the even column in the low half of a byte;
//                      values [position][head / 16][8], column c in the low half, column c + 8 in the high half
// What is kept in 8 or 4 bits are rotated keys and values (src/cache.h); to a kernel that makes no difference.
struct CacheView {
  int bits = 32;
  int64_t head = 0;  // width of a head, a multiple of 16
  void* keys = nullptr;
  void* values = nullptr;
  uint16_t* key_scales = nullptr;  // [position], 8 and 4 bits
  uint16_t* value_scales = nullptr;
};

struct Attention {
  const float* q;        // [query][q_stride], one head's part
  int64_t q_stride;
  int queries;
  float scale;
  CacheView cache;
  int positions;         // how many a query may see; with causal, the last query: earlier ones see one less each
  bool causal;
  float* scores;         // scratch: queries x round_up(positions, 16)
  float* out;            // [query][out_stride]
  int64_t out_stride;
  // Where the cache is one stretch of a longer one: the largest score of each query and the sum of exp(score - largest);
  // `out` is then not divided by that sum.
  float* most = nullptr;
  float* total = nullptr;
  const void* next_keys = nullptr;  // what comes after: asked for meanwhile
  const void* next_values = nullptr;
  float cap = 0;       // scores are cap * tanh(score / cap); 0: as they are
  int hidden = 0;      // the first positions that the first query does not see, if above 0; later ones see `step` less each
  int step = 0;
};

// One head's attention of a whole text over itself.
struct TextAttention {
  const float *q, *k, *v;  // [token][stride], one head's part
  int64_t stride;
  int tokens;
  int64_t head;  // a multiple of 32
  float scale;
  void* scratch;  // text_scratch(tokens, head) bytes
  float* out;     // [token][out_stride]
  int64_t out_stride;
};

// Rows of 32 tokens: keys and values in 16 bits; 16 queries, their scores and those again in 16 bits; a tile; alignment.
inline int64_t text_scratch(int64_t tokens, int64_t head) {
  const int64_t span = (tokens + 31) / 32 * 32;
  return 4 * span * head + 32 * head + 96 * span + 1024 + 64;
}

struct Kernels {
  const char* name;

  // y[t * ldy + r] = sum_c W[r, c] * x[t, c] + bias[r] for rows of the blocks [first, last), every token.
  void (*matmul_q)(const TileView& w, const Int8View& x, int tokens, int64_t first, int64_t last, float* y, int64_t ldy);
  // The same for floats, rows [first, last).
  void (*matmul_f)(const FloatView& w, const float* x, int64_t ldx, int tokens, int64_t first, int64_t last, float* y,
                   int64_t ldy);
  // columns floats -> padded codes, scales and sums by group, for each plane.
  void (*quantize)(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q, float* scales,
                   int32_t* sums);
  void (*attend)(const Attention& job);
  // y += B z + (exact weights) x for rows of the blocks [first, last); z: (tokens, rank), A x.
  void (*add_beside)(const BesideView& w, const float* z, const float* x, int64_t ldx, int tokens, int64_t first,
                     int64_t last, float* y, int64_t ldy);

  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t n, float* y);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon, int64_t n, float* y);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);  // y = gate / (1 + exp(-gate)) * up
  void (*gelu)(float* x, int64_t n);                                         // by the error function
  void (*gelu_tanh)(float* x, int64_t n);
  void (*softmax)(float* x, int64_t n);
  // In 16 bits; null where nothing is gained by it.
  void (*attend_text)(const TextAttention& job) = nullptr;
};

}  // namespace pl
