// The next token from logits. Order, as in transformers: repetition penalty, temperature, top-k, top-p, min-p.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "model.h"

namespace pl {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kBlock = 64;

// splitmix64 of seed and step: no state, so a text resumes and a batch splits without changing a draw.
double uniform(uint64_t seed, uint64_t step) {
  uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return double(z >> 11) * 0x1p-53;
}

// exp, for -40 <= x <= 0, to some 2e-7; plain arithmetic, so that loops become vectors and a seed draws the same anywhere.
inline float weight_of(float x) {
  const float round = 12582912.f;  // 1.5 * 2^23
  const float n = (x * 1.44269504f + round) - round;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float a = (1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f;
  const float b = ((a * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r + 5.0000001201e-1f;
  return (b * r * r + r + 1.f) * std::bit_cast<float>((int32_t(n) + 127) << 23);
}

// The largest of n numbers. Fails where one is NaN.
float largest(const float* x, int64_t n) {
  float most[kLanes];
  int bad = 0;
  std::fill_n(most, kLanes, -INFINITY);
  const auto take = [&](float v, float& m) {
    bad |= v != v;
    m = v > m ? v : m;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) take(x[i + j], most[j]);
  for (; i < n; ++i) take(x[i], most[0]);
  if (bad) fail("the logits are NaN: the model's weights or its input are damaged");
  return *std::max_element(most, most + kLanes);
}

}  // namespace

int sample(float* logits, int64_t n, const Sampling& how, uint64_t step, const int32_t* seen, int64_t seen_count) {
  if (how.repetition_penalty != 1) {
    std::vector<int32_t> once(seen, seen + seen_count);
    std::sort(once.begin(), once.end());
    once.erase(std::unique(once.begin(), once.end()), once.end());
    for (int32_t token : once) {
      if (token < 0 || token >= n) continue;
      float& logit = logits[token];
      logit = logit > 0 ? logit / how.repetition_penalty : logit * how.repetition_penalty;
    }
  }
  const float top = largest(logits, n);
  // A temperature whose inverse float32 does not hold is no other than 0: the second best would weigh nothing.
  const float inverse = 1 / how.temperature;
  if (!std::isfinite(inverse) || !std::isfinite(top)) return int(std::find(logits, logits + n, top) - logits);

  // Logits become weights, relative to the best's, which is 1. What lies 40 temperatures below it would weigh under
  // 1e-17: no draw of 53 bits reaches it. Sums go by blocks: fewer steps to walk, and vectors.
  const float nothing = weight_of(-40.f);
  for (int64_t i = 0; i < n; ++i) {
    const float x = (logits[i] - top) * inverse;
    logits[i] = weight_of(x > -40.f ? x : -40.f) - nothing;
  }
  std::vector<double> blocks(size_t((n + kBlock - 1) / kBlock));
  double total = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    double part[8] = {};
    const int64_t end = std::min(n, i + kBlock);
    int64_t at = i;
    for (; at + 8 <= end; at += 8)
      for (int j = 0; j < 8; ++j) part[j] += double(logits[at + j]);
    for (; at < end; ++at) part[0] += double(logits[at]);
    total += blocks[size_t(i / kBlock)] = std::accumulate(part, part + 8, 0.0);
  }
  const double drawn = uniform(how.seed, step);
  const bool sorted = how.top_k > 0 || how.top_p < 1;
  if (!sorted && how.min_p <= 0) {
    double left = drawn * total;
    size_t block = 0;
    while (block + 1 < blocks.size() && left >= blocks[block]) left -= blocks[block++];
    int64_t last = 0;
    for (int64_t i = int64_t(block) * kBlock; i < n; ++i) {
      if (logits[i] == 0) continue;
      if ((left -= double(logits[i])) < 0) return int(i);
      last = i;
    }
    return int(last);
  }

  std::vector<std::pair<float, int32_t>> kept;  // (weight, token)
  double sum = 0;
  const auto collect = [&](float least) {
    kept.clear();
    for (int64_t i = 0; i < n; ++i)
      if (logits[i] >= least) kept.emplace_back(logits[i], int32_t(i));
    sum = 0;
    for (const auto& one : kept) sum += double(one.first);
  };
  const float tiny = std::numeric_limits<float>::min();  // of normal numbers: every weight above 0
  if (!sorted) {
    collect(std::max(how.min_p, tiny));
  } else {
    const size_t most = how.top_k > 0 ? size_t(how.top_k) : size_t(n);
    for (float least : {0x1p-10f, 0x1p-18f, tiny}) {  // few are needed, mostly: only those are sorted
      collect(least);
      if (how.top_k > 0 ? kept.size() >= most : sum >= double(how.top_p) * total) break;
    }
    std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    if (kept.size() > most) kept.resize(most);
    if (how.top_k > 0) {
      total = 0;
      for (const auto& one : kept) total += double(one.first);
    }
    size_t count = 0;
    for (sum = 0; count < kept.size() && (count == 0 || sum < double(how.top_p) * total || how.top_p >= 1); ++count)
      sum += double(kept[count].first);
    kept.resize(count);
    while (kept.size() > 1 && kept.back().first < how.min_p) {
      sum -= double(kept.back().first);
      kept.pop_back();
    }
  }
  double left = drawn * sum;
  for (const auto& [weight, token] : kept)
    if ((left -= double(weight)) < 0) return token;
  return kept.back().second;
}

}  // namespace pl
