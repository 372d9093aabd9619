/*
 * Balance on the CPU. Sums over tokens run sequence by sequence, and within one in the order of
 * the tokens; threads take whole sequences or rows, so the results do not depend on how many there
 * are.
 */
#include "05_moe/balance.h"

#include <math.h>
#include <string.h>

/* Below this many elements a loop is over before the other threads have woken up. */
enum { PARALLEL_MIN = 1 << 14 };

void balance_loss_forward_cpu(float *loss, float *f, float *p, float *sums, const float *scores,
                              const int32_t *indices, int64_t sequences, int64_t length,
                              int experts, int top_k, float alpha) {
    int64_t E = experts;
#pragma omp parallel for if (sequences * length * E > PARALLEL_MIN)
    for (int64_t b = 0; b < sequences; b++) {
        float *fb = f + b * E, *pb = p + b * E;
        for (int64_t e = 0; e < E; e++) fb[e] = pb[e] = 0;
        for (int64_t n = b * length; n < (b + 1) * length; n++) {
            float sum = 0;
            for (int64_t e = 0; e < E; e++) sum += scores[n * E + e];
            sum += BALANCE_SUM_EPS;
            sums[n] = sum;
            for (int64_t e = 0; e < E; e++) pb[e] += scores[n * E + e] / sum;
            for (int64_t j = 0; j < top_k; j++) fb[indices[n * top_k + j]] += 1;
        }
        for (int64_t e = 0; e < E; e++) {
            fb[e] *= alpha * (float)E / ((float)top_k * (float)length * (float)sequences);
            pb[e] /= (float)length;
        }
    }
    double total = 0;
    for (int64_t i = 0; i < sequences * E; i++) total += (double)f[i] * p[i];
    loss[0] = (float)total;
}

/* P_e is the mean over the sequence of s_e / S, S = sum_i s_i, so
 *     dL/ds_e = (f_e / S - sum_i f_i s_i / S^2) / T */
void balance_loss_backward_cpu(float *dscores, int add, const float *dloss, const float *f,
                               const float *sums, const float *scores, int64_t sequences,
                               int64_t length, int experts) {
    int64_t E = experts;
#pragma omp parallel for if (sequences * length * E > PARALLEL_MIN)
    for (int64_t n = 0; n < sequences * length; n++) {
        const float *fb = f + n / length * E, *s = scores + n * E;
        float dot = 0, factor = dloss[0] / (sums[n] * (float)length);
        for (int64_t e = 0; e < E; e++) dot += fb[e] * s[e];
        dot /= sums[n];
        for (int64_t e = 0; e < E; e++) {
            float g = (fb[e] - dot) * factor;
            dscores[n * E + e] = add ? dscores[n * E + e] + g : g;
        }
    }
}

void balance_z_forward_cpu(float *loss, float *lse, const float *logits, int64_t tokens,
                           int experts, float beta) {
#pragma omp parallel for if (tokens * experts > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++) {
        const float *z = logits + n * experts;
        float largest = z[0], sum = 0;
        for (int e = 1; e < experts; e++) largest = z[e] > largest ? z[e] : largest;
        for (int e = 0; e < experts; e++) sum += expf(z[e] - largest);
        lse[n] = largest + logf(sum);
    }
    double squares = 0;
    for (int64_t n = 0; n < tokens; n++) squares += (double)lse[n] * lse[n];
    loss[0] = (float)(beta * squares / (double)tokens);
}

void balance_z_backward_cpu(float *dlogits, int add, const float *dloss, const float *lse,
                            const float *logits, int64_t tokens, int experts, float beta) {
#pragma omp parallel for if (tokens * experts > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++) {
        float factor = 2 * beta / (float)tokens * lse[n] * dloss[0];
        for (int64_t i = n * experts; i < (n + 1) * experts; i++) {
            float g = factor * expf(logits[i] - lse[n]);
            dlogits[i] = add ? dlogits[i] + g : g;
        }
    }
}

void balance_importance_forward_cpu(float *importance, const float *weights, const int32_t *indices,
                                    int64_t slots, int experts) {
    memset(importance, 0, (size_t)experts * sizeof *importance);
    for (int64_t s = 0; s < slots; s++) importance[indices[s]] += weights[s];
}

void balance_importance_backward_cpu(float *dweights, int add, const float *dimportance,
                                     const int32_t *indices, int64_t slots) {
    for (int64_t s = 0; s < slots; s++) {
        float g = dimportance[indices[s]];
        dweights[s] = add ? dweights[s] + g : g;
    }
}

/* mean and mean of squares */
static void moments(double *mean, double *square, const float *v, int n) {
    *mean = *square = 0;
    for (int i = 0; i < n; i++) *mean += v[i], *square += (double)v[i] * v[i];
    *mean /= n, *square /= n;
}

void balance_variation_forward_cpu(float *loss, const float *v, int experts, float alpha) {
    double mean, square;
    moments(&mean, &square, v, experts);
    loss[0] = mean == 0 ? 0 : (float)(alpha * (square / (mean * mean) - 1));
}

void balance_variation_backward_cpu(float *dv, int add, const float *dloss, const float *v,
                                    int experts, float alpha) {
    double mean, square;
    moments(&mean, &square, v, experts);
    double factor = mean == 0 ? 0 : 2.0 * alpha * dloss[0] / (experts * mean * mean);
    for (int e = 0; e < experts; e++) {
        float g = mean == 0 ? 0 : (float)(factor * (v[e] - square / mean));
        dv[e] = add ? dv[e] + g : g;
    }
}

void balance_count_cpu(int32_t *load, const int32_t *counts, int experts) {
    for (int e = 0; e < experts; e++) load[e] += counts[e];
}

void balance_update_bias_cpu(float *bias, int32_t *load, int experts, float gamma) {
    int64_t total = 0;
    for (int e = 0; e < experts; e++) total += load[e];
    for (int e = 0; e < experts; e++) {
        /* mean > load, without dividing: total > load * experts */
        int64_t mine = (int64_t)load[e] * experts;
        if (bias) bias[e] += mine < total ? gamma : mine > total ? -gamma : 0;
        load[e] = 0;
    }
}
