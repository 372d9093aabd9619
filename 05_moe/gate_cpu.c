/*
 * The gate on the CPU, in F32. Its products are those of linear().
 *
 * The rest is a few loops over logits, which are their own reference: rows over threads, and what
 * is summed over tokens is summed in a fixed order.
 */
#include "05_moe/gate_kernels.h"

#include "common/core/ops_kernels.h"
#include "common/core/rng.h"

#include <math.h>

/* Below this many elements a loop is over before the other threads have woken up. */
enum { PARALLEL_MIN = 1 << 14 };

void gate_forward_cpu(float *z, const float *x, const float *w, int64_t tokens, int64_t hidden,
                      int64_t experts) {
    linear_forward_cpu(z, x, w, NULL, tokens, hidden, experts);
}

void gate_backward_cpu(float *dx, int add_x, float *dw, int add_w, void *scratch, const float *dz,
                       const float *x, const float *w, int64_t tokens, int64_t hidden,
                       int64_t experts) {
    (void)scratch; /* the CPU multiplies F32 as it is */
    linear_backward_cpu(dx, add_x, dw, add_w, NULL, 0, dz, x, w, tokens, hidden, experts);
}

/* ---- noise ---- */

/* log(1 + e^x), which for large x is x itself */
static inline float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

static inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

void gate_noise_forward_cpu(float *z, const float *clean, const float *raw, int64_t n,
                            uint64_t seed, uint64_t stream) {
#pragma omp parallel for if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        z[i] = clean[i] + rng_normal(seed, stream, (uint64_t)i) * softplus(raw[i]);
}

void gate_noise_backward_cpu(float *draw, int add, const float *dz, const float *raw, int64_t n,
                             uint64_t seed, uint64_t stream) {
#pragma omp parallel for if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) {
        float g = dz[i] * rng_normal(seed, stream, (uint64_t)i) * sigmoid(raw[i]);
        draw[i] = add ? draw[i] + g : g;
    }
}

/* ---- cosine ---- */

void gate_norms_cpu(float *inverse, const float *x, int64_t rows, int64_t width) {
#pragma omp parallel for if (rows * width > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < width; j++) squares += row[j] * row[j];
        inverse[i] = 1 / sqrtf(squares + GATE_NORM_EPS);
    }
}

void gate_cosine_forward_cpu(float *z, const float *token, const float *expert, float scale,
                             int64_t tokens, int64_t experts) {
#pragma omp parallel for if (tokens * experts > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++)
        for (int64_t e = 0; e < experts; e++) z[n * experts + e] *= token[n] * expert[e] * scale;
}

void gate_cosine_backward_cpu(float *ddot, float *per_token, float *per_expert, const float *dz,
                              const float *z, const float *token, const float *expert, float scale,
                              int64_t tokens, int64_t experts) {
    for (int64_t e = 0; e < experts; e++) per_expert[e] = 0;
    for (int64_t n = 0; n < tokens; n++) {
        float sum = 0;
        for (int64_t e = 0; e < experts; e++) {
            int64_t i = n * experts + e;
            float share = dz[i] * z[i];
            sum += share;
            per_expert[e] += share;
            ddot[i] = dz[i] * token[n] * expert[e] * scale;
        }
        per_token[n] = sum;
    }
}

void gate_norms_backward_cpu(float *dx, const float *x, const float *sums, const float *inverse,
                             int64_t rows, int64_t width) {
#pragma omp parallel for if (rows * width > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        float factor = sums[i] * inverse[i] * inverse[i];
        for (int64_t j = 0; j < width; j++) dx[i * width + j] -= x[i * width + j] * factor;
    }
}

void gate_norms_backward_weight_cpu(float *dw, const float *w, const float *sums,
                                    const float *inverse, int64_t rows, int64_t width) {
    gate_norms_backward_cpu(dw, w, sums, inverse, rows, width);
}

/* ---- the load of noisy top-k ---- */

/* softplus, but no less than GATE_MIN_SIGMA; NaN stays NaN */
static inline float sigma_of(float raw) {
    float sigma = softplus(raw);
    return sigma < GATE_MIN_SIGMA ? GATE_MIN_SIGMA : sigma;
}

/* its derivative: 0 where the floor holds */
static inline float sigma_slope(float raw) {
    return softplus(raw) < GATE_MIN_SIGMA ? 0 : sigmoid(raw);
}

/* Which experts have the k-th and the (k + 1)-th largest logit; E of them: the latter is -1. */
static void find_rivals(int32_t *rivals, const float *noisy, int64_t experts, int top_k) {
    rivals[0] = rivals[1] = -1;
    for (int64_t e = 0; e < experts; e++) {
        int64_t better = 0; /* with ties to the lower index, as in the router */
        for (int64_t i = 0; i < experts; i++)
            better += noisy[i] > noisy[e] || (noisy[i] == noisy[e] && i < e);
        if (better == top_k - 1) rivals[0] = (int32_t)e;
        if (better == top_k) rivals[1] = (int32_t)e;
    }
}

/*
 * Whom expert e has to beat to be among the best k: the k-th best of the others. If e is among the
 * best k now, that is the (k + 1)-th of all; else it is the k-th of all.
 */
static inline int32_t rival_of(const int32_t *rivals, const float *noisy, int64_t e) {
    float bar = rivals[0] < 0 ? -INFINITY : noisy[rivals[0]];
    int inside = noisy[e] > bar || (noisy[e] == bar && e <= rivals[0]);
    return rivals[inside];
}

void gate_noisy_load_forward_cpu(float *load, float *p, int32_t *rivals, const float *clean,
                                 const float *raw, const float *noisy, int64_t tokens,
                                 int64_t experts, int top_k) {
#pragma omp parallel for if (tokens * experts * experts > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++) {
        const float *h = noisy + n * experts;
        find_rivals(rivals + 2 * n, h, experts, top_k);
        for (int64_t e = 0; e < experts; e++) {
            int64_t i = n * experts + e;
            int32_t rival = rival_of(rivals + 2 * n, h, e);
            /* Phi((clean - bar) / sigma); with no rival to beat it is certain */
            float distance = rival < 0 ? INFINITY : (clean[i] - h[rival]) / sigma_of(raw[i]);
            p[i] = 0.5f * erfcf(-distance * 0.70710678f);
        }
    }
    for (int64_t e = 0; e < experts; e++) {
        double sum = 0;
        for (int64_t n = 0; n < tokens; n++) sum += p[n * experts + e];
        load[e] = (float)sum;
    }
}

/*
 * With t = (clean_e - noisy_rival) / sigma, sigma = sigma_of(raw_e), phi the normal density:
 *     dclean_e += dload_e phi(t) / sigma,   dnoisy_rival -= the same,
 *     draw_e   -= dload_e phi(t) t / sigma * sigma_slope(raw_e)
 */
void gate_noisy_load_backward_cpu(float *dclean, int add_clean, float *draw, int add_raw,
                                  float *dnoisy, int add_noisy, const float *dload,
                                  const int32_t *rivals, const float *clean, const float *raw,
                                  const float *noisy, int64_t tokens, int64_t experts, int top_k) {
    (void)top_k;
#pragma omp parallel for if (tokens * experts > PARALLEL_MIN)
    for (int64_t n = 0; n < tokens; n++) {
        const float *h = noisy + n * experts;
        if (dnoisy && !add_noisy)
            for (int64_t e = 0; e < experts; e++) dnoisy[n * experts + e] = 0;
        for (int64_t e = 0; e < experts; e++) {
            int64_t i = n * experts + e;
            int32_t rival = rival_of(rivals + 2 * n, h, e);
            float sigma = sigma_of(raw[i]), t = rival < 0 ? 0 : (clean[i] - h[rival]) / sigma;
            float g = rival < 0 ? 0 : dload[e] * 0.39894228f * expf(-0.5f * t * t) / sigma;
            float gr = -g * t * sigma_slope(raw[i]);
            if (dclean) dclean[i] = add_clean ? dclean[i] + g : g;
            if (draw) draw[i] = add_raw ? draw[i] + gr : gr;
            if (dnoisy && rival >= 0) dnoisy[n * experts + rival] -= g;
        }
    }
}
