/*
 * Latent attention for a few new tokens behind a cache: a step of decoding, in five kernels.
 *
 *     y = x + mla_forward(rmsnorm(x), ...)          B T <= FEW_ROWS tokens that follow the cache
 *
 * mla_forward(), norm and addition are 19 kernels, of which one or two have work worth a launch.
 * Here what is small goes where something else is done already:
 *
 *     1  [c_q | c | k_r] = rmsnorm(x) [W_dq; W_dkv]^T       in the first layer the lengths count on
 *     2  q_h = rmsnorm(c_q) W_uq,h^T, turned, times W_uk,h  a block a head: q_absorbed
 *        rmsnorm(c), k_rope turned, into the cache          a block more for each sequence
 *     3  absorbed attention, in pieces
 *     4  the pieces joined, times W_uv,h^T                  a block a head
 *     5  y = x + heads W_o^T
 *
 * The results are rounded where mla_forward's are; only the order of sums differs.
 */
#ifndef MLA_FEW_ROWS_H
#define MLA_FEW_ROWS_H

#include "04_mla/mla.h"
#include "common/cuda/few_rows.h"

__BEGIN_DECLS

/*
 * Can these kernels take it? On the GPU, recording off, a cache, few rows, sizes that are multiples
 * of what a tensor core takes (16 and 32), a position that has angles, or none,
 * and weights of ctx's dtype or, but for norms and biases, codes that few_rows_weight_supports().
 * What may change from call to call is only x's number of rows.
 */
bool mla_few_rows_supports(Context *ctx, const Tensor *x, const Tensor *norm, const Mla *w,
                           const MlaConfig *cfg, const Position *position,
                           const LatentCache *cache);

/* x [B, T, hidden_size], norm [hidden_size] -> x + attention, [B, T, hidden_size]. As mla_forward()
 * with MLA_ABSORBED: x are the tokens that the step began with. */
Tensor *mla_few_rows_forward(Context *ctx, Tensor *x, const Tensor *norm, float eps, const Mla *w,
                             const MlaConfig *cfg, const Position *position, LatentCache *cache);

/* ---- kernels ---- */

typedef struct MlaFewRows {
    MlaShape shape;
    int batch, tokens, q_lora_rank; /* rows = batch * tokens */
    /* [rows, q_lora_rank] before its norm, or, when q_lora_rank is 0, q [rows, H (nope + rope)] */
    const void *c_q;
    const void *q_norm, *kv_norm;
    FewRowsWeight q_b_proj, kv_b_proj;
    const void *latent; /* [rows, kv_lora_rank + rope], raw */
    void *q_absorbed;   /* [rows, H, kv_lora_rank + rope] */
    void *o;            /* [rows, H, v] */
    /* The cache; e4m3: its rows are latent_row.h's */
    void *cache;
    bool e4m3;
    const int32_t *block_table, *lengths;
    int max_pages;
    PositionAngles angles;
    int max_position;
} MlaFewRows;

/* Kernel 2: q_absorbed, and the new rows of the cache. */
void mla_few_rows_query_cuda(Gpu *gpu, DType dtype, const MlaFewRows *m);
int mla_few_rows_query_supports(const Gpu *gpu, DType dtype, const MlaFewRows *m);

/* Kernels 3 and 4: o from q_absorbed and the cache. scratch: mla_decode_scratch_cuda() bytes,
 * o_latent [rows, H, kv_lora_rank]. */
void mla_few_rows_attention_cuda(Gpu *gpu, DType dtype, const MlaFewRows *m, void *o_latent,
                                 float *scratch, MlaDecodeShape shape);

__END_DECLS
#endif
