#define NAMED(name) name##_avx2
#define VNNI 0
#include "avx2.inc"
