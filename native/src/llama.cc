// The Llama layout: RMS norms, rotary positions, grouped query attention, a gated MLP; with Qwen's biases and norms of
// queries and keys where the configuration or the files have them.
#include <algorithm>
#include <cmath>
#include <set>

#include "attend.h"

namespace pl {
namespace {

int64_t sized(const Json& config, const char* name, int64_t otherwise, int64_t most) {
  const int64_t value = config.get_int(name, otherwise);
  if (value < 1 || value > most) fail("config.json: %s is %lld; 1 to %lld is possible", name, (long long)value, (long long)most);
  return value;
}

// Inverse frequencies of the rotary pairs, in float32 as transformers has them; `turn` is what cosines and sines are
// multiplied with.
std::vector<float> frequencies(const Json& config, int64_t head, double theta, float& turn) {
  const Json* scaling = config.find("rope_scaling");
  if (!scaling || scaling->is_null()) scaling = config.find("rope_parameters");
  std::string type = "default";
  if (scaling && !scaling->is_null()) type = scaling->get_text("rope_type", scaling->get_text("type", "default"));
  std::vector<float> out(size_t(head / 2));
  for (int64_t i = 0; i < head / 2; ++i) out[size_t(i)] = float(1.0 / std::pow(theta, double(2 * i) / double(head)));
  turn = 1;
  if (type == "default") return out;
  const auto positive = [&](const char* name, double otherwise) {
    const Json* value = scaling->find(name);
    const double number = value && value->is_null() ? otherwise : scaling->get_number(name, otherwise);
    if (!(number > 0) || !std::isfinite(number)) fail("config.json: the rotary %s should be above 0", name);
    return number;
  };
  const double factor = positive("factor", 1);
  if (type == "linear") {
    for (float& f : out) f = float(f / factor);
  } else if (type == "llama3") {
    const double low = positive("low_freq_factor", 1), high = positive("high_freq_factor", 4);
    const double original = positive("original_max_position_embeddings", 8192);
    for (float& f : out) {
      const double wave = 2 * M_PI / f;
      if (wave > original / low) {
        f = float(f / factor);
      } else if (wave >= original / high) {
        const double smooth = (original / wave - low) / (high - low);
        f = float((1 - smooth) * f / factor + smooth * f);
      }
    }
  } else if (type == "yarn") {
    // Pairs that turn often within the original context stay, those that turn hardly once are stretched, and between
    // the two lies a ramp; attention is sharpened by what cosines and sines gain.
    const double original = positive("original_max_position_embeddings", double(config.get_int("max_position_embeddings", 2048)));
    const auto place = [&](double turns) { return double(head) * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(theta)); };
    double low = place(positive("beta_fast", 32)), high = place(positive("beta_slow", 1));
    if (scaling->get_bool("truncate", true)) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, double(head - 1));
    if (low == high) high += 0.001;
    for (size_t i = 0; i < out.size(); ++i) {
      const double stretched = std::min(std::max((double(i) - low) / (high - low), 0.0), 1.0);
      out[i] = float(out[i] / factor * stretched + out[i] * (1 - stretched));
    }
    const auto gain = [&](double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1; };
    const Json *one = scaling->find("mscale"), *all = scaling->find("mscale_all_dim");
    const bool both = one && all && one->number != 0 && all->number != 0;
    turn = float(positive("attention_factor", both ? gain(one->number) / gain(all->number) : gain(1) * positive("attn_factor", 1)));
  } else {
    fail("config.json scales rotary positions by \"%s\"; default, linear, llama3 and yarn are known", type.substr(0, 40).c_str());
  }
  return out;
}

LlamaConfig read_config(const Tensors& tensors) {
  const Json& json = tensors.config;
  LlamaConfig c{};
  const std::string type = json.get_text("model_type", "");
  if (type != "llama" && type != "qwen2" && type != "qwen3" && type != "mistral")
    fail("the architecture \"%s\" is not known here; llama, mistral, qwen2, qwen3 and bert are", type.substr(0, 40).c_str());
  c.hidden = sized(json, "hidden_size", 0, 1 << 16);
  c.inner = sized(json, "intermediate_size", 0, 1 << 18);
  c.layers = sized(json, "num_hidden_layers", 0, 1024);
  c.heads = sized(json, "num_attention_heads", 0, 1024);
  c.kv_heads = sized(json, "num_key_value_heads", c.heads, 1024);
  c.head = sized(json, "head_dim", std::max<int64_t>(c.hidden / c.heads, 1), 1024);
  c.context = sized(json, "max_position_embeddings", 2048, int64_t(1) << 31);
  const Json* windowed = json.find("use_sliding_window");
  if ((!windowed && type == "mistral") || (windowed && windowed->truth))
    c.context = std::min(c.context, sized(json, "sliding_window", c.context, int64_t(1) << 31));  // the same, within it
  if (c.heads % c.kv_heads) fail("config.json: %lld query heads cannot share %lld key heads", (long long)c.heads, (long long)c.kv_heads);
  if (c.head % 16) fail("heads of %lld columns; a multiple of 16 is needed", (long long)c.head);
  const std::string activation = json.get_text("hidden_act", "silu");
  if (activation != "silu") fail("the activation \"%s\" is not known for this architecture; silu is", activation.substr(0, 40).c_str());
  c.epsilon = float(json.get_number("rms_norm_eps", 1e-6));
  double theta = 10000;
  if (const Json* rope = json.find("rope_parameters")) theta = rope->get_number("rope_theta", theta);
  c.theta = json.get_number("rope_theta", theta);
  if (!(c.theta > 1) || !std::isfinite(c.theta)) fail("config.json: impossible rope_theta");
  c.frequencies = frequencies(json, c.head, c.theta, c.turn);
  if (const Tensor* factors = tensors.find("rope_freqs.weight"); factors && tensors.gguf) {  // how GGUF scales Llama 3's
    if (factors->count() != c.head / 2) fail("rope_freqs.weight holds %lld values where heads have %lld pairs", (long long)factors->count(), (long long)c.head / 2);
    std::vector<float> by(size_t(c.head / 2));
    to_float(*factors, 0, c.head / 2, by.data());
    for (size_t i = 0; i < by.size(); ++i) {
      if (!(by[i] > 0) || !std::isfinite(by[i])) fail("rope_freqs.weight holds an impossible factor");
      c.frequencies[i] /= by[i];
    }
  }
  c.interleaved = json.get_bool("rope_interleaved", false);
  c.qkv_bias = json.get_bool("attention_bias", type == "qwen2");
  c.out_bias = json.get_bool("attention_bias", false) && type != "qwen2";
  c.mlp_bias = json.get_bool("mlp_bias", false);
  c.qk_norm = type == "qwen3";
  const Tensor* table = tensors.find("model.embed_tokens.weight");
  const auto packed = tensors.metadata.find("paperlab.model.embed_tokens");
  if (table && table->shape.size() == 2) c.vocabulary = table->shape[0];
  else if (packed != tensors.metadata.end()) c.vocabulary = Json::parse(packed->second, "the description of the embeddings").get_int("rows", 0);
  else fail("the tensor model.embed_tokens.weight is missing from the model's files");
  if (c.vocabulary < 1 || c.vocabulary > (1 << 24)) fail("impossible vocabulary");
  const int64_t stated = json.get_int("vocab_size", c.vocabulary);
  if (stated != c.vocabulary) fail("the embeddings have %lld rows, config.json says vocab_size %lld", (long long)c.vocabulary, (long long)stated);
  return c;
}

}  // namespace

Llama::Llama(Tensors&& tensors, const Options& options) : Model(options) {
  tensors_ = std::move(tensors);
  c_ = read_config(tensors_);
  const Packing& packing = options.packing;
  std::set<std::string, std::less<>> used{"rope_freqs.weight"};
  const auto norm = [&](const std::string& name, int64_t n) {
    Matrix owner;
    Norm out;
    used.insert(name + ".weight");
    out.weight = load_vector(tensors_, name + ".weight", n, owner);
    owns_.push_back(owner.owns[0]);
    return out;
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns, bool bias) {
    Matrix out = load_matrix(tensors_, name, rows, columns, packing);
    used.insert({name + ".weight", name + ".bias"});
    bias = bias || (tensors_.gguf && tensors_.find(name + ".bias"));  // llama.cpp adds those that are there
    if (bias) out.set_bias(load_vector(tensors_, name + ".bias", rows, out));
    return out;
  };
  embedding_ = matrix("model.embed_tokens", c_.vocabulary, c_.hidden, false);
  const bool own_head = tensors_.find("lm_head.weight") || tensors_.find("lm_head.codes") || tensors_.find("lm_head.weight_packed");
  if (!own_head && !tensors_.config.get_bool("tie_word_embeddings", false) && tensors_.config.find("tie_word_embeddings"))
    fail("lm_head.weight is missing and config.json does not tie it to the embeddings");
  // A head that is there is the head, whatever the configuration says, unless it only repeats the embeddings.
  const Tensor *table = tensors_.find("model.embed_tokens.weight"), *own = tensors_.find("lm_head.weight");
  const bool repeated = tensors_.config.get_bool("tie_word_embeddings", false) && own && table && own->dtype == table->dtype &&
                        own->shape == table->shape && std::memcmp(own->data, table->data, own->bytes) == 0;
  if (repeated) tensors_.release(*own);
  const bool tied = !own_head || repeated;
  if (!tied) head_ = matrix("lm_head", c_.vocabulary, c_.hidden, false);
  output_ = tied ? &embedding_ : &head_;
  last_ = norm("model.norm", c_.hidden);
  for (int64_t i = 0; i < c_.layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".", attention = at + "self_attn.", mlp = at + "mlp.";
    Layer layer;
    layer.before = norm(at + "input_layernorm", c_.hidden);
    layer.after = norm(at + "post_attention_layernorm", c_.hidden);
    if (c_.qk_norm) {
      layer.q_norm = norm(attention + "q_norm", c_.head);
      layer.k_norm = norm(attention + "k_norm", c_.head);
    }
    layer.q = matrix(attention + "q_proj", c_.heads * c_.head, c_.hidden, c_.qkv_bias);
    layer.k = matrix(attention + "k_proj", c_.kv_heads * c_.head, c_.hidden, c_.qkv_bias);
    layer.v = matrix(attention + "v_proj", c_.kv_heads * c_.head, c_.hidden, c_.qkv_bias);
    layer.out = matrix(attention + "o_proj", c_.hidden, c_.heads * c_.head, c_.out_bias);
    layer.gate = matrix(mlp + "gate_proj", c_.inner, c_.hidden, c_.mlp_bias);
    layer.up = matrix(mlp + "up_proj", c_.inner, c_.hidden, c_.mlp_bias);
    layer.down = matrix(mlp + "down_proj", c_.hidden, c_.inner, c_.mlp_bias);
    narrow(layer.gate, layer.up, layer.down);
    layers_.push_back(std::move(layer));
  }
  if (!tensors_.gguf) return;
  for (const auto& [name, tensor] : tensors_.by_name)  // a GGUF file has what its architecture reads, and nothing else
    if (!used.contains(name)) fail("the file holds the tensor %s, which is not obeyed here: it changes what the model computes", name.substr(0, 80).c_str());
}

std::string Llama::info() const {
  uint64_t bytes = output_->bytes(), weights = uint64_t(output_->rows * output_->columns);
  for (const Layer& l : layers_)
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.out, &l.gate, &l.up, &l.down}) {
      bytes += m->bytes();
      weights += uint64_t(m->rows * m->columns);
    }
  char out[512];
  snprintf(out, sizeof out,
           "{\"kind\": \"llama\", \"isa\": \"%s\", \"threads\": %d, \"vocabulary\": %lld, \"hidden\": %lld, \"layers\": %lld, "
           "\"context\": %lld, \"bytes_per_token\": %llu, \"weights_per_token\": %llu}",
           runtime.k.name, runtime.pool.threads(), (long long)c_.vocabulary, (long long)c_.hidden, (long long)c_.layers,
           (long long)c_.context, (unsigned long long)bytes, (unsigned long long)weights);
  return out;
}

void Llama::check(const std::vector<Part>& parts) const {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    if (part.session->model.get() != this) fail("a session of another model");
    for (size_t j = 0; j < i; ++j)
      if (parts[j].session == part.session) fail("a session occurs twice in one batch");
    if (part.count < 1) fail("no tokens to run");
    if (part.count > part.session->context() - part.session->length())
      fail("%lld tokens and %d more do not fit the context of %lld", (long long)part.session->length(), part.count,
           (long long)part.session->context());
    for (int t = 0; t < part.count; ++t)
      if (part.tokens[t] < 0 || part.tokens[t] >= c_.vocabulary)
        fail("token %d is outside the vocabulary of %lld", part.tokens[t], (long long)c_.vocabulary);
  }
}

void Llama::run(const std::vector<Part>& parts, int tokens) {
  const int64_t width = c_.hidden, head = c_.head, q_width = c_.heads * head, kv_width = c_.kv_heads * head;
  const int64_t all = q_width + 2 * kv_width, half = head / 2;
  float* x = x_.get<float>(size_t(tokens * width));
  float* h = h_.get<float>(size_t(tokens * std::max(width, q_width)));
  float* qkv = qkv_.get<float>(size_t(tokens * all));
  float* attended = attended_.get<float>(size_t(tokens * std::max(q_width, width)));
  float* inner = inner_.get<float>(size_t(tokens * c_.inner * 2));
  float* turn = turn_.get<float>(size_t(tokens * head));  // cosines, then sines
  const Kernels& k = runtime.k;
  std::vector<const Part*> part_of(static_cast<size_t>(tokens));
  std::vector<int> place(static_cast<size_t>(tokens));
  int count = 0;
  for (const Part& part : parts)
    for (int t = 0; t < part.count; ++t, ++count) {
      part_of[size_t(count)] = &part;
      place[size_t(count)] = int(part.session->length()) + t;
    }
  runtime.each(tokens, [&](int t) {
    const Part& part = *part_of[size_t(t)];
    embedding_.row(part.tokens[place[size_t(t)] - part.session->length()], x + t * width);
    for (int64_t i = 0; i < half; ++i) {
      const float angle = c_.frequencies[size_t(i)] * float(place[size_t(t)]);
      turn[t * head + i] = c_.turn * float(std::cos(double(angle)));
      turn[t * head + half + i] = c_.turn * float(std::sin(double(angle)));
    }
    k.rms_norm(x + t * width, layers_[0].before.weight, c_.epsilon, width, h + t * width);
  });
  int stretches;
  const std::vector<AttendJob> jobs = attend_jobs(parts, c_, stretches);
  // A thread's first keys and values, before it comes to them.
  const auto fetch = [&](int64_t layer, int thread) {
    attend_fetch(jobs[jobs.size() * size_t(thread) / size_t(runtime.pool.threads())], c_, layer);
  };
  for (int64_t i = 0; i < c_.layers; ++i) {
    const Layer& layer = layers_[size_t(i)];
    runtime.multiply({h, width, width, tokens}, {{&layer.q, qkv, all}, {&layer.k, qkv + q_width, all}, {&layer.v, qkv + q_width + kv_width, all}},
                     {}, [&](int thread) { fetch(i, thread); });
    runtime.each(tokens, [&](int t) {
      float* row_qkv = qkv + t * all;
      const float *cosine = turn + t * head, *sine = cosine + half;
      for (int64_t n = 0; n < c_.heads + c_.kv_heads; ++n) {
        float* v = row_qkv + n * head;
        if (c_.qk_norm) k.rms_norm(v, n < c_.heads ? layer.q_norm.weight : layer.k_norm.weight, c_.epsilon, head, v);
        const int64_t step = c_.interleaved ? 2 : 1, other = c_.interleaved ? 1 : half;
        for (int64_t d = 0; d < half; ++d) {
          const float a = v[d * step], b = v[d * step + other];
          v[d * step] = a * cosine[d] - b * sine[d];
          v[d * step + other] = b * cosine[d] + a * sine[d];
        }
      }
      Session& session = *part_of[size_t(t)]->session;
      for (int64_t n = 0; n < c_.kv_heads; ++n)
        cache_put(session.cache(i, n), place[size_t(t)], row_qkv + q_width + n * head, row_qkv + q_width + kv_width + n * head);
      for (int64_t n = 0; session.rotated() && n < c_.heads; ++n) rotate(row_qkv + n * head, head);
    });
    attend(jobs, stretches, i, qkv, attended);
    runtime.multiply({attended, q_width, q_width, tokens}, {{&layer.out, h, width}}, {&layer.gate, &layer.up});
    runtime.each(tokens, [&](int t) {
      float *to = x + t * width, *from = h + t * width;
      for (int64_t d = 0; d < width; ++d) to[d] += from[d];
      k.rms_norm(to, layer.after.weight, c_.epsilon, width, from);
    });
    runtime.multiply({h, width, width, tokens}, {{&layer.gate, inner, 2 * c_.inner}, {&layer.up, inner + c_.inner, 2 * c_.inner}},
                     {&layer.down});
    runtime.each(tokens, [&](int t) {
      float* gate = inner + t * 2 * c_.inner;
      k.silu_mul(gate, gate + c_.inner, layer.down.columns, gate);
    });
    const Activations gated{inner, layer.down.columns, 2 * c_.inner, tokens};
    const Layer* after = i + 1 < c_.layers ? &layers_[size_t(i) + 1] : nullptr;
    if (after) runtime.multiply(gated, {{&layer.down, attended, width}}, {&after->q, &after->k, &after->v});
    else runtime.multiply(gated, {{&layer.down, attended, width}}, {output_});
    const float* next = after ? after->before.weight : last_.weight;
    runtime.each(tokens, [&](int t) {
      float* to = x + t * width;
      for (int64_t d = 0; d < width; ++d) to[d] += attended[t * width + d];
      k.rms_norm(to, next, c_.epsilon, width, h + t * width);
    });
  }
  hidden_ = h;
  for (const Part& part : parts) part.session->grow(part.count);
}

void Llama::forward(const std::vector<Part>& parts, Want want, float* logits) {
  std::lock_guard lock(busy);
  check(parts);
  int64_t tokens = 0;
  for (const Part& part : parts) tokens += part.count;
  if (tokens > 1 << 20) fail("%lld tokens in one batch; at most %d are possible", (long long)tokens, 1 << 20);
  run(parts, int(tokens));
  if (want == Want::Nothing) return;
  if (want == Want::All) return runtime.multiply({hidden_, c_.hidden, c_.hidden, int(tokens)}, {{output_, logits, c_.vocabulary}});
  int row = 0, out = 0;
  for (const Part& part : parts) {  // the last rows move up: one product for all
    row += part.count;
    std::memmove(hidden_ + out++ * c_.hidden, hidden_ + (row - 1) * c_.hidden, size_t(c_.hidden) * 4);
  }
  runtime.multiply({hidden_, c_.hidden, c_.hidden, out}, {{output_, logits, c_.vocabulary}});
}

void Llama::score(Session& session, const int32_t* tokens, int count, float* scores) {
  std::lock_guard lock(busy);
  const std::vector<Part> parts{{&session, tokens, count}};
  check(parts);
  run(parts, count);
  constexpr int kStrip = 64;
  float* logits = logits_.get<float>(size_t(kStrip * c_.vocabulary));
  for (int first = 0; first < count - 1; first += kStrip) {
    const int now = std::min(kStrip, count - 1 - first);
    runtime.multiply({hidden_ + first * c_.hidden, c_.hidden, c_.hidden, now}, {{output_, logits, c_.vocabulary}});
    runtime.each(now, [&](int t) {
      const float* row = logits + t * c_.vocabulary;
      float most = row[0];
      for (int64_t i = 1; i < c_.vocabulary; ++i) most = std::max(most, row[i]);
      double sum = 0;
      for (int64_t i = 0; i < c_.vocabulary; ++i) sum += std::exp(double(row[i] - most));
      scores[first + t] = float(double(row[tokens[first + t + 1]] - most) - std::log(sum));
    });
  }
}

}  // namespace pl
