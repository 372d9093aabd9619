/*
 * The gate's kernels (gate.h): on the CPU every T * is a float *; on CUDA float * or bf16 * by
 * dtype.
 */
#ifndef GATE_KERNELS_H
#define GATE_KERNELS_H

#include "common/core/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* z = x W^T */
void gate_forward_cpu(float *z, const float *x, const float *w, int64_t tokens, int64_t hidden,
                      int64_t experts);
/* dx = (or +=) dz W, dw = (or +=) dz^T x; either may be NULL. scratch: gate_scratch_bytes() */
void gate_backward_cpu(float *dx, int add_x, float *dw, int add_w, void *scratch, const float *dz,
                       const float *x, const float *w, int64_t tokens, int64_t hidden,
                       int64_t experts);
/* Bytes that gate_backward needs: dz in two parts and the weight twice in BF16; 0 in F32. */
int64_t gate_scratch_bytes(DType dtype, int64_t tokens, int64_t hidden, int64_t experts);

/* z = clean + eps * softplus(raw), element i with eps = rng_normal(seed, stream, i) */
void gate_noise_forward_cpu(float *z, const float *clean, const float *raw, int64_t n,
                            uint64_t seed, uint64_t stream);
/* draw = (or +=) dz * eps * sigmoid(raw) */
void gate_noise_backward_cpu(float *draw, int add, const float *dz, const float *raw, int64_t n,
                             uint64_t seed, uint64_t stream);

/* inverse[i] = 1 / sqrt(|row i of x|^2 + GATE_NORM_EPS): a row of zeros has cosine 0, not NaN */
#define GATE_NORM_EPS 1e-12f
void gate_norms_cpu(float *inverse, const float *x, int64_t rows, int64_t width);
/* z[n, e] *= token[n] * expert[e] * scale: dot products become cosines over a temperature */
void gate_cosine_forward_cpu(float *z, const float *token, const float *expert, float scale,
                             int64_t tokens, int64_t experts);
/* ddot = dz * token * expert * scale: the derivative by the dot product; and what the norms'
 * derivatives need: per_token[n] = sum_e dz z, per_expert[e] = sum_n dz z, in a fixed order */
void gate_cosine_backward_cpu(float *ddot, float *per_token, float *per_expert, const float *dz,
                              const float *z, const float *token, const float *expert, float scale,
                              int64_t tokens, int64_t experts);
/* dx[i, :] -= x[i, :] * sums[i] * inverse[i]^2: the share of the norm, after dz's own (so it adds).
 * gate_norms_backward: dx of x's dtype; _weight: F32, as gradients of weights are */
void gate_norms_backward_cpu(float *dx, const float *x, const float *sums, const float *inverse,
                             int64_t rows, int64_t width);
void gate_norms_backward_weight_cpu(float *dw, const float *w, const float *sums,
                                    const float *inverse, int64_t rows, int64_t width);

/* What the noise's sigma = softplus(raw) counts as in the load at least. It underflows to 0 below
 * raw = -104, and there a token at the bar would divide 0 by 0. */
#define GATE_MIN_SIGMA 1e-6f
/* load [E] = sum over tokens, in a fixed order, of p [N, E]; rivals I32 [N, 2]: whose logits are
 * the top_k-th and the (top_k + 1)-th: the bar for those outside and for those inside */
void gate_noisy_load_forward_cpu(float *load, float *p, int32_t *rivals, const float *clean,
                                 const float *raw, const float *noisy, int64_t tokens,
                                 int64_t experts, int top_k);
/* dload [E] -> dclean, draw, dnoisy [N, E]; each may be NULL */
void gate_noisy_load_backward_cpu(float *dclean, int add_clean, float *draw, int add_raw,
                                  float *dnoisy, int add_noisy, const float *dload,
                                  const int32_t *rivals, const float *clean, const float *raw,
                                  const float *noisy, int64_t tokens, int64_t experts, int top_k);

#ifdef WITH_CUDA
void gate_forward_cuda(Gpu *gpu, DType dtype, float *z, const void *x, const void *w,
                       int64_t tokens, int64_t hidden, int64_t experts);
void gate_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                        void *scratch, const float *dz, const void *x, const void *w,
                        int64_t tokens, int64_t hidden, int64_t experts);
void gate_noise_forward_cuda(Gpu *gpu, DType dtype, float *z, const float *clean, const float *raw,
                             int64_t n, uint64_t seed, uint64_t stream);
void gate_noise_backward_cuda(Gpu *gpu, DType dtype, float *draw, int add, const float *dz,
                              const float *raw, int64_t n, uint64_t seed, uint64_t stream);
void gate_norms_cuda(Gpu *gpu, DType dtype, float *inverse, const void *x, int64_t rows,
                     int64_t width);
void gate_cosine_forward_cuda(Gpu *gpu, DType dtype, float *z, const float *token,
                              const float *expert, float scale, int64_t tokens, int64_t experts);
void gate_cosine_backward_cuda(Gpu *gpu, DType dtype, float *ddot, float *per_token,
                               float *per_expert, const float *dz, const float *z,
                               const float *token, const float *expert, float scale, int64_t tokens,
                               int64_t experts);
void gate_norms_backward_cuda(Gpu *gpu, DType dtype, void *dx, const void *x, const float *sums,
                              const float *inverse, int64_t rows, int64_t width);
void gate_norms_backward_weight_cuda(Gpu *gpu, DType dtype, float *dw, const void *w,
                                     const float *sums, const float *inverse, int64_t rows,
                                     int64_t width);
void gate_noisy_load_forward_cuda(Gpu *gpu, DType dtype, float *load, float *p, int32_t *rivals,
                                  const float *clean, const float *raw, const float *noisy,
                                  int64_t tokens, int64_t experts, int top_k);
void gate_noisy_load_backward_cuda(Gpu *gpu, DType dtype, float *dclean, int add_clean, float *draw,
                                   int add_raw, float *dnoisy, int add_noisy, const float *dload,
                                   const int32_t *rivals, const float *clean, const float *raw,
                                   const float *noisy, int64_t tokens, int64_t experts, int top_k);
#endif

#ifdef __cplusplus
}
#endif
#endif
