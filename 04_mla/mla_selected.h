/*
 * Absorbed attention to a selection, on the tape.
 *
 * Training makes keys and values of every head, because attention is cheapest on them when a query
 * reads all tokens. When it reads a few, its heads should read the same rows: then a query's rows
 * are fetched once, and 64 heads x 64 rows are a product for the tensor cores (selection.h, rung
 * "hopper"). So W_uk moves to the query here as it does in decoding:
 *
 *     q' = [q_nope W_uk | q_rope]      z = [c_kv | k_rope]
 *     o' = attention of q' to the selected z, of which c_kv are the values
 *     o  = o' W_uv^T
 *
 * and the gradients of kv_b_proj come from both ends: dW_uk = q_nope^T dq', dW_uv = do^T o'. It is
 * mla_naive_attention but for rounding.
 */
#ifndef MLA_SELECTED_H
#define MLA_SELECTED_H

#include "04_mla/mla.h"

__BEGIN_DECLS

/* mla_cheaper for T new tokens of S of which each reads k at most: both modes have fewer pairs, but
 * naive makes the keys and values of all S all the same. */
MlaMode mla_selected_cheaper(const MlaConfig *cfg, int64_t T, int64_t S, int64_t k);

/* Is this how a selection is best attended to here: are there kernels for these sizes? */
bool mla_selected_fits(Context *ctx, const MlaConfig *cfg, const Tensor *kv_b);

/*
 * q [B, T, H, nope + rope], c_kv [B, T, kv_lora_rank], k_rope [B, T, rope] or NULL, selected I32
 * [B, T, k], kv_b as stored -> [B, T, H, v]. attended: filled in for who learns from it, with q'
 * and z for queries and keys.
 */
Tensor *mla_selected_attention(Context *ctx, Tensor *q, Tensor *c_kv, Tensor *k_rope,
                               const Tensor *selected, Tensor *kv_b, const MlaConfig *cfg,
                               float scale, Attended *attended);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* latent [rows, kv_lora_rank + rope] = [c_kv | k_rope], and the way back. */
KERNEL(mla_latents, Real *latent, const Real *c_kv, const Real *k_rope, int64_t rows,
       MlaShape shape);
KERNEL(mla_latents_backward, Real *dc_kv, int add_c, Real *dk_rope, int add_rope,
       const Real *d_latent, int64_t rows, MlaShape shape);

/*
 * The way back of mla_absorb_query and mla_absorb_output. Of dkv_b [H, nope + v, kv_lora_rank],
 * F32, the first writes the rows of W_uk and the second those of W_uv. NULL gradients are not
 * computed.
 */
KERNEL(mla_absorb_query_backward, Real *dq, int add_q, float *dkv_b, int add_w,
       const Real *dq_absorbed, const Real *q, const Real *kv_b, int64_t rows, MlaShape shape);
KERNEL(mla_absorb_output_backward, Real *do_latent, float *dkv_b, int add_w, const Real *d_o,
       const Real *o_latent, const Real *kv_b, int64_t rows, MlaShape shape);

__END_DECLS
#endif
