// A model's files as they are, tensor by tensor, for those who write them in another format.
#pragma once
#include <string>

#include "matrix.h"
#include "tensors.h"

namespace pl {

class Files {
 public:
  explicit Files(const std::string& path);
  // JSON: {NAME: {"shape": [...], "dtype": ...}}; a matrix in few bits also has "bits", "group" (0: whole rows),
  // "symmetric", "sparse", and "beside" for low-rank parts, exact weights and absent channels; it is named NAME.weight. Valid as long as this object.
  const std::string& list() const { return list_; }
  // Rows [first, last) of a matrix, or all numbers of another tensor (first 0, last 1), as floats.
  void read(const std::string& name, int64_t first, int64_t last, float* out);
  // (rows, groups) float16 of a matrix in few bits; mins is left alone where it has none.
  void scales(const std::string& name, uint16_t* scales, uint16_t* mins);

 private:
  struct About {
    std::vector<int64_t> shape;
    std::string dtype;
    int bits = 0;
    int64_t group = 0;
    bool symmetric = true, sparse = false, beside = false;
  };
  const About& about(const std::string& name) const;
  Matrix& matrix(const std::string& name);
  void add(const std::string& name, About about);
  Tensors tensors_;
  std::map<std::string, About> all_;
  std::string list_, open_;
  Matrix matrix_;  // the last one that was asked for
};

}  // namespace pl
