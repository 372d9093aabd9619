/*
 * One sort a token: probabilities relative to the likeliest, largest first. Then top-k, top-p and
 * min-p are where the walk along them stops, and the random number says how far it goes.
 *
 * Floats that are not negative are in order as their bits are as integers. So they are sorted by
 * digits, without comparing any two: four passes of eight bits from the lowest on, each of which
 * leaves equals as they were, that is by their ids.
 */
#include "common/text/sampler.h"

#include "common/core/memory.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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

/* Byte `pass` of the probability's bits; 0 for the largest. */
static unsigned digit(Candidate c, int pass) {
    uint32_t bits;
    memcpy(&bits, &c.probability, sizeof bits);
    return ~bits >> 8 * pass & 255;
}

/* Likelier ones first, of equals the smaller id. `spare`: room for as many. */
static void sort_candidates(Candidate *candidates, Candidate *spare, int count) {
    int at[4][256] = {0};
    for (int i = 0; i < count; i++)
        for (int pass = 0; pass < 4; pass++) at[pass][digit(candidates[i], pass)]++;
    for (int pass = 0; pass < 4; pass++) {
        for (int d = 0, first = 0; d < 256; d++) {
            int those = at[pass][d];
            at[pass][d] = first, first += those;
        }
        for (int i = 0; i < count; i++)
            spare[at[pass][digit(candidates[i], pass)]++] = candidates[i];
        Candidate *other = candidates;
        candidates = spare, spare = other; /* after four passes they are where they were */
    }
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
    Candidate *candidates = must_realloc(NULL, 2 * (size_t)vocab, sizeof *candidates);
    for (int32_t i = 0; i < vocab; i++)
        candidates[i] = (Candidate){expf((logits[i] - logits[best]) / temperature), i};
    sort_candidates(candidates, candidates + vocab, vocab);
    return candidates;
}

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
