/*
 * The gate: how much each expert wants a token, before the choice.
 *
 *     linear    z = x W^T                                    (Shazeer et al. 2017, eq. 2; DeepSeek)
 *     noisy     z = x W^T + eps * softplus(x W_noise^T),  eps ~ Normal(0, 1)     (the same, eq. 4)
 *     centroid  z = cos(x, c_e) / temperature                          (Chi et al. 2022, "X-MoE")
 *
 * A row of z is N-experts wide and one token's. Whatever dtype x has, z is F32: two experts whose
 * logits differ in the tenth bit are two different choices, and BF16 keeps eight.
 *
 * In the backward pass dz is F32 as well. x and the weights may be BF16, and then the tensor cores
 * multiply BF16 only; so dz goes in as the sum of two BF16 numbers, its rounded value and what
 * rounding left over: 16 bits of dz arrive, as many as the BF16 factors can use.
 */
#ifndef GATE_H
#define GATE_H

#include "common/core/context.h"

/* x [N, hidden] of ctx's dtype, weight [E, hidden] -> F32 [N, E] */
Tensor *gate_linear(Context *ctx, Tensor *x, Tensor *weight);

/* clean, raw F32 [N, E] -> clean + eps * softplus(raw). eps is drawn from ctx->rng, one stream a
 * call. */
Tensor *gate_noise(Context *ctx, Tensor *clean, Tensor *raw);

/* x [N, hidden], centroids [E, hidden] -> F32 [N, E], each within +-1 / temperature */
Tensor *gate_cosine(Context *ctx, Tensor *x, Tensor *centroids, float temperature);

/*
 * How many tokens each expert would get, made differentiable (Shazeer et al. 2017, eq. 8-10): the
 * sum over tokens of the probability that the expert is among the best top_k when its own noise is
 * drawn anew and that of the others is kept. clean, raw, noisy F32 [N, E] -> F32 [E].
 */
Tensor *gate_noisy_load(Context *ctx, Tensor *clean, Tensor *raw, Tensor *noisy, int top_k);

#endif
