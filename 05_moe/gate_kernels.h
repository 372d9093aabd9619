/*
 * The gate's kernels (gate.h); KERNEL and Real: gpu.h.
 */
#ifndef GATE_KERNELS_H
#define GATE_KERNELS_H

#include "common/core/context.h"

__BEGIN_DECLS

/* z = x W^T */
KERNEL(gate_forward, float *z, const Real *x, const Real *w, int64_t tokens, int64_t hidden,
       int64_t experts);
/* dx = (or +=) dz W, dw = (or +=) dz^T x; either may be NULL. scratch: gate_scratch_bytes() */
KERNEL(gate_backward, Real *dx, int add_x, float *dw, int add_w, void *scratch, const float *dz,
       const Real *x, const Real *w, int64_t tokens, int64_t hidden, int64_t experts);
/* Bytes that gate_backward needs: dz in two parts and the weight twice in BF16; 0 in F32. */
int64_t gate_scratch_bytes(DType dtype, int64_t tokens, int64_t hidden, int64_t experts);

/* z = clean + eps * softplus(raw), element i with eps = rng_normal(seed, stream, i) */
KERNEL(gate_noise_forward, float *z, const float *clean, const float *raw, int64_t n, uint64_t seed,
       uint64_t stream);
/* draw = (or +=) dz * eps * sigmoid(raw) */
KERNEL(gate_noise_backward, float *draw, int add, const float *dz, const float *raw, int64_t n,
       uint64_t seed, uint64_t stream);

/* inverse[i] = 1 / sqrt(|row i of x|^2 + GATE_NORM_EPS): a row of zeros has cosine 0, not NaN */
#define GATE_NORM_EPS 1e-12f
KERNEL(gate_norms, float *inverse, const Real *x, int64_t rows, int64_t width);
/* z[n, e] *= token[n] * expert[e] * scale: dot products become cosines over a temperature */
KERNEL(gate_cosine_forward, float *z, const float *token, const float *expert, float scale,
       int64_t tokens, int64_t experts);
/* ddot = dz * token * expert * scale: the derivative by the dot product; and what the norms'
 * derivatives need: per_token[n] = sum_e dz z, per_expert[e] = sum_n dz z, in a fixed order */
KERNEL(gate_cosine_backward, float *ddot, float *per_token, float *per_expert, const float *dz,
       const float *z, const float *token, const float *expert, float scale, int64_t tokens,
       int64_t experts);
/* dx[i, :] -= x[i, :] * sums[i] * inverse[i]^2: the share of the norm, after dz's own (so it adds).
 * gate_norms_backward: dx of x's dtype; _weight: F32, as gradients of weights are */
KERNEL(gate_norms_backward, Real *dx, const Real *x, const float *sums, const float *inverse,
       int64_t rows, int64_t width);
KERNEL(gate_norms_backward_weight, float *dw, const Real *w, const float *sums,
       const float *inverse, int64_t rows, int64_t width);

/* What the noise's sigma = softplus(raw) counts as in the load at least. It underflows to 0 below
 * raw = -104, and there a token at the bar would divide 0 by 0. */
#define GATE_MIN_SIGMA 1e-6f
/* load [E] = sum over tokens, in a fixed order, of p [N, E]; rivals I32 [N, 2]: whose logits are
 * the top_k-th and the (top_k + 1)-th: the bar for those outside and for those inside */
KERNEL(gate_noisy_load_forward, float *load, float *p, int32_t *rivals, const float *clean,
       const float *raw, const float *noisy, int64_t tokens, int64_t experts, int top_k);
/* dload [E] -> dclean, draw, dnoisy [N, E]; each may be NULL */
KERNEL(gate_noisy_load_backward, float *dclean, int add_clean, float *draw, int add_raw,
       float *dnoisy, int add_noisy, const float *dload, const int32_t *rivals, const float *clean,
       const float *raw, const float *noisy, int64_t tokens, int64_t experts, int top_k);

__END_DECLS
#endif
