/*
 * The operations every chapter needs, forward and backward.
 *
 * Each is one function on tensors that checks shapes, runs the kernel of ctx's device
 * (ops_kernels.h) and, while ctx records, puts its backward function on the tape. `rows` is
 * everything but the last dimension.
 */
#ifndef COMMON_OPS_H
#define COMMON_OPS_H

#include "common/core/context.h"

__BEGIN_DECLS

/* y = x W^T + b     x [..., in], W [out, in], b [out] or NULL -> [..., out]; of ctx's dtype, or F32
 * all three */
Tensor *linear(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias);

/*
 * Where a layer writes its result: into a residual stream, to.x + dropout(result). {0}: nowhere,
 * the result is returned alone. Modules that end in a linear layer hand it to linear_residual(),
 * the others to residual(), which is also what the notation means.
 */
typedef struct Residual {
    Tensor *x;     /* [..., out] as the result, or NULL */
    float dropout; /* probability; 0: none */
} Residual;

/* to.x + dropout(y). {0}: y itself. */
Tensor *residual(Context *ctx, Tensor *y, Residual to);

/* residual(linear(x)). Without dropout the sum costs no pass of its own, nor does its gradient: y's
 * becomes to.x's. */
Tensor *linear_residual(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias, Residual to);

/* y = a + b, same shape and dtype; F32 in a BF16 context too, so that losses can be added */
Tensor *add(Context *ctx, Tensor *a, Tensor *b);

/* y = x / sqrt(mean(x^2) + eps) * w     x [..., D], w [D]     (Zhang & Sennrich 2019, eq. 4) */
Tensor *rmsnorm(Context *ctx, Tensor *x, Tensor *weight, float eps);

/*
 * linear(rmsnorm(x, norm, eps), weight, NULL)     x [..., in], norm [in], weight [out, in]
 * In one kernel where there is one for so few rows (few_rows.h) and the tape is off.
 */
Tensor *rmsnorm_linear(Context *ctx, Tensor *x, Tensor *norm, float eps, Tensor *weight);

/* silu(x) = x / (1 + e^-x), and SwiGLU's product silu(gate) * up (Shazeer 2020) */
Tensor *silu(Context *ctx, Tensor *x);
Tensor *swiglu(Context *ctx, Tensor *gate, Tensor *up);

/* y[i] = table[ids[i]]     table [V, D], ids I32 [...] -> [..., D]. An id outside [0, V) stops the
 * program (on the CPU). */
Tensor *embedding(Context *ctx, Tensor *table, Tensor *ids);

/*
 *     loss = mean over rows with target != -100 of logsumexp(logits[row]) - logits[row][target]
 *
 * logits [..., V], targets I32 [...] -> F32 [1]. The probabilities are never stored: backward turns
 * the logits, in place, into their own gradient, so after tape_backward() they are gone.
 */
enum { IGNORE_TARGET = -100 };
Tensor *cross_entropy(Context *ctx, Tensor *logits, Tensor *targets);

/*
 * cross_entropy(linear(x, weight), targets), where the logits are not wanted: x [..., D], weight
 * [V, D]. On the GPU their rows are then padded to a multiple of 64 numbers. A
 * vocabulary of 50257 needs it: tensor cores are fed 16 bytes at a time, and rows that begin at odd
 * addresses leave cuBLAS only its slow kernels.
 */
Tensor *linear_cross_entropy(Context *ctx, Tensor *x, Tensor *weight, Tensor *targets);

/* y[..., j] = x[..., from + j] for j < count: some columns, copied.   x [..., D] -> [..., count] */
Tensor *slice(Context *ctx, Tensor *x, int64_t from, int64_t count);

/* y = [a | b], side by side.   a [..., A], b [..., B] -> [..., A + B] */
Tensor *concat(Context *ctx, Tensor *a, Tensor *b);

/* Zeroes each element with probability p and scales the rest by 1 / (1 - p). p = 0 returns x
 * itself. */
Tensor *dropout(Context *ctx, Tensor *x, float p);

/* Scalars (F32 [1]): sum, mean, and sum of x * c for a constant F32 c of x's shape. Summed in a
 * fixed order. x may be F32 in a BF16 context. */
Tensor *sum(Context *ctx, Tensor *x);
Tensor *mean(Context *ctx, Tensor *x);
Tensor *weighted_sum(Context *ctx, Tensor *x, const Tensor *c);

__END_DECLS
#endif
