/*
 * From what an indexer learns: from attention, by the Kullback-Leibler divergence.
 *
 *     p[t, s] = 1/H  sum over heads of softmax over s of (scale q[t, h] . k[s, h])     attention's
 *     L = 1/rows  sum over t of  sum over s of  p[t, s] (log p[t, s] - log softmax(I[t])[s])
 *     dL/dI[t, s] = (softmax(I[t])[s] - p[t, s]) / rows
 *
 * (V3.2's report, section 2.1.1.) The sum over s is over all keys that t sees; or, where attention
 * saw a selection, over that, in p and in the softmax of I alike.
 *
 * Nobody has the probabilities in one place, for no attention kernel stores them. But lse, which
 * every one leaves behind, brings each of them back, and I is made again from q, k and w as well.
 * So a row of p and one of I exist while they are compared, and no T x T of either. The gradient is
 * made in the same pass, for p would cost a second attention otherwise.
 */
#ifndef INDEX_LOSS_H
#define INDEX_LOSS_H

#include "04_mla/selection.h"
#include "common/core/ops.h"

__BEGIN_DECLS

/* How well the indexer knows what attention looks at. NAN: no query saw more than k tokens. */
typedef struct IndexMeasures {
    double loss;
    double recall;     /* share of the k keys with the largest p that are among its k */
    double mass;       /* sum of p over its k keys: the share of attention that they keep */
    double best;       /* the same of the k keys with the largest p: no choice keeps more */
    double dead_heads; /* share of its heads that gave no key a positive product */
} IndexMeasures;

/*
 * L (F32 [1]) of q [B, T, Hi, D], k [B, T, D], w F32 [B, T, Hi], whose gradients it gives. The
 * measures are those of every MEASURED-th query, against attention that would see all.
 */
enum { INDEX_MEASURED = 8 };
Tensor *index_loss(Context *ctx, const Attended *attended, Tensor *q, Tensor *k, Tensor *w,
                   float scale, int topk, IndexMeasures *measures);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

typedef struct IndexLossShape {
    int batch, tokens;
    int heads, kv_heads, qk_dim; /* attention's; kv_heads: as many, or 1 */
    float attention_scale;
    int index_heads, index_dim;
    float index_scale;
    int count; /* entries of a list */
    int topk;  /* for the measures */
} IndexLossShape;

/* What both kernels read. */
typedef struct IndexLossInput {
    const void *q, *k;    /* attention's, [B, T, H, qk_dim], [B, T, kv_heads, qk_dim] */
    const float *lse;     /* [B, H, T] */
    const void *iq, *ik;  /* [B, T, Hi, D], [B, T, D] */
    const float *iw;      /* [B, T, Hi] */
    const int32_t *lists; /* what selected_tidy made of them; NULL: all that a query sees */
} IndexLossInput;

/* losses [B, T], and L's gradients, of q [B, T, Hi, D], k [B, T, D] and w: all written, or all
 * NULL. Sums are in one order, whatever the number of threads. scratch: index_loss_scratch_*()
 * bytes. */
KERNEL(index_loss, float *losses, Real *dq, Real *dk, float *dw, void *scratch, IndexLossInput in,
       IndexLossShape shape);
/* By the formulas, with p and I of a row in double precision, and L alone. */
double index_loss_reference_cpu(IndexLossInput in, IndexLossShape shape);

/* out F32 [5]: queries measured, sums of their recalls, masses and best masses, living heads. */
KERNEL(index_measure, float *out, void *scratch, IndexLossInput in, IndexLossShape shape);
size_t index_loss_scratch_cpu(IndexLossShape shape);
size_t index_loss_scratch_cuda(Gpu *gpu, DType dtype, IndexLossShape shape);

/* mean F32 [1] of n numbers; and to = or += factor * from, factor F32 [1]. */
KERNEL(index_mean, float *mean, const float *x, int64_t n);
KERNEL(index_multiply, Real *to, int add, const Real *from, const float *factor, int64_t n);

__END_DECLS
#endif
