/*
 * The rotation on the CPU: every rotated number is read once and written once, in place.
 *
 * Two products and a sum for each number that moves: the memory is the limit, and the loops only
 * have to keep up with it. Neighbours are taken as y = x c + swap(x) s, with c = (c0, c0, c1, c1,
 * ..) and s = (-s0, s0, -s1, s1, ..) spread out once per token and used for all of its heads;
 * halves need no such help. Tokens are independent of each other, so threads share them out.
 */
#include "rope.h"

#include <stdlib.h>

/* [rope_halves] */
/* One head: the pair (i, i + half) turned by cos c[i] and sin s[i]. */
static void turn_halves(float *restrict x, const float *restrict c, const float *restrict s,
                        int half) {
    float *restrict y = x + half;
#pragma omp simd
    for (int i = 0; i < half; i++) {
        float a = x[i], b = y[i];
        x[i] = a * c[i] - b * s[i];
        y[i] = a * s[i] + b * c[i];
    }
}
/* [/rope_halves] */

/* [rope_interleaved] */
/* One head: the pair (2i, 2i + 1). */
static void turn_interleaved(float *restrict x, const float *restrict c, const float *restrict s,
                             int half) {
#pragma omp simd
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i];
        x[2 * i + 1] = a * s[i] + b * c[i];
    }
}
/* [/rope_interleaved] */

/* All heads of one token. */
static void turn_heads(RopePart part, int64_t token, const float *c, const float *s, int dim,
                       RopeLayout layout) {
    if (!part.data) return;
    float *x = (float *)part.data + token * part.heads * part.head_dim + part.offset;
    for (int h = 0; h < part.heads; h++, x += part.head_dim)
        if (layout == ROPE_HALVES)
            turn_halves(x, c, s, dim / 2);
        else
            turn_interleaved(x, c, s, dim / 2);
}

void rope_rotate_cpu(RopePart q, RopePart k, const float *cos, const float *sin,
                     const int32_t *positions, int64_t tokens, int dim, int max_position,
                     RopeLayout layout, int inverse) {
    enum {
        WORTH_A_THREAD = 1 << 15
    }; /* numbers; starting threads costs as much as turning so many */
    int half = dim / 2;
    int64_t heads = (q.data ? q.heads : 0) + (k.data ? k.heads : 0);
    for (int64_t t = 0; t < tokens; t++)
        CHECK(positions[t] >= 0 && positions[t] < max_position,
              "position %d of token %lld: the table has positions 0 to %d", positions[t],
              (long long)t, max_position - 1);
#pragma omp parallel if (tokens * heads * dim > WORTH_A_THREAD)
    {
        float *sines = malloc((size_t)half * sizeof *sines);
        if (!sines) fatal("out of memory");
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) {
            const float *c = cos + (int64_t)positions[t] * half;
            const float *s = sin + (int64_t)positions[t] * half;
            for (int i = 0; i < half; i++) sines[i] = inverse ? -s[i] : s[i];
            turn_heads(q, t, c, sines, dim, layout);
            turn_heads(k, t, c, sines, dim, layout);
        }
        free(sines);
    }
}
