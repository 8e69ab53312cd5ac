// GGUF, versions 2 and 3, little-endian: fields, tensors, and the block types that are turned into floats or tiles.
#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include "blocks.h"

namespace pl {
namespace {

struct Plain {
  const char* name;
  uint32_t number;
  int64_t bytes;
};

constexpr Plain kPlain[] = {{"F32", 0, 4}, {"F16", 1, 2}, {"BF16", 30, 2}};

struct Reader {
  const Mapped& file;
  const std::string& path;
  uint64_t at = 0;

  const uint8_t* take(uint64_t bytes) {
    if (bytes > file.size() - at) fail("%s is cut off inside its header; fetch it again", path.c_str());
    const uint8_t* here = file.data() + at;
    at += bytes;
    return here;
  }

  template <class T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  std::string text() {
    const uint64_t length = get<uint64_t>();
    if (length > file.size()) fail("%s: a text in its header is longer than the file", path.c_str());
    return std::string(reinterpret_cast<const char*>(take(length)), length);
  }

  Json value(uint32_t type, int depth = 0) {
    Json out;
    const auto whole = [&](int64_t v) {
      out.kind = Json::Number;
      out.number = double(v);
      out.integer = v;
      out.is_integer = true;
    };
    const auto real = [&](double v) {
      out.kind = Json::Number;
      out.number = v;
    };
    switch (type) {
      case 0: whole(get<uint8_t>()); break;
      case 1: whole(get<int8_t>()); break;
      case 2: whole(get<uint16_t>()); break;
      case 3: whole(get<int16_t>()); break;
      case 4: whole(get<uint32_t>()); break;
      case 5: whole(get<int32_t>()); break;
      case 6: real(get<float>()); break;
      case 7: out.kind = Json::Bool; out.truth = get<uint8_t>() != 0; break;
      case 8: out.kind = Json::String; out.text = text(); break;
      case 9: {
        const uint32_t inner = get<uint32_t>();
        const uint64_t count = get<uint64_t>();
        if (depth > 2 || inner > 12 || count > file.size() - at) fail("%s: an array in its header is damaged", path.c_str());
        out.kind = Json::Array;
        for (uint64_t i = 0; i < count; ++i) out.items.push_back(value(inner, depth + 1));
        break;
      }
      case 10: {
        const uint64_t v = get<uint64_t>();
        if (v > INT64_MAX) fail("%s: a number in its header is too large", path.c_str());
        whole(int64_t(v));
        break;
      }
      case 11: whole(get<int64_t>()); break;
      case 12: real(get<double>()); break;
      default: fail("%s: a field of the unknown type %u", path.c_str(), type);
    }
    return out;
  }
};

std::string hf_name(const std::string& name) {
  static const std::map<std::string, std::string> outer = {
      {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
  static const std::map<std::string, std::string> inner = {{"attn_norm", "input_layernorm"},
                                                           {"ffn_norm", "post_attention_layernorm"},
                                                           {"attn_q", "self_attn.q_proj"},
                                                           {"attn_k", "self_attn.k_proj"},
                                                           {"attn_v", "self_attn.v_proj"},
                                                           {"attn_output", "self_attn.o_proj"},
                                                           {"attn_q_norm", "self_attn.q_norm"},
                                                           {"attn_k_norm", "self_attn.k_norm"},
                                                           {"ffn_gate", "mlp.gate_proj"},
                                                           {"ffn_up", "mlp.up_proj"},
                                                           {"ffn_down", "mlp.down_proj"}};
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return name;
  const std::string stem = name.substr(0, dot), kind = name.substr(dot);
  if (const auto at = outer.find(stem); at != outer.end()) return at->second + kind;
  if (stem.rfind("blk.", 0) == 0) {
    const size_t next = stem.find('.', 4);
    if (next != std::string::npos)
      if (const auto at = inner.find(stem.substr(next + 1)); at != inner.end())
        return "model.layers." + stem.substr(4, next - 4) + "." + at->second + kind;
  }
  return name;
}

void put(Json& config, const std::string& name, const Json& value) { config.members.emplace_back(name, value); }

Json text_value(const std::string& text) {
  Json value;
  value.kind = Json::String;
  value.text = text;
  return value;
}

Json truth(bool is) {
  Json value;
  value.kind = Json::Bool;
  value.truth = is;
  return value;
}

// A number among the fields; `otherwise` where there is none. Lists that llama.cpp has one for each layer are numbers
// where they say the same everywhere.
double number_of(const std::map<std::string, Json>& fields, const std::string& name, double otherwise, const std::string& path) {
  const auto at = fields.find(name);
  if (at == fields.end()) return otherwise;
  if (at->second.kind == Json::Array && !at->second.items.empty()) return at->second.items[0].number;
  if (at->second.kind != Json::Number) fail("%s: %s should be a number", path.c_str(), name.c_str());
  return at->second.number;
}

// Fields that llama.cpp's loader reads and that change what is computed: obeyed, or refused by name.
void check_fields(const std::map<std::string, Json>& fields, const std::string& kind, const std::string& path) {
  const auto refuse = [&](const std::string& name) {
    fail("%s has the field %s, which is not obeyed here: it changes what the model computes", path.c_str(), name.substr(0, 80).c_str());
  };
  if (const auto at = fields.find("general.type"); at != fields.end() && at->second.text != "model")
    fail("%s is no model: its general.type is \"%s\"", path.c_str(), at->second.text.substr(0, 40).c_str());
  if (number_of(fields, "split.count", 0, path) > 1)
    fail("%s is one of %g parts of a model; join them first (llama-gguf-split --merge)", path.c_str(), number_of(fields, "split.count", 0, path));
  const double heads = number_of(fields, kind + ".attention.head_count", 0, path);
  const double head = number_of(fields, kind + ".attention.key_length", heads > 0 ? std::floor(number_of(fields, kind + ".embedding_length", 0, path) / heads) : 0, path);
  for (const char* name : {".rope.dimension_count", ".attention.value_length"})
    if (const double is = number_of(fields, kind + name, head, path); is != head)
      fail("%s: %s%s is %g where heads have %g columns; other sizes are not known here", path.c_str(), kind.c_str(), name, is, head);
  static const std::set<std::string> known = {
      "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
      "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.causal",
      "attention.sliding_window",  // of these architectures llama.cpp does not read it
      "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor",
      "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.attn_factor",
      "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"};
  static const std::set<std::string> others = {
      "attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "residual_scale", "embedding_scale",
      "expert_count", "expert_used_count", "use_parallel_residual", "nextn_predict_layers", "swin_norm"};
  for (const auto& [name, value] : fields) {
    if (name.rfind(kind + ".", 0) != 0) continue;
    const std::string field = name.substr(kind.size() + 1);
    const bool zero = (value.kind == Json::Number && value.number == 0) || (value.kind == Json::Bool && !value.truth);
    const bool scale = field.ends_with("_scale") && value.kind == Json::Number && value.number == 1;
    const bool listed = (field.rfind("attention.", 0) == 0 || field.rfind("rope.", 0) == 0) ? !known.count(field) : others.count(field) > 0;
    if (listed && !zero && !scale) refuse(name);
    if (field == "hidden_activation" && value.text != "silu") refuse(name);
    if (field == "attention.causal" && !value.truth) refuse(name);
  }
}

// How rotary positions are scaled, with llama.cpp's defaults: linear, by a factor that has two names.
void put_scaling(Json& config, const std::map<std::string, Json>& fields, const std::string& rope, const std::string& path) {
  std::string type = "linear";
  if (const auto at = fields.find(rope + "scaling.type"); at != fields.end() && !at->second.text.empty()) type = at->second.text;
  if (type == "none") return;
  if (type != "linear" && type != "yarn")
    fail("%s scales its rotary positions (%s); linear and yarn are known in GGUF", path.c_str(), type.substr(0, 40).c_str());
  Json scaling;
  scaling.kind = Json::Object;
  put(scaling, "rope_type", text_value(type));
  double factor = number_of(fields, rope + "scaling.factor", number_of(fields, rope + "scale_linear", 0, path), path);
  if (factor == 0) factor = 1;
  Json value;
  value.kind = Json::Number;
  value.number = factor;
  put(scaling, "factor", value);
  const std::pair<const char*, const char*> parts[] = {{"original_context_length", "original_max_position_embeddings"},
                                                       {"attn_factor", "attn_factor"},
                                                       {"yarn_attn_factor", "attn_factor"},
                                                       {"yarn_beta_fast", "beta_fast"},
                                                       {"yarn_beta_slow", "beta_slow"}};
  for (const auto& [field, name] : parts)
    if (const auto at = fields.find(rope + "scaling." + field); at != fields.end()) {
      put(scaling, name, at->second);
      if (type == "linear" && std::string(name) == "attn_factor" && at->second.number != 1)
        fail("%s has the field %sscaling.%s, which is obeyed with yarn alone", path.c_str(), rope.c_str(), field);
    }
  if (type == "yarn" || factor != 1) put(config, "rope_scaling", scaling);
}

// The fields under the names of config.json.
Json make_config(const std::map<std::string, Json>& fields, const std::string& path, bool tied) {
  const auto architecture = fields.find("general.architecture");
  if (architecture == fields.end() || architecture->second.kind != Json::String)
    fail("%s does not say its architecture", path.c_str());
  const std::string& kind = architecture->second.text;
  if (kind != "llama" && kind != "qwen2" && kind != "qwen3")
    fail("%s has the architecture \"%s\"; known in GGUF: llama, qwen2, qwen3", path.c_str(), kind.substr(0, 40).c_str());
  Json config;
  config.kind = Json::Object;
  put(config, "model_type", text_value(kind));
  const std::pair<const char*, const char*> names[] = {{"embedding_length", "hidden_size"},
                                                       {"feed_forward_length", "intermediate_size"},
                                                       {"block_count", "num_hidden_layers"},
                                                       {"attention.head_count", "num_attention_heads"},
                                                       {"attention.head_count_kv", "num_key_value_heads"},
                                                       {"attention.key_length", "head_dim"},
                                                       {"context_length", "max_position_embeddings"},
                                                       {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
                                                       {"rope.freq_base", "rope_theta"}};
  for (const auto& [field, name] : names)
    if (const auto at = fields.find(kind + "." + field); at != fields.end()) {
      const auto& items = at->second.items;  // one for each layer: they are to be the same
      for (const Json& item : items)
        if (item.kind != Json::Number || item.number != items[0].number)
          fail("%s: %s.%s differs from layer to layer, which is not known here", path.c_str(), kind.c_str(), field);
      put(config, name, items.empty() ? at->second : items[0]);
    }
  check_fields(fields, kind, path);
  put_scaling(config, fields, kind + ".rope.", path);
  const auto special = [&](const char* field, const char* name) {
    if (const auto at = fields.find(std::string("tokenizer.ggml.") + field); at != fields.end())
      put(config, name, at->second);
  };
  special("bos_token_id", "bos_token_id");
  special("eos_token_id", "eos_token_id");
  put(config, "tie_word_embeddings", truth(tied));
  put(config, "rope_interleaved", truth(kind == "llama"));  // llama.cpp keeps rotary pairs side by side there
  return config;
}

}  // namespace

Tensors read_gguf(const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  auto file = std::make_shared<Mapped>(path);
  Reader reader{*file, path};
  if (file->size() < 24 || std::memcmp(reader.take(4), "GGUF", 4) != 0) fail("%s is no GGUF file", path.c_str());
  const uint32_t version = reader.get<uint32_t>();
  if (version != 2 && version != 3) fail("%s is GGUF version %u; 2 and 3 are known", path.c_str(), version);
  const uint64_t tensors = reader.get<uint64_t>(), count = reader.get<uint64_t>();
  if (tensors > file->size() / 24 || count > file->size() / 12) fail("%s: its header counts more than the file holds", path.c_str());
  std::map<std::string, Json> fields;
  for (uint64_t i = 0; i < count; ++i) {
    std::string key = reader.text();
    const uint32_t type = reader.get<uint32_t>();
    if (!fields.emplace(key, reader.value(type)).second) fail("%s: the field %s occurs twice", path.c_str(), key.c_str());
  }
  uint64_t alignment = 32;
  if (const auto at = fields.find("general.alignment"); at != fields.end()) {
    if (!at->second.is_integer || at->second.integer < 8 || at->second.integer > 65536 || at->second.integer % 8)
      fail("%s: impossible general.alignment", path.c_str());
    alignment = uint64_t(at->second.integer);
  }
  Tensors out;
  std::vector<std::pair<std::string, uint64_t>> placed;
  for (uint64_t i = 0; i < tensors; ++i) {
    const std::string name = reader.text();
    Tensor tensor;
    const uint32_t dimensions = reader.get<uint32_t>();
    if (dimensions > 4) fail("%s: %s has %u dimensions", path.c_str(), name.c_str(), dimensions);
    uint64_t values = 1;
    for (uint32_t d = 0; d < dimensions; ++d) {
      const uint64_t n = reader.get<uint64_t>();
      if (n > INT64_MAX) fail("%s: %s has an impossible shape", path.c_str(), name.c_str());
      values = times(values, n);
      tensor.shape.insert(tensor.shape.begin(), int64_t(n));  // GGUF writes the innermost first
    }
    const uint32_t type = reader.get<uint32_t>();
    const Plain* plain = std::find_if(std::begin(kPlain), std::end(kPlain), [&](const Plain& one) { return one.number == type; });
    const BlockKind* kind = block_kind(type);
    const bool floats = plain != std::end(kPlain);
    if (!floats && !kind)
      fail("%s: %s is stored as type %u; known are F32, F16, BF16, %s", path.c_str(), name.c_str(), type, block_names().c_str());
    if (tensor.shape.empty() || (kind && tensor.shape.back() % kind->values))
      fail("%s: rows of %s are no whole number of %s blocks", path.c_str(), name.c_str(), kind ? kind->name : plain->name);
    tensor.dtype = floats ? plain->name : kind->name;
    tensor.bytes = floats ? times(values, uint64_t(plain->bytes)) : times(values / uint64_t(kind->values), uint64_t(kind->bytes));
    const uint64_t offset = reader.get<uint64_t>();
    if (offset % alignment) fail("%s: %s is not aligned", path.c_str(), name.c_str());
    placed.emplace_back(hf_name(name), offset);
    if (!out.by_name.emplace(placed.back().first, std::move(tensor)).second)
      fail("%s: the tensor %s occurs twice", path.c_str(), name.c_str());
  }
  const uint64_t base = (reader.at + alignment - 1) / alignment * alignment;
  for (const auto& [name, offset] : placed) {
    Tensor& tensor = out.by_name[name];
    if (base > file->size() || offset > file->size() - base || tensor.bytes > file->size() - base - offset)
      fail("%s: %s lies outside the file; it is cut off or damaged", path.c_str(), name.c_str());
    tensor.data = file->data() + base + offset;
  }
  out.config = make_config(fields, path, !out.find("lm_head.weight"));
  if (out.find("model.layers.0.self_attn.o_proj.bias")) put(out.config, "attention_bias", truth(true));
  if (out.find("model.layers.0.mlp.up_proj.bias")) put(out.config, "mlp_bias", truth(true));
  out.gguf = true;
  out.files.push_back(std::move(file));
  return out;
}

void to_float(const Tensor& tensor, int64_t first, int64_t count, float* out) {
  const auto half = [](const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return half_to_float(h);
  };
  const std::string& type = tensor.dtype;
  if (type == "F32") {
    std::memcpy(out, tensor.data + first * 4, size_t(count) * 4);
  } else if (type == "F16") {
    for (int64_t i = 0; i < count; ++i) out[i] = half(tensor.data + (first + i) * 2);
  } else if (type == "BF16") {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t b;
      std::memcpy(&b, tensor.data + (first + i) * 2, 2);
      out[i] = bf16_to_float(b);
    }
  } else if (const BlockKind* kind = block_kind(type)) {
    uint8_t codes[256];
    float scales[16], mins[16] = {};
    const int64_t end = first + count;
    for (int64_t i = first; i < end;) {
      const int64_t begin = i / kind->values * kind->values;
      open_block(*kind, tensor.data + i / kind->values * kind->bytes, codes, scales, mins);
      for (; i < end && i < begin + kind->values; ++i) {
        const int64_t at = i - begin;
        const int value = kind->book ? kIq4Values[codes[at]] : codes[at] - kind->zero();
        out[i - first] = scales[at / kind->group] * float(value) + (kind->mins ? mins[at / kind->group] : 0);
      }
    }
  } else {
    fail("a tensor of type %s cannot be read as numbers here", type.c_str());
  }
}

}  // namespace pl
