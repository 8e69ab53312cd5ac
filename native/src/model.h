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

struct LlamaConfig {
  int64_t hidden, inner, layers, heads, kv_heads, head, vocabulary, context;
  float epsilon;
  double theta;
  bool interleaved, qkv_bias, out_bias, mlp_bias, qk_norm;
  std::vector<float> frequencies;  // of the rotary pairs, scaled as the configuration says
  float turn;                      // and what their cosines and sines are multiplied with
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
  struct Layer {
    Norm before, after, q_norm, k_norm;
    Matrix q, k, v, out, gate, up, down;
  };
  void run(const std::vector<Part>& parts, int tokens);
  void attend(const std::vector<AttendJob>& jobs, int stretches, int64_t layer, float* qkv, float* attended);
  void check(const std::vector<Part>& parts) const;
  LlamaConfig c_;
  Matrix embedding_, head_;
  const Matrix* output_;
  Norm last_;
  std::vector<Layer> layers_;
  Scratch x_, h_, qkv_, attended_, inner_, turn_, stretches_, logits_;
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
  float epsilon_;
  bool tanh_;
  Matrix words_, places_, kinds_;
  Norm first_;
  std::vector<Layer> layers_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // the first shares the model's threads, the others have one thread each
};

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
