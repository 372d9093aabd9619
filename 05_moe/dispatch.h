/*
 * Dispatch: from "token n wants experts 5 and 2" to one matrix of tokens for each expert, and back.
 *
 *     slot   n * K + j: the j-th choice of token n. There are N K of them.
 *     row    a place in the permuted matrix: expert 0's tokens first, then expert 1's, ...
 *
 * The plan is a stable counting sort of the slots by expert: count, prefix sum, place. Inside an
 * expert rows keep the order of the tokens. It is integers only and the same on every run; the
 * products that follow therefore sum in the same order every time.
 *
 *     permute   xp[row] = x[token of row]
 *               dx[n] = sum over j, in order, of dxp[row of (n, j)]
 *     combine   y[n] = sum over j, in order, of w[n, j] yp[row of (n, j)]
 *               dyp[row of (n, j)] = w[n, j] dy[n],  dw[n, j] = dy[n] . yp[row of (n, j)]
 *
 * Capacity (Switch; GShard): an expert takes at most `capacity` tokens. Those that come later, in
 * the order of the tokens, are dropped: they have row -1, add nothing to y, and get no gradient. 0:
 * no limit, no token is dropped. DeepSeek drops none.
 *
 * How many tokens an expert has is known on the device only. There are always N K rows; those from
 * offsets[E] on (as many as were dropped) are neither read nor written.
 */
#ifndef DISPATCH_H
#define DISPATCH_H

#include "common/core/context.h"

__BEGIN_DECLS

typedef struct Dispatch {
    int64_t tokens, rows; /* N, N * K */
    int experts, top_k;
    int64_t capacity;    /* of an expert, in tokens; 0: no limit */
    Tensor *counts;      /* I32 [E]: how often an expert was chosen, dropped tokens included */
    Tensor *offsets;     /* I32 [E + 1]: its rows are offsets[e] .. offsets[e + 1] - 1 */
    Tensor *row_of_slot; /* I32 [N, K]; -1: dropped */
    Tensor *slot_of_row; /* I32 [N K]; undefined from offsets[E] on */
} Dispatch;

/* indices I32 [N, K], each in 0 .. experts - 1 and no expert twice in a row; or -1: to nobody,
 * which is as if dropped, but counted nowhere. */
Dispatch dispatch_plan(Context *ctx, const Tensor *indices, int experts, int64_t capacity);

/* capacity_factor * N * K / E rounded up: 1.0 is room for a perfectly even load. 0 stays 0. N at
 * most: an expert gets no token twice. */
int64_t dispatch_capacity(float capacity_factor, int64_t tokens, int top_k, int experts);

/* x [N, D] -> [N K, D], on the tape */
Tensor *dispatch_permute(Context *ctx, Tensor *x, const Dispatch *plan);

/* yp [N K, D], weights F32 [N, K], base [N, D] or NULL -> base + the weighted sums [N, D], on the
 * tape */
Tensor *dispatch_combine(Context *ctx, Tensor *base, Tensor *yp, Tensor *weights,
                         const Dispatch *plan);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* Slots in a piece of the counting sort; pieces are counted on their own, then placed. */
enum { DISPATCH_PIECE = 1024 };

/* I32 numbers of scratch: a count for each piece and expert. */
int64_t dispatch_scratch_ints(int64_t slots, int experts);

/* The plan of indices [slots]. An index that is neither an expert nor -1 stops the program (on the
 * CPU). */
KERNEL(dispatch_plan, int32_t *counts, int32_t *offsets, int32_t *row_of_slot, int32_t *slot_of_row,
       int32_t *scratch, const int32_t *indices, int64_t slots, int experts, int64_t capacity);
/* xp [N K, d] = x [N, d]; one pass over x: each token is read once and written top_k times */
KERNEL(dispatch_permute, Real *xp, const Real *x, const int32_t *row_of_slot, int64_t tokens,
       int top_k, int64_t d);
/* dx = or += */
KERNEL(dispatch_permute_backward, Real *dx, int add, const Real *dxp, const int32_t *row_of_slot,
       int64_t tokens, int top_k, int64_t d);
/* base NULL: nothing */
KERNEL(dispatch_combine, Real *y, const Real *base, const Real *yp, const float *weights,
       const int32_t *row_of_slot, int64_t tokens, int top_k, int64_t d);
/* dyp = or +=, dweights [N, K] = or +=; either may be NULL. Rows that hold no token are not
 * written. */
KERNEL(dispatch_combine_backward, Real *dyp, int add_yp, float *dweights, int add_w, const Real *dy,
       const Real *yp, const float *weights, const int32_t *row_of_slot, int64_t tokens, int top_k,
       int64_t d);

__END_DECLS
#endif
