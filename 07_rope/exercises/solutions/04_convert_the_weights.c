/*
 * Solution 07.4: a copy of a head's rotated rows, and each back to where the other layout has it.
 * (Tempting: to permute the columns. They are what comes in; the rows make q and k. And to move
 * rows in place, which overwrites some before they are read: a permutation is a set of cycles, not
 * of swaps.)
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
