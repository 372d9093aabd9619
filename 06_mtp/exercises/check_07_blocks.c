/*
 * Blocks of four drafts over three tokens: pairs that come out have the model's distribution, by
 * chi-square, and more drafts stay than one by one.
 */
#include "06_mtp/speculate/verify.h"

#include "common/core/rng.h"
#include "common/text/sampler.h"

#include <criterion/criterion.h>
#include <math.h>

int block_accepts(float *rest, const float *p, const float *q, const int32_t *drafts, int k,
                  int vocab, const float *u);

enum { V = 3, K = 4, DRAWS = 200000 };

/* What a model says behind no token and behind each: [1 + V, V]; sums of 1. */
static void make(float *rows, uint64_t stream) {
    for (int i = 0; i <= V; i++) {
        float sum = 0;
        for (int x = 0; x < V; x++)
            sum += rows[i * V + x] = expf(1.5f * rng_normal(3, stream, (uint64_t)(i * V + x)));
        for (int x = 0; x < V; x++) rows[i * V + x] /= sum;
    }
}

Test(blocks, keep_the_distribution_and_more_drafts) {
    float model[(1 + V) * V], drafter[(1 + V) * V];
    int64_t seen[V * V] = {0}, blocks = 0, singles = 0;
    make(model, 1), make(drafter, 2);
    for (uint64_t n = 0; n < DRAWS; n++) {
        float number[2 * K], p[(K + 1) * V], q[K * V], rest[V];
        int32_t d[K + 1];
        for (uint64_t i = 0; i < 2 * K; i++) number[i] = rng_uniform(4, i, n);
        for (int i = 0, before = 0; i <= K; i++) { /* row 0: behind no token */
            for (int x = 0; x < V; x++) p[i * V + x] = model[before * V + x];
            if (i == K) break;
            for (int x = 0; x < V; x++) q[i * V + x] = drafter[before * V + x];
            d[i] = sample_weights(q + i * V, V, number[i]);
            before = 1 + d[i];
        }
        int stay = block_accepts(rest, p, q, d, K, V, number + K), single = 0;
        cr_assert(stay >= 0 && stay <= K);
        while (single < K &&
               verify_accepts(p + single * V, q + single * V, d[single], number[K + single]))
            single++;
        blocks += stay, singles += single;
        d[stay] = sample_weights(rest, V, rng_uniform(4, 2 * K, n));
        if (stay == 0)
            d[1] = sample_weights(model + (1 + d[0]) * V, V, rng_uniform(4, 2 * K + 1, n));
        seen[d[0] * V + d[1]]++;
    }
    double chi = 0;
    for (int i = 0; i < V * V; i++) {
        double want = DRAWS * (double)model[i / V] * model[(1 + i / V) * V + i % V];
        chi += ((double)seen[i] - want) * ((double)seen[i] - want) / want;
    }
    /* 8 degrees of freedom: above 26.1 in one of a thousand cases. */
    cr_assert(chi < 26.1, "chi-square of the pairs is %.1f", chi);
    cr_assert((double)blocks > (double)singles * 1.01, "%lld drafts stay, one by one %lld",
              (long long)blocks, (long long)singles);
}
