/*
 * One sort a token: probabilities relative to the likeliest, largest first. Then top-k, top-p and
 * min-p are where the walk along them stops, and the random number says how far it goes.
 */
#include "common/text/sampler.h"

#include "common/core/memory.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

Sampling sampling_defaults(void) {
    return (Sampling){.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1};
}

void penalize_repetitions(float *logits, int vocab, const int32_t *history, int count,
                          float penalty) {
    if (penalty <= 0 || penalty == 1) return;
    unsigned char *seen = must_alloc((size_t)vocab, 1);
    for (int i = 0; i < count; i++) {
        int32_t id = history[i];
        if (id < 0 || id >= vocab || seen[id]) continue;
        seen[id] = 1;
        logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
    free(seen);
}

typedef struct Candidate {
    float probability; /* a multiple of it: relative to the likeliest */
    int32_t id;
} Candidate;

static int likelier_first(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->probability != y->probability) return x->probability > y->probability ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int32_t likeliest(const float *logits, int vocab) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* How many of the candidates, sorted, stay; *mass is the sum of their probabilities. */
static int keep(const Candidate *candidates, int vocab, const Sampling *s, double *mass) {
    int first = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab, count = 0;
    double total = 0;
    for (int i = 0; i < first; i++) total += candidates[i].probability;
    *mass = 0;
    while (count < first) {
        bool enough = *mass >= s->top_p * total;
        bool unlikely = candidates[count].probability < s->min_p * candidates[0].probability;
        if (count > 0 && (enough || unlikely)) break; /* the likeliest always stays */
        *mass += candidates[count++].probability;
    }
    return count;
}

/* For the caller to free(). */
static Candidate *candidates_of(const float *logits, int vocab, int32_t best, float temperature) {
    Candidate *candidates = must_realloc(NULL, (size_t)vocab, sizeof *candidates);
    for (int32_t i = 0; i < vocab; i++)
        candidates[i] = (Candidate){expf((logits[i] - logits[best]) / temperature), i};
    qsort(candidates, (size_t)vocab, sizeof *candidates, likelier_first);
    return candidates;
}

/* [sample_token] */
SampledToken sample_token(const float *logits, int vocab, const Sampling *sampling, float random) {
    int32_t best = likeliest(logits, vocab);
    if (sampling->temperature <= 0) return (SampledToken){best, 0};

    /* The softmax at the temperature, largest first. */
    Candidate *candidates = candidates_of(logits, vocab, best, sampling->temperature);

    /* Walk along the kept probabilities until `random` of their sum is behind us. */
    double mass, rest;
    int count = keep(candidates, vocab, sampling, &mass), chosen = 0;
    rest = random * mass;
    while (chosen < count - 1 && rest >= candidates[chosen].probability)
        rest -= candidates[chosen++].probability;
    int32_t id = candidates[chosen].id;
    free(candidates);
    float relative = (logits[id] - logits[best]) / sampling->temperature;
    return (SampledToken){id, relative - (float)log(mass)};
}
/* [/sample_token] */

void sample_probabilities(float *p, const float *logits, int vocab, const Sampling *sampling) {
    int32_t best = likeliest(logits, vocab);
    for (int i = 0; i < vocab; i++) p[i] = 0;
    p[best] = 1;
    if (sampling->temperature <= 0) return;
    Candidate *candidates = candidates_of(logits, vocab, best, sampling->temperature);
    double mass;
    int count = keep(candidates, vocab, sampling, &mass);
    for (int i = 0; i < count; i++) p[candidates[i].id] = (float)(candidates[i].probability / mass);
    free(candidates);
}

int32_t sample_weights(const float *weights, int count, float random) {
    double sum = 0;
    int32_t chosen = -1;
    for (int i = 0; i < count; i++) sum += weights[i];
    double rest = random * sum;
    for (int32_t i = 0; i < count && rest >= 0; i++)
        if (weights[i] > 0) rest -= weights[i], chosen = i; /* rounding: the last one that can be */
    return chosen;
}
