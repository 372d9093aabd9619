/*
 * Exercise 07.3: the kernel, there and back.
 *
 * Now the chapter's own: all tokens, all heads, both layouts, and the way back. The loops are
 * there, and turn() is called for the rotated part of every head with the row of the table that
 * belongs to the token's position. Two things are missing. Which two numbers are pair i: neighbours
 * (2i, 2i + 1) or halves (i, i + half)? And with `inverse` everything turns back: this is the
 * gradient's way. It works on the gradient alone; ask yourself why no value of the forward pass is
 * needed.
 *
 * POINTS: 3
 * REPLACES: rope_rotate_cpu in 07_rope/rope_cpu.c
 * TESTS: test_rope:rotate/equals_complex_numbers_cpu test_rope:rotate/inverse_undoes_cpu
 *   test_rope:rotate/only_the_distance_counts_cpu
 *   test_rope_gradient:backward/turns_the_gradients_back_cpu
 */
#include "07_rope/rope.h"

static void turn(float *x, const float *c, const float *s, int half, RopeLayout layout,
                 int inverse) {
    for (int i = 0; i < half; i++) {
        float *a = layout == ROPE_HALVES ? x + i : x + 2 * i;
        float *b = layout == ROPE_HALVES ? a + half : a + 1;
        float first = *a, second = *b, sine = inverse ? -s[i] : s[i];
        *a = first * c[i] - second * sine;
        *b = first * sine + second * c[i];
    }
}

static void turn_part(RopePart part, int64_t token, const float *c, const float *s, int half,
                      RopeLayout layout, int inverse) {
    if (!part.data) return;
    float *x = (float *)part.data + token * part.heads * part.head_dim + part.offset;
    for (int h = 0; h < part.heads; h++) turn(x + h * part.head_dim, c, s, half, layout, inverse);
}

void rope_rotate_cpu(RopePart q, RopePart k, const float *cos, const float *sin,
                     const int32_t *positions, int64_t tokens, int dim, int max_position,
                     RopeLayout layout, int inverse) {
    int half = dim / 2;
    for (int64_t t = 0; t < tokens; t++) {
        CHECK(positions[t] >= 0 && positions[t] < max_position, "position %d of %d", positions[t],
              max_position);
        const float *c = cos + (int64_t)positions[t] * half;
        const float *s = sin + (int64_t)positions[t] * half;
        turn_part(q, t, c, s, half, layout, inverse);
        turn_part(k, t, c, s, half, layout, inverse);
    }
}
