/*
 * Looking at a guess, in the few lines that it takes. Sums over the vocabulary are the sampler's.
 */
#include "06_mtp/speculate/verify.h"

#include "common/text/sampler.h"

#include <math.h>

bool verify_accepts(const float *p, const float *q, int32_t draft, float u) {
    return (double)u * (q ? q[draft] : 1) < p[draft];
}

int32_t verify_replace(float *rest, const float *p, const float *q, int32_t draft, int vocab,
                       float random) {
    bool some = false;
    for (int i = 0; i < vocab; i++) {
        rest[i] = fmaxf(p[i] - (q ? q[i] : (float)(i == draft)), 0);
        some |= rest[i] > 0;
    }
    return sample_weights(some ? rest : p, vocab, random);
}

double verify_acceptance(const float *p, const float *q, int vocab) {
    double sum = 0;
    for (int i = 0; i < vocab; i++) sum += fmin(p[i], q[i]);
    return sum;
}

double speculate_tokens(const double *a, int drafts) {
    double tokens = 1, all = 1;
    for (int j = 0; j < drafts; j++) tokens += all *= a[j];
    return tokens;
}

double speculate_speedup(const double *a, int drafts, double verify, double draft) {
    return speculate_tokens(a, drafts) / (verify + drafts * draft);
}
