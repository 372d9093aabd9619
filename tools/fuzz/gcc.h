/*
 * What GCC has and clang has not, for the harnesses: put before every file.
 */
#ifndef FUZZ_GCC_H
#define FUZZ_GCC_H

typedef float FuzzFloats __attribute__((vector_size(32)));
typedef int FuzzInts __attribute__((vector_size(32)));

static inline FuzzFloats fuzz_shuffle(FuzzFloats a, FuzzFloats b, FuzzInts which) {
    FuzzFloats c;
    for (int i = 0; i < 8; i++) c[i] = which[i] < 8 ? a[which[i]] : b[which[i] - 8];
    return c;
}
#define __builtin_shuffle(a, b, ...) fuzz_shuffle(a, b, __VA_ARGS__)

#endif
