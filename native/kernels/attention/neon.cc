#define ISA neon
#define LANES 8
#include "attention.inc"
