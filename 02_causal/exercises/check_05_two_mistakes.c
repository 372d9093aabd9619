/* Checks exercise 02.5 against the reference. */
#include "02_causal/causal.h"

#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

void tiled_attention(float *o, const float *q, const float *k, const float *v, int q_len,
                     int kv_len, int d, float scale);

enum { LONGEST = 70, D = 8 };

static void compare(int q_len, int kv_len) {
    static float q[LONGEST * D], k[LONGEST * D], v[LONGEST * D], o[LONGEST * D], want[LONGEST * D];
    float lse[LONGEST];
    for (int i = 0; i < LONGEST * D; i++) {
        q[i] = rng_normal(4, 0, (uint64_t)i);
        k[i] = rng_normal(4, 1, (uint64_t)i);
        v[i] = rng_normal(4, 2, (uint64_t)i);
    }
    AttentionShape shape = attention_shape(1, 1, 1, q_len, kv_len, D, D, 1);
    causal_reference_cpu(want, lse, q, k, v, shape);
    tiled_attention(o, q, k, v, q_len, kv_len, D, shape.scale);
    for (int i = 0; i < q_len * D; i++) /* outputs are of order 1; F32 sums of at most 70 terms */
        cr_assert(fabsf(o[i] - want[i]) <= 1e-5f, "q_len %d, kv_len %d: o[%d][%d] is %g, not %g",
                  q_len, kv_len, i / D, i % D, o[i], want[i]);
}

Test(two_mistakes, one_tile) { compare(16, 16); }
Test(two_mistakes, several_tiles) { compare(LONGEST, LONGEST); }
Test(two_mistakes, one_query_and_a_cache) { compare(1, LONGEST); }
Test(two_mistakes, a_chunk_and_a_cache) { compare(5, 33); }
