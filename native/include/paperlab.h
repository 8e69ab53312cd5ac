/* The C interface of paperlab's engine. Every call that can fail returns NULL or a negative number, and pl_error() of
 * the same thread then says in one line what was wrong. Handles may be used from several threads: forward passes of
 * one model wait for each other; one session belongs to one caller at a time. */
#ifndef PAPERLAB_H
#define PAPERLAB_H
#include <stdint.h>

#if defined(__GNUC__)
#define PL_API __attribute__((visibility("default")))
#else
#define PL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pl_model pl_model;
typedef struct pl_session pl_session;

typedef struct {
  float temperature; /* 0: the likeliest token */
  int32_t top_k;     /* 0: all */
  float top_p, min_p, repetition_penalty; /* 1, 0, 1: no effect */
  uint64_t seed;
} pl_sampling;

PL_API int pl_abi(void); /* changes with this file */
PL_API const char* pl_error(void);
PL_API const char* pl_isas(void); /* kernels that run here, separated by spaces, the plainest first */

/* bits: 0 leaves weights as the files have them; 8, 4, 3, 2 round those that are floats, in groups of `group` columns
 * (0: whole rows; -1: whole rows in encoders of 8 bits, else 64). activation_bits: to what activations are rounded before they meet packed weights; 8
 * or 16. threads 0: one per core. isa NULL: PAPERLAB_ISA, else the best. */
PL_API pl_model* pl_load(const char* path, int bits, int64_t group, int symmetric, int activation_bits, int threads,
                         const char* isa);
PL_API void pl_free(pl_model* model); /* sessions keep what they need */
PL_API const char* pl_info(pl_model* model); /* JSON; valid until the model is freed */

/* cache_bits: 32, 16 (bfloat16), 8 or 4. context 0: 4096 or the model's own, whichever is less. */
PL_API pl_session* pl_session_new(pl_model* model, int64_t context, int cache_bits);
PL_API void pl_session_free(pl_session* session);
PL_API int64_t pl_session_length(const pl_session* session);
PL_API int64_t pl_session_bytes(const pl_session* session);
PL_API int pl_session_truncate(pl_session* session, int64_t length);

/* The next counts[i] tokens of each session, together. want: 0 none, 1 the last token's logits of each session, 2 every
 * token's; logits has room for that many rows of the vocabulary. */
PL_API int pl_forward(pl_session* const* sessions, const int32_t* counts, int n, const int32_t* tokens, int want,
                      float* logits);
/* scores[i], i < count - 1: log probability of tokens[i + 1] after tokens[0 .. i] and what the session held. */
PL_API int pl_score(pl_session* session, const int32_t* tokens, int count, float* scores);
/* Runs the tokens and draws the next one; seen: those that the repetition penalty covers. Returns the token. */
PL_API int pl_next(pl_session* session, const int32_t* tokens, int count, const pl_sampling* how, uint64_t step,
                   const int32_t* seen, int64_t seen_count);
PL_API int pl_sample(float* logits, int64_t n, const pl_sampling* how, uint64_t step, const int32_t* seen,
                     int64_t seen_count);

/* pooling: 1 the first token, 2 the largest of each column, 4 (or 0) the mean, 8 the sum over the root of the length,
 * 16 the mean with weights 1, 2, 3 …, 32 the last token; added up: one after another. out: (count, hidden times how many). */
PL_API int pl_embed(pl_model* model, const int32_t* tokens, const int32_t* lengths, int count, int pooling,
                    int normalize, float* out);

/* Packing. codes, keep: (rows, columns); scales, mins: (rows, groups) float16; mins, keep may be NULL. */
PL_API int pl_round(const float* weight, int64_t rows, int64_t columns, int bits, int64_t group, const uint8_t* keep,
                    uint8_t* codes, uint16_t* scales, uint16_t* mins);
typedef struct pl_tiles pl_tiles;
PL_API pl_tiles* pl_lay(int64_t rows, int64_t columns, int bits, int64_t group, const uint8_t* codes,
                        const uint16_t* scales, const uint16_t* mins, const uint8_t* keep);
/* dim: columns to a code, 1, 2 or 4; codes: (rows, columns / dim); book: (2^bits, dim). */
PL_API pl_tiles* pl_lay_codebook(int64_t rows, int64_t columns, int bits, int dim, int64_t group, const uint8_t* codes,
                                 const uint16_t* scales, const int8_t* book);
PL_API void pl_tiles_free(pl_tiles* tiles);
/* part: 0 codes, 1 scales, 2 mins, 3 masks, 4 starts. Returns bytes; *data points into the tiles. */
PL_API int64_t pl_tiles_part(const pl_tiles* tiles, int part, const void** data);
PL_API int pl_tiles_read(const pl_tiles* tiles, float* out); /* (rows, columns) */

/* A model's files, tensor by tensor, whatever their format; one caller at a time. list: JSON, {NAME: {"shape", "dtype"}},
 * with "bits", "group" (0: whole rows), "symmetric", "sparse" and "beside" (more than codes) for a matrix in few bits; valid until the files are
 * freed. read: rows [first, last) of a matrix, or 0 and 1 for any other tensor. scales, mins: (rows, groups) float16. */
typedef struct pl_files pl_files;
PL_API pl_files* pl_files_open(const char* path);
PL_API void pl_files_free(pl_files* files);
PL_API const char* pl_files_list(const pl_files* files);
PL_API int pl_files_read(pl_files* files, const char* name, int64_t first, int64_t last, float* out);
PL_API int pl_files_scales(pl_files* files, const char* name, uint16_t* scales, uint16_t* mins);

/* Single kernels, for tests. */
PL_API int pl_kernel_quantize(const char* isa, const float* x, int tokens, int64_t columns, int64_t group, int planes,
                              int8_t* q, float* scales, int32_t* sums);
PL_API int pl_kernel_matmul_q(const char* isa, const pl_tiles* tiles, const int8_t* q, const float* scales,
                              const int32_t* sums, int tokens, int planes, float* y);
PL_API int pl_kernel_matmul_f(const char* isa, int type, const void* w, int64_t rows, int64_t columns, const float* x,
                              int tokens, float* y); /* type: 0 float32, 1 float16, 2 bfloat16 */
/* y (tokens, rows) += B z + (exact weights) x; b: float16 [row / 16][rank][16]; starts NULL: no exact weights. */
PL_API int pl_kernel_beside(const char* isa, int64_t rows, int64_t rank, const uint16_t* b, const uint32_t* starts,
                            const uint16_t* columns, const float* differences, const float* z, const float* x,
                            int64_t width, int tokens, float* y);
/* keys, values: (positions, head), kept in `bits` first; kept_keys, kept_values: what the cache then holds of them. */
PL_API int pl_kernel_attend(const char* isa, const float* q, int queries, int head, float scale, int bits,
                            const float* keys, const float* values, int positions, int causal, float* kept_keys,
                            float* kept_values, float* out);
/* name: rms_norm, layer_norm, silu_mul, gelu, gelu_tanh, softmax. a, b: weight and bias, or up. */
PL_API int pl_kernel_row(const char* isa, const char* name, const float* x, const float* a, const float* b,
                         float epsilon, int64_t n, float* y);
/* Adds 1 to each of n counters, `rounds` times, on `threads` threads. */
PL_API int pl_test_pool(int threads, int rounds, int32_t* counters, int n);
/* Bytes per second at which `threads` plain loops read `bytes` of memory, the best of `rounds`: what benchmarks hold
 * a model's speed against. */
PL_API double pl_test_read(int threads, int64_t bytes, int rounds);

#ifdef __cplusplus
}
#endif
#endif
