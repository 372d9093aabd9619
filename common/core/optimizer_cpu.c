/*
 * The optimizer's two loops on the CPU. The norm is summed in chunks that do not depend on the
 * number of threads.
 */
#include "common/core/optimizer.h"

#include <math.h>
#include <string.h>

void grad_norm_cpu(float *scratch, const float *grads, int64_t n, float grad_scale) {
#pragma omp parallel for
    for (int64_t chunk = 0; chunk < NORM_CHUNKS; chunk++) {
        int64_t end = (chunk + 1) * n / NORM_CHUNKS;
        double squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = chunk * n / NORM_CHUNKS; i < end; i++)
            squares += (double)grads[i] * grads[i];
        scratch[chunk] = (float)squares;
    }
    double total = 0;
    for (int chunk = 0; chunk < NORM_CHUNKS; chunk++) total += scratch[chunk];
    scratch[NORM_CHUNKS] = (float)(grad_scale * sqrt(total));
}

void adamw_cpu(void *values, float *master, float *m, float *v, const float *grads,
               const float *norm, int64_t n, int64_t decayed, AdamWStep s) {
    (void)values; /* the same memory as master: the CPU computes in F32 */
    if (!isfinite(*norm)) return;
    float shrink = s.clip > 0 && *norm > s.clip ? s.clip / *norm : 1.0f;
    float scale = s.grad_scale * shrink;
    float rate = s.lr / s.correction1, root = 1.0f / sqrtf(s.correction2);
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; i++) {
        float g = scale * grads[i];
        float mi = s.beta1 * m[i] + (1 - s.beta1) * g;
        float vi = s.beta2 * v[i] + (1 - s.beta2) * g * g;
        float decay = i < decayed ? s.lr * s.weight_decay * master[i] : 0.0f;
        m[i] = mi;
        v[i] = vi;
        master[i] -= rate * mi / (sqrtf(vi) * root + s.eps) + decay;
    }
}

/* m and v are finite where the norm is: no NaN to look after. */
static inline uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float widened(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void adamw_bf16_cpu(void *values, float *master, uint16_t *m, uint16_t *v, const float *grads,
                    const float *norm, int64_t n, int64_t decayed, AdamWStep s) {
    enum { BLOCK = 1024 }; /* becomes F32 in a cache, and BF16 again */
    if (!isfinite(*norm)) return;
#pragma omp parallel for
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t count = n - from < BLOCK ? n - from : BLOCK;
        float mf[BLOCK], vf[BLOCK];
        for (int64_t i = 0; i < count; i++)
            mf[i] = widened(m[from + i]), vf[i] = widened(v[from + i]);
        adamw_cpu(values, master + from, mf, vf, grads + from, norm, count, decayed - from, s);
        for (int64_t i = 0; i < count; i++)
            m[from + i] = rounded(mf[i]), v[from + i] = rounded(vf[i]);
    }
}
