#define NAMED(name) name##_avx2
#define VNNI 0
#include "avx2.inc"

namespace pl {

void quantize_avx2(const float* x, int64_t columns, int64_t padded, int64_t group, int planes, int8_t* q, float* scales,
                   int32_t* sums) {
  const int64_t groups = padded / group;
  const __m256i absolute = _mm256_set1_epi32(0x7fffffff), lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const auto floats = [&](int64_t c) {
    const int64_t left = columns - c;
    if (left >= 8) return _mm256_loadu_ps(x + c);
    if (left <= 0) return _mm256_setzero_ps();
    return _mm256_maskload_ps(x + c, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(left)), lanes));
  };
  alignas(32) int32_t each[8];
  const auto bytes = [](__m256i whole, int8_t* to) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
  };
  const auto total = [&](__m256i v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), v);
    int32_t all = 0;
    for (int32_t one : each) all += one;
    return all;
  };
  for (int64_t begin = 0, g = 0; begin < padded; begin += group, ++g) {
    // As integers, magnitudes order like floats, with NaN above infinity above all: nothing hides.
    __m256i most = _mm256_setzero_si256();
    for (int64_t c = begin; c < begin + group; c += 8)
      most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(floats(c)), absolute));
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), most);
    const int32_t bits = *std::max_element(each, each + 8);
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const bool finite = bits < 0x7f800000, empty = !finite || largest < 0x1p-100f;
    scales[g] = !finite ? NAN : empty ? 0.0f : largest / 127.0f;
    const __m256 inverse = _mm256_set1_ps(empty ? 0.0f : 127.0f / largest);
    __m256i sum = _mm256_setzero_si256(), rest_sum = _mm256_setzero_si256();
    for (int64_t c = begin; c < begin + group; c += 8) {
      const __m256 v = empty ? _mm256_setzero_ps() : _mm256_mul_ps(floats(c), inverse);
      const __m256i whole = _mm256_cvtps_epi32(v);
      bytes(whole, q + c);
      sum = _mm256_add_epi32(sum, whole);
      if (planes == 1) continue;
      const __m256 left_over = _mm256_sub_ps(v, _mm256_cvtepi32_ps(whole));
      const __m256i rest = _mm256_cvtps_epi32(_mm256_mul_ps(left_over, _mm256_set1_ps(254)));
      bytes(rest, q + padded + c);
      rest_sum = _mm256_add_epi32(rest_sum, rest);
    }
    sums[g] = total(sum);
    if (planes == 2) {
      scales[groups + g] = scales[g] / 254;
      sums[groups + g] = total(rest_sum);
    }
  }
}

}  // namespace pl
