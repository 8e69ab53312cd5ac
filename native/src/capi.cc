#include <exception>
#include <new>

#include "dispatch.h"
#include "matmul_codebook/matmul_codebook.h"
#include "files.h"
#include "model.h"
#include "paperlab.h"

#include <chrono>

using namespace pl;

struct pl_model {
  std::shared_ptr<Model> model;
  std::string info;
};
struct pl_session : Session {
  using Session::Session;
};
struct pl_tiles {
  Tiles tiles;
};
struct pl_files : Files {
  using Files::Files;
};

namespace {

thread_local std::string last_error;

// f(), or `otherwise` with the error kept for pl_error.
template <class F>
auto guarded(decltype(std::declval<F>()()) otherwise, F f) -> decltype(f()) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    last_error = "not enough memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return otherwise;
}

Packing packing_of(int bits, int64_t group, bool symmetric) {
  if (bits) check_layout(bits, 1, 1, group > 0 ? group : 64, false, !symmetric);
  if (group < -1) fail("groups of %lld columns", (long long)group);
  return {bits, group, symmetric};
}

Sampling sampling_of(const pl_sampling* how) {
  if (!how) return {};
  const auto within = [](float value, float low, float high, const char* name) {
    if (!(value >= low && value <= high)) fail("%s is %g; %g to %g is possible", name, double(value), double(low), double(high));
  };
  within(how->temperature, 0, 100, "temperature");
  within(how->top_p, 0, 1, "top_p");
  within(how->min_p, 0, 1, "min_p");
  within(how->repetition_penalty, 0.01f, 100, "repetition_penalty");
  if (how->top_k < 0) fail("top_k is %d; it cannot be negative", how->top_k);
  return {how->temperature, how->top_k, how->top_p, how->min_p, how->repetition_penalty, how->seed};
}

Type type_of(int type) {
  if (type < 0 || type > 2) fail("no float type %d", type);
  return type == 0 ? Type::F32 : type == 1 ? Type::F16 : Type::BF16;
}

}  // namespace

extern "C" {

int pl_abi(void) { return 5; }
const char* pl_error(void) { return last_error.c_str(); }

const char* pl_isas(void) {
  static const std::string all = [] {
    std::string names;
    for (const std::string& name : kernels_available()) names += (names.empty() ? "" : " ") + name;
    return names;
  }();
  return all.c_str();
}

pl_model* pl_load(const char* path, int bits, int64_t group, int symmetric, int activation_bits, int threads,
                  const char* isa) {
  return guarded(nullptr, [&]() -> pl_model* {
    Options options;
    options.packing = packing_of(bits, group, symmetric != 0);
    if (activation_bits != 8 && activation_bits != 16)
      fail("activations of %d bits; 8 and 16 are possible", activation_bits);
    options.activation_bits = activation_bits;
    options.threads = threads;
    options.isa = isa ? isa : "";
    auto model = load_model(path, options);
    std::string info = model->info();
    return new pl_model{std::move(model), std::move(info)};
  });
}

void pl_free(pl_model* model) { delete model; }
const char* pl_info(pl_model* model) { return model->info.c_str(); }

pl_session* pl_session_new(pl_model* model, int64_t context, int cache_bits) {
  return guarded(nullptr, [&]() -> pl_session* {
    auto llama = std::dynamic_pointer_cast<Llama>(model->model);
    if (!llama) fail("this model is an encoder: it embeds texts, and generates and scores none");
    return new pl_session(std::move(llama), context, cache_bits);
  });
}

void pl_session_free(pl_session* session) { delete session; }
int64_t pl_session_length(const pl_session* session) { return session->length(); }
int64_t pl_session_bytes(const pl_session* session) { return int64_t(session->bytes()); }

int pl_session_truncate(pl_session* session, int64_t length) {
  return guarded(-1, [&] {
    session->truncate(length);
    return 0;
  });
}

int pl_forward(pl_session* const* sessions, const int32_t* counts, int n, const int32_t* tokens, int want,
               float* logits) {
  return guarded(-1, [&] {
    if (n < 1) fail("no sessions to run");
    if (want < 0 || want > 2) fail("no logits of the kind %d", want);
    std::vector<Part> parts;
    for (int i = 0; i < n; ++i) {
      parts.push_back({sessions[i], tokens, counts[i]});
      if (counts[i] < 1) fail("no tokens to run");
      tokens += counts[i];
    }
    sessions[0]->model->forward(parts, Want(want), logits);
    return 0;
  });
}

int pl_score(pl_session* session, const int32_t* tokens, int count, float* scores) {
  return guarded(-1, [&] {
    session->model->score(*session, tokens, count, scores);
    return 0;
  });
}

int pl_next(pl_session* session, const int32_t* tokens, int count, const pl_sampling* how, uint64_t step,
            const int32_t* seen, int64_t seen_count) {
  return guarded(-1, [&] {
    const Sampling sampling = sampling_of(how);
    thread_local std::vector<float> logits;
    logits.resize(size_t(session->model->config().vocabulary));
    session->model->forward({{session, tokens, count}}, Want::Last, logits.data());
    return sample(logits.data(), int64_t(logits.size()), sampling, step, seen, seen_count);
  });
}

int pl_sample(float* logits, int64_t n, const pl_sampling* how, uint64_t step, const int32_t* seen,
              int64_t seen_count) {
  return guarded(-1, [&] {
    if (n < 1) fail("no logits to sample from");
    return sample(logits, n, sampling_of(how), step, seen, seen_count);
  });
}

int pl_embed(pl_model* model, const int32_t* tokens, const int32_t* lengths, int count, int pooling, int normalize,
             float* out) {
  return guarded(-1, [&] {
    auto* bert = dynamic_cast<Bert*>(model->model.get());
    if (!bert) fail("this model is a language model, not an encoder of texts");
    if (pooling < 0 || pooling > 63) fail("no pooling of the kind %d", pooling);
    bert->embed(tokens, lengths, count, pooling ? pooling : int(kMean), normalize != 0, out);
    return 0;
  });
}

int pl_round(const float* weight, int64_t rows, int64_t columns, int bits, int64_t group, const uint8_t* keep,
             uint8_t* codes, uint16_t* scales, uint16_t* mins) {
  return guarded(-1, [&] {
    const Packing packing = packing_of(bits, group, mins == nullptr);
    if (!bits) fail("0 bits per weight; known are 8, 4, 3 and 2");
    check_layout(bits, rows, columns, group ? group : padded_columns(columns, 0), keep != nullptr, mins != nullptr);
    round_to_nearest(weight, rows, columns, packing, codes, scales, mins, keep);
    return 0;
  });
}

pl_tiles* pl_lay(int64_t rows, int64_t columns, int bits, int64_t group, const uint8_t* codes, const uint16_t* scales,
                 const uint16_t* mins, const uint8_t* keep) {
  return guarded(nullptr, [&]() -> pl_tiles* {
    return new pl_tiles{lay_tiles(rows, columns, bits, group, codes, scales, mins, keep)};
  });
}

pl_tiles* pl_lay_codebook(int64_t rows, int64_t columns, int bits, int dim, int64_t group, const uint8_t* codes,
                          const uint16_t* scales, const int8_t* book) {
  return guarded(nullptr, [&]() -> pl_tiles* {
    return new pl_tiles{lay_codebook(rows, columns, bits, dim, group, codes, scales, book)};
  });
}

void pl_tiles_free(pl_tiles* tiles) { delete tiles; }

int64_t pl_tiles_part(const pl_tiles* tiles, int part, const void** data) {
  const Tiles& t = tiles->tiles;
  const Buffer* parts[] = {&t.codes, &t.scales, &t.mins, &t.masks, &t.starts};
  if (part < 0 || part > 4) return -1;
  *data = parts[part]->as<void>();
  return int64_t(parts[part]->size());
}

int pl_tiles_read(const pl_tiles* tiles, float* out) {
  read_rows(tiles->tiles.view, 0, tiles->tiles.view.rows, out);
  return 0;
}

pl_files* pl_files_open(const char* path) {
  return guarded(nullptr, [&]() -> pl_files* { return new pl_files(path); });
}

void pl_files_free(pl_files* files) { delete files; }
const char* pl_files_list(const pl_files* files) { return files->list().c_str(); }

int pl_files_read(pl_files* files, const char* name, int64_t first, int64_t last, float* out) {
  return guarded(-1, [&] {
    files->read(name, first, last, out);
    return 0;
  });
}

int pl_files_scales(pl_files* files, const char* name, uint16_t* scales, uint16_t* mins) {
  return guarded(-1, [&] {
    files->scales(name, scales, mins);
    return 0;
  });
}

int pl_kernel_quantize(const char* isa, const float* x, int tokens, int64_t columns, int64_t group, int planes,
                       int8_t* q, float* scales, int32_t* sums) {
  return guarded(-1, [&] {
    const int64_t padded = padded_columns(columns, group), size = group ? group : padded;
    for (int t = 0; t < tokens; ++t) {
      const int64_t row = t * planes, at = row * (padded / size);
      kernels_named(isa).quantize(x + t * columns, columns, padded, size, planes, q + row * padded, scales + at, sums + at);
    }
    return 0;
  });
}

int pl_kernel_matmul_q(const char* isa, const pl_tiles* tiles, const int8_t* q, const float* scales,
                       const int32_t* sums, int tokens, int planes, float* y) {
  return guarded(-1, [&] {
    const TileView& v = tiles->tiles.view;
    std::vector<int8_t> turned(q, q + int64_t(tokens) * planes * v.padded);
    for (int64_t t = 0; t < int64_t(tokens) * planes; ++t) interleave(turned.data() + t * v.padded, v.padded, v.dim);
    kernels_named(isa).matmul_q(v, {turned.data(), scales, sums, v.padded, v.groups(), planes}, tokens, 0, v.row_blocks(), y, v.rows);
    return 0;
  });
}

int pl_kernel_matmul_f(const char* isa, int type, const void* w, int64_t rows, int64_t columns, const float* x,
                       int tokens, float* y) {
  return guarded(-1, [&] {
    kernels_named(isa).matmul_f({type_of(type), rows, columns, w, nullptr}, x, columns, tokens, 0, rows, y, rows);
    return 0;
  });
}

int pl_kernel_beside(const char* isa, int64_t rows, int64_t rank, const uint16_t* b, const uint32_t* starts,
                     const uint16_t* columns, const float* differences, const float* z, const float* x, int64_t width,
                     int tokens, float* y) {
  return guarded(-1, [&] {
    kernels_named(isa).add_beside({rows, rank, b, starts, columns, differences}, z, x, width, tokens, 0, (rows + 15) / 16, y, rows);
    return 0;
  });
}

int pl_kernel_attend(const char* isa, const float* q, int queries, int head, float scale, int bits, const float* keys,
                     const float* values, int positions, int causal, float* kept_keys, float* kept_values, float* out) {
  return guarded(-1, [&] {
    if (head % 16 || head < 16 || head > 1024) fail("heads of %d columns; a multiple of 16 up to 1024 is needed", head);
    const int64_t whole = round_up(positions, 16);
    const size_t bytes = size_t(whole * cache_bytes(bits, head));
    const Buffer k(bytes), v(bytes), key_scales(size_t(whole) * 2), value_scales(size_t(whole) * 2);
    CacheView cache{bits, head, k.as<void>(), v.as<void>()};
    if (bits < 16) cache.key_scales = key_scales.as<uint16_t>(), cache.value_scales = value_scales.as<uint16_t>();
    for (int64_t i = 0; i < positions; ++i) {
      cache_put(cache, i, keys + i * head, values + i * head);
      cache_get(cache, i, kept_keys + i * head, kept_values + i * head);
    }
    std::vector<float> scores(size_t(queries * whole)), turned(q, q + queries * head);
    for (int i = 0; bits < 16 && i < queries; ++i) rotate(turned.data() + i * head, head);
    kernels_named(isa).attend({turned.data(), head, queries, scale, cache, positions, causal != 0, scores.data(), out, head});
    for (int i = 0; bits < 16 && i < queries; ++i) rotate(out + i * head, head);
    return 0;
  });
}

int pl_kernel_row(const char* isa, const char* name, const float* x, const float* a, const float* b, float epsilon,
                  int64_t n, float* y) {
  return guarded(-1, [&] {
    const Kernels& k = kernels_named(isa);
    const std::string which = name;
    if (which == "rms_norm") k.rms_norm(x, a, epsilon, n, y);
    else if (which == "layer_norm") k.layer_norm(x, a, b, epsilon, n, y);
    else if (which == "silu_mul") k.silu_mul(x, a, n, y);
    else {
      std::copy(x, x + n, y);
      if (which == "gelu") k.gelu(y, n);
      else if (which == "gelu_tanh") k.gelu_tanh(y, n);
      else if (which == "softmax") k.softmax(y, n);
      else fail("no kernel %s", name);
    }
    return 0;
  });
}

int pl_test_pool(int threads, int rounds, int32_t* counters, int n) {
  return guarded(-1, [&] {
    Pool pool(threads);
    for (int r = 0; r < rounds; ++r) pool.run(n, [&](int i) { ++counters[i]; });
    return 0;
  });
}

double pl_test_read(int threads, int64_t bytes, int rounds) {
  return guarded(-1.0, [&] {
    if (threads < 1 || bytes < 4096 || rounds < 1) fail("nothing to read");
    Pool pool(threads);
    const Buffer buffer(static_cast<size_t>(bytes));
    std::vector<uint64_t> sums(size_t(threads) * 8);
    double best = 0;
    for (int r = 0; r < rounds; ++r) {
      const auto begun = std::chrono::steady_clock::now();
      pool.run(threads, [&](int i) {
        const uint64_t* at = buffer.as<uint64_t>();
        uint64_t sum = 0;
        for (int64_t word = bytes / 8 * i / threads, end = bytes / 8 * (i + 1) / threads; word + 8 <= end; word += 8) {
          __builtin_prefetch(at + word + 512);
          for (int k = 0; k < 8; ++k) sum += at[word + k];
        }
        sums[size_t(i) * 8] += sum;
      });
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
      best = std::max(best, double(bytes) / took.count());
    }
    return sums[0] == 1 ? 0.0 : best;  // the sums are wanted, so that nobody leaves the reading out
  });
}

}  // extern "C"
