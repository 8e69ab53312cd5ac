#define ISA avx512
#define LANES 16
#include "beside.inc"
