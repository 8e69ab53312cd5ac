// Matrices without some of their rows and columns: a smaller one, and lists of what it holds.
#include <algorithm>

#include "companions.h"
#include "model.h"

namespace pl {
namespace {

std::vector<int32_t> listed(const Tensors& tensors, const std::string& name, int64_t count, int64_t among, Matrix& owner) {
  if (count < 1 || count > among) fail("%s: %lld of %lld are impossible", name.c_str(), (long long)count, (long long)among);
  const int32_t* list = companion<int32_t>(tensors, name, "I32", count, owner);
  for (int64_t i = 0; i < count; ++i)
    if (list[i] >= among || list[i] < (i ? list[i - 1] + int64_t(1) : 0))
      fail("%s does not ascend within 0 to %lld; the file is damaged", name.c_str(), (long long)among - 1);
  return {list, list + count};
}

}  // namespace

std::shared_ptr<Channels> load_channels(const Tensors& tensors, const std::string& name, const Json& about, int64_t rows, int64_t columns) {
  const bool some_rows = about.find("kept_rows"), some_columns = about.find("kept_columns");
  if (!some_rows && !some_columns) return nullptr;
  auto out = std::make_shared<Channels>();
  Matrix owner;  // of copies that are needed here alone
  if (some_rows) out->rows = listed(tensors, name + ".rows", about.get_int("kept_rows", 0), rows, owner);
  if (some_columns) out->columns = listed(tensors, name + ".columns", about.get_int("kept_columns", 0), columns, owner);
  return out;
}

void Channels::row(int64_t index, int64_t width, float* out) const {
  std::fill(out, out + width, 0.0f);
  if (!rows.empty()) {
    const auto at = std::lower_bound(rows.begin(), rows.end(), index);
    if (at == rows.end() || *at != index) return;
    index = at - rows.begin();
  }
  if (columns.empty()) return small.row(index, out);
  std::vector<float> some(columns.size());
  small.row(index, some.data());
  for (size_t i = 0; i < columns.size(); ++i) out[columns[i]] = some[i];
}

void narrow(Matrix& gate, Matrix& up, Matrix& down) {
  if (!gate.channels || !up.channels || !down.channels) return;
  const std::vector<int32_t> list = gate.channels->rows;
  if (list.empty() || list != up.channels->rows || list != down.channels->columns) return;
  if (!gate.channels->columns.empty() || !up.channels->columns.empty() || !down.channels->rows.empty()) return;
  for (Matrix* matrix : {&gate, &up, &down}) {
    const std::shared_ptr<const Channels> of = matrix->channels;
    Matrix small = of->small;
    if (of->bias && matrix != &down) {
      auto bias = std::make_shared<std::vector<float>>();
      for (const int32_t row : list) bias->push_back(of->bias[row]);
      small.set_bias(bias->data());
      small.owns.push_back(bias);
    }
    small.owns.insert(small.owns.end(), matrix->owns.begin(), matrix->owns.end());
    *matrix = std::move(small);
  }
}

void Runtime::multiply_kept(const Activations& x, std::initializer_list<Product> products) {
  for (const Product& product : products) {
    const Channels* of = product.matrix->channels.get();
    if (!of) {
      multiply(x, {product});
      continue;
    }
    Activations in = x;
    if (const int64_t n = int64_t(of->columns.size())) {
      float* to = gathered_.get<float>(size_t(n * x.tokens));
      each(x.tokens, [&](int t) {
        for (int64_t i = 0; i < n; ++i) to[t * n + i] = x.x[t * x.stride + of->columns[size_t(i)]];
      });
      in = {to, n, n, x.tokens};
    }
    const int64_t n = int64_t(of->rows.size());
    if (!n) {
      multiply(in, {{&of->small, product.y, product.stride}});
      continue;
    }
    float* from = scattered_.get<float>(size_t(n * x.tokens));
    multiply(in, {{&of->small, from, n}});
    each(x.tokens, [&](int t) {
      float* y = product.y + t * product.stride;
      for (int64_t r = 0; r < product.matrix->rows; ++r) y[r] = of->bias ? of->bias[r] : 0.0f;
      for (int64_t i = 0; i < n; ++i) y[of->rows[size_t(i)]] += from[t * n + i];
    });
  }
}

}  // namespace pl
