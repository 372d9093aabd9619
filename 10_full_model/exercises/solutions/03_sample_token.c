/*
 * Solution 10.3. Sort as far as top-k, add up as far as top-p and min-p, walk as far as the random
 * number. The tempting mistakes: to compare min_p with the probability instead of its share of the
 * likeliest, and to draw from all of the mass instead of from what is kept.
 */
#include "common/text/sampler.h"

#include <math.h>
#include <stdlib.h>

SampledToken sample_token(const float *logits, int vocab, const Sampling *sampling, float random) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    if (sampling->temperature <= 0) return (SampledToken){best, 0};

    int32_t *order = calloc((size_t)vocab, sizeof *order);
    float *p = malloc((size_t)vocab * sizeof *p), top = logits[best];
    for (int32_t i = 0; i < vocab; i++) {
        order[i] = i;
        p[i] = expf((logits[i] - top) / sampling->temperature);
    }
    int limit = sampling->top_k > 0 && sampling->top_k < vocab ? sampling->top_k : vocab;
    double total = 0, mass = 0;
    for (int first = 0; first < limit; first++) { /* a selection sort's first steps are enough */
        int likeliest = first;
        for (int i = first + 1; i < vocab; i++) {
            float a = p[order[i]], b = p[order[likeliest]];
            if (a > b || (a == b && order[i] < order[likeliest])) likeliest = i;
        }
        int32_t swapped = order[first];
        order[first] = order[likeliest];
        order[likeliest] = swapped;
        total += p[order[first]];
    }
    int kept = 0;
    do mass += p[order[kept++]];
    while (kept < limit && mass < sampling->top_p * total && p[order[kept]] >= sampling->min_p);
    double rest = random * mass;
    int chosen = 0;
    while (chosen < kept - 1 && rest >= p[order[chosen]]) rest -= p[order[chosen++]];
    int32_t id = order[chosen];
    free(order);
    free(p);
    return (SampledToken){id, (logits[id] - top) / sampling->temperature - (float)log(mass)};
}
