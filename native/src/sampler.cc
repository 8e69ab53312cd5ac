// The next token from logits. Order, as in transformers: repetition penalty, temperature, top-k, top-p, min-p.
#include <algorithm>
#include <cmath>

#include "model.h"

namespace pl {
namespace {

// splitmix64 of seed and step: no state, so a text resumes and a batch splits without changing a draw.
double uniform(uint64_t seed, uint64_t step) {
  uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return double(z >> 11) * 0x1p-53;
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
  int64_t best = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(logits[i])) fail("the logits are NaN: the model's weights or its input are damaged");
    if (logits[i] > logits[best]) best = i;
  }
  if (how.temperature == 0) return int(best);

  std::vector<std::pair<float, int32_t>> kept;  // (logit / temperature, token)
  const float top = logits[best];
  // What lies 40 temperatures below the best has a probability under 1e-17: no draw of 53 bits reaches it.
  for (int64_t i = 0; i < n; ++i)
    if (logits[i] >= top - 40 * how.temperature) kept.emplace_back((logits[i] - top) / how.temperature, int32_t(i));
  const auto order = [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; };
  if (how.top_k > 0 && size_t(how.top_k) < kept.size()) {
    std::partial_sort(kept.begin(), kept.begin() + how.top_k, kept.end(), order);
    kept.resize(size_t(how.top_k));
  } else {
    std::sort(kept.begin(), kept.end(), order);
  }
  std::vector<double> p(kept.size());
  double total = 0;
  for (size_t i = 0; i < kept.size(); ++i) total += p[i] = std::exp(double(kept[i].first));
  if (how.top_p < 1) {
    double sum = 0;
    size_t count = 0;
    while (count < p.size() && (count == 0 || sum < double(how.top_p) * total)) sum += p[count++];
    p.resize(count);
    total = sum;
  }
  if (how.min_p > 0) {
    size_t count = 1;
    while (count < p.size() && p[count] >= double(how.min_p) * p[0]) ++count;
    p.resize(count);
    total = 0;
    for (double one : p) total += one;
  }
  double left = uniform(how.seed, step) * total;
  for (size_t i = 0; i < p.size(); ++i)
    if ((left -= p[i]) < 0) return kept[i].second;
  return kept[p.size() - 1].second;
}

}  // namespace pl
