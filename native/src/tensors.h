// Tensors in files: memory-mapped safetensors and GGUF, by the names that transformers gives them. Files are untrusted:
// every size and offset is checked before a byte is touched.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace pl {

class Mapped {
 public:
  explicit Mapped(const std::string& path);  // throws Error
  ~Mapped();
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  // Reads the file into memory of large pages in the map's place, where there is plenty of memory: with pages of 4 KiB
  // the walk through page tables halves the speed at which a model's weights are read. Leaves the map where it cannot.
  void settle(const std::string& path);
  // Gives back the memory of these bytes, where they are a file's own and inside it: they are read again if need be.
  void release(const uint8_t* from, uint64_t bytes) const;

 private:
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0, taken_ = 0;  // bytes of the file, and of address space
  bool settled_ = false;           // in memory of its own
};

struct Tensor {
  std::string dtype;           // as safetensors spells it (F32, BF16, U8 …), or GGUF's (Q4_0, Q6_K …)
  std::vector<int64_t> shape;  // outermost first
  const uint8_t* data = nullptr;
  uint64_t bytes = 0;
  int64_t count() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// A set of files that make up one model.
struct Tensors {
  std::map<std::string, Tensor, std::less<>> by_name;
  std::map<std::string, std::string> metadata;  // of safetensors headers
  std::vector<std::shared_ptr<Mapped>> files;
  Json config;                 // config.json, or the same made from GGUF's fields
  bool gguf = false;

  const Tensor* find(std::string_view name) const;
  const Tensor& need(std::string_view name) const;  // throws Error
  // For a tensor that was copied into another form: the file's own pages need not stay in memory.
  void release(const Tensor& tensor) const;
};

// A folder with config.json and safetensors, or a .gguf file. Throws Error.
Tensors open_model(const std::string& path);
void read_safetensors(const std::string& path, Tensors& into);
Tensors read_gguf(const std::string& path);

// Any float or GGUF block type -> float32 (count() values).
void to_float(const Tensor& tensor, int64_t first, int64_t count, float* out);

}  // namespace pl
