#include "pool.h"

#include <algorithm>
#include <chrono>
#include <climits>

#include "common.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pl {
namespace {

constexpr auto kSpin = std::chrono::microseconds(30);  // longer than the serial stretch between two matrix products

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  word.wait(value);
#endif
}

void wake(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  word.notify_all();
#endif
}

// True as soon as `done` is; false after the time for spinning is over.
template <class Done>
bool spin(Done done) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < until);
  return done();
}

}  // namespace

Pool::Pool(int threads) {
  workers_.reserve(size_t(threads));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::exception&) {
    const int here = this->threads();
    stop();
    fail("the system gives this process no more than %d of %d threads", here, threads);
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stop_.store(true);
  round_.fetch_add(2);
  wake(round_);
  for (auto& worker : workers_) worker.join();
}

bool Pool::claim(uint32_t round, uint32_t pieces, Function function, void* data) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (uint32_t(ticket >> 32) == round && uint32_t(ticket) < pieces) {
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    function(data, int(uint32_t(ticket)));
    if (unfinished_.fetch_sub(1) == 1 && caller_sleeps_.load()) wake(unfinished_);
    return true;
  }
  return false;
}

void Pool::work() {
  uint32_t seen = 0;
  for (;;) {
    if (!spin([&] { return round_.load(std::memory_order_acquire) != seen; })) {
      sleepers_.fetch_add(1);
      while (round_.load() == seen) sleep_while(round_, seen);
      sleepers_.fetch_sub(1);
    }
    seen = round_.load(std::memory_order_acquire);
    if (stop_.load()) return;  // asked after the round: the last one is never slept on
    if (uint32_t(ticket_.load(std::memory_order_acquire) >> 32) != seen) continue;  // over, or not yet written
    const uint32_t round = seen;
    const auto function = function_.load(std::memory_order_acquire);
    const auto data = data_.load(std::memory_order_acquire);
    const auto pieces = pieces_.load(std::memory_order_acquire);
    while (claim(round, pieces, function, data)) {
    }
  }
}

void Pool::run(int pieces, Function function, void* data) {
  if (pieces <= 0) return;
  if (workers_.empty() || pieces == 1) {
    for (int i = 0; i < pieces; ++i) function(data, i);
    return;
  }
  std::lock_guard lock(one_call_);
  // A worker may read these fields at any time. The odd round in the ticket says that they are being written: what
  // was read before or meanwhile cannot be claimed with.
  const uint32_t round = round_.load(std::memory_order_relaxed) + 2;
  ticket_.store(uint64_t(round - 1) << 32);
  function_.store(function, std::memory_order_release);
  data_.store(data, std::memory_order_release);
  pieces_.store(uint32_t(pieces), std::memory_order_release);
  unfinished_.store(uint32_t(pieces));
  ticket_.store(uint64_t(round) << 32);
  round_.store(round);
  if (sleepers_.load()) wake(round_);
  while (claim(round, uint32_t(pieces), function, data)) {
  }
  if (spin([&] { return unfinished_.load(std::memory_order_acquire) == 0; })) return;
  caller_sleeps_.store(1);
  for (uint32_t left; (left = unfinished_.load()) != 0;) sleep_while(unfinished_, left);
  caller_sleeps_.store(0);
}

}  // namespace pl
