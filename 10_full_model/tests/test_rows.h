/*
 * Rows of scores for tests of the k largest: what real scores look like, and worse.
 */
#ifndef TEST_ROWS_H
#define TEST_ROWS_H

#include "common/core/rng.h"

#include <math.h>

enum {
    RANDOM,
    EQUAL,
    ZEROS,
    MOSTLY_ZERO,
    CLUSTERED,
    DOUBLES,
    RISING,
    FALLING,
    NEGATIVE,
    SIGNED_ZEROS,
    WITH_NAN,
    WITH_INFINITY,
    ODD,
    KINDS
};

/* Number i of a row of this kind. */
static inline float row_value(int kind, int i) {
    uint32_t random = philox(5, (uint64_t)kind, (uint64_t)i).word[0];
    float x = (float)random / 4294967296.0f - 0.5f;
    switch (kind) {
    case EQUAL:
        return 0.125f;
    case ZEROS:
        return 0;
    case MOSTLY_ZERO:
        return random % 5 ? 0 : x;
    case CLUSTERED: /* neighbours in the last bits alone */
        return 1 + (float)(random % 7) * 0x1p-23f;
    case DOUBLES: /* 16-bit floats would hold them all as one */
        return 1 + (float)(random % 64) * 0x1p-14f;
    case RISING:
        return (float)i;
    case FALLING:
        return (float)-i;
    case NEGATIVE:
        return -fabsf(x) - 1;
    case SIGNED_ZEROS:
        return random % 2 ? 0.0f : -0.0f;
    case WITH_NAN:
        return random % 3 ? x : NAN;
    case WITH_INFINITY:
        return random % 3 ? x : random % 2 ? INFINITY : -INFINITY;
    case ODD: /* all of them together */
        return random % 3 ? x : random % 5 ? random % 2 ? INFINITY : -INFINITY : NAN;
    default:
        return x;
    }
}

#endif
