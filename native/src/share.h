// Work over all cores in places that run once, where files are read or written: threads that come and go.
#pragma once
#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace pl {

// f(i) for every i in [0, pieces). Where some throw, the exception of the first of those pieces is thrown.
template <class F>
void share(int64_t pieces, F&& f) {
  std::atomic<int64_t> next{0};
  std::vector<std::exception_ptr> thrown(static_cast<size_t>(pieces));
  std::atomic<bool> failed{false};
  const auto work = [&] {
    for (int64_t i; !failed && (i = next.fetch_add(1)) < pieces;) try {
        f(i);
      } catch (...) {
        thrown[size_t(i)] = std::current_exception();
        failed = true;
      }
  };
  std::vector<std::thread> helpers;
  const int64_t threads = std::min<int64_t>({pieces, 16, std::max(1u, std::thread::hardware_concurrency())});
  helpers.reserve(size_t(threads));
  try {
    for (int64_t i = 1; i < threads; ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads are to be had: those there are do it
  }
  work();
  for (auto& helper : helpers) helper.join();
  for (const auto& error : thrown)
    if (error) std::rethrow_exception(error);
}

// The same for runs of rows that are worth a piece: f(first, last), `step` or fewer.
template <class F>
void share_rows(int64_t rows, int64_t step, F&& f) {
  share((rows + step - 1) / step, [&](int64_t i) { f(i * step, std::min((i + 1) * step, rows)); });
}

// Rows of a matrix that are worth a piece.
inline int64_t rows_of_a_piece(int64_t columns) { return std::max<int64_t>(1, (1 << 16) / columns); }

}  // namespace pl
