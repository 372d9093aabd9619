/*
 * Solution 07.3: turning back is turning by the angle's opposite: the same cosine, the other sine.
 * The gradient of a product by an orthogonal matrix is a product by its transpose, which is its
 * inverse, so no value of the forward pass is needed. (Tempting: to turn the cosine round as well,
 * which is half a turn too much; and in halves to take i + half of the head, not of the rotated
 * part.)
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
