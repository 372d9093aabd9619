/*
 * Vectors of floats as wide as the processor's, and the sum of their lanes in one order.
 *
 * GCC's vectors: the operators work on all lanes, and the compiler maps them to what there is. Sums
 * of products that different kernels make agree to the bit if each lane has every LANES-th term, in
 * order, and add_lanes() is what adds the lanes.
 */
#ifndef COMMON_LANES_H
#define COMMON_LANES_H

#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef float Half __attribute__((vector_size(32)));
typedef float Quarter __attribute__((vector_size(16), aligned(4), may_alias));

/* Lane i with lane i + half of them, until four are left. */
static inline Quarter quarter(Vector v) {
#ifdef __AVX512F__
    Half h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    Half h = v;
#endif
    return __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
}

/* The lanes of four sums, added: (0 + 2) + (1 + 3) of each. */
static inline Quarter add_lanes(const Vector *v) {
    Quarter q0 = quarter(v[0]), q1 = quarter(v[1]), q2 = quarter(v[2]), q3 = quarter(v[3]);
    Quarter a =
        __builtin_shufflevector(q0, q1, 0, 1, 4, 5) + __builtin_shufflevector(q0, q1, 2, 3, 6, 7);
    Quarter b =
        __builtin_shufflevector(q2, q3, 0, 1, 4, 5) + __builtin_shufflevector(q2, q3, 2, 3, 6, 7);
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}

/* Fewer than all; zeros behind them. */
static inline Vector first_lanes(const float *from, int64_t count) {
    float lanes[LANES] = {0};
    memcpy(lanes, from, (size_t)count * sizeof *from);
    return *(const Vector *)lanes;
}

#endif
