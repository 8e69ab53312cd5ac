// Decoders: norms, attention over rotary or learned positions, an MLP or experts, as style.h has them for each
// architecture.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "attend.h"
#include "style.h"

namespace pl {

Llama::Llama(Tensors&& tensors, const Options& options) : Model(options) {
  tensors_ = std::move(tensors);
  const Style& style = style_of(tensors_.config);
  put_in_order(tensors_, style, owns_);
  c_ = read_config(tensors_, style);
  const Packing& packing = options.packing;
  std::set<std::string, std::less<>> used{"rope_freqs.weight"};
  const auto vector = [&](const std::string& name, int64_t n) {
    Matrix owner;
    used.insert(name);
    const float* out = load_vector(tensors_, name, n, owner);
    owns_.push_back(owner.owns[0]);
    return out;
  };
  const auto norm = [&](const std::string& at, const char* name, int64_t n) {
    Norm out;
    if (!name) return out;
    out.weight = vector(at + name + ".weight", n);
    if (style.one_more)
      for (int64_t i = 0; i < n; ++i) const_cast<float*>(out.weight)[i] += 1;  // our own copy
    if (!c_.layer_norm) return out;
    if (tensors_.find(at + name + ".bias")) {
      out.bias = vector(at + name + ".bias", n);
    } else {
      auto zeros = std::make_shared<Buffer>(size_t(n) * 4);
      out.bias = zeros->as<float>();
      owns_.push_back(std::move(zeros));
    }
    return out;
  };
  const auto stated = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) {
      const Json* value = tensors_.config.find(name);
      return value && value->truth;
    });
  };
  // With its bias where the files have one; `must` where the configuration says that they do.
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns, bool must) {
    Matrix out = load_matrix(tensors_, name, rows, columns, packing);
    used.insert({name + ".weight", name + ".bias"});
    if (must || tensors_.find(name + ".bias")) out.set_bias(load_vector(tensors_, name + ".bias", rows, out));
    return out;
  };
  const std::string type = style.type;
  const bool qkv_bias = stated({"attention_bias", "use_qkv_bias", "use_bias", "enable_bias"}) || type == "qwen2" || type == "gpt2" || type == "phi";
  const bool out_bias = (stated({"attention_bias", "use_bias", "enable_bias"}) && type != "qwen2") || type == "gpt2" || type == "phi";
  const bool mlp_bias = stated({"mlp_bias", "use_bias", "enable_bias"}) || type == "gpt2" || type == "phi" || type == "gpt_neox";
  embedding_ = matrix(style.embeddings, c_.vocabulary, c_.hidden, false);
  if (style.places) {
    places_ = load_matrix(tensors_, style.places, c_.context + c_.first_place, c_.hidden, {});
    used.insert(std::string(style.places) + ".weight");
  }
  const std::string head = style.head;
  const bool own_head = tensors_.find(head + ".weight") || tensors_.find(head + ".codes") || tensors_.find(head + ".weight_packed");
  if (!own_head && !c_.tied && tensors_.config.find("tie_word_embeddings"))
    fail("%s.weight is missing and config.json does not tie it to the embeddings", style.head);
  // A head that is there is the head, whatever the configuration says, unless it only repeats the embeddings.
  const Tensor *table = tensors_.find(std::string(style.embeddings) + ".weight"), *own = tensors_.find(head + ".weight");
  const bool repeated = c_.tied && own && table && own->dtype == table->dtype && own->shape == table->shape &&
                        std::memcmp(own->data, table->data, own->bytes) == 0;
  if (repeated) tensors_.release(*own);
  const bool tied = !own_head || repeated;
  if (!tied) head_ = matrix(head, c_.vocabulary, c_.hidden, false);
  output_ = tied ? &embedding_ : &head_;
  last_ = norm("", style.last, c_.hidden);
  gated_ = style.gate != nullptr;
  one_qkv_ = style.qkv != nullptr, one_gate_up_ = style.gate_up != nullptr;
  const int64_t q_rows = c_.heads * c_.head, kv_rows = c_.kv_heads * c_.head;
  for (int64_t i = 0; i < c_.layers; ++i) {
    const std::string at = style.blocks + std::to_string(i) + ".";
    Layer layer;
    layer.before = norm(at, style.before, c_.hidden);
    // A parallel block's MLP may read the first norm too.
    if (style.after && tensors_.find(at + style.after + ".weight")) layer.after = norm(at, style.after, c_.hidden);
    else if (style.after && !c_.parallel) layer.after = norm(at, style.after, c_.hidden);
    layer.of_attention = norm(at, style.of_attention, c_.hidden);
    layer.of_mlp = norm(at, style.of_mlp, c_.hidden);
    layer.q_norm = norm(at, style.q_norm, c_.wide_norms ? q_rows : c_.head);
    layer.k_norm = norm(at, style.k_norm, c_.wide_norms ? kv_rows : c_.head);
    if (one_qkv_) {
      layer.q = matrix(at + style.qkv, q_rows + 2 * kv_rows, c_.hidden, qkv_bias);
    } else {
      layer.q = matrix(at + style.q, q_rows, c_.hidden, qkv_bias);
      layer.k = matrix(at + style.k, kv_rows, c_.hidden, qkv_bias);
      layer.v = matrix(at + style.v, kv_rows, c_.hidden, qkv_bias);
    }
    layer.out = matrix(at + style.out, c_.hidden, q_rows, out_bias);
    if (style.router) {
      layer.router = load_matrix(tensors_, at + style.router, c_.experts, c_.hidden, {});  // small, and choices hang on it
      used.insert(at + style.router + ".weight");
      for (int64_t e = 0; e < c_.experts; ++e) {
        const std::string name = at + style.expert + std::to_string(e) + ".";
        layer.experts.push_back({matrix(name + style.expert_gate, c_.inner, c_.hidden, false), matrix(name + style.expert_up, c_.inner, c_.hidden, false),
                                 matrix(name + style.expert_down, c_.hidden, c_.inner, false)});
      }
    } else {
      if (one_gate_up_) layer.gate = matrix(at + style.gate_up, 2 * c_.inner, c_.hidden, mlp_bias);
      else if (gated_) layer.gate = matrix(at + style.gate, c_.inner, c_.hidden, mlp_bias);
      if (!one_gate_up_) layer.up = matrix(at + style.up, c_.inner, c_.hidden, mlp_bias);
      layer.down = matrix(at + style.down, c_.hidden, c_.inner, mlp_bias);
      if (gated_ && !one_gate_up_) narrow(layer.gate, layer.up, layer.down);
    }
    layers_.push_back(std::move(layer));
  }
  if (!tensors_.gguf) return;
  for (const auto& [name, tensor] : tensors_.by_name)  // a GGUF file has what its architecture reads, and nothing else
    if (!used.contains(name)) fail("the file holds the tensor %s, which is not obeyed here: it changes what the model computes", name.substr(0, 80).c_str());
}

std::string Llama::info() const {
  uint64_t bytes = output_->bytes(), weights = uint64_t(output_->rows * output_->columns);
  const auto add = [&](const Matrix& m, int64_t share, int64_t of) {
    if (!m.rows) return;
    bytes += m.bytes() * uint64_t(share) / uint64_t(of);
    weights += uint64_t(m.rows * m.columns * share / of);
  };
  for (const Layer& l : layers_) {
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.out, &l.gate, &l.up, &l.down, &l.router}) add(*m, 1, 1);
    for (const Expert& e : l.experts)
      for (const Matrix* m : {&e.gate, &e.up, &e.down}) add(*m, c_.chosen, c_.experts);
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

void Llama::normed(const Norm& norm, const float* from, float* to) const {
  if (!norm.weight) {
    if (from != to) std::copy(from, from + c_.hidden, to);
  } else if (c_.layer_norm) {
    runtime.k.layer_norm(from, norm.weight, norm.bias, c_.epsilon, c_.hidden, to);
  } else {
    runtime.k.rms_norm(from, norm.weight, c_.epsilon, c_.hidden, to);
  }
}

// gate becomes activation(gate) * up; without up, activation(gate).
void Llama::activate(float* gate, float* up, int64_t count) const {
  const Kernels& k = runtime.k;
  if (c_.activation == Activation::Silu && up) return k.silu_mul(gate, up, count, gate);
  switch (c_.activation) {
    case Activation::Silu:
      for (int64_t i = 0; i < count; ++i) gate[i] /= 1 + std::exp(-gate[i]);
      break;
    case Activation::Gelu: k.gelu(gate, count); break;
    case Activation::GeluTanh: k.gelu_tanh(gate, count); break;
    case Activation::Relu:
      for (int64_t i = 0; i < count; ++i) gate[i] = std::max(gate[i], 0.0f);
  }
  for (int64_t i = 0; up && i < count; ++i) gate[i] *= up[i];
}

// out: (tokens, hidden)
void Llama::mlp(const Layer& layer, const Layer* after, const float* h, int tokens, float* inner, float* out) {
  if (!layer.experts.empty()) return route(layer, h, tokens, out);
  const int64_t width = c_.hidden, stride = gated_ ? 2 * c_.inner : c_.inner;
  const Activations x{h, width, width, tokens};
  if (one_gate_up_) runtime.multiply(x, {{&layer.gate, inner, stride}}, {&layer.down});
  else if (gated_) runtime.multiply(x, {{&layer.gate, inner, stride}, {&layer.up, inner + c_.inner, stride}}, {&layer.down});
  else runtime.multiply(x, {{&layer.up, inner, stride}}, {&layer.down});
  runtime.each(tokens, [&](int t) {
    float* gate = inner + t * stride;
    activate(gate, gated_ ? gate + c_.inner : nullptr, layer.down.columns);
  });
  const Activations acted{inner, layer.down.columns, stride, tokens};
  if (!after) runtime.multiply(acted, {{&layer.down, out, width}}, {output_});
  else if (one_qkv_) runtime.multiply(acted, {{&layer.down, out, width}}, {&after->q});
  else runtime.multiply(acted, {{&layer.down, out, width}}, {&after->q, &after->k, &after->v});
}

// Each token's experts, one expert after another for all tokens that it is chosen for, so that a token's sum does not
// depend on who else is in the batch.
void Llama::route(const Layer& layer, const float* h, int tokens, float* out) {
  const int64_t width = c_.hidden, inner = c_.inner;
  float* const scratch = routed_.get<float>(size_t(tokens) * size_t(c_.experts + 2 * width + 2 * inner));
  float *const scores = scratch, *const gathered = scores + tokens * c_.experts, *const results = gathered + tokens * width, *const acted = results + tokens * width;
  runtime.multiply({h, width, width, tokens}, {{&layer.router, scores, c_.experts}});
  for (int t = 0; t < tokens; ++t) {
    float* row = scores + t * c_.experts;
    runtime.k.softmax(row, c_.experts);
    std::vector<int64_t> order(static_cast<size_t>(c_.experts));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + c_.chosen, order.end(), [&](int64_t a, int64_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
    float sum = 0;
    for (int64_t i = 0; i < c_.chosen; ++i) sum += row[order[size_t(i)]];
    const float by = c_.weights_sum_to_one ? 1 / sum : 1;
    for (int64_t i = 0; i < c_.experts; ++i) {
      float& weight = row[order[size_t(i)]];
      weight = i < c_.chosen ? weight * by : -1;  // -1: not chosen
    }
  }
  std::fill(out, out + tokens * width, 0.0f);
  std::vector<int> rows;
  for (int64_t e = 0; e < c_.experts; ++e) {
    rows.clear();
    for (int t = 0; t < tokens; ++t)
      if (!(scores[t * c_.experts + e] < 0)) rows.push_back(t);
    if (rows.empty()) continue;
    const int count = int(rows.size());
    for (int i = 0; i < count; ++i) std::copy(h + rows[size_t(i)] * width, h + (rows[size_t(i)] + 1) * width, gathered + i * width);
    const Expert& expert = layer.experts[size_t(e)];
    runtime.multiply({gathered, width, width, count}, {{&expert.gate, acted, 2 * inner}, {&expert.up, acted + inner, 2 * inner}}, {&expert.down});
    runtime.each(count, [&](int i) { activate(acted + i * 2 * inner, acted + i * 2 * inner + inner, inner); });
    runtime.multiply({acted, inner, 2 * inner, count}, {{&expert.down, results, width}});
    for (int i = 0; i < count; ++i) {
      const float weight = scores[rows[size_t(i)] * c_.experts + e];
      float* to = out + rows[size_t(i)] * width;
      for (int64_t d = 0; d < width; ++d) to[d] += weight * results[i * width + d];
    }
  }
}

void Llama::run(const std::vector<Part>& parts, int tokens) {
  const int64_t width = c_.hidden, head = c_.head, q_width = c_.heads * head, kv_width = c_.kv_heads * head;
  const int64_t all = q_width + 2 * kv_width, half = c_.rotary / 2, kinds = c_.near_frequencies.empty() ? 1 : 2;
  float* x = x_.get<float>(size_t(tokens * width));
  float* h = h_.get<float>(size_t(tokens * std::max(width, q_width)));
  float* qkv = qkv_.get<float>(size_t(tokens * all));
  float* attended = attended_.get<float>(size_t(tokens * std::max(q_width, width)));
  float* inner = inner_.get<float>(size_t(tokens * c_.inner * 2));
  float* turn = turn_.get<float>(size_t(tokens * c_.rotary * kinds));  // of each kind cosines, then sines
  float* branch = c_.parallel ? branch_.get<float>(size_t(tokens * width)) : h;  // what attention returns
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
    float *row = x + t * width, *learned = h + t * width;
    embedding_.row(part.tokens[place[size_t(t)] - part.session->length()], row);
    if (places_.rows) places_.row(place[size_t(t)] + c_.first_place, learned);
    for (int64_t d = 0; places_.rows && d < width; ++d) row[d] += learned[d];
    for (int64_t d = 0; c_.embedding_scale != 1 && d < width; ++d) row[d] *= c_.embedding_scale;
    for (int64_t kind = 0; kind < kinds; ++kind)
      for (int64_t i = 0; i < half; ++i) {
        const float angle = (kind ? c_.near_frequencies : c_.frequencies)[size_t(i)] * float(place[size_t(t)]);
        float* to = turn + (t * kinds + kind) * c_.rotary + i;
        to[0] = c_.turn * float(std::cos(double(angle)));
        to[half] = c_.turn * float(std::sin(double(angle)));
      }
    normed(layers_[0].before, row, h + t * width);
  });
  int stretches;
  const std::vector<AttendJob> jobs = attend_jobs(parts, c_, stretches);
  // A thread's first keys and values, before it comes to them.
  const auto fetch = [&](int64_t layer, int thread) {
    attend_fetch(jobs[jobs.size() * size_t(thread) / size_t(runtime.pool.threads())], c_, layer);
  };
  const auto add = [&](float* to, const float* from) {
    if (c_.residual_scale == 1)
      for (int64_t d = 0; d < width; ++d) to[d] += from[d];
    else
      for (int64_t d = 0; d < width; ++d) to[d] += from[d] * c_.residual_scale;
  };
  for (int64_t i = 0; i < c_.layers; ++i) {
    const Layer& layer = layers_[size_t(i)];
    const Activations read{h, width, width, tokens};
    if (one_qkv_) runtime.multiply(read, {{&layer.q, qkv, all}}, {}, [&](int thread) { fetch(i, thread); });
    else
      runtime.multiply(read, {{&layer.q, qkv, all}, {&layer.k, qkv + q_width, all}, {&layer.v, qkv + q_width + kv_width, all}}, {},
                       [&](int thread) { fetch(i, thread); });
    const bool turning = c_.turning[size_t(i)], near = kinds == 2 && c_.windows[size_t(i)];
    runtime.each(tokens, [&](int t) {
      float* row_qkv = qkv + t * all;
      if (c_.grouped) {
        thread_local std::vector<float> mixed;
        mixed.assign(row_qkv, row_qkv + all);
        for (int64_t n = 0; n < c_.heads; ++n)
          for (int64_t kind = 0; kind < 3; ++kind)
            std::copy_n(mixed.data() + (n * 3 + kind) * head, head, row_qkv + kind * q_width + n * head);
      }
      if (layer.q_norm.weight && c_.wide_norms) {
        k.rms_norm(row_qkv, layer.q_norm.weight, c_.epsilon, q_width, row_qkv);
        k.rms_norm(row_qkv + q_width, layer.k_norm.weight, c_.epsilon, kv_width, row_qkv + q_width);
      }
      const float *cosine = turn + (t * kinds + near) * c_.rotary, *sine = cosine + half;
      for (int64_t n = 0; n < c_.heads + c_.kv_heads; ++n) {
        float* v = row_qkv + n * head;
        if (layer.q_norm.weight && !c_.wide_norms)
          k.rms_norm(v, n < c_.heads ? layer.q_norm.weight : layer.k_norm.weight, c_.epsilon, head, v);
        if (!turning) continue;
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
    const Activations seen{attended, q_width, q_width, tokens};
    if (gated_ && layer.experts.empty() && !one_gate_up_) runtime.multiply(seen, {{&layer.out, branch, width}}, {&layer.gate, &layer.up});
    else runtime.multiply(seen, {{&layer.out, branch, width}});
    runtime.each(tokens, [&](int t) {
      float *to = x + t * width, *from = branch + t * width;
      if (layer.of_attention.weight) normed(layer.of_attention, from, from);
      if (c_.parallel) {  // the MLP reads the stream as it was
        if (layer.after.weight) normed(layer.after, to, h + t * width);
        return;
      }
      add(to, from);
      normed(layer.after, to, from);
    });
    const Layer* after = i + 1 < c_.layers ? &layers_[size_t(i) + 1] : nullptr;
    mlp(layer, after, h, tokens, inner, attended);
    runtime.each(tokens, [&](int t) {
      float *to = x + t * width, *from = attended + t * width;
      if (layer.of_mlp.weight) normed(layer.of_mlp, from, from);
      if (c_.parallel) add(to, branch + t * width);
      add(to, from);
      normed(after ? after->before : last_, to, h + t * width);
    });
  }
  hidden_ = h;
  for (const Part& part : parts) part.session->grow(part.count);
}

void Llama::finish(float* logits, int rows) {
  if (c_.logit_scale == 1 && !c_.logit_cap) return;
  runtime.each(rows, [&](int t) {
    float* row = logits + t * c_.vocabulary;
    for (int64_t i = 0; c_.logit_scale != 1 && i < c_.vocabulary; ++i) row[i] *= c_.logit_scale;
    for (int64_t i = 0; c_.logit_cap && i < c_.vocabulary; ++i) row[i] = c_.logit_cap * std::tanh(row[i] / c_.logit_cap);
  });
}

void Llama::forward(const std::vector<Part>& parts, Want want, float* logits) {
  std::lock_guard lock(busy);
  check(parts);
  int64_t tokens = 0;
  for (const Part& part : parts) tokens += part.count;
  if (tokens > 1 << 20) fail("%lld tokens in one batch; at most %d are possible", (long long)tokens, 1 << 20);
  run(parts, int(tokens));
  if (want == Want::Nothing) return;
  if (want == Want::All) {
    runtime.multiply({hidden_, c_.hidden, c_.hidden, int(tokens)}, {{output_, logits, c_.vocabulary}});
    return finish(logits, int(tokens));
  }
  int row = 0, out = 0;
  for (const Part& part : parts) {  // the last rows move up: one product for all
    row += part.count;
    std::memmove(hidden_ + out++ * c_.hidden, hidden_ + (row - 1) * c_.hidden, size_t(c_.hidden) * 4);
  }
  runtime.multiply({hidden_, c_.hidden, c_.hidden, out}, {{output_, logits, c_.vocabulary}});
  finish(logits, out);
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
    finish(logits, now);
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
