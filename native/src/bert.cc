// BERT and its kin, by `kStyles`: learned positions, attention over the whole text, norms after each half of a block. Texts of a batch
// lie one after another without padding.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>

#include "model.h"

namespace pl {

constexpr int64_t kLot = 128;  // tokens
constexpr int kStrip = 64;     // tokens whose widest activations are kept at a time

namespace {

// What an encoder's tensors and settings are called. Names of a block follow `blocks` and its number.
struct EncoderStyle {
  const char *type, *prefix;
  const char* kinds = nullptr;  // of token types, where there are any
  int first_place = 0;          // of the positions: those before are for padding
  const char *blocks = "encoder.layer.", *q = "attention.self.query", *k = "attention.self.key", *v = "attention.self.value";
  const char *out = "attention.output.dense", *after_attention = "attention.output.LayerNorm";
  const char *up = "intermediate.dense", *down = "output.dense", *after_mlp = "output.LayerNorm";
  const char* distances = nullptr;  // scores of (bucket of the distance, head), added to those of queries and keys
  const char *hidden_name = "hidden_size", *inner_name = "intermediate_size", *layers_name = "num_hidden_layers";
  const char *heads_name = "num_attention_heads", *activation_name = "hidden_act";
};

constexpr const char* kTypes = "embeddings.token_type_embeddings";
const EncoderStyle kStyles[] = {
    {.type = "bert", .prefix = "bert.", .kinds = kTypes},
    {.type = "roberta", .prefix = "roberta.", .kinds = kTypes, .first_place = 2},
    {.type = "xlm-roberta", .prefix = "roberta.", .kinds = kTypes, .first_place = 2},
    {.type = "camembert", .prefix = "roberta.", .kinds = kTypes, .first_place = 2},
    {.type = "distilbert", .prefix = "distilbert.", .blocks = "transformer.layer.", .q = "attention.q_lin", .k = "attention.k_lin",
     .v = "attention.v_lin", .out = "attention.out_lin", .after_attention = "sa_layer_norm", .up = "ffn.lin1", .down = "ffn.lin2",
     .after_mlp = "output_layer_norm", .hidden_name = "dim", .inner_name = "hidden_dim", .layers_name = "n_layers",
     .heads_name = "n_heads", .activation_name = "activation"},
    {.type = "mpnet", .prefix = "mpnet.", .first_place = 2, .q = "attention.attn.q", .k = "attention.attn.k", .v = "attention.attn.v",
     .out = "attention.attn.o", .after_attention = "attention.LayerNorm", .distances = "encoder.relative_attention_bias"},
};

const EncoderStyle* encoder_style(const std::string& type) {
  for (const EncoderStyle& style : kStyles)
    if (type == style.type) return &style;
  return nullptr;
}

// T5's buckets: half for each direction, the near distances one by one, the far ones by their logarithm up to 128.
int64_t bucket(int64_t distance, int64_t buckets) {  // of key - query
  const int64_t half = buckets / 2, near = half / 2, away = distance < 0 ? -distance : distance;
  const int64_t base = distance > 0 ? half : 0;
  if (away < near) return base + away;
  const float far = std::log(float(away) / float(near)) / float(std::log(128.0 / double(near))) * float(half - near);
  return base + std::min(near + int64_t(far), half - 1);
}

}  // namespace

bool is_encoder(const std::string& type) { return encoder_style(type) != nullptr; }

// What texts go through a model with: a runtime, and the memory of one pass.
struct Bert::Lane {
  explicit Lane(Runtime& all) : runtime(all) {}
  explicit Lane(std::unique_ptr<Runtime> one) : own(std::move(one)), runtime(*own) {}
  std::unique_ptr<Runtime> own;
  Runtime& runtime;
  Scratch x, qkv, attended, mlp, keys, values;
};

Bert::~Bert() = default;

Bert::Bert(Tensors&& tensors, const Options& options) : Model(options) {
  tensors_ = std::move(tensors);
  const Json& config = tensors_.config;
  const EncoderStyle& style = *encoder_style(config.get_text("model_type", ""));
  const auto sized = [&](const char* name, int64_t most) {
    const int64_t value = config.get_int(name, 0);
    if (value < 1 || value > most) fail("config.json: %s is %lld; 1 to %lld is possible", name, (long long)value, (long long)most);
    return value;
  };
  hidden_ = sized(style.hidden_name, 1 << 16), inner_ = sized(style.inner_name, 1 << 18);
  const int64_t layers = sized(style.layers_name, 1024);
  heads_ = sized(style.heads_name, 1024);
  positions_ = sized("max_position_embeddings", 1 << 20), vocabulary_ = sized("vocab_size", 1 << 24);
  const int64_t kinds = style.kinds ? sized("type_vocab_size", 1 << 16) : 0;
  first_place_ = style.first_place ? config.get_int("pad_token_id", style.first_place - 1) + 1 : 0;
  if (first_place_ < 0 || first_place_ >= positions_) fail("config.json: impossible pad_token_id");
  head_ = hidden_ / heads_;
  if (hidden_ % heads_ || head_ % 16) fail("heads of %lld / %lld columns; a multiple of 16 is needed", (long long)hidden_, (long long)heads_);
  epsilon_ = float(config.get_number("layer_norm_eps", 1e-12));
  const std::string activation = config.get_text(style.activation_name, "gelu"), places = config.get_text("position_embedding_type", "absolute");
  tanh_ = activation == "gelu_new" || activation == "gelu_pytorch_tanh";
  if (activation != "gelu" && !tanh_) fail("the activation \"%s\" is not known for this architecture; gelu is", activation.substr(0, 40).c_str());
  if (places != "absolute") fail("positions of the kind \"%s\" are not known; absolute ones are", places.substr(0, 40).c_str());
  const bool bare = tensors_.find("embeddings.word_embeddings.weight") || tensors_.find("embeddings.word_embeddings.codes");
  const std::string prefix = bare ? "" : style.prefix;

  const auto norm = [&](const std::string& name) {
    Matrix owner;
    Norm out;
    out.weight = load_vector(tensors_, prefix + name + ".weight", hidden_, owner);
    out.bias = load_vector(tensors_, prefix + name + ".bias", hidden_, owner);
    owns_.insert(owns_.end(), owner.owns.begin(), owner.owns.end());
    return out;
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    Matrix out = load_matrix(tensors_, prefix + name, rows, columns, options.packing);
    out.set_bias(load_vector(tensors_, prefix + name + ".bias", rows, out));
    return out;
  };
  // A look-up reads one row and no more: embeddings stay as the file has them.
  words_ = load_matrix(tensors_, prefix + "embeddings.word_embeddings", vocabulary_, hidden_, {});
  places_ = load_matrix(tensors_, prefix + "embeddings.position_embeddings", positions_, hidden_, {});
  if (style.kinds) kinds_ = load_matrix(tensors_, prefix + style.kinds, kinds, hidden_, {});
  if (style.distances) {
    const int64_t buckets = config.get_int("relative_attention_num_buckets", 32), longest = positions_ - first_place_;
    if (buckets < 4 || buckets > 4096 || buckets % 4) fail("config.json: relative_attention_num_buckets is %lld", (long long)buckets);
    const Matrix table = load_matrix(tensors_, prefix + style.distances, buckets, heads_, {});
    std::vector<float> row(static_cast<size_t>(heads_));
    distances_.resize(size_t(heads_ * (2 * longest - 1)));
    for (int64_t d = 1 - longest; d < longest; ++d) {
      table.row(bucket(d, buckets), row.data());
      for (int64_t h = 0; h < heads_; ++h) distances_[size_t(h * (2 * longest - 1) + d + longest - 1)] = row[size_t(h)];
    }
  }
  first_ = norm("embeddings.LayerNorm");
  for (int64_t i = 0; i < layers; ++i) {
    const std::string at = style.blocks + std::to_string(i) + ".";
    Layer layer;
    layer.q = matrix(at + style.q, hidden_, hidden_);
    layer.k = matrix(at + style.k, hidden_, hidden_);
    layer.v = matrix(at + style.v, hidden_, hidden_);
    layer.out = matrix(at + style.out, hidden_, hidden_);
    layer.after_attention = norm(at + style.after_attention);
    layer.up = matrix(at + style.up, inner_, hidden_);
    layer.down = matrix(at + style.down, hidden_, inner_);
    layer.after_mlp = norm(at + style.after_mlp);
    layers_.push_back(std::move(layer));
  }
  lanes_.push_back(std::make_unique<Lane>(runtime));
  for (int i = 0; runtime.pool.threads() > 1 && i < runtime.pool.threads(); ++i)
    lanes_.push_back(std::make_unique<Lane>(std::make_unique<Runtime>(runtime.k, 1, runtime.planes)));
}

std::string Bert::info() const {
  uint64_t bytes = 0, weights = 0;
  for (const Layer& l : layers_)
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.out, &l.up, &l.down}) {
      bytes += m->bytes();
      weights += uint64_t(m->rows * m->columns);
    }
  char out[512];
  snprintf(out, sizeof out,
           "{\"kind\": \"bert\", \"isa\": \"%s\", \"threads\": %d, \"vocabulary\": %lld, \"hidden\": %lld, \"layers\": %zu, "
           "\"context\": %lld, \"bytes_per_token\": %llu, \"weights_per_token\": %llu}",
           runtime.k.name, runtime.pool.threads(), (long long)vocabulary_, (long long)hidden_, layers_.size(),
           (long long)(positions_ - first_place_), (unsigned long long)bytes, (unsigned long long)weights);
  return out;
}

void Bert::embed(const int32_t* tokens, const int32_t* lengths, int count, int pooling, bool normalize, float* out) {
  std::lock_guard lock(busy);
  int64_t total = 0, longest = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t most = positions_ - first_place_;
    if (lengths[i] < 1 || lengths[i] > most) fail("text %d has %d tokens; this model takes 1 to %lld", i, lengths[i], (long long)most);
    total += lengths[i];
    longest = std::max<int64_t>(longest, lengths[i]);
  }
  if (total > 1 << 20) fail("%lld tokens in one batch; at most %d are possible", (long long)total, 1 << 20);
  for (int64_t t = 0; t < total; ++t)
    if (tokens[t] < 0 || tokens[t] >= vocabulary_) fail("token %d is outside the vocabulary of %lld", tokens[t], (long long)vocabulary_);
  std::vector<Text> texts;
  for (int i = 0; i < count; tokens += lengths[i++]) texts.push_back({tokens, lengths[i], out + i * hidden_ * __builtin_popcount(unsigned(pooling))});
  const int threads = runtime.pool.threads();
  // Lots of whole texts, small enough for the caches. A thread takes one after another through all layers and waits for
  // nobody; only where there are too few texts to go round do the threads share each step.
  const int64_t most = std::min<int64_t>(kLot, (total + threads - 1) / threads);
  std::vector<int> lots;  // where each begins
  int64_t held = 0;
  for (int i = 0; i < count; held += lengths[i++])
    if (!i || held + lengths[i] > most) lots.push_back(i), held = 0;
  const auto lot = [&](Lane& lane, size_t i) {
    const int end = i + 1 < lots.size() ? lots[i + 1] : count;
    run(lane, texts.data() + lots[i], end - lots[i], pooling, normalize);
  };
  if (threads == 1 || longest > (total + threads - 1) / threads) {
    for (size_t i = 0; i < lots.size(); ++i) lot(*lanes_[0], i);
    return;
  }
  std::atomic<size_t> next{0};
  std::vector<std::exception_ptr> failed(size_t(threads), nullptr);  // out of memory: the pool's threads must not throw
  runtime.pool.run(threads, [&](int thread) {
    try {
      for (size_t i; (i = next.fetch_add(1)) < lots.size();) lot(*lanes_[size_t(thread) + 1], i);
    } catch (...) {
      failed[size_t(thread)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : failed)
    if (error) std::rethrow_exception(error);
}

void Bert::run(Lane& lane, const Text* given, int count, int pooling, bool normalize) const {
  Runtime& runtime = lane.runtime;
  int64_t total = 0, padded = 0;
  for (int i = 0; i < count; ++i) {
    total += given[i].length;
    padded += round_up(given[i].length, 16);
  }
  const int n = int(total);
  const int64_t width = hidden_, all = 3 * width;
  float* x = lane.x.get<float>(size_t(n * width));
  float* qkv = lane.qkv.get<float>(size_t(n * all));
  float* attended = lane.attended.get<float>(size_t(n * width));
  const int strip = runtime.pool.threads() == 1 ? std::min(n, kStrip) : n;
  float* inner = lane.mlp.get<float>(size_t(strip * inner_));
  float* keys = lane.keys.get<float>(size_t(padded * width));      // [text][head][position / 16][head width][16]
  float* values = lane.values.get<float>(size_t(padded * width));  // [text][head][position][head width]
  const Kernels& k = runtime.k;
  struct Placed {
    int first, length;
    int64_t place;  // in keys and values, in positions
  };
  std::vector<Placed> texts;
  std::vector<int> text_of;
  std::vector<std::pair<int, int>> runs;  // (text, first query), 16 queries at a time
  int64_t place = 0;
  for (int i = 0, first = 0; i < count; first += given[i++].length) {
    const int length = given[i].length;
    texts.push_back({first, length, place});
    place += round_up(length, 16);
    text_of.insert(text_of.end(), size_t(length), i);
    for (int q = 0; q < length; q += 16) runs.emplace_back(i, q);
  }
  runtime.each(n, [&](int t) {
    thread_local std::vector<float> part;
    part.resize(size_t(width));
    float* row = x + t * width;
    const int text = text_of[size_t(t)], position = t - texts[size_t(text)].first;
    words_.row(given[text].tokens[position], row);
    for (const auto& [table, index] : {std::pair{&places_, position + first_place_}, std::pair{&kinds_, int64_t(0)}}) {
      if (!table->rows) continue;
      table->row(index, part.data());
      for (int64_t d = 0; d < width; ++d) row[d] += part[size_t(d)];
    }
    k.layer_norm(row, first_.weight, first_.bias, epsilon_, width, row);
  });
  const float scale = float(1 / std::sqrt(double(head_)));
  const bool whole = k.attend_text && layers_[0].q.tiled && head_ % 32 == 0 && distances_.empty();
  for (const Layer& layer : layers_) {
    runtime.multiply({x, width, width, n}, {{&layer.q, qkv, all}, {&layer.k, qkv + width, all}, {&layer.v, qkv + 2 * width, all}});
    if (whole) {
      runtime.pool.run(int(int64_t(texts.size()) * heads_), [&](int piece) {
        const Placed& text = texts[size_t(piece / heads_)];
        const int64_t h = piece % heads_ * head_;
        const float* q = qkv + text.first * all + h;
        thread_local std::vector<uint8_t> scratch;
        scratch.resize(size_t(text_scratch(text.length, head_)));
        k.attend_text({q, q + width, q + 2 * width, all, text.length, head_, scale, scratch.data(), attended + text.first * width + h, width});
      });
    } else {
      runtime.each(n, [&](int t) {
        const Placed& text = texts[size_t(text_of[size_t(t)])];
        const int64_t position = t - text.first, span = round_up(text.length, 16);
        for (int64_t h = 0; h < heads_; ++h) {
          const float *key = qkv + t * all + width + h * head_, *value = key + width;
          float* to = keys + text.place * width + h * span * head_ + position / 16 * head_ * 16 + position % 16;
          for (int64_t d = 0; d < head_; ++d) to[d * 16] = key[d];
          std::memcpy(values + text.place * width + (h * span + position) * head_, value, size_t(head_) * 4);
        }
      });
      runtime.pool.run(int(int64_t(runs.size()) * heads_), [&](int piece) {
        const auto [index, first] = runs[size_t(piece / heads_)];
        const int64_t h = piece % heads_;
        const Placed& text = texts[size_t(index)];
        const int64_t span = round_up(text.length, 16), at = text.place * width + h * span * head_;
        const int queries = std::min(16, text.length - first);
        thread_local std::vector<float> scores;
        scores.resize(size_t(queries * span));
        if (!distances_.empty()) {
          const int64_t longest = positions_ - first_place_;
          const float* by = distances_.data() + h * (2 * longest - 1) + longest - 1;
          for (int i = 0; i < queries; ++i) {
            const float* q = qkv + (text.first + first + i) * all + h * head_;
            float *to = attended + (text.first + first + i) * width + h * head_, *row = scores.data();
            for (int64_t j = 0; j < text.length; ++j) {
              const float* key = qkv + (text.first + j) * all + width + h * head_;
              float sum = 0;
              for (int64_t d = 0; d < head_; ++d) sum += q[d] * key[d];
              row[j] = sum * scale + by[j - first - i];
            }
            k.softmax(row, text.length);
            std::fill(to, to + head_, 0.0f);
            for (int64_t j = 0; j < text.length; ++j)
              for (int64_t d = 0; d < head_; ++d) to[d] += row[j] * values[at + j * head_ + d];
          }
          return;
        }
        k.attend({qkv + (text.first + first) * all + h * head_, all, queries, scale,
                  {32, head_, keys + at, values + at}, text.length, false, scores.data(), attended + (text.first + first) * width + h * head_, width});
      });
    }
    runtime.multiply({attended, width, width, n}, {{&layer.out, qkv, width}});
    runtime.each(n, [&](int t) {
      float *to = x + t * width, *from = qkv + t * width;
      for (int64_t d = 0; d < width; ++d) to[d] += from[d];
      k.layer_norm(to, layer.after_attention.weight, layer.after_attention.bias, epsilon_, width, to);
    });
    for (int first = 0; first < n; first += strip) {
      const int some = std::min(strip, n - first);
      runtime.multiply({x + first * width, width, width, some}, {{&layer.up, inner, inner_}});
      runtime.each(some, [&](int t) { (tanh_ ? k.gelu_tanh : k.gelu)(inner + t * inner_, inner_); });
      runtime.multiply({inner, inner_, inner_, some}, {{&layer.down, qkv + first * width, width}});
    }
    runtime.each(n, [&](int t) {
      float *to = x + t * width, *from = qkv + t * width;
      for (int64_t d = 0; d < width; ++d) to[d] += from[d];
      k.layer_norm(to, layer.after_mlp.weight, layer.after_mlp.bias, epsilon_, width, to);
    });
  }
  for (int i = 0; i < count; ++i) {
    const Placed& text = texts[size_t(i)];
    float* to = given[i].out;
    const float* rows = x + text.first * width;
    const int length = text.length, size = int(width) * __builtin_popcount(unsigned(pooling));
    // The mean with weights w(t), which add up to one, or to what `over` makes of it.
    const auto mean = [&](auto weight, float over) {
      std::fill(to, to + width, 0.0f);
      for (int t = 0; t < length; ++t)
        for (int64_t d = 0; d < width; ++d) to[d] += rows[t * width + d] * weight(t) / over;
    };
    for (const int how : {kFirst, kMax, kMean, kMeanSqrt, kWeighted, kLast}) {
      if (!(pooling & how)) continue;
      if (how == kFirst || how == kLast) std::copy_n(how == kFirst ? rows : rows + (length - 1) * width, width, to);
      else if (how == kMax) {
        std::copy_n(rows, width, to);
        for (int t = 1; t < length; ++t)
          for (int64_t d = 0; d < width; ++d) to[d] = std::max(to[d], rows[t * width + d]);
      } else if (how == kWeighted) mean([](int t) { return float(t + 1); }, float(length) * float(length + 1) / 2);
      else mean([](int) { return 1.0f; }, how == kMean ? float(length) : std::sqrt(float(length)));
      to += width;
    }
    to -= size;
    if (!normalize) continue;
    double square = 0;
    for (int d = 0; d < size; ++d) square += double(to[d]) * to[d];
    const float inverse = float(1 / std::max(std::sqrt(square), 1e-12));
    for (int d = 0; d < size; ++d) to[d] *= inverse;
  }
}

}  // namespace pl
