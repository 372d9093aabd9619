/*
 * A latent of eight bits: the second kind of row that a latent cache may have.
 *
 *     [ c_kv as E4M3 | a scale F32 for each 128 of them, or what is left | k_rope as BF16 ]
 *
 * With 512 + 64 numbers that is 512 + 16 + 128 = 656 bytes, DeepSeek's layout (FlashMLA), where
 * BF16 takes 1152. Other widths follow the same rule: 128 + 32 are 128 + 4 + 64 = 196 bytes. The
 * rotated key stays BF16: it is small, and it is what tells positions apart.
 *
 *     scale = 2^ceil(log2(max(amax / 448, 1e-4)))         c = scale * E4M3(c / scale)
 *
 * amax is the largest |c| of the group, 448 the largest E4M3. Powers of two, so that dividing by
 * the scale and multiplying with it round nothing; 1e-4 bounds the scale, so that a group of zeros
 * divides by something. A group in which a number is not finite gets NaN for its scale, and is NaN
 * when it is read. A reader takes any scale.
 */
#ifndef LATENT_ROW_H
#define LATENT_ROW_H

#include "04_mla/pages.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { LATENT_GROUP = 128 };

PAGES_INLINE int latent_row_groups(int64_t c_width) {
    return (int)((c_width + LATENT_GROUP - 1) / LATENT_GROUP);
}
/* Where a row's scales are, and its key, and how long it is. c_width is a multiple of 4 and
 * rope_width even, so that floats lie where floats may lie. */
PAGES_INLINE int64_t latent_row_scales(int64_t c_width) { return c_width; }
PAGES_INLINE int64_t latent_row_key(int64_t c_width) {
    return c_width + 4 * latent_row_groups(c_width);
}
PAGES_INLINE int64_t latent_row_bytes(int64_t c_width, int64_t rope_width) {
    return latent_row_key(c_width) + 2 * rope_width;
}

/* The scale of a group whose largest |c| is amax; NaN if that is not finite. */
PAGES_INLINE float latent_row_scale(float amax) {
    if (!(amax <= FLT_MAX)) return NAN;
    float least = fmaxf(amax / 448.0f, 1e-4f);
    uint32_t bits;
    memcpy(&bits, &least, sizeof bits);
    bits = (bits + 0x7fffff) & 0xff800000u; /* up to the next power of two */
    memcpy(&least, &bits, sizeof bits);
    return least;
}

#endif
