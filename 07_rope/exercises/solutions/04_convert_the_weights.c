/*
 * Exercise 07.4: convert the weights.
 *
 * A checkpoint was made for interleaved pairs, and your kernel turns halves (or the other way
 * round). You need not touch the kernel: move rows of the matrices that make q and k. w
 * [heads * head_dim, in]; of each head's head_dim rows the last `dim` are rotated, the others stay
 * where they are. The row that makes the first number of pair i is 2i among the rotated rows in one
 * layout and i in the other; the second one is 2i + 1 and i + dim/2.
 *
 * POINTS: 3
 * REPLACES: rope_layout_rows in 07_rope/rope.c
 * TESTS: test_rope_gradient:layout
 */
#include "07_rope/rope.h"

#include <stdlib.h>
#include <string.h>

/* Where, among the rotated rows, the first (side 0) or second number of pair i is made. */
static int64_t place(RopeLayout layout, int64_t i, int64_t side, int64_t dim) {
    return layout == ROPE_INTERLEAVED ? 2 * i + side : i + side * (dim / 2);
}

void rope_layout_rows(float *w, int64_t heads, int64_t head_dim, int64_t dim, int64_t in,
                      RopeLayout from, RopeLayout to) {
    if (from == to) return;
    size_t row = (size_t)in * sizeof(float);
    float *old = must_alloc((size_t)dim, row);
    for (int64_t h = 0; h < heads; h++) {
        float *rotated = w + (h * head_dim + head_dim - dim) * in;
        memcpy(old, rotated, (size_t)dim * row);
        for (int64_t i = 0; i < dim / 2; i++)
            for (int64_t side = 0; side < 2; side++)
                memcpy(rotated + place(to, i, side, dim) * in, old + place(from, i, side, dim) * in,
                       row);
    }
    free(old);
}
