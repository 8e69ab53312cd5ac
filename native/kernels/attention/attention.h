// What the files of this folder define.
#pragma once
#include "kernels.h"

namespace pl {
void attend_ref(const Attention& job);
void attend_avx2(const Attention& job);
void attend_avx512(const Attention& job);
void attend_neon(const Attention& job);
void attend_text_amx(const TextAttention& job);
}  // namespace pl
