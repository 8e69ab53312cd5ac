// Models: a Llama-layout language model and a BERT-layout encoder.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cache.h"
#include "runtime.h"

namespace pl {

struct Options {
  Packing packing;  // for matrices that the files hold as floats
  int threads = 0;  // 0: as many as there are cores this process may use
  int activation_bits = 16;  // or 8: planes of 8 bits
  std::string isa;  // empty: PAPERLAB_ISA, else the best
};

struct Norm {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

enum class Activation { Silu, Gelu, GeluTanh, Relu };

struct LlamaConfig {  // see style.h
  int64_t hidden, inner, layers, heads, kv_heads, head, vocabulary, context;
  float epsilon;
  Activation activation;
  bool layer_norm, parallel, wide_norms, tied;
  bool interleaved, grouped;       // rotary pairs side by side; queries, keys and values of each head side by side
  int64_t rotary;                  // the first columns of a head, which turn with the position
  int64_t first_place;             // of learned positions
  std::vector<float> frequencies;  // of the rotary pairs, scaled as the configuration says
  std::vector<float> near_frequencies;  // of blocks with a window, where they have their own
  float turn = 1;                  // what cosines and sines are multiplied with
  std::vector<int64_t> windows;    // of each block: how many positions a token sees, itself included; 0: all
  std::vector<bool> turning;       // of each block: whether queries and keys turn
  float embedding_scale, residual_scale, attention_scale, logit_scale;
  float attention_cap = 0, logit_cap = 0;  // x -> cap tanh(x / cap); 0: none
  int64_t experts = 0, chosen = 0;         // of a block, and for each token
  bool weights_sum_to_one = false;
};

class Llama;

// Keys and values of one text.
class Session {
 public:
  Session(std::shared_ptr<Llama> model, int64_t context, int bits);  // 32, 16, 8 or 4
  int64_t length() const { return length_; }
  int64_t context() const { return context_; }
  void truncate(int64_t length);
  uint64_t bytes() const;
  bool rotated() const { return bits_ < 16; }  // queries and results are to be rotated as well (cache.h)
  CacheView cache(int64_t layer, int64_t kv_head) const;
  const std::shared_ptr<Llama> model;
  void grow(int64_t tokens) { length_ += tokens; }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(void* at) const;
  };
  using Cache = std::unique_ptr<void, Unmap>;
  Cache reserve(int64_t per_position) const;
  int64_t position_bytes() const;  // of one head's keys, or values
  int64_t context_, length_ = 0;
  int bits_;
  Cache keys_, values_, key_scales_, value_scales_;  // [layer][kv head][context]
};

struct Part {  // of a batch: the next tokens of one session
  Session* session;
  const int32_t* tokens;
  int count;
};

struct AttendJob;

enum class Want { Nothing, Last, All };  // of whose tokens the logits are asked for

class Model {
 public:
  virtual ~Model() = default;
  virtual std::string info() const = 0;  // JSON
  Runtime runtime;
  std::mutex busy;  // one forward pass at a time

 protected:
  explicit Model(const Options& options);
  Tensors tensors_;
  std::vector<std::shared_ptr<void>> owns_;
};

class Llama : public Model {
 public:
  Llama(Tensors&& tensors, const Options& options);
  std::string info() const override;
  // Runs the parts together. logits: rows of the vocabulary, for the last or all tokens of each part in turn.
  void forward(const std::vector<Part>& parts, Want want, float* logits);
  // Logits of hidden states that `forward` left behind are taken in strips: score[i] = log p(target[i] | tokens before).
  void score(Session& session, const int32_t* tokens, int count, float* scores);
  const LlamaConfig& config() const { return c_; }

 private:
  struct Expert {
    Matrix gate, up, down;
  };
  struct Layer {
    Norm before, after, of_attention, of_mlp, q_norm, k_norm;  // null weights: none
    Matrix q, k, v, out, gate, up, down;  // q: all three, gate: both, where they are one matrix
    Matrix router;
    std::vector<Expert> experts;
  };
  void run(const std::vector<Part>& parts, int tokens);
  void normed(const Norm& norm, const float* from, float* to) const;
  void activate(float* gate, float* up, int64_t count) const;
  void mlp(const Layer& layer, const Layer* after, const float* h, int tokens, float* inner, float* out);
  void route(const Layer& layer, const float* h, int tokens, float* out);
  void finish(float* logits, int rows);
  void attend(const std::vector<AttendJob>& jobs, int stretches, int64_t layer, float* qkv, float* attended);
  void check(const std::vector<Part>& parts) const;
  LlamaConfig c_;
  Matrix embedding_, places_, head_;
  const Matrix* output_;
  Norm last_;
  bool gated_ = true, one_qkv_ = false, one_gate_up_ = false;
  std::vector<Layer> layers_;
  Scratch x_, h_, qkv_, attended_, inner_, turn_, stretches_, logits_, branch_, routed_;
  float* hidden_ = nullptr;  // of the last run, after the last norm: [token][hidden]
};

// How a text's tokens become one vector; several, one vector after another in this order.
enum Pooling { kFirst = 1, kMax = 2, kMean = 4, kMeanSqrt = 8, kWeighted = 16, kLast = 32 };

class Bert : public Model {
 public:
  Bert(Tensors&& tensors, const Options& options);
  ~Bert() override;
  std::string info() const override;
  // Texts as runs of token ids, one after another. pooling: a sum of Pooling; out: (count, hidden times their number).
  void embed(const int32_t* tokens, const int32_t* lengths, int count, int pooling, bool normalize, float* out);

 private:
  struct Layer {
    Matrix q, k, v, out, up, down;
    Norm after_attention, after_mlp;
  };
  struct Lane;
  struct Text {
    const int32_t* tokens;
    int length;
    float* out;
  };
  void run(Lane& lane, const Text* given, int count, int pooling, bool normalize) const;
  int64_t hidden_, inner_, heads_, head_, positions_, vocabulary_;
  int64_t first_place_ = 0;
  std::vector<float> distances_;  // of each head what is added to scores, by key - query; empty: nothing
  float epsilon_;
  bool tanh_;
  Matrix words_, places_, kinds_;
  Norm first_;
  std::vector<Layer> layers_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // the first shares the model's threads, the others have one thread each
};

bool is_encoder(const std::string& type);  // of config.json's model_type
std::shared_ptr<Model> load_model(const std::string& path, Options options);

struct Sampling {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // 0: all
  float top_p = 1, min_p = 0, repetition_penalty = 1;
  uint64_t seed = 0;
};

// The next token; logits are changed. step: counts draws, so that a seed and a step always draw the same.
int sample(float* logits, int64_t n, const Sampling& how, uint64_t step, const int32_t* seen, int64_t seen_count);

}  // namespace pl
