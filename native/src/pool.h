// Threads that share the work of one call at a time. They spin for a few microseconds between calls, then sleep on
// a futex: an idle engine costs nothing, and a busy neighbour costs no more than its share. Work is claimed piece by
// piece, so a thread that lost its core holds up one piece, not the rest. Who computes a piece never changes its result.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace pl {

class Pool {
 public:
  explicit Pool(int threads);  // counts the caller's own: 1 starts none
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // f(i) for every i in [0, pieces), on the caller and the workers; returns when all are done. f must not throw and
  // must not call run.
  template <class F>
  void run(int pieces, F&& f) {
    run(pieces, [](void* data, int i) { (*static_cast<std::remove_reference_t<F>*>(data))(i); }, &f);
  }

 private:
  using Function = void (*)(void*, int);
  void run(int pieces, Function function, void* data);
  void work();
  void stop();
  bool claim(uint32_t round, uint32_t pieces, Function function, void* data);

  // The round of the current call in the high half, the next unclaimed piece in the low half: a thread that wakes
  // late cannot claim from a call that is over.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> round_{0};      // what sleeping workers wait on
  std::atomic<uint32_t> sleepers_{0};
  alignas(64) std::atomic<uint32_t> unfinished_{0};  // what the caller waits on
  std::atomic<uint32_t> caller_sleeps_{0};
  alignas(64) std::atomic<Function> function_{nullptr};
  std::atomic<void*> data_{nullptr};
  std::atomic<uint32_t> pieces_{0};
  std::atomic<bool> stop_{false};
  std::mutex one_call_;
  std::vector<std::thread> workers_;
};

}  // namespace pl
