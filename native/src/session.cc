#include <sys/mman.h>

#include <algorithm>

#include "model.h"

namespace pl {

void Session::Unmap::operator()(void* at) const { munmap(at, bytes); }

Session::Cache Session::reserve(int64_t per_position) const {
  const LlamaConfig& c = model->config();
  const size_t bytes = size_t(times(times(uint64_t(c.layers * c.kv_heads), uint64_t(context_)), uint64_t(per_position)));
  // Only what is written takes memory; small caches lie in large pages, which are read faster.
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail("no memory for a context of %lld tokens", (long long)context_);
#if defined(__linux__)
  if (bytes <= (size_t(16) << 20)) madvise(at, bytes, MADV_HUGEPAGE);
#endif
  return Cache(at, Unmap{bytes});
}

int64_t Session::position_bytes() const { return cache_bytes(bits_, model->config().head); }

Session::Session(std::shared_ptr<Llama> owner, int64_t context, int bits) : model(std::move(owner)), bits_(bits) {
  if (bits != 32 && bits != 16 && bits != 8 && bits != 4) fail("a cache of %d bits; 32, 16, 8 and 4 are possible", bits);
  const int64_t most = model->config().context;
  if (context < 0 || context > most) fail("a context of %lld tokens; this model takes 1 to %lld", (long long)context, (long long)most);
  context_ = round_up(context ? context : std::min<int64_t>(most, 4096), 16);
  keys_ = reserve(position_bytes());
  values_ = reserve(position_bytes());
  if (!rotated()) return;
  key_scales_ = reserve(2);
  value_scales_ = reserve(2);
}

CacheView Session::cache(int64_t layer, int64_t kv_head) const {
  const LlamaConfig& c = model->config();
  const int64_t row = (layer * c.kv_heads + kv_head) * context_;
  const auto at = [&](const Cache& cache, int64_t per_position) { return static_cast<uint8_t*>(cache.get()) + row * per_position; };
  CacheView view{bits_, c.head, at(keys_, position_bytes()), at(values_, position_bytes())};
  if (!rotated()) return view;
  view.key_scales = reinterpret_cast<uint16_t*>(at(key_scales_, 2));
  view.value_scales = reinterpret_cast<uint16_t*>(at(value_scales_, 2));
  return view;
}

void Session::truncate(int64_t length) {
  if (length < 0 || length > length_) fail("cannot cut a text of %lld tokens to %lld", (long long)length_, (long long)length);
  length_ = length;
}

uint64_t Session::bytes() const {
  const LlamaConfig& c = model->config();
  return uint64_t(2 * c.layers * c.kv_heads * length_ * (position_bytes() + (rotated() ? 2 : 0)));
}

}  // namespace pl
