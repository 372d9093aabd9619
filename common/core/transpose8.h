/* An 8 x 8 block of floats, transposed in registers. */
#ifndef COMMON_TRANSPOSE8_H
#define COMMON_TRANSPOSE8_H

#include <stdint.h>
#include <string.h>

typedef float Vector8 __attribute__((vector_size(32)));

/* to[column][row] = from[row][column]: pairs of rows exchange halves, quarters, eighths. */
static inline void transpose8(float *to, int64_t to_row, const float *from, int64_t from_row) {
    Vector8 a[8], b[8];
    for (int i = 0; i < 8; i++) memcpy(&a[i], from + i * from_row, sizeof a[i]);
    for (int i = 0; i < 4; i++) {
        b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++) {
        if (i & 2) continue;
        a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 8; i += 2) {
        b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i++) memcpy(to + i * to_row, &b[i], sizeof b[i]);
}

#endif
