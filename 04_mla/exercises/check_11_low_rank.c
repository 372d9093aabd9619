/* Checks exercise 04.11: counts, a rank that elimination finds, and the sentences by examples. */
#include "04_mla/cache_sizes.h"
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

extern const long weights_low, weights_full;
extern const double same_cost;
extern const int rank_of_300, rank_of_3000, contains_mha, mqa_of_latents, shares_like_mqa;

Test(low_rank, counts) {
    const MlaConfig *v3 = &model_sizes[MODEL_V3].mla;
    long x = v3->hidden_size, keys = (long)v3->num_attention_heads * v3->qk_nope_head_dim;
    long low = x * v3->kv_lora_rank + v3->kv_lora_rank * keys;
    cr_assert(weights_low == low, "weights_low is not %ld", weights_low);
    cr_assert(weights_full == x * keys, "weights_full is not %ld", weights_full);
    double cost = same_cost * (double)(x + keys);
    cr_assert(fabs(cost - (double)(x * keys)) < 1e-3 * (double)(x * keys), "same_cost is not %g",
              same_cost);
}

enum { MOST = 24 };

/* The rank of a [rows, columns] matrix, by elimination with the largest pivot. */
static int rank_of(double a[MOST][MOST], int rows, int columns) {
    int rank = 0;
    for (int c = 0; c < columns && rank < rows; c++) {
        int best = rank;
        for (int r = rank; r < rows; r++)
            if (fabs(a[r][c]) > fabs(a[best][c])) best = r;
        if (fabs(a[best][c]) < 1e-9) continue;
        for (int j = 0; j < columns; j++) {
            double swapped = a[best][j];
            a[best][j] = a[rank][j];
            a[rank][j] = swapped;
        }
        for (int r = rank + 1; r < rows; r++) {
            double factor = a[r][c] / a[rank][c];
            for (int j = 0; j < columns; j++) a[r][j] -= factor * a[rank][j];
        }
        rank++;
    }
    return rank;
}

/* In small: 20 numbers in all keys, a latent of 6, as V3 has 16384 and 512. */
static int rank_of_keys(int tokens) {
    enum { KEYS = 20, LATENT = 6 };
    double keys[MOST][MOST] = {{0}};
    for (int t = 0; t < tokens; t++)
        for (int k = 0; k < KEYS; k++)
            for (int l = 0; l < LATENT; l++)
                keys[t][k] += (double)rng_normal(1, 1, (uint64_t)(t * LATENT + l)) *
                              rng_normal(1, 2, (uint64_t)(k * LATENT + l));
    return rank_of(keys, tokens, KEYS);
}

Test(low_rank, ranks) {
    cr_assert(rank_of_keys(4) == 4 && rank_of_keys(MOST) == 6);
    const int latent = model_sizes[MODEL_V3].mla.kv_lora_rank;
    cr_assert(rank_of_300 == (300 < latent ? 300 : latent), "rank_of_300 is not %d", rank_of_300);
    cr_assert(rank_of_3000 == (3000 < latent ? 3000 : latent), "rank_of_3000 is not %d",
              rank_of_3000);
}

/* Two heads with query 1 and one-dimensional keys W_uk c: each head has its own W_uk and W_uv. */
Test(low_rank, sentences) {
    const double w_uk[2] = {1, -1}, w_uv[2] = {1, 2}, c[2] = {1, -1};
    double found[2];
    for (int h = 0; h < 2; h++) {
        double sum = 0, o = 0;
        for (int t = 0; t < 2; t++) {
            double p = exp(w_uk[h] * 1 * c[t]);
            sum += p;
            o += p * c[t]; /* the latents are the values of both heads ... */
        }
        found[h] = w_uv[h] * o / sum; /* ... until here */
    }
    cr_assert(shares_like_mqa == (found[0] == found[1]),
              "think about shares_like_mqa again: what is a head's own?");
    cr_assert(mqa_of_latents == 1, "think about mqa_of_latents again: what is in the cache?");
    cr_assert(contains_mha == 1, "think about contains_mha again: what if the latent is x itself?");
}
