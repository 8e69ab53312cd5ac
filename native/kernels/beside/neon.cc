#define ISA neon
#define LANES 8
#include "beside.inc"
