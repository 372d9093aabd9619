/*
 * The rotation on the CPU: every rotated number is read once and written once, in place.
 *
 * Two products and a sum for each number that moves: the memory is the limit, and the loops only
 * have to keep up with it, which they do as plain loops that the compiler turns into vectors.
 * Where heads lie side by side the CPU sees a stream and fetches it ahead by itself. Where only
 * the last numbers of each head are rotated it does not see through the gaps, so we ask for them.
 * Tokens are independent of each other, so threads share them out.
 */
#include "07_rope/rope.h"

/* One head: the pair (i, i + half) turned by cos c[i] and sin s[i]; back when sign is -1. */
static void turn_halves(float *restrict x, const float *restrict c, const float *restrict s,
                        int half, float sign) {
    float *restrict y = x + half;
#pragma omp simd
    for (int i = 0; i < half; i++) {
        float a = x[i], b = y[i], sine = sign * s[i];
        x[i] = a * c[i] - b * sine;
        y[i] = a * sine + b * c[i];
    }
}

/* One head: the pair (2i, 2i + 1) turned by cos c[i] and sin s[i]; back when sign is -1. */
static void turn_interleaved(float *restrict x, const float *restrict c, const float *restrict s,
                             int half, float sign) {
#pragma omp simd
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1], sine = sign * s[i];
        x[2 * i] = a * c[i] - b * sine;
        x[2 * i + 1] = a * sine + b * c[i];
    }
}

/* The numbers that will be rotated AHEAD heads from now: asked for, not waited for. (On two cores
 * of an AMD EPYC (Zen 4), with 64 of 192 numbers rotated, a quarter faster than without.) */
static void fetch_ahead(const float *x, int64_t head_dim, int dim) {
    enum { AHEAD = 16, LINE = 64 / sizeof(float) };
    for (int j = 0; j < dim; j += LINE) __builtin_prefetch(x + AHEAD * head_dim + j, 1);
}

/* All heads of one token. Inlined, so that a dim known at the call leaves no loop with an unknown
 * end inside a head. */
static inline __attribute__((always_inline)) void turn_heads(RopePart part, int64_t token,
                                                             const float *c, const float *s,
                                                             int dim, RopeLayout layout,
                                                             float sign) {
    if (!part.data) return;
    float *x = (float *)part.data + token * part.heads * part.head_dim + part.offset;
    for (int h = 0; h < part.heads; h++, x += part.head_dim) {
        if (part.head_dim > dim) fetch_ahead(x, part.head_dim, dim);
        if (layout == ROPE_HALVES)
            turn_halves(x, c, s, dim / 2, sign);
        else
            turn_interleaved(x, c, s, dim / 2, sign);
    }
}

/* The sizes that models have get loops of their own: a quarter faster. */
static void turn_token(RopePart part, int64_t token, const float *c, const float *s, int dim,
                       RopeLayout layout, float sign) {
    if (dim == 64)
        turn_heads(part, token, c, s, 64, layout, sign);
    else if (dim == 128)
        turn_heads(part, token, c, s, 128, layout, sign);
    else
        turn_heads(part, token, c, s, dim, layout, sign);
}

void rope_rotate_cpu(RopePart q, RopePart k, const float *cos, const float *sin,
                     const int32_t *positions, int64_t tokens, int dim, int max_position,
                     RopeLayout layout, int inverse) {
    enum {
        WORTH_A_THREAD = 1 << 15
    }; /* numbers; starting threads costs as much as turning so many */
    int half = dim / 2;
    float sign = inverse ? -1.0f : 1.0f;
    int64_t heads = (q.data ? q.heads : 0) + (k.data ? k.heads : 0);
    for (int64_t t = 0; t < tokens; t++)
        CHECK(positions[t] >= 0 && positions[t] < max_position,
              "position %d of token %lld: the table has positions 0 to %d", positions[t],
              (long long)t, max_position - 1);
#pragma omp parallel for schedule(static) if (tokens * heads * dim > WORTH_A_THREAD)
    for (int64_t t = 0; t < tokens; t++) {
        const float *c = cos + (int64_t)positions[t] * half;
        const float *s = sin + (int64_t)positions[t] * half;
        turn_token(q, t, c, s, dim, layout, sign);
        turn_token(k, t, c, s, dim, layout, sign);
    }
}
