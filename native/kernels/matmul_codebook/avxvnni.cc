#define NAMED(name) name##_avxvnni
#define VNNI 1
#include "avx2.inc"
