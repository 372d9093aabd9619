/*
 * The formulas of rotary embeddings: which frequency each pair has, and what a longer context makes
 * of it. Everything is in double precision; it is done once, when a model is opened.
 *
 * Pair i turns by f_i = theta^(-2i/dim) per token: pair 0 by one radian, the last one by almost
 * nothing. A model has seen each pair turn through the angles 0 .. f_i L of its training context L.
 * A fast pair has gone round many times in L: further positions show it nothing new. A slow pair
 * never came round: beyond L it shows angles that the model has not met. So:
 *
 *     linear   divides every f_i by factor s: no new angle ever, but neighbours move together;
 *     ntk      grows theta so that the last pair slows down by exactly s and the first not at all;
 *     yarn     asks how often a pair went round in L: more than beta_fast times, it stays; fewer
 *              than beta_slow, it is divided by s; between them a ramp (Peng et al. 2023, 3.2).
 *
 * transformers also knows "dynamic": ntk with a factor that grows with the longest text seen so
 * far. Its frequencies change while a text is read, and then a key in the cache was turned by
 * other angles than the query that meets it: the distance of two tokens is no longer all that
 * counts. A table that is made once cannot do that, and need not: ntk with factor
 * s L' / L - (s - 1) has the frequencies that "dynamic" has when the text is L' long.
 */
#include "07_rope/rope.h"

#include <math.h>

/* f_i of the plain rotation with base theta. */
static double plain_frequency(double theta, int i, int dim) { return pow(theta, -2.0 * i / dim); }

/* ---- yarn ---- */

/* [rope_yarn_range] */
/* The pair, as a real number, that goes round `turns` times in the training context: solves
 * original f_i = 2 pi turns for i. */
static double pair_with_turns(const RopeConfig *cfg, double turns) {
    double original = cfg->original_max_position_embeddings;
    return cfg->dim * log(original / (turns * 2 * M_PI)) / (2 * log(cfg->rope_theta));
}

void rope_yarn_range(const RopeConfig *cfg, double *low, double *high) {
    double beta_fast = cfg->beta_fast > 0 ? cfg->beta_fast : 32;
    double beta_slow = cfg->beta_slow > 0 ? cfg->beta_slow : 1;
    *low = fmax(floor(pair_with_turns(cfg, beta_fast)), 0);
    /* dim - 1, not dim / 2 - 1: so do DeepSeek and transformers, and weights are trained to it. */
    *high = fmin(ceil(pair_with_turns(cfg, beta_slow)), cfg->dim - 1);
}
/* [/rope_yarn_range] */

/* Below `low` the pair keeps its frequency, above `high` it is divided by factor. */
static double yarn_frequency(const RopeConfig *cfg, int i, double low, double high) {
    if (low == high) high += 0.001; /* a ramp of no width would divide by zero */
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    double f = plain_frequency(cfg->rope_theta, i, cfg->dim);
    return f / cfg->factor * ramp + f * (1 - ramp);
}

/* ---- all types ---- */

void rope_frequencies(const RopeConfig *cfg, double *f) {
    double theta = cfg->rope_theta, low = 0, high = 0;
    int dim = cfg->dim;
    if (cfg->rope_type == ROPE_NTK) theta *= pow(cfg->factor, dim / (dim - 2.0));
    if (cfg->rope_type == ROPE_YARN) rope_yarn_range(cfg, &low, &high);
    for (int i = 0; i < dim / 2; i++) {
        f[i] = plain_frequency(theta, i, dim);
        if (cfg->rope_type == ROPE_LINEAR) f[i] /= cfg->factor;
        if (cfg->rope_type == ROPE_YARN) f[i] = yarn_frequency(cfg, i, low, high);
    }
}

/* ---- the two factors ---- */

/* m(s): scores over more keys make a flatter softmax; a logarithm of the growth sharpens it. */
static double m_of(const RopeConfig *cfg, double mscale) {
    return cfg->factor > 1 ? 0.1 * mscale * log(cfg->factor) + 1 : 1;
}

double rope_attention_factor(const RopeConfig *cfg) {
    if (cfg->rope_type != ROPE_YARN) return 1;
    if (cfg->attention_factor > 0) return cfg->attention_factor;
    if (cfg->mscale > 0 && cfg->mscale_all_dim > 0)
        return m_of(cfg, cfg->mscale) / m_of(cfg, cfg->mscale_all_dim);
    return m_of(cfg, 1);
}

/* Squared, because DeepSeek means it for q and for k. */
double rope_softmax_factor(const RopeConfig *cfg) {
    if (cfg->rope_type == ROPE_DEFAULT || !(cfg->mscale_all_dim > 0)) return 1;
    double m = m_of(cfg, cfg->mscale_all_dim);
    return m * m;
}
