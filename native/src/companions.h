// Tensors that belong to a packed matrix, checked as they are taken from a file.
#pragma once
#include <algorithm>

#include "matrix.h"

namespace pl {

// Its bytes as they lie in the file, checked for type and number; `owner` keeps a copy where they are not aligned.
template <class T>
const T* companion(const Tensors& tensors, const std::string& name, const char* dtype, int64_t count, Matrix& owner) {
  const Tensor& tensor = tensors.need(name);
  if (tensor.dtype != dtype || tensor.count() != count)
    fail("%s should hold %lld values of %s; it holds %lld of %s", name.c_str(), (long long)count, dtype,
         (long long)tensor.count(), tensor.dtype.c_str());
  if (reinterpret_cast<uintptr_t>(tensor.data) % alignof(T) == 0) return reinterpret_cast<const T*>(tensor.data);
  auto copy = std::make_shared<Buffer>(tensor.bytes);
  std::memcpy(copy->as<uint8_t>(), tensor.data, tensor.bytes);
  owner.owns.push_back(copy);
  return copy->as<T>();
}

inline void check_finite(const uint16_t* halves, int64_t n, const std::string& name) {
  uint32_t worst = 0;
  for (int64_t i = 0; i < n; ++i) worst = std::max(worst, uint32_t(halves[i] & 0x7fff));
  if (worst >= 0x7c00) fail("%s holds NaN or infinite values; the file is damaged", name.c_str());
}

// What NAME has beside its codes, by the description in the file's metadata. Throws Error.
void load_beside(const Tensors& tensors, const std::string& name, Matrix& matrix);

}  // namespace pl
