/*
 * The sampler: against what a few tokens give by hand, and on many against a plain sort of all.
 */
#include "common/core/rng.h"
#include "common/program/testing.h"
#include "common/text/sampler.h"

#include <math.h>
#include <stdlib.h>

Test(sampling, keeps_to_its_limits) {
    const float logits[5] = {1, 3, 2, 3, -50};
    Sampling greedy = {.temperature = 0, .top_p = 1};
    cr_assert(sample_token(logits, 5, &greedy, 0.99f).id == 1, "of equal logits the smaller id");
    int seen[5] = {0};
    for (int i = 0; i < 20000; i++) {
        Sampling s = {.temperature = 1, .top_p = 1};
        seen[sample_token(logits, 5, &s, rng_uniform(1, 2, (uint64_t)i)).id]++;
    }
    double z = 2 * exp(3) + exp(2) + exp(1),
           p[5] = {exp(1) / z, exp(3) / z, exp(2) / z, exp(3) / z, 0};
    for (int i = 0; i < 5; i++) /* five standard deviations of a binomial count */
        cr_assert(fabs(seen[i] - 20000 * p[i]) <= 5 * sqrt(20000 * p[i]),
                  "token %d: %d of 20000, expected %.0f", i, seen[i], 20000 * p[i]);
    for (int i = 0; i <= 100; i++) {
        Sampling k = {.temperature = 1, .top_k = 2, .top_p = 1},
                 nucleus = {.temperature = 1, .top_p = 0.5f};
        int32_t id = sample_token(logits, 5, &k, (float)i / 100.001f).id;
        cr_assert(id == 1 || id == 3, "top_k 2 chose %d", id);
        id = sample_token(logits, 5, &nucleus, (float)i / 100.001f).id;
        /* the first has 0.40, so the second is needed, the third not */
        cr_assert(id == 1 || id == 3, "top_p 0.5 chose %d", id);
    }
    Sampling tight = {.temperature = 1, .top_p = 0};
    cr_assert(sample_token(logits, 5, &tight, 0.999f).id == 1, "top_p 0 still keeps one");
}

/* The settings' order is transformers': p counts what top-k left, min-p is relative to the
 * first. */
Test(sampling, settings_together) {
    const float logits[4] = {logf(0.4f), logf(0.3f), logf(0.2f), logf(0.1f)};
    const struct {
        Sampling sampling;
        int left; /* tokens 0 .. left - 1 can be chosen */
    } cases[] = {
        {{.temperature = 1, .top_p = 0.69f}, 2},
        {{.temperature = 1, .top_p = 0.71f}, 3},
        {{.temperature = 1, .top_p = 0.6f, .top_k = 3}, 2}, /* 0.4 / 0.9 is not enough */
        {{.temperature = 1, .top_p = 0.44f, .top_k = 3}, 1},
        {{.temperature = 1, .top_p = 1, .min_p = 0.4f}, 3},
        {{.temperature = 1, .top_p = 1, .min_p = 0.6f}, 2},
        {{.temperature = 0.5f, .top_p = 1, .min_p = 0.6f}, 1}, /* 9/16: squares of 3 and 4 */
        {{.temperature = 1, .top_p = 1, .min_p = 1}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int most = 0;
        for (int r = 0; r < 1000; r++) {
            int id = sample_token(logits, 4, &cases[i].sampling, (float)r / 1000).id;
            if (id > most) most = id;
        }
        cr_expect(most + 1 == cases[i].left, "case %zu: %d tokens were left, not %d", i, most + 1,
                  cases[i].left);
    }
}

/* Among many, of which many are equal or nearly so, and others so unlikely that they are 0: the
 * walk is along the likeliest that is left, of equals the smaller id, looked for each time. What
 * differs does so by more than exponentials are rounded. */
Test(sampling, walks_from_the_likeliest_on) {
    enum { VOCAB = 700 };
    static float logits[VOCAB], p[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        logits[i] = i % 3   ? roundf(rng_normal(3, 4, (uint64_t)i) * 5) / 512
                    : i % 5 ? roundf(rng_normal(3, 4, (uint64_t)i) * 4)
                            : -5000.0f;
    float most = -INFINITY;
    double total = 0;
    for (int i = 0; i < VOCAB; i++) most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < VOCAB; i++) total += p[i] = expf((logits[i] - most) / 30);
    Sampling s = {.temperature = 30, .top_p = 1};
    for (double before = 0; before < total;) {
        int best = 0;
        for (int i = 0; i < VOCAB; i++)
            if (p[i] > p[best]) best = i;
        /* in the middle of its share: the sum's rounding cannot matter, 2^-24 of the random number
         * does to shares below that */
        float random = (float)((before + p[best] / 2) / total);
        if (p[best] > 1e-5 * total)
            cr_assert(sample_token(logits, VOCAB, &s, random).id == best, "%d at %g", best, random);
        before += p[best];
        if (p[best] == 0) break;
        p[best] = 0;
    }
}

/* Of the distribution that is drawn from: 0.4, 0.3, 0.2, 0.1 behind the settings. */
Test(sampling, logprob_is_of_the_draw) {
    const float logits[4] = {logf(0.4f) + 80, logf(0.3f) + 80, logf(0.2f) + 80, logf(0.1f) + 80};
    const struct {
        Sampling sampling;
        float random;
        int id;
        float probability;
    } cases[] = {
        {{.temperature = 0, .top_p = 1}, 0.9f, 0, 1},
        {{.temperature = 1, .top_p = 1}, 0.95f, 3, 0.1f},
        {{.temperature = 0.5f, .top_p = 1}, 0.6f, 1, 9 / 30.0f}, /* squares: 16, 9, 4, 1 */
        {{.temperature = 1, .top_p = 1, .top_k = 3}, 0.95f, 2, 0.2f / 0.9f},
        {{.temperature = 1, .top_p = 0.69f}, 0.95f, 1, 0.3f / 0.7f},
        {{.temperature = 1, .top_p = 1, .min_p = 0.4f}, 0, 0, 0.4f / 0.9f},
        {{.temperature = 1, .top_p = 0}, 0.9f, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        SampledToken t = sample_token(logits, 4, &cases[i].sampling, cases[i].random);
        cr_expect(t.id == cases[i].id, "case %zu: %d", i, t.id);
        /* logits of 80 have steps of 2^-17, 8e-6; the temperature doubles it */
        cr_expect(fabsf(t.logprob - logf(cases[i].probability)) < 4e-5f, "case %zu: %g", i,
                  t.logprob);
    }
}

/* A row of a vocabulary as large as it takes for most of it to stay unsorted. */
enum { LARGE = 5000 };

static const double *relative; /* of qsort's compare */

static int likelier_first(const void *a, const void *b) {
    int i = *(const int *)a, j = *(const int *)b;
    if (relative[i] != relative[j]) return relative[i] > relative[j] ? -1 : 1;
    return i - j;
}

/* What the settings leave, by sorting all: the ids, likeliest first; returns how many. */
static int left_by_sorting(const double *p, const Sampling *s, int *order, double *mass) {
    int most = s->top_k > 0 ? s->top_k : LARGE, count = 0;
    double total = 0;
    for (int i = 0; i < LARGE; i++) order[i] = i;
    relative = p;
    qsort(order, LARGE, sizeof *order, likelier_first);
    for (int i = 0; i < most; i++) total += p[order[i]];
    *mass = 0;
    while (count < most && (!count || (*mass < s->top_p * total && p[order[count]] >= s->min_p)))
        *mass += p[order[count++]];
    return count;
}

/* The drawn token's place among those that are left is where `random` says. */
Test(sampling, of_a_large_vocabulary_is_as_if_all_were_sorted) {
    static const Sampling cases[] = {
        {.temperature = 0.8f, .top_p = 0.95f},
        {.temperature = 0.8f, .top_p = 1},
        {.temperature = 1, .top_p = 1, .top_k = 50},
        {.temperature = 1.3f, .top_p = 1, .min_p = 0.02f},
        {.temperature = 1, .top_p = 0.999f},
        {.temperature = 3, .top_p = 0.5f, .top_k = 4500, .min_p = 0.1f},
        {.temperature = 1, .top_p = 0.9f, .top_k = 4, .min_p = 0.5f}};
    static float logits[LARGE], drawn[LARGE];
    static double p[LARGE];
    static int order[LARGE];
    for (uint64_t row = 0; row < 20; row++)
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            const Sampling *s = &cases[c];
            double mass, before = 0;
            float random = rng_uniform(3, row, c), top = -INFINITY;
            for (int i = 0; i < LARGE; i++) { /* every fourth value is there four times */
                logits[i] = 12 * rng_uniform(4, row, (uint64_t)(i % 4 ? i : i / 16));
                if (logits[i] > top) top = logits[i];
            }
            for (int i = 0; i < LARGE; i++) p[i] = exp((logits[i] - top) / s->temperature);
            int count = left_by_sorting(p, s, order, &mass), place = 0;
            SampledToken t = sample_token(logits, LARGE, s, random);
            while (place < count && order[place] != t.id) before += p[order[place++]];
            cr_assert(place < count, "row %d, case %zu: %d is not left", (int)row, c, t.id);
            /* fast_exp() is exact to 2e-7, and so are the sums */
            double at = random * mass, after = before + p[t.id], slack = 1e-6 * mass;
            cr_expect(before <= at + slack && at <= after + slack,
                      "row %d, case %zu: %g of %g fell on %g .. %g", (int)row, c, at, mass, before,
                      after);
            cr_expect(fabs(t.logprob - log(p[t.id] / mass)) < 1e-5, "row %d, case %zu: %g",
                      (int)row, c, t.logprob);
            sample_probabilities(drawn, logits, LARGE, s);
            for (int i = 0; i < count; i++)
                cr_expect(fabs(drawn[order[i]] - p[order[i]] / mass) < 1e-6, "case %zu: %d", c, i);
            for (int i = count; i < LARGE; i++)
                cr_expect(drawn[order[i]] == 0, "case %zu: %d is not zero", c, i);
        }
}

Test(sampling, repetitions_are_penalised_once_and_towards_less) {
    float logits[4] = {2, -2, 3, -3};
    penalize_repetitions(logits, 4, (int32_t[]){0, 1, 0, 0}, 4, 2);
    check_close("logits", logits, (float[]){1, -4, 3, -3}, 4, 0);
    penalize_repetitions(logits, 4, (int32_t[]){0, 1}, 2, 1);
    check_close("penalty 1", logits, (float[]){1, -4, 3, -3}, 4, 0);
}
