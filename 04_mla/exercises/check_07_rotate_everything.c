/* Scores of naive attention with keys turned whole, and the counts. */
#include "04_mla/cache_sizes.h"
#include "04_mla/exercises/turn.h"

#include "common/program/testing.h"

extern const int queries_needed, key_numbers, rope_numbers;

enum { D = 8, RANK = 5 };

/* (R_p q) . (R_s W_uk c), as naive attention would have it. */
static float naive_score(const float *w_uk, const float *q, const float *c, int p, int s) {
    float key[D], query[D], score = 0;
    for (int d = 0; d < D; d++) {
        query[d] = q[d];
        key[d] = 0;
        for (int i = 0; i < RANK; i++) key[d] += w_uk[d * RANK + i] * c[i];
    }
    turn(query, D, p);
    turn(key, D, s);
    for (int d = 0; d < D; d++) score += query[d] * key[d];
    return score;
}

Test(rotate_everything, scores) {
    float w_uk[D * RANK], q[D], c[RANK], out[RANK];
    for (int i = 0; i < D * RANK; i++) w_uk[i] = rng_normal(1, 1, (uint64_t)i);
    for (int i = 0; i < D; i++) q[i] = rng_normal(1, 2, (uint64_t)i);
    for (int i = 0; i < RANK; i++) c[i] = rng_normal(1, 3, (uint64_t)i);
    for (int p = 0; p < 40; p += 3)
        for (int s = 0; s <= p; s++) {
            float score = 0, expected = naive_score(w_uk, q, c, p, s);
            turned_query(out, w_uk, q, D, RANK, p, s);
            for (int i = 0; i < RANK; i++) score += out[i] * c[i];
            /* F32, some 50 products of order 1 */
            cr_assert(fabsf(score - expected) < 1e-4f, "p = %d, s = %d: %g, naive %g", p, s, score,
                      expected);
        }
}

Test(rotate_everything, counts) {
    const MlaConfig *v3 = &model_sizes[MODEL_V3].mla;
    cr_assert(queries_needed == 4096, "queries_needed is not %d", queries_needed);
    cr_assert(key_numbers == v3->num_attention_heads * v3->qk_nope_head_dim,
              "key_numbers is not %d", key_numbers);
    cr_assert(rope_numbers == v3->qk_rope_head_dim, "rope_numbers is not %d", rope_numbers);
}
