#include "rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pl {

void rms_norm_ref(const float* x, const float* weight, float epsilon, int64_t n, float* y) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]) * x[i];
  const double scale = 1 / std::sqrt(sum / double(n) + epsilon);
  for (int64_t i = 0; i < n; ++i) y[i] = float(x[i] * scale * weight[i]);
}

void layer_norm_ref(const float* x, const float* weight, const float* bias, float epsilon, int64_t n, float* y) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < n; ++i) mean += x[i] / double(n);
  for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean) / double(n);
  const double scale = 1 / std::sqrt(variance + epsilon);
  for (int64_t i = 0; i < n; ++i) y[i] = float((x[i] - mean) * scale * weight[i] + bias[i]);
}

void silu_mul_ref(const float* gate, const float* up, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = float(gate[i] / (1 + std::exp(-double(gate[i]))) * up[i]);
}

void gelu_ref(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = float(x[i] * 0.5 * std::erfc(-double(x[i]) / std::sqrt(2.0)));
}

void gelu_tanh_ref(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double v = x[i], u = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
    x[i] = float(v / (1 + std::exp(-2 * u)));
  }
}

void softmax_ref(float* x, int64_t n) {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, double(x[i]));
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - most);
  for (int64_t i = 0; i < n; ++i) x[i] = float(std::exp(x[i] - most) / sum);
}

}  // namespace pl
