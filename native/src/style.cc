#include "style.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pl {
namespace {

// clang-format off
const Style kStyles[] = {
    {.type = "llama"},
    {.type = "mistral"},
    {.type = "qwen2"},
    {.type = "qwen3", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm"},
    {.type = "smollm3"},
    {.type = "granite"},
    {.type = "gemma", .one_more = true, .activation = "gelu_pytorch_tanh"},
    {.type = "gemma2", .after = "pre_feedforward_layernorm", .of_attention = "post_attention_layernorm",
     .of_mlp = "post_feedforward_layernorm", .one_more = true, .activation = "gelu_pytorch_tanh", .activation_name = "hidden_activation"},
    {.type = "gemma3_text", .after = "pre_feedforward_layernorm", .of_attention = "post_attention_layernorm",
     .of_mlp = "post_feedforward_layernorm", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm", .one_more = true,
     .activation = "gelu_pytorch_tanh", .activation_name = "hidden_activation"},
    {.type = "phi3", .qkv = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj", .fused = Fused::Stacked, .epsilon = 1e-5},
    {.type = "olmo2", .before = nullptr, .after = nullptr, .of_attention = "post_attention_layernorm",
     .of_mlp = "post_feedforward_layernorm", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm", .wide_norms = true,
     .epsilon = 1e-5},
    {.type = "cohere", .after = nullptr, .layer_norm = true, .parallel = true, .epsilon_name = "layer_norm_eps", .epsilon = 1e-5},
    {.type = "stablelm", .layer_norm = true, .epsilon_name = "layer_norm_eps", .epsilon = 1e-5, .rotary = 0.25},
    {.type = "starcoder2", .gate = nullptr, .up = "mlp.c_fc", .down = "mlp.c_proj", .layer_norm = true,
     .activation = "gelu_pytorch_tanh", .epsilon_name = "norm_epsilon", .epsilon = 1e-5},
    {.type = "phi", .last = "model.final_layernorm", .after = nullptr, .out = "self_attn.dense", .gate = nullptr, .up = "mlp.fc1",
     .down = "mlp.fc2", .layer_norm = true, .parallel = true, .activation = "gelu_new", .epsilon_name = "layer_norm_eps",
     .epsilon = 1e-5, .rotary = 0.5},
    {.type = "gpt_neox", .embeddings = "gpt_neox.embed_in", .blocks = "gpt_neox.layers.", .last = "gpt_neox.final_layer_norm",
     .head = "embed_out", .qkv = "attention.query_key_value", .out = "attention.dense", .gate = nullptr, .up = "mlp.dense_h_to_4h",
     .down = "mlp.dense_4h_to_h", .fused = Fused::Grouped, .layer_norm = true, .parallel = true, .shared = false, .activation = "gelu",
     .epsilon_name = "layer_norm_eps", .epsilon = 1e-5, .rotary_name = "rotary_pct", .rotary = 0.25},
    {.type = "gpt2", .embeddings = "transformer.wte", .places = "transformer.wpe", .blocks = "transformer.h.", .last = "transformer.ln_f",
     .before = "ln_1", .after = "ln_2", .qkv = "attn.c_attn", .out = "attn.c_proj", .gate = nullptr, .up = "mlp.c_fc",
     .down = "mlp.c_proj", .fused = Fused::Stacked, .transposed = true, .layer_norm = true, .shared = false, .activation = "gelu_new",
     .activation_name = "activation_function", .epsilon_name = "layer_norm_epsilon", .epsilon = 1e-5, .rotary = 0,
     .hidden_name = "n_embd", .inner_name = "n_inner", .layers_name = "n_layer", .heads_name = "n_head", .context_name = "n_positions"},
    {.type = "opt", .embeddings = "model.decoder.embed_tokens", .places = "model.decoder.embed_positions",
     .blocks = "model.decoder.layers.", .last = "model.decoder.final_layer_norm", .before = "self_attn_layer_norm",
     .after = "final_layer_norm", .out = "self_attn.out_proj", .gate = nullptr, .up = "fc1", .down = "fc2", .layer_norm = true,
     .shared = false, .first_place = 2, .activation = "relu", .activation_name = "activation_function", .epsilon_name = "layer_norm_eps",
     .epsilon = 1e-5, .rotary = 0, .inner_name = "ffn_dim"},
    {.type = "mixtral", .router = "block_sparse_moe.gate", .expert = "block_sparse_moe.experts.", .expert_gate = "w1",
     .expert_up = "w3", .expert_down = "w2", .epsilon = 1e-5},
    {.type = "qwen3_moe", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm", .router = "mlp.gate", .expert = "mlp.experts.",
     .inner_name = "moe_intermediate_size"},
};
// clang-format on

bool is(const Style& style, const char* type) { return std::strcmp(style.type, type) == 0; }

int64_t sized(const Json& config, const char* name, int64_t otherwise, int64_t most) {
  const Json* given = config.find(name);
  const int64_t value = given && given->is_null() ? otherwise : config.get_int(name, otherwise);
  if (value < 1 || value > most) fail("config.json: %s is %lld; 1 to %lld is possible", name, (long long)value, (long long)most);
  return value;
}

// A number that may also be absent or null.
double number(const Json& config, const char* name, double otherwise) {
  const Json* given = config.find(name);
  const double value = given && given->is_null() ? otherwise : config.get_number(name, otherwise);
  if (!std::isfinite(value)) fail("config.json: impossible %s", name);
  return value;
}

bool flag(const Json& config, const char* name, bool otherwise) {
  const Json* given = config.find(name);
  return given && given->is_null() ? otherwise : config.get_bool(name, otherwise);
}

// Inverse frequencies of the rotary pairs, in float32 as transformers has them; `turn` is what cosines and sines are
// multiplied with. context: lowered where the frequencies are for fewer positions.
std::vector<float> frequencies(const Json& config, const Json* scaling, int64_t rotary, double theta, float& turn, int64_t& context) {
  std::string type = "default";
  if (scaling && !scaling->is_null()) type = scaling->get_text("rope_type", scaling->get_text("type", "default"));
  std::vector<float> out(size_t(rotary / 2));
  for (int64_t i = 0; i < rotary / 2; ++i) out[size_t(i)] = float(1.0 / std::pow(theta, double(2 * i) / double(rotary)));
  turn = 1;
  if (type == "default") return out;
  const auto positive = [&](const char* name, double otherwise) {
    const double value = number(*scaling, name, otherwise);
    if (!(value > 0)) fail("config.json: the rotary %s should be above 0", name);
    return value;
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
  } else if (type == "longrope" || type == "su") {
    // Texts within the original context, which are all that run here, have factors of their own.
    const double original = positive("original_max_position_embeddings",
                                     double(config.get_int("original_max_position_embeddings", config.get_int("max_position_embeddings", 4096))));
    const Json* factors = scaling->find("short_factor");
    if (!factors || factors->items.size() != out.size()) fail("config.json: the rotary short_factor should hold %zu numbers", out.size());
    for (size_t i = 0; i < out.size(); ++i) {
      if (factors->items[i].kind != Json::Number || !(factors->items[i].number > 0)) fail("config.json: the rotary short_factor holds an impossible number");
      out[i] = float(1.0 / (factors->items[i].number * std::pow(theta, double(2 * i) / double(rotary))));
    }
    const double longer = std::max(double(config.get_int("max_position_embeddings", 4096)) / original, 1.0);
    turn = float(positive("attention_factor", longer > 1 ? std::sqrt(1 + std::log(longer) / std::log(original)) : 1));
    context = std::min(context, int64_t(original));
  } else if (type == "yarn") {
    // Pairs that turn often within the original context stay, those that turn hardly once are stretched, and between
    // the two lies a ramp; attention is sharpened by what cosines and sines gain.
    const double original = positive("original_max_position_embeddings", double(config.get_int("max_position_embeddings", 2048)));
    const auto place = [&](double turns) { return double(rotary) * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(theta)); };
    double low = place(positive("beta_fast", 32)), high = place(positive("beta_slow", 1));
    if (scaling->get_bool("truncate", true)) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, double(rotary - 1));
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
    fail("config.json scales rotary positions by \"%s\"; default, linear, llama3, longrope and yarn are known", type.substr(0, 40).c_str());
  }
  return out;
}

Activation activation_of(const std::string& name) {
  if (name == "silu" || name == "swish") return Activation::Silu;
  if (name == "gelu") return Activation::Gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::GeluTanh;
  if (name == "relu") return Activation::Relu;
  fail("the activation \"%s\" is not known here; silu, gelu, gelu_new, gelu_pytorch_tanh and relu are", name.substr(0, 40).c_str());
}

// The frequencies of all blocks; where a model has two kinds of blocks, those with a window have frequencies of their own.
void read_rotary(const Tensors& tensors, const Style& style, LlamaConfig& c) {
  const Json& json = tensors.config;
  const Json *parameters = json.find("rope_parameters"), *scaling = json.find("rope_scaling");
  if (parameters && parameters->is_null()) parameters = nullptr;
  if (!scaling || scaling->is_null()) scaling = parameters;
  double share = style.rotary;
  if (style.rotary > 0) {
    if (parameters) share = number(*parameters, "partial_rotary_factor", share);
    share = number(json, style.rotary_name, share);
  }
  c.rotary = int64_t(double(c.head) * share);
  if (share < 0 || share > 1 || c.rotary % 2) fail("config.json: %g of a head's %lld columns cannot turn in pairs", share, (long long)c.head);
  if (!c.rotary) return;
  const auto theta_of = [&](const Json* from, const char* name, double otherwise) {
    const double theta = from ? number(*from, name, otherwise) : otherwise;
    if (!(theta > 1)) fail("config.json: impossible %s", name);
    return theta;
  };
  const char* plain = is(style, "gpt_neox") && json.find("rotary_emb_base") ? "rotary_emb_base" : "rope_theta";
  const Json *whole = parameters ? parameters->find("full_attention") : nullptr, *local = parameters ? parameters->find("sliding_attention") : nullptr;
  float turn = 1;
  if (is(style, "gemma3_text")) {
    const double far = theta_of(whole, "rope_theta", theta_of(&json, plain, 1e6)), near = theta_of(local, "rope_theta", theta_of(&json, "rope_local_base_freq", 1e4));
    c.frequencies = frequencies(json, whole ? whole : json.find("rope_scaling"), c.rotary, far, c.turn, c.context);
    c.near_frequencies = frequencies(json, local, c.rotary, near, turn, c.context);
    if (turn != c.turn) fail("config.json: the two rotary embeddings have scales of their own");
    return;
  }
  if (whole || local) fail("config.json has rotary positions for each kind of block, which are not known for this architecture");
  c.frequencies = frequencies(json, scaling, c.rotary, theta_of(&json, plain, theta_of(parameters, "rope_theta", 10000)), c.turn, c.context);
  if (const Tensor* factors = tensors.find("rope_freqs.weight"); factors && tensors.gguf) {  // how GGUF scales Llama 3's
    if (factors->count() != c.rotary / 2)
      fail("rope_freqs.weight holds %lld values where heads have %lld pairs", (long long)factors->count(), (long long)c.rotary / 2);
    std::vector<float> by(size_t(c.rotary / 2));
    to_float(*factors, 0, c.rotary / 2, by.data());
    for (size_t i = 0; i < by.size(); ++i) {
      if (!(by[i] > 0) || !std::isfinite(by[i])) fail("rope_freqs.weight holds an impossible factor");
      c.frequencies[i] /= by[i];
    }
  }
}

// Which blocks see a window only, and in which queries and keys turn.
void read_blocks(const Json& json, const Style& style, LlamaConfig& c) {
  const Json *types = json.find("layer_types"), *rope = json.find("no_rope_layers"), *given = json.find("sliding_window");
  const int64_t window = given && !given->is_null() ? sized(json, "sliding_window", 1, int64_t(1) << 31) : 0;
  const auto listed = [&](const Json* list, const char* name) {
    if (!list || list->is_null()) return false;
    if (list->kind != Json::Array || int64_t(list->items.size()) != c.layers)
      fail("config.json: %s should say something of each of the %lld blocks", name, (long long)c.layers);
    return true;
  };
  const bool typed = listed(types, "layer_types"), chosen = is(style, "smollm3") && listed(rope, "no_rope_layers");
  const int64_t interval = is(style, "smollm3") ? sized(json, "no_rope_layer_interval", 4, 1024) : 0;
  const int64_t pattern = sized(json, "sliding_window_pattern", sized(json, "_sliding_window_pattern", 6, 1024), 1024);
  const int64_t first = json.get_int("max_window_layers", 28);
  for (int64_t i = 0; i < c.layers; ++i) {
    bool slides = false;
    if (typed) {
      const Json& type = types->items[size_t(i)];
      if (type.kind != Json::String || (type.text != "sliding_attention" && type.text != "full_attention"))
        fail("block %lld is \"%s\"; full_attention and sliding_attention are known", (long long)i, type.text.substr(0, 40).c_str());
      slides = type.text == "sliding_attention";
    } else if (is(style, "gemma2")) {
      slides = i % 2 == 0;
    } else if (is(style, "gemma3_text")) {
      slides = (i + 1) % pattern != 0;
    } else if (flag(json, "use_sliding_window", is(style, "mistral") || is(style, "mixtral") || is(style, "phi3") || is(style, "starcoder2"))) {
      slides = style.type[0] != 'q' || i >= first;  // Qwen's first blocks see everything
    }
    if (slides && !window && typed) fail("config.json: block %lld has a window, and sliding_window does not say of how many tokens", (long long)i);
    c.windows.push_back(slides ? window : 0);
    c.turning.push_back(c.rotary && (chosen ? rope->items[size_t(i)].number != 0 || rope->items[size_t(i)].truth : !interval || (i + 1) % interval != 0));
  }
}

// Settings that change what is computed and are not obeyed here.
void refuse(const Json& json, const Style& style) {
  const std::pair<const char*, bool> flags[] = {{"use_qk_norm", false}, {"qk_layernorm", false}, {"scale_attn_by_inverse_layer_idx", false},
                                                {"add_cross_attention", false}, {"_remove_final_layer_norm", false},
                                                {"use_bidirectional_attention", false}, {"do_layer_norm_before", true},
                                                {"scale_attn_weights", true}, {"layer_norm_elementwise_affine", true}};
  for (const auto& [name, usual] : flags)
    if (flag(json, name, usual) != usual) fail("config.json has %s %s, which is not known here", name, usual ? "false" : "true");
  if (const Json* only = json.find("mlp_only_layers"); style.router && only && !only->items.empty())
    fail("config.json has blocks without experts (mlp_only_layers), which are not known here");
  if (style.router && json.get_int("decoder_sparse_step", 1) != 1) fail("config.json has blocks without experts (decoder_sparse_step), which are not known here");
}

}  // namespace

const Style& style_of(const Json& config) {
  const std::string type = config.get_text("model_type", "");
  std::string known;
  for (const Style& style : kStyles) {
    if (type == style.type) return style;
    known += std::string(style.type) + ", ";
  }
  fail("the architecture \"%s\" is not known here; %sand the encoders bert, roberta, xlm-roberta, camembert, distilbert and mpnet are", type.substr(0, 40).c_str(), known.c_str());
}

LlamaConfig read_config(const Tensors& tensors, const Style& style) {
  const Json& json = tensors.config;
  LlamaConfig c{};
  refuse(json, style);
  c.hidden = sized(json, style.hidden_name, 0, 1 << 16);
  c.inner = sized(json, style.inner_name, is(style, "gpt2") ? 4 * c.hidden : 0, 1 << 18);
  c.layers = sized(json, style.layers_name, 0, 1024);
  c.heads = sized(json, style.heads_name, 0, 1024);
  c.kv_heads = style.shared ? sized(json, "num_key_value_heads", c.heads, 1024) : c.heads;
  c.head = sized(json, "head_dim", std::max<int64_t>(c.hidden / c.heads, 1), 1024);
  c.context = sized(json, style.context_name, 2048, int64_t(1) << 31);
  if (c.heads % c.kv_heads) fail("config.json: %lld query heads cannot share %lld key heads", (long long)c.heads, (long long)c.kv_heads);
  if (c.head % 16) fail("heads of %lld columns; a multiple of 16 is needed", (long long)c.head);
  if (json.get_int("word_embed_proj_dim", c.hidden) != c.hidden) fail("config.json: embeddings of another width (word_embed_proj_dim) are not known here");
  const Json* named = json.find(style.activation_name);
  c.activation = activation_of(named && named->is_null() ? style.activation : json.get_text(style.activation_name, style.activation));
  if (style.gate && !style.router && c.activation != Activation::Silu && c.activation != Activation::GeluTanh && c.activation != Activation::Gelu)
    fail("config.json: this activation is not known for a gated MLP");
  if (style.router && c.activation != Activation::Silu) fail("config.json: experts with another activation than silu are not known here");
  c.epsilon = float(number(json, style.epsilon_name, style.epsilon));
  c.interleaved = flag(json, "rope_interleaved", is(style, "cohere"));
  read_rotary(tensors, style, c);
  read_blocks(json, style, c);
  c.layer_norm = style.layer_norm;
  c.parallel = flag(json, "use_parallel_residual", style.parallel);
  c.wide_norms = style.wide_norms;
  c.first_place = style.first_place;
  c.grouped = style.fused == Fused::Grouped;
  c.tied = flag(json, "tie_word_embeddings", is(style, "gpt2") || is(style, "opt") || is(style, "cohere") || is(style, "starcoder2") || style.type[0] == 'g');
  if (is(style, "gpt_neox") || is(style, "granite")) c.tied = flag(json, "tie_word_embeddings", false);
  const bool gemma = std::strncmp(style.type, "gemma", 5) == 0;
  c.embedding_scale = gemma ? float(std::sqrt(double(c.hidden))) : float(number(json, "embedding_multiplier", 1));
  c.residual_scale = float(number(json, "residual_multiplier", 1));
  const double by = is(style, "gemma2") || is(style, "gemma3_text") ? number(json, "query_pre_attn_scalar", double(c.head)) : double(c.head);
  c.attention_scale = float(is(style, "granite") ? number(json, "attention_multiplier", 1) : 1 / std::sqrt(by));
  const double divided = is(style, "granite") ? number(json, "logits_scaling", 1) : 1;
  c.logit_scale = float(is(style, "cohere") ? number(json, "logit_scale", 0.0625) : 1 / divided);
  if (gemma) {
    c.attention_cap = float(number(json, "attn_logit_softcapping", 0));
    c.logit_cap = float(number(json, "final_logit_softcapping", 0));
  }
  for (const float one : {c.embedding_scale, c.residual_scale, c.attention_scale, c.logit_scale})
    if (!std::isfinite(one) || one == 0) fail("config.json: a multiplier is 0 or not finite");
  if (c.attention_cap < 0 || c.logit_cap < 0) fail("config.json: a softcapping is below 0");
  if (style.router) {
    c.experts = sized(json, json.find("num_local_experts") ? "num_local_experts" : "num_experts", is(style, "mixtral") ? 8 : 128, 4096);
    c.chosen = sized(json, "num_experts_per_tok", is(style, "mixtral") ? 2 : 8, c.experts);
    c.weights_sum_to_one = is(style, "mixtral") || flag(json, "norm_topk_prob", false);
  }
  const std::string embeddings = style.embeddings;
  const Tensor* table = tensors.find(embeddings + ".weight");
  const auto packed = tensors.metadata.find("paperlab." + embeddings);
  if (table && table->shape.size() == 2) c.vocabulary = table->shape[0];
  else if (packed != tensors.metadata.end()) c.vocabulary = Json::parse(packed->second, "the description of the embeddings").get_int("rows", 0);
  else fail("the tensor %s.weight is missing from the model's files", style.embeddings);
  if (c.vocabulary < 1 || c.vocabulary > (1 << 24)) fail("impossible vocabulary");
  const int64_t stated = json.get_int("vocab_size", c.vocabulary);
  if (stated != c.vocabulary) fail("the embeddings have %lld rows, config.json says vocab_size %lld", (long long)c.vocabulary, (long long)stated);
  return c;
}

void put_in_order(Tensors& tensors, const Style& style, std::vector<std::shared_ptr<void>>& owns) {
  // Files of the bare model, without its head, leave the first word of all names out.
  const std::string embeddings = std::string(style.embeddings) + ".weight", prefix = embeddings.substr(0, embeddings.find('.') + 1);
  if (!tensors.find(embeddings) && tensors.find(embeddings.substr(prefix.size()))) {
    decltype(tensors.by_name) renamed;
    for (auto& [name, tensor] : tensors.by_name) renamed.emplace(name.rfind(style.head, 0) == 0 ? name : prefix + name, tensor);
    tensors.by_name = std::move(renamed);
  }
  if (!style.transposed) return;
  for (auto& [name, tensor] : tensors.by_name) {
    if (name.rfind(style.blocks, 0) != 0 || !name.ends_with(".weight") || tensor.shape.size() != 2) continue;
    const int64_t columns = tensor.shape[0], rows = tensor.shape[1];
    auto turned = std::make_shared<Buffer>(size_t(rows * columns) * 4);
    auto read = std::make_shared<Buffer>(size_t(rows * columns) * 4);
    float *to = turned->as<float>(), *from = read->as<float>();
    if (tensor.data) to_float(tensor, 0, rows * columns, from);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t column = 0; column < columns; ++column) to[r * columns + column] = from[column * rows + r];
    tensor = {"F32", {rows, columns}, turned->as<uint8_t>(), uint64_t(rows * columns) * 4};
    owns.push_back(std::move(turned));
  }
}

}  // namespace pl
