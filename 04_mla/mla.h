/*
 * Multi-head latent attention, MLA: many heads whose keys and values are all made from one small
 * vector per token, so that the cache keeps the small vector.
 *
 *     c_q  = RMSNorm(x W_dq^T)                                       [q_lora_rank]
 *     [q_nope_h | q_rope_h] = c_q W_uq^T,  rotated: q_rope_h         per head [nope | rope]
 *     [c | k_rope] = x W_dkv^T,   c_kv = RMSNorm(c),  rotated: k_rope    what the cache keeps
 *     [k_nope_h | v_h] = c_kv W_ukv^T                                per head [nope | v]
 *     o_h  = causal attention of [q_nope_h | q_rope_h] over [k_nope_h | k_rope] and v_h
 *     y    = concat(o_0 .. o_{H-1}) W_o^T                            (DeepSeek-V2, eq. 9-19, 37-47)
 *
 * One set of weights, two ways to compute:
 *   naive     makes k and v of every head, then multi-head attention: for training and prompts;
 *   absorbed  q_nope . (W_uk c) = (W_uk^T q_nope) . c: moves W_uk to the query and W_uv behind the
 *             sum, so that attention runs on the latents themselves, with one key head for all
 *             query heads: for decoding. This is why k_nope must not be rotated: a rotation between
 *             W_uk and q would depend on both positions and could not be moved.
 * They are equal but for rounding.
 *
 * Weights have Hugging Face's names and shapes (model_type deepseek_v2, deepseek_v3).
 */
#ifndef MLA_H
#define MLA_H

#include "04_mla/mla_decode.h"
#include "04_mla/position.h"
#include "04_mla/selection.h"
#include "common/core/ops.h"
#include "common/core/params.h"

__BEGIN_DECLS

/* The names of Hugging Face's config.json. */
typedef struct MlaConfig {
    int hidden_size;
    int num_attention_heads; /* H */
    int q_lora_rank;         /* 0: queries are not compressed (V2-Lite) */
    int kv_lora_rank;
    int qk_nope_head_dim;
    int qk_rope_head_dim; /* may be 0: no part for positions. Odd is fine here; chapter 07 turns
                           * pairs and wants it even (rope_check) */
    int v_head_dim;
    bool attention_bias; /* biases on q_a_proj, kv_a_proj_with_mqa and o_proj; usually false */
} MlaConfig;

#define MLA_NORM_EPS 1e-6f /* of both latent norms, whatever the model's rms_norm_eps is */

enum { MLA_MAX_HEAD_DIM = 256 }; /* the widest head of chapter 02's CUDA kernels */
enum {
    MLA_MAX_HEADS = 4096,
    MLA_MAX_SIZE = 1 << 20
}; /* far above any model, far below an overflow */

/* 0, or -1 and a message that names the setting that is wrong, its value and what it may be. */
int mla_check(const MlaConfig *cfg, Error *err);

typedef struct Mla {
    Tensor *q_proj;         /* [H * (nope + rope), hidden_size]; only when q_lora_rank is 0 */
    Tensor *q_a_proj;       /* [q_lora_rank, hidden_size] */
    Tensor *q_a_layernorm;  /* [q_lora_rank] */
    Tensor *q_b_proj;       /* [H * (nope + rope), q_lora_rank] */
    Tensor *kv_a_proj;      /* [kv_lora_rank + rope, hidden_size], "kv_a_proj_with_mqa" */
    Tensor *kv_a_layernorm; /* [kv_lora_rank] */
    Tensor *kv_b_proj;      /* [H * (nope + v), kv_lora_rank], per head [nope | v] */
    Tensor *o_proj;         /* [hidden_size, H * v] */
    Tensor *q_a_bias, *kv_a_bias, *o_bias; /* or NULL */
} Mla;

/*
 * Registers the weights as PREFIX.q_a_proj.weight and so on; Hugging Face's prefix of layer 0 is
 * "model.layers.0.self_attn". cfg must have passed mla_check. The data is there after
 * params_allocate().
 */
Mla mla_init(Params *params, const char *prefix, const MlaConfig *cfg);

/* Normal(0, std), o_proj Normal(0, out_std), norms one, biases zero. */
void mla_randomize(Params *params, const Mla *w, float std, float out_std);

typedef enum MlaMode {
    MLA_AUTO, /* whichever of the two does fewer operations here: see mla_cheaper */
    MLA_NAIVE,
    MLA_ABSORBED,  /* needs a cache, or a selection (mla_selected.h) */
    MLA_AS_TRAINED /* naive; on the CPU a token's numbers are, bit for bit, what they are without a
                    * cache (with cpu_matmul_rows_alike()); keys and values are kept: mla_kept.h */
} MlaMode;

/*
 * x [B, T, hidden_size] -> [B, T, hidden_size], causal. position NULL: no rotation.
 *
 * cache NULL: the T tokens are the whole sequence, at positions 0 .. T - 1. This is training, and
 * the only case that can be differentiated.
 * Otherwise x holds the tokens that the step began with (pages_begin): their latents go into the
 * cache, and each sees the older ones too. There must be positions (position_room), and recording
 * must be off. Sequences may have different lengths.
 *
 * selection: which tokens each of x sees (selection.h); NULL: all up to itself.
 * to: what the result is added to (ops.h); {0}: nothing.
 */
Tensor *mla_forward(Context *ctx, Tensor *x, const Mla *w, const MlaConfig *cfg,
                    const Position *position, const Selection *selection, LatentCache *cache,
                    MlaMode mode, Residual to);

/* The softmax scale: 1 / sqrt(nope + rope), times position->scale. */
float mla_scale(const MlaConfig *cfg, const Position *position);

/* Operations of attention alone when T new tokens meet S in the cache (themselves included): naive
 * makes the keys and values of all S again. */
double mla_naive_flop(const MlaConfig *cfg, int64_t T, int64_t S);
double mla_absorbed_flop(const MlaConfig *cfg, int64_t T, int64_t S);
MlaMode mla_cheaper(const MlaConfig *cfg, int64_t T, int64_t S);

/* Bytes of cache that one token takes in all layers: layers x (kv_lora_rank + rope) x size. */
int64_t mla_cache_bytes_per_token(const MlaConfig *cfg, int layers, DType dtype);

/* ---- the module's two attentions, on the tape and off it ---- */

/*
 * Naive: q [B, T, H, nope + rope], kv [B, S, H, nope + v] as kv_b_proj made it, k_rope [B, S, rope]
 * or NULL -> [B, T, H, v]; S >= T. The values are read where they lie, inside kv.
 * selected: NULL, or I32 [B, T, k], what a Selection returned.
 */
Tensor *mla_naive_attention(Context *ctx, Tensor *q, Tensor *kv, Tensor *k_rope,
                            const Tensor *selected, const MlaConfig *cfg, float scale);

/* Absorbed: q [B, T, H, nope + rope] against the cache, which holds the T tokens by now ->
 * [B, T, H, v]. Not differentiable. */
Tensor *mla_absorbed_attention(Context *ctx, Tensor *q, const Tensor *selected, const Mla *w,
                               const MlaConfig *cfg, const LatentCache *cache, float scale);

/* What the absorbed kernels are told of a cache, for the last T tokens of each sequence. */
MlaDecodeShape mla_decode_shape(const MlaConfig *cfg, const LatentCache *cache, int64_t T,
                                float scale);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* What a kernel needs of the config. */
typedef struct MlaShape {
    int heads, nope, rope, v, kv_lora_rank;
} MlaShape;
MlaShape mla_kernel_shape(const MlaConfig *cfg);

/* k [rows, H, nope + rope] = [k_nope of kv [rows, H, nope + v] | k_rope [rows, rope]] */
KERNEL(mla_keys, Real *k, const Real *kv, const Real *k_rope, int64_t rows, MlaShape shape);
/* The way back: dkv's nope part = or += dk's; dk_rope = or += sum over heads, in order. The v part
 * of dkv is not touched. */
KERNEL(mla_keys_backward, Real *dkv, int add_kv, Real *dk_rope, int add_rope, const Real *dk,
       int64_t rows, MlaShape shape);
/* q_absorbed [rows, H, kv_lora_rank + rope] = [q_nope W_uk | q_rope];   q [rows, H, nope + rope],
 * kv_b [H, nope + v, kv_lora_rank] */
KERNEL(mla_absorb_query, Real *q_absorbed, const Real *q, const Real *kv_b, int64_t rows,
       MlaShape shape);
/* o [rows, H, v] = o_latent [rows, H, kv_lora_rank] W_uv^T */
KERNEL(mla_absorb_output, Real *o, const Real *o_latent, const Real *kv_b, int64_t rows,
       MlaShape shape);

__END_DECLS
#endif
