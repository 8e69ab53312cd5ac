// How a language model's blocks are made, by model_type: what its tensors are called, and what is computed with them.
#pragma once
#include "model.h"

namespace pl {

enum class Fused { None, Stacked, Grouped };  // all queries, keys, values; or for each head its query, its key, its value

// Names: null where an architecture has no such part. Those of a block follow `blocks` and its number.
struct Style {
  const char* type;
  const char *embeddings = "model.embed_tokens", *places = nullptr, *blocks = "model.layers.", *last = "model.norm", *head = "lm_head";
  const char *before = "input_layernorm", *after = "post_attention_layernorm";  // the norms that the two branches read
  const char *of_attention = nullptr, *of_mlp = nullptr;                         // norms of what the branches return
  const char *q = "self_attn.q_proj", *k = "self_attn.k_proj", *v = "self_attn.v_proj", *qkv = nullptr, *out = "self_attn.o_proj";
  const char *q_norm = nullptr, *k_norm = nullptr;
  const char *gate = "mlp.gate_proj", *up = "mlp.up_proj", *gate_up = nullptr, *down = "mlp.down_proj";
  const char *router = nullptr, *expert = nullptr;  // experts in the place of an MLP: EXPERT.NUMBER.{gate, up, down} below
  const char *expert_gate = "gate_proj", *expert_up = "up_proj", *expert_down = "down_proj";
  Fused fused = Fused::None;
  bool transposed = false;   // matrices of blocks lie (columns, rows)
  bool layer_norm = false;   // in the place of RMS norms
  bool one_more = false;     // norms multiply by 1 + weight
  bool parallel = false;     // both branches read the stream as it was before the block
  bool shared = true;        // several query heads may share their keys
  bool wide_norms = false;   // queries and keys are normed over all heads together
  int first_place = 0;       // of learned positions
  const char* activation = "silu";
  const char* activation_name = "hidden_act";
  const char* epsilon_name = "rms_norm_eps";
  double epsilon = 1e-6;
  const char* rotary_name = "partial_rotary_factor";
  double rotary = 1;
  const char *hidden_name = "hidden_size", *inner_name = "intermediate_size", *layers_name = "num_hidden_layers";
  const char *heads_name = "num_attention_heads", *context_name = "max_position_embeddings";
};

// Of the configuration's model_type. Throws Error naming those that are known.
const Style& style_of(const Json& config);
// All that the configuration says, checked. Throws Error for what is not obeyed here.
LlamaConfig read_config(const Tensors& tensors, const Style& style);
// The same tensors, with matrices of blocks turned the usual way round, and names with the prefix that `style` has.
void put_in_order(Tensors& tensors, const Style& style, std::vector<std::shared_ptr<void>>& owns);

}  // namespace pl
