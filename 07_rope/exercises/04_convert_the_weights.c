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

void rope_layout_rows(float *w, int64_t heads, int64_t head_dim, int64_t dim, int64_t in,
                      RopeLayout from, RopeLayout to) {}
