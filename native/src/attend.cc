#include "attend.h"

#include <algorithm>
#include <cmath>

namespace pl {
namespace {

// Every token's attention is taken over stretches of so many positions, which are then weighed against each other: a
// single token's can be shared among threads, and one by one, in parts and in batches texts get the same results.
constexpr int kStretch = 64;
constexpr int kTogether = 16;  // tokens in a job; divides kStretch

CacheView stretch(const AttendJob& job, const LlamaConfig& config, int64_t layer, int64_t from) {
  CacheView view = job.session->cache(layer, job.head / (config.heads / config.kv_heads));
  const int64_t bytes = from * cache_bytes(view.bits, config.head);
  view.keys = static_cast<uint8_t*>(view.keys) + bytes;
  view.values = static_cast<uint8_t*>(view.values) + bytes;
  if (view.key_scales) view.key_scales += from, view.value_scales += from;
  return view;
}

// One query's results on `count` stretches, `step` queries apart, to one: each weighs what its scores add up to.
void join(const float* outs, const float* most, const float* total, int count, int64_t step, int64_t head, float* out) {
  float largest = -INFINITY, sum = 0;
  for (int j = 0; j < count; ++j) largest = std::max(largest, most[j * step]);
  for (int j = 0; j < count; ++j) sum += std::exp(most[j * step] - largest) * total[j * step];
  std::fill(out, out + head, 0.0f);
  for (int j = 0; j < count; ++j) {
    const float weight = std::exp(most[j * step] - largest) / sum;
    const float* of = outs + j * step * head;
    for (int64_t d = 0; d < head; ++d) out[d] += weight * of[d];
  }
}

}  // namespace

std::vector<AttendJob> attend_jobs(const std::vector<Part>& parts, const LlamaConfig& config, int& stretches) {
  std::vector<AttendJob> jobs;
  const int together = int(config.heads / config.kv_heads);
  int64_t row = 0;
  stretches = 0;
  for (const Part& part : parts) {
    const int before = int(part.session->length()), end = before + part.count;
    for (int first = before, last; first < end; first = last) {
      last = std::min((first / kTogether + 1) * kTogether, end);  // none reaches over the end of a stretch
      const int64_t at = row + first - before;
      if (last - first > 1)
        for (int64_t head = 0; head < config.heads; ++head) jobs.push_back({part.session, at, head, last - first, 1, 0, last, 0, last});
      else
        for (int64_t head = 0; head < config.heads; head += together)
          for (int from = 0; from < last; from += kStretch)
            jobs.push_back({part.session, at, head, 1, together, from, std::min(from + kStretch, last), stretches++, last});
    }
    row += part.count;
  }
  return jobs;
}

void attend_fetch(const AttendJob& job, const LlamaConfig& config, int64_t layer) {
  cache_fetch(stretch(job, config, layer, job.from), std::min(job.to - job.from, kStretch));
}

// qkv: (token, heads + 2 kv_heads, head) with turned queries; attended: (token, heads, head).
void Llama::attend(const std::vector<AttendJob>& jobs, int stretches, int64_t layer, float* qkv, float* attended) {
  const int64_t head = c_.head, all = (c_.heads + 2 * c_.kv_heads) * head, width = c_.heads * head, together = c_.heads / c_.kv_heads;
  const float scale = c_.attention_scale, cap = c_.attention_cap;
  const int64_t window = c_.windows[size_t(layer)];
  const size_t places = size_t(stretches * together);
  float *const outs = stretches_.get<float>(places * size_t(head + 2)), *const most = outs + places * size_t(head), *const total = most + places;
  const auto unseen = [&](int queries, float* out, float* m, float* t) {
    std::fill(out, out + queries * head, 0.0f);
    std::fill(m, m + queries, -INFINITY);
    std::fill(t, t + queries, 0.0f);
  };
  const auto finish = [&](const AttendJob& job, const float* from, const float* m, const float* t, int count, int64_t step, float* out) {
    join(from, m, t, count, step, head, out);
    if (job.session->rotated()) rotate(out, head);
  };
  runtime.spread(int64_t(jobs.size()), 1, [&](int64_t i, int64_t) {
    const AttendJob& job = jobs[size_t(i)];
    thread_local std::vector<float> scratch;
    const float* q = qkv + job.row * all + job.head * head;
    if (job.tokens == 1) {
      scratch.resize(size_t(job.heads * kStretch));
      const int64_t at = job.place * together;
      // Where the last position is that the window has left behind, seen from the stretch.
      const int hidden = window ? int(std::clamp<int64_t>(job.last - window - job.from, 0, job.to - job.from)) : 0;
      if (hidden == job.to - job.from) return unseen(job.heads, outs + at * head, most + at, total + at);
      Attention work{q, head, job.heads, scale, stretch(job, c_, layer, job.from), job.to - job.from, false, scratch.data(), outs + at * head,
                     head, most + at, total + at, nullptr, nullptr, cap, hidden, 0};
      if (i + 1 < int64_t(jobs.size())) {
        const CacheView next = stretch(jobs[size_t(i) + 1], c_, layer, jobs[size_t(i) + 1].from);
        work.next_keys = next.keys, work.next_values = next.values;
      }
      return runtime.k.attend(work);
    }
    const int count = (job.to + kStretch - 1) / kStretch;
    const int64_t queries = job.tokens * count;
    scratch.resize(size_t(job.tokens * kStretch + queries * (head + 2)));
    float *const results = scratch.data() + job.tokens * kStretch, *const m = results + queries * head, *const t = m + queries;
    for (int j = 0; j < count; ++j) {
      const int positions = std::min(kStretch, job.to - j * kStretch), at = j * job.tokens;
      // Of the first query; each later one leaves one more behind.
      const int hidden = window ? int(std::max<int64_t>(job.to - (job.tokens - 1) - window - j * kStretch, -kStretch)) : -kStretch;
      if (hidden >= positions) unseen(job.tokens, results + at * head, m + at, t + at);
      else
        runtime.k.attend({q, all, job.tokens, scale, stretch(job, c_, layer, j * kStretch), positions, j == count - 1, scratch.data(),
                          results + at * head, head, m + at, t + at, nullptr, nullptr, cap, hidden, 1});
    }
    for (int token = 0; token < job.tokens; ++token)
      finish(job, results + token * head, m + token, t + token, count, job.tokens, attended + (job.row + token) * width + job.head * head);
  }, [&](int thread) { runtime.fetch({&layers_[size_t(layer)].out}, thread); });
  for (size_t i = 0, end; i < jobs.size(); i = end) {
    const AttendJob& job = jobs[i];
    for (end = i + 1; end < jobs.size() && jobs[end].from; ++end) {
    }
    for (int64_t h = 0; job.tokens == 1 && h < together; ++h) {
      const int64_t at = job.place * together + h;
      finish(job, outs + at * head, most + at, total + at, int(end - i), together, attended + job.row * width + (job.head + h) * head);
    }
  }
}

}  // namespace pl
