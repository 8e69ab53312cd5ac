#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../../src/common.h"

namespace pl {
namespace {

// Place `i` of keys or values; in 4 bits the half of a byte.
double at(const CacheView& cache, const void* data, int64_t i, bool high) {
  switch (cache.bits) {
    case 32: return static_cast<const float*>(data)[i];
    case 16: return bf16_to_float(static_cast<const uint16_t*>(data)[i]);
    case 8: return static_cast<const int8_t*>(data)[i];
    default: return (static_cast<const uint8_t*>(data)[i] >> (high ? 4 : 0) & 15) - 7.5;
  }
}

}  // namespace

void attend_ref(const Attention& job) {
  const CacheView& c = job.cache;
  const auto scaled = [](const uint16_t* scales, int64_t i) { return scales ? double(bf16_to_float(scales[i])) : 1.0; };
  const int64_t head = c.head, pair = c.bits == 4 ? 2 : 1;
  for (int i = 0; i < job.queries; ++i) {
    const int seen = job.positions - (job.causal ? job.queries - 1 - i : 0);
    std::vector<double> weights(seen);
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int j = 0; j < seen; ++j) {
      double score = 0;
      for (int64_t d = 0; d < head; ++d)
        score += job.q[i * job.q_stride + d] * at(c, c.keys, (j / 16 * head / pair + d / pair) * 16 + j % 16, d % 2);
      weights[j] = score * job.scale * scaled(c.key_scales, j);
      if (job.cap) weights[j] = job.cap * std::tanh(weights[j] / job.cap);
      if (j < job.hidden + i * job.step) weights[j] = -std::numeric_limits<double>::infinity();
      most = std::max(most, weights[j]);
    }
    const bool nothing = most == -std::numeric_limits<double>::infinity();
    for (double& weight : weights) sum += weight = nothing ? 0 : std::exp(weight - most);
    if (job.most) job.most[i] = float(most), job.total[i] = float(sum), sum = 1;
    if (nothing) sum = 1;
    for (int64_t d = 0; d < head; ++d) {
      const int64_t place = c.bits == 4 ? d / 16 * 8 + d % 8 : d;
      double out = 0;
      for (int j = 0; j < seen; ++j)
        out += weights[j] / sum * scaled(c.value_scales, j) * at(c, c.values, j * head / pair + place, d % 16 >= 8);
      job.out[i * job.out_stride + d] = float(out);
    }
  }
}

}  // namespace pl
