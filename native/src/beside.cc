// Low-rank parts and exact weights: out of files, and into rows.
#include <algorithm>
#include <cmath>

#include "companions.h"

namespace pl {

uint64_t Beside::bytes() const {
  const uint64_t low = uint64_t(view.rank * (a.columns + round_up(view.rows, 16))) * 2;
  return low + (view.starts ? uint64_t(view.rows + 1) * 4 + differences.size() * 6 : 0);
}

void Beside::add_low_rank(int64_t row, float* out) const {
  const auto* data = static_cast<const uint16_t*>(a.data);
  for (int64_t k = 0; k < view.rank; ++k) {
    const float factor = half_to_float(view.b[(row / 16 * view.rank + k) * 16 + row % 16]);
    for (int64_t c = 0; c < a.columns; ++c) out[c] += factor * half_to_float(data[k * a.columns + c]);
  }
}

void Beside::put_exact(int64_t row, float* out) const {
  if (!view.starts) return;
  for (uint32_t i = view.starts[row]; i < view.starts[row + 1]; ++i) to_float(values, i, 1, out + view.columns[i]);
}

void load_beside(const Tensors& tensors, const std::string& name, Matrix& matrix) {
  const Json about = Json::parse(tensors.metadata.at("paperlab." + name), "the description of " + name);
  const int64_t rank = about.get_int("rank", 0), count = about.get_int("outliers", 0);
  if (!rank && !count) return;
  const int64_t rows = matrix.rows, columns = matrix.columns;
  if (rank < 0 || rank > std::min(rows, columns)) fail("%s: a part of rank %lld in a matrix of %lld x %lld", name.c_str(), (long long)rank, (long long)rows, (long long)columns);
  if (count < 0 || count > rows * columns || count > UINT32_MAX) fail("%s: %lld exact weights in a matrix of %lld x %lld", name.c_str(), (long long)count, (long long)rows, (long long)columns);
  auto beside = std::make_shared<Beside>();
  BesideView& v = beside->view;
  v.rows = rows, v.rank = rank;
  if (rank) {
    const int64_t blocks = (rows + 15) / 16;
    const auto* a = companion<uint16_t>(tensors, name + ".low_rank.a", "F16", rank * columns, matrix);
    v.b = companion<uint16_t>(tensors, name + ".low_rank.b", "F16", blocks * rank * 16, matrix);
    check_finite(a, rank * columns, name + ".low_rank.a");
    check_finite(v.b, blocks * rank * 16, name + ".low_rank.b");
    beside->a = {Type::F16, rank, columns, a};
  }
  if (count) {
    if (columns > 65536) fail("%s: exact weights are possible in up to 65536 columns, it has %lld", name.c_str(), (long long)columns);
    const std::string at = name + ".outliers.";
    v.starts = companion<uint32_t>(tensors, at + "starts", "U32", rows + 1, matrix);
    v.columns = companion<uint16_t>(tensors, at + "columns", "U16", count, matrix);
    beside->values = tensors.need(at + "values");
    if (beside->values.count() != count || (beside->values.dtype != "F16" && beside->values.dtype != "F32"))
      fail("%svalues should hold %lld values of F16 or F32", at.c_str(), (long long)count);
    if (v.starts[0] != 0 || v.starts[rows] != count) fail("%sstarts does not end where %scolumns does; the file is damaged", at.c_str(), at.c_str());
    for (int64_t row = 0; row < rows; ++row)  // all before any is used to look something up
      if (v.starts[row] > v.starts[row + 1]) fail("%sstarts goes back; the file is damaged", at.c_str());
    beside->differences.resize(size_t(count));
    to_float(beside->values, 0, count, beside->differences.data());
    v.differences = beside->differences.data();
    std::vector<float> rest(static_cast<size_t>(columns));
    for (int64_t row = 0; row < rows; ++row) {
      if (v.starts[row] == v.starts[row + 1]) continue;
      read_rows(matrix.tiles, row, row + 1, rest.data());
      beside->add_low_rank(row, rest.data());
      for (uint32_t i = v.starts[row]; i < v.starts[row + 1]; ++i) {
        if (v.columns[i] >= columns || (i > v.starts[row] && v.columns[i] <= v.columns[i - 1]))
          fail("%scolumns does not ascend within row %lld and the matrix; the file is damaged", at.c_str(), (long long)row);
        if (!std::isfinite(beside->differences[i])) fail("%svalues holds NaN or infinite values; the file is damaged", at.c_str());
        beside->differences[i] -= rest[v.columns[i]];
      }
    }
  }
  matrix.beside = std::move(beside);
}

}  // namespace pl
