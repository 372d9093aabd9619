/*
 * The block's feed-forward half for a few tokens, in three kernels.
 *
 *     y = x + ffn(rmsnorm(x))            ffn: a dense SwiGLU, or experts; up to FEW_ROWS rows
 *
 * For many tokens the rows are sorted by expert, so that every expert multiplies a matrix
 * (dispatch.h, grouped.h). For few there is nothing to sort: a tile of a tensor core has room for
 * all rows at once. So an expert multiplies them all, and keeps the results of those that chose it:
 *
 *     choose  n = rmsnorm(x), router(n)                          a block for each row
 *     up      h = silu(n W_gate^T) * n W_up^T                    one for 16 columns of an expert
 *     down    y = x + sum_j w_j W_down h_j + W_down,shared h_s   one for 16 columns of y
 *
 * Where the tokens choose fewer experts than there are (a single one chooses 2 of 8), `up` has
 * blocks for the chosen ones alone.
 */
#ifndef FFN_FEW_ROWS_H
#define FFN_FEW_ROWS_H

#include "05_moe/decoder/block.h"
#include "common/cuda/few_rows.h"

__BEGIN_DECLS

enum { FFN_FEW_ROWS_EXPERTS = 64 };

/*
 * Can these kernels take it? On the GPU, recording off, few rows, sizes that are multiples of 32,
 * at most FFN_FEW_ROWS_EXPERTS experts, a linear gate (or the noisy one, which is linear off the
 * tape), no capacity, weights of ctx's dtype or, but for norm and router, codes that
 * few_rows_weight_supports().
 */
bool ffn_few_rows_supports(Context *ctx, const Tensor *x, const Block *w, const BlockConfig *cfg);

/* x [..., hidden] -> x + ffn(rmsnorm(x)): the second half of block_forward() */
Tensor *ffn_few_rows_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg);

/* ---- kernels ---- */

typedef struct FfnFewRows {
    const void *x, *norm; /* [rows, hidden], [hidden] */
    void *y;              /* [rows, hidden] */
    float eps;
    int rows, hidden;
    /* Routed experts; route.experts 0: none. */
    RouteShape route;
    const void *router;                          /* [E, hidden] */
    const float *bias;                           /* [E] or NULL */
    int32_t *status;                             /* as in route_forward */
    FewRowsWeight gate_proj, up_proj, down_proj; /* [E, inner, hidden], [E, hidden, inner] */
    int inner;
    /* The shared experts, or the dense layer; shared_inner 0: none. */
    FewRowsWeight shared_gate, shared_up, shared_down;
    int shared_inner;
    /* From one kernel to the next. */
    void *normed;       /* [rows, hidden] */
    void *h, *h_shared; /* [rows K, inner], [rows, shared_inner] */
    int32_t *indices;   /* [rows, K] */
    float *weights;     /* [rows, K] */
} FfnFewRows;

int ffn_few_rows_kernels_support(const Gpu *gpu, DType dtype, const FfnFewRows *f);
void ffn_few_rows_choose_cuda(Gpu *gpu, DType dtype, const FfnFewRows *f);
void ffn_few_rows_up_cuda(Gpu *gpu, DType dtype, const FfnFewRows *f);
void ffn_few_rows_down_cuda(Gpu *gpu, DType dtype, const FfnFewRows *f);

__END_DECLS
#endif
