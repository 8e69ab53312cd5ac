#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../../src/common.h"

namespace pl {

void attend_ref(const Attention& job) {
  const auto at = [&](const void* data, int64_t i) -> double {
    return job.type == Type::F32 ? static_cast<const float*>(data)[i]
                                 : bf16_to_float(static_cast<const uint16_t*>(data)[i]);
  };
  for (int i = 0; i < job.queries; ++i) {
    const int seen = job.positions - (job.causal ? job.queries - 1 - i : 0);
    std::vector<double> weights(seen);
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int j = 0; j < seen; ++j) {
      double score = 0;
      for (int d = 0; d < job.head; ++d)
        score += job.q[i * job.q_stride + d] * at(job.keys, (int64_t(j) / 16 * job.head + d) * 16 + j % 16);
      weights[j] = score * job.scale;
      most = std::max(most, weights[j]);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - most);
    for (int d = 0; d < job.head; ++d) {
      double out = 0;
      for (int j = 0; j < seen; ++j) out += weights[j] / sum * at(job.values, int64_t(j) * job.head + d);
      job.out[i * job.out_stride + d] = float(out);
    }
  }
}

}  // namespace pl
