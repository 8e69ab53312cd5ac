// Threads: a pool that several callers use, sleeping and ending at odd moments; models whose sessions run, end and are
// freed side by side. Everything is compared with what one thread computes, to the bit. For the sanitizers
// (native/sanitize.sh), which see what a comparison does not.
//     threads_test [FILE...]     files as the fuzzers take them (native/fuzz/corpus/packed) are run as models too
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "paperlab.h"
#include "pool.h"

namespace {

std::atomic<int> failures{0}, checks{0};

void check(bool sound, const std::string& what) {
  ++checks;
  if (sound) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

template <class T>
T need(T result) {
  bool sound;
  if constexpr (std::is_pointer_v<T>) sound = result != nullptr;
  else sound = result >= 0;
  if (sound) return result;
  std::printf("FAILED: %s\n", pl_error());
  std::exit(1);
}

// f(i) on `count` threads at once.
void callers(int count, const std::function<void(int)>& f) {
  std::vector<std::thread> all;
  for (int i = 0; i < count; ++i) all.emplace_back([&f, i] { f(i); });
  for (std::thread& one : all) one.join();
}

// Long enough for workers to spin on, to fall asleep, or to be asleep when the next call comes.
void rest(std::mt19937& source) {
  const int most[] = {0, 0, 20, 60, 500};
  if (const int now = most[source() % 5]) usleep(useconds_t(source() % unsigned(now)));
}

void pools() {
  for (int threads = 1; threads <= 8; ++threads) {
    pl::Pool pool(threads);
    check(pool.threads() == threads, "a pool's size");
    callers(3, [&](int caller) {
      std::mt19937 source(unsigned(threads * 10 + caller));
      std::vector<int> counters(97), wanted(97);
      for (int round = 0; round < 150; ++round) {
        const size_t pieces = source() % counters.size();
        for (size_t i = 0; i < pieces; ++i) ++wanted[i];
        pool.run(int(pieces), [&](int i) { ++counters[size_t(i)]; });
        check(counters == wanted, "each piece once, on " + std::to_string(threads) + " threads");
        rest(source);
      }
    });
  }
}

void pools_that_end() {
  std::mt19937 source(3);
  for (int round = 0; round < 300; ++round) {
    pl::Pool pool(1 + int(source() % 8));
    std::vector<int> counters(1 + source() % 40);
    const int runs = int(source() % 4);
    if (source() % 2) rest(source);
    for (int run = 0; run < runs; ++run) pool.run(int(counters.size()), [&](int i) { ++counters[size_t(i)]; });
    if (source() % 2) rest(source);
    for (const int one : counters) check(one == runs, "a pool that ends soon");
  }
}

// A folder that goes with the program.
struct Folder {
  std::string path = "/tmp/paperlab-threads-XXXXXX";
  Folder() {
    if (!mkdtemp(path.data())) std::exit(1);
  }
  ~Folder() {
    for (const char* name : {"config.json", "model.safetensors"}) unlink((path + "/" + name).c_str());
    rmdir(path.c_str());
  }
  void put(const char* name, const std::string& data) const {
    FILE* file = std::fopen((path + "/" + name).c_str(), "wb");
    if (!file || std::fwrite(data.data(), 1, data.size(), file) != data.size()) std::exit(1);
    std::fclose(file);
  }
};

using Shapes = std::vector<std::pair<std::string, std::vector<int>>>;

// A safetensors file of random float32.
std::string tensors(const Shapes& shapes) {
  std::mt19937 source(11);
  std::normal_distribution<float> draw(0, 0.3f);
  std::string header, data;
  for (const auto& [name, shape] : shapes) {
    const size_t begin = data.size();
    int64_t count = 1;
    std::string sizes;
    for (const int n : shape) count *= n, sizes += (sizes.empty() ? "" : ",") + std::to_string(n);
    for (int64_t i = 0; i < count; ++i) {
      const float value = draw(source);
      data.append(reinterpret_cast<const char*>(&value), 4);
    }
    header += (header.empty() ? "{\"" : ",\"") + name + R"(":{"dtype":"F32","shape":[)" + sizes + R"(],"data_offsets":[)" +
              std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

constexpr int kWidth = 64, kInner = 112, kVocabulary = 90, kLayers = 2;

void language_model(const Folder& folder) {
  folder.put("config.json", R"({"model_type":"llama","hidden_size":64,"intermediate_size":112,"num_hidden_layers":2,"num_attention_heads":4,)"
                            R"("num_key_value_heads":2,"max_position_embeddings":256,"vocab_size":90,"tie_word_embeddings":true})");
  Shapes shapes = {{"model.embed_tokens.weight", {kVocabulary, kWidth}}, {"model.norm.weight", {kWidth}}};
  for (int i = 0; i < kLayers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    for (const char* name : {"input_layernorm", "post_attention_layernorm"}) shapes.push_back({at + name + ".weight", {kWidth}});
    for (const char* name : {"q_proj", "o_proj"}) shapes.push_back({at + "self_attn." + name + ".weight", {kWidth, kWidth}});
    for (const char* name : {"k_proj", "v_proj"}) shapes.push_back({at + "self_attn." + name + ".weight", {kWidth / 2, kWidth}});
    for (const char* name : {"gate_proj", "up_proj"}) shapes.push_back({at + "mlp." + name + ".weight", {kInner, kWidth}});
    shapes.push_back({at + "mlp.down_proj.weight", {kWidth, kInner}});
  }
  folder.put("model.safetensors", tensors(shapes));
}

void encoder(const Folder& folder) {
  folder.put("config.json", R"({"model_type":"bert","hidden_size":64,"intermediate_size":112,"num_hidden_layers":2,"num_attention_heads":2,)"
                            R"("max_position_embeddings":64,"type_vocab_size":2,"vocab_size":90})");
  Shapes shapes = {{"embeddings.word_embeddings.weight", {kVocabulary, kWidth}},
                   {"embeddings.position_embeddings.weight", {64, kWidth}},
                   {"embeddings.token_type_embeddings.weight", {2, kWidth}}};
  const auto linear = [&](const std::string& name, int rows, int columns) {
    shapes.push_back({name + ".weight", {rows, columns}});
    shapes.push_back({name + ".bias", {rows}});
  };
  const auto norm = [&](const std::string& name) {
    for (const char* part : {".weight", ".bias"}) shapes.push_back({name + part, {kWidth}});
  };
  norm("embeddings.LayerNorm");
  for (int i = 0; i < kLayers; ++i) {
    const std::string at = "encoder.layer." + std::to_string(i) + ".";
    for (const char* name : {"self.query", "self.key", "self.value", "output.dense"}) linear(at + "attention." + name, kWidth, kWidth);
    linear(at + "intermediate.dense", kInner, kWidth);
    linear(at + "output.dense", kWidth, kInner);
    norm(at + "attention.output.LayerNorm");
    norm(at + "output.LayerNorm");
  }
  folder.put("model.safetensors", tensors(shapes));
}

struct How {
  int bits, group, activation_bits;
};

pl_model* load(const Folder& folder, const How& how, int threads) {
  return need(pl_load(folder.path.c_str(), how.bits, how.group, 1, how.activation_bits, threads, nullptr));
}

constexpr int kCaches[] = {32, 16, 8, 4};

size_t longest = 150;  // tokens of a prompt

// Some tokens of a text that depend on `seed` alone; `stop` ends it early.
std::vector<int> write(pl_session* session, int seed, int count, const std::atomic<bool>* stop = nullptr) {
  std::vector<int32_t> text(std::min<size_t>(longest, seed % 4 == 3 ? 150 : seed % 4 == 2 ? 70 : 3));
  for (size_t i = 0; i < text.size(); ++i) text[i] = int32_t(1 + (size_t(seed) + i * i) % 29);
  std::vector<int> out;
  const pl_sampling how{seed % 2 ? 0.9f : 0.0f, 20, 0.95f, 0.01f, 1.1f, uint64_t(seed)};
  for (int step = 0; step < count && !(stop && stop->load()); ++step) {
    const int token = need(pl_next(session, text.data(), int(text.size()), &how, uint64_t(step), text.data(), int64_t(text.size())));
    out.push_back(token);
    text = {token};
  }
  return out;
}

std::vector<int> write_alone(pl_model* model, int seed, int count) {
  pl_session* session = need(pl_session_new(model, 0, kCaches[seed % 4]));
  const std::vector<int> out = write(session, seed, count);
  pl_session_free(session);
  return out;
}

std::vector<float> score(pl_model* model, int seed, int count) {
  std::vector<int32_t> text;
  for (int i = 0; i < count; ++i) text.push_back((i * 7 + seed) % 30);
  std::vector<float> out(size_t(count - 1));
  pl_session* session = need(pl_session_new(model, 64, 32));
  need(pl_score(session, text.data(), count, out.data()));
  pl_session_free(session);
  return out;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

// Logits of texts of 1, 2, ... tokens that are run together, then of one more token of each.
std::vector<float> batch(pl_model* model, int texts, int vocabulary) {
  std::vector<pl_session*> sessions;
  std::vector<int32_t> counts, tokens, ones(size_t(texts), 1), last;
  for (int i = 0; i < texts; ++i) {
    sessions.push_back(need(pl_session_new(model, 32, kCaches[i % 4])));
    counts.push_back(i + 1);
    for (int t = 0; t <= i; ++t) tokens.push_back((i + 3 * t) % 30);
    last.push_back(i % 30);
  }
  std::vector<float> out(size_t(2 * texts * vocabulary));
  need(pl_forward(sessions.data(), counts.data(), texts, tokens.data(), 1, out.data()));
  need(pl_forward(sessions.data(), ones.data(), texts, last.data(), 1, out.data() + texts * vocabulary));
  for (pl_session* one : sessions) pl_session_free(one);
  return out;
}

int vocabulary_of(pl_model* model) { return std::atoi(std::strstr(pl_info(model), "\"vocabulary\": ") + 14); }

// Callers that write, score and batch on one model at once say what one thread says; the model is freed meanwhile.
void side_by_side(const Folder& folder, const How& how, const std::string& what) {
  pl_model* alone = load(folder, how, 1);
  const int vocabulary = vocabulary_of(alone);
  std::vector<std::vector<int>> texts;
  for (int i = 0; i < 4; ++i) texts.push_back(write_alone(alone, i, 10));
  const std::vector<float> scores = score(alone, 2, 30), logits = batch(alone, 5, vocabulary);
  pl_free(alone);
  for (const int threads : {2, 3}) {
    pl_model* model = load(folder, how, threads);
    callers(6, [&](int i) {
      for (int round = 0; round < 2; ++round) {
        if (i < 4) check(write_alone(model, i, 10) == texts[size_t(i)], what + ": a text among others");
        else if (i == 4) check(same(score(model, 2, 30), scores), what + ": scores among others");
        else check(same(batch(model, 5, vocabulary), logits), what + ": a batch among others");
      }
    });
    // Sessions outlive the model's handle, and the last to go takes the threads with it.
    std::vector<pl_session*> sessions;
    for (int i = 0; i < 3; ++i) sessions.push_back(need(pl_session_new(model, 0, kCaches[i % 4])));
    callers(4, [&](int i) {
      if (i == 3) return pl_free(model);
      check(write(sessions[size_t(i)], i, 10) == texts[size_t(i)], what + ": a text whose model is freed");
      pl_session_free(sessions[size_t(i)]);
    });
  }
}

// A text that is stopped from outside, cut, and gone on with by another thread.
void stopped(const Folder& folder) {
  pl_model* model = load(folder, {4, 32, 16}, 3);
  const std::vector<int> whole = write_alone(model, 4, 30);
  for (int round = 0; round < 20; ++round) {
    pl_session* session = need(pl_session_new(model, 0, 32));
    std::atomic<bool> stop{false};
    std::vector<int> begun;
    std::thread writer([&] { begun = write(session, 4, 30, &stop); });
    usleep(useconds_t(round * 300));
    stop = true;
    writer.join();
    check(std::equal(begun.begin(), begun.end(), whole.begin()), "a text up to where it was stopped");
    std::thread other([&] {
      need(pl_session_truncate(session, 0));
      check(write(session, 4, 30) == whole, "a text that begins again in a session that was cut");
    });
    other.join();
    pl_session_free(session);
  }
  pl_free(model);
}

// Models come and go, and calls fail, beside one that works.
void coming_and_going(const Folder& folder, const Folder& other) {
  const How how{4, 32, 8};
  pl_model* model = load(folder, how, 2);
  const std::vector<int> text = write_alone(model, 1, 20);
  callers(4, [&](int i) {
    for (int round = 0; round < 12; ++round) {
      if (i == 0) {
        check(write_alone(model, 1, 20) == text, "a text beside models that come and go");
      } else if (i == 1) {
        pl_model* one = load(round % 2 ? other : folder, {8, 0, 16}, 1 + round % 4);
        if (round % 3 == 0) usleep(300);
        pl_free(one);
      } else {
        const std::string name = "/nowhere-" + std::to_string(i) + "-" + std::to_string(round);
        check(!pl_load(name.c_str(), 4, 32, 1, 16, 2, nullptr), "a model that is not there");
        check(std::string(pl_error()).find(name) != std::string::npos, "each thread its own error");
        check(!pl_load(folder.path.c_str(), 0, 0, 1, 16, 4, "none"), "kernels that are not there");
      }
    }
  });
  pl_free(model);
}

void encoders(const Folder& folder, const How& how) {
  std::vector<int32_t> tokens, lengths;
  for (int length : {1, 17, 5, 33}) {
    lengths.push_back(length);
    for (int t = 0; t < length; ++t) tokens.push_back((length + 3 * t) % kVocabulary);
  }
  const auto embed = [&](pl_model* model, int pooling) {
    std::vector<float> out(lengths.size() * kWidth);
    need(pl_embed(model, tokens.data(), lengths.data(), int(lengths.size()), pooling, 1, out.data()));
    return out;
  };
  pl_model* alone = load(folder, how, 1);
  const std::vector<float> wanted[] = {embed(alone, 0), embed(alone, 1)};
  pl_free(alone);
  pl_model* model = load(folder, how, 3);
  callers(4, [&](int i) {
    for (int round = 0; round < 4; ++round) check(same(embed(model, i % 2), wanted[i % 2]), "embeddings of several callers");
  });
  pl_free(model);
}

}  // namespace

int main(int count, char** files) {
  const auto part = [](const char* name, const auto& f) {
    checks = 0;
    f();
    std::printf("%s: %d checks, %d failures so far\n", name, checks.load(), failures.load());
    std::fflush(stdout);
  };
  part("pools", pools);
  part("pools that end", pools_that_end);
  Folder language, sentences;
  language_model(language);
  encoder(sentences);
  part("sessions", [&] {
    for (const How& how : {How{0, 0, 16}, How{8, 0, 8}, How{4, 64, 16}, How{4, 32, 8}, How{3, 16, 16}, How{2, 32, 16}})
      side_by_side(language, how, std::to_string(how.bits) + " bits");
  });
  part("stopped texts", [&] { stopped(language); });
  part("models that come and go", [&] { coming_and_going(language, sentences); });
  part("encoders", [&] {
    for (const How& how : {How{0, 0, 16}, How{8, 0, 16}, How{4, 32, 8}}) encoders(sentences, how);
  });
  longest = 40;  // those models have room for 64
  for (int i = 1; i < count; ++i) {
    std::string data;
    FILE* file = std::fopen(files[i], "rb");
    for (int c; file && (c = std::fgetc(file)) != EOF;) data += char(c);
    if (file) std::fclose(file);
    const size_t end = data.find('\0');
    if (end == std::string::npos) {
      std::printf("FAILED: %s holds no model\n", files[i]);
      return 1;
    }
    const Folder folder;
    folder.put("config.json", data.substr(0, end));
    folder.put("model.safetensors", data.substr(end + 1));
    part(files[i], [&] { side_by_side(folder, {0, 0, 16}, files[i]); });
  }
  return failures != 0;
}
