// GGUF's block types: a block is some values that share what their codes are multiplied with.
#pragma once
#include "tensors.h"

namespace pl {

// W = scale * (code - zero) + minimum for each group of a block, or scale * (book[code] - 128).
struct BlockKind {
  const char* name;
  uint32_t number;        // GGML's
  int64_t values, bytes;  // of a block
  int bits;               // in which the engine keeps the codes
  int64_t group;          // columns to a scale
  bool mins;
  bool book;  // of IQ4: sixteen values
  int zero() const { return mins || book ? 0 : 1 << (bits - 1); }
};

extern const int8_t kIq4Values[16];
const BlockKind* block_kind(uint32_t number);
const BlockKind* block_kind(const std::string& name);
std::string block_names();
// One block's codes (values), scales and minima (values / group each).
void open_block(const BlockKind& kind, const uint8_t* block, uint8_t* codes, float* scales, float* mins);

}  // namespace pl
