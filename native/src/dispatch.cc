#include "dispatch.h"

#include <cstdlib>

#if PAPERLAB_HAS_AVXVNNI || PAPERLAB_HAS_AMX
#include <cpuid.h>
#endif

#if PAPERLAB_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if PAPERLAB_HAS_NEON
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "attention/attention.h"
#include "beside/beside.h"
#include "common.h"
#include "matmul_f/matmul_f.h"
#include "matmul_q/matmul_q.h"
#include "rows/rows.h"

namespace pl {

#define PAPERLAB_ROWS(isa) rms_norm_##isa, layer_norm_##isa, silu_mul_##isa, gelu_##isa, gelu_tanh_##isa, softmax_##isa
#define PAPERLAB_TABLE(isa) \
  Kernels { #isa, matmul_q_##isa, matmul_f_##isa, quantize_##isa, attend_##isa, add_beside_##isa, PAPERLAB_ROWS(isa) }
// AVX-VNNI beside AVX2, as laptops have it that have no AVX-512: only products differ
#define PAPERLAB_AVXVNNI                                                                                         \
  Kernels { "avxvnni", matmul_q_avxvnni, matmul_f_avx2, quantize_avx2, attend_avx2, add_beside_avx2, PAPERLAB_ROWS(avx2) }
// AMX beside AVX-512: only products of many tokens differ, and attention over whole texts
#define PAPERLAB_AMX                                                                                                \
  Kernels {                                                                                                         \
    "amx", matmul_q_amx, matmul_f_avx512, quantize_avx512, attend_avx512, add_beside_avx512, PAPERLAB_ROWS(avx512), \
        attend_text_amx                                                                                             \
  }

namespace {

#if PAPERLAB_HAS_AVX2
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

#if PAPERLAB_HAS_AVXVNNI
bool has_avxvnni() {
  unsigned a, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

#if PAPERLAB_HAS_AVX512
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}
#endif

#if PAPERLAB_HAS_AMX
// The CPU's word, and the kernel's: Linux gives the tiles' 8 KiB of state only to processes that ask.
bool has_amx() {
  static const bool granted = [] {
    unsigned a, b, c, d;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d >> 22 & 1) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;          // bfloat16, tiles, 8 bits
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // bfloat16 in AVX-512
    constexpr long kRequest = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return granted;
}
#endif

struct Choice {
  Kernels kernels;
  bool (*runs_here)();
};

// The one table, the plainest first.
const Choice kChoices[] = {
    {PAPERLAB_TABLE(ref), [] { return true; }},
#if PAPERLAB_HAS_AVX2
    {PAPERLAB_TABLE(avx2), has_avx2},
#endif
#if PAPERLAB_HAS_AVXVNNI
    {PAPERLAB_AVXVNNI, has_avxvnni},
#endif
#if PAPERLAB_HAS_AVX512
    {PAPERLAB_TABLE(avx512), has_avx512},
#endif
#if PAPERLAB_HAS_AMX
    {PAPERLAB_AMX, has_amx},
#endif
#if PAPERLAB_HAS_NEON
    {PAPERLAB_TABLE(neon), [] { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }},
#endif
};

}  // namespace

std::vector<std::string> kernels_available() {
  std::vector<std::string> names;
  for (const Choice& choice : kChoices)
    if (choice.runs_here()) names.push_back(choice.kernels.name);
  return names;
}

const Kernels& kernels_named(const std::string& name) {
  for (const Choice& choice : kChoices)
    if (name == choice.kernels.name && choice.runs_here()) return choice.kernels;
  std::string all;
  for (const std::string& one : kernels_available()) all += (all.empty() ? "" : ", ") + one;
  fail("no kernels \"%s\" on this CPU; those that run here: %s (PAPERLAB_ISA)", name.substr(0, 40).c_str(), all.c_str());
}

const Kernels& kernels_here() {
  const char* named = std::getenv("PAPERLAB_ISA");
  if (named && *named) return kernels_named(named);
  const Kernels* best = nullptr;
  for (const Choice& choice : kChoices)
    if (choice.runs_here()) best = &choice.kernels;
  return *best;
}

}  // namespace pl
