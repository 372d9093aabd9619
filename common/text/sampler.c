/*
 * Probabilities are relative to the likeliest. The settings ask for the likeliest tokens only, and
 * the walk to the drawn one ends among them, so most of a large vocabulary need not be sorted: it
 * is weighed in bins, one for each power of two, and only the bins from the top down that can
 * matter become a sorted list of candidates. In that list, top-k, top-p and min-p are where the
 * walk stops, and the random number says how far it goes.
 *
 * Floats that are not negative are in order as their bits are as integers. So they are sorted by
 * digits, without comparing any two: four passes of eight bits from the lowest on, each of which
 * leaves equals as they were, that is by their ids.
 */
#include "common/text/sampler.h"

#include "common/core/fastmath.h"
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

/* Does every token stay? */
static bool keeps_all(const Sampling *s, int vocab) {
    return (s->top_k <= 0 || s->top_k >= vocab) && s->top_p >= 1 && s->min_p <= 0;
}

/* ---- a row of logits ---- */

enum { BINS = 256 }; /* one for each exponent: float bits 23 .. 30 of a probability */

typedef struct Row {
    float *p; /* [vocab]: probabilities, relative to the likeliest */
    int vocab;
    double total;          /* of them all */
    Candidate *candidates; /* all from there up, likeliest first */
    int count;
} Row;

static int bin_of(float p) {
    uint32_t bits;
    memcpy(&bits, &p, sizeof bits);
    return (int)(bits >> 23);
}

/*
 * The bin down to which candidates are wanted: all of top-k, however unlikely; else as many as
 * have `share` of the total, with a little more for sums that are rounded otherwise when they are
 * added in order, but none of a bin where all are too unlikely for min-p.
 */
static int lowest_bin(const Row *row, const Sampling *s, double share, const int *number,
                      const double *mass) {
    bool by_number = s->top_k > 0 && s->top_k < row->vocab;
    int bin = BINS - 1, seen = 0, least = by_number || s->min_p <= 0 ? 0 : bin_of(s->min_p);
    double sum = 0, enough = (share + 1e-9) * row->total;
    for (; bin > least; bin--) {
        seen += number[bin], sum += mass[bin];
        if (by_number ? seen >= s->top_k : sum >= enough) break;
    }
    return bin;
}

static void open_row(Row *row, const float *logits, int vocab, int32_t best, const Sampling *s,
                     double share) {
    int number[BINS] = {0}, count = 0;
    double mass[BINS] = {0};
    *row = (Row){.p = must_realloc(NULL, (size_t)vocab, sizeof *row->p), .vocab = vocab};
    float top = logits[best], temperature = s->temperature;
    for (int32_t i = 0; i < vocab; i++) row->p[i] = fast_exp((logits[i] - top) / temperature);
    for (int32_t i = 0; i < vocab; i++) {
        int bin = bin_of(row->p[i]);
        number[bin]++;
        mass[bin] += row->p[i];
    }
    for (int bin = 0; bin < BINS; bin++) row->total += mass[bin];
    int lowest = lowest_bin(row, s, share, number, mass);
    for (int bin = lowest; bin < BINS; bin++) row->count += number[bin];
    row->candidates = must_realloc(NULL, 2 * (size_t)row->count, sizeof *row->candidates);
    for (int32_t i = 0; i < vocab; i++)
        if (bin_of(row->p[i]) >= lowest) row->candidates[count++] = (Candidate){row->p[i], i};
    sort_candidates(row->candidates, row->candidates + count, count);
}

static void close_row(Row *row) {
    free(row->p);
    free(row->candidates);
}

/* How many of the candidates stay; *mass is the sum of their probabilities. */
static int keep(const Row *row, const Sampling *s, double *mass) {
    const Candidate *candidates = row->candidates;
    int first = row->count, count = 0;
    double total = row->total;
    if (s->top_k > 0 && s->top_k < row->vocab) {
        if (s->top_k < first) first = s->top_k;
        total = 0;
        for (int i = 0; i < first; i++) total += candidates[i].probability;
    }
    *mass = 0;
    while (count < first) {
        bool enough = *mass >= s->top_p * total;
        bool unlikely = candidates[count].probability < s->min_p * candidates[0].probability;
        if (count > 0 && (enough || unlikely)) break; /* the likeliest always stays */
        *mass += candidates[count++].probability;
    }
    return count;
}

SampledToken sample_token(const float *logits, int vocab, const Sampling *sampling, float random) {
    int32_t best = likeliest(logits, vocab);
    if (sampling->temperature <= 0) return (SampledToken){best, 0};

    /* Where all stay, the walk needs no more than it will pass. */
    bool all = keeps_all(sampling, vocab);
    Row row;
    open_row(&row, logits, vocab, best, sampling, all ? random : sampling->top_p);
    double mass = row.total;
    int count = all ? row.count : keep(&row, sampling, &mass), chosen = 0;

    /* Walk along the kept probabilities until `random` of their sum is behind us. */
    double rest = random * mass;
    while (chosen < count - 1 && rest >= row.candidates[chosen].probability)
        rest -= row.candidates[chosen++].probability;
    int32_t id = row.candidates[chosen].id;
    close_row(&row);
    float relative = (logits[id] - logits[best]) / sampling->temperature;
    return (SampledToken){id, relative - (float)log(mass)};
}

void sample_probabilities(float *p, const float *logits, int vocab, const Sampling *sampling) {
    int32_t best = likeliest(logits, vocab);
    for (int i = 0; i < vocab; i++) p[i] = 0;
    p[best] = 1;
    if (sampling->temperature <= 0) return;
    bool all = keeps_all(sampling, vocab);
    Row row;
    open_row(&row, logits, vocab, best, sampling, all ? 0 : sampling->top_p);
    double mass = row.total;
    int count = all ? vocab : keep(&row, sampling, &mass);
    for (int i = 0; all && i < vocab; i++) p[i] = (float)(row.p[i] / mass);
    for (int i = 0; !all && i < count; i++)
        p[row.candidates[i].id] = (float)(row.candidates[i].probability / mass);
    close_row(&row);
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
