/*
 * Multi-head attention: several small attentions side by side, and one matrix to mix their answers.
 *
 *     Q = x W_q^T,  K = x W_k^T,  V = x W_v^T                       (W as in PyTorch: [out, in])
 *     head_h = causal_attention(Q_h, K_g, V_g)                      g = h / (H / H_kv)
 *     y = concat(head_0 .. head_{H-1}) W_o^T                        (Vaswani et al. 2017, 3.2.2)
 *
 * num_key_value_heads decides who shares keys and values:
 *     H_kv = H       multi-head attention, MHA     (Vaswani et al. 2017)
 *     1 < H_kv < H   grouped-query attention, GQA  (Ainslie et al. 2023)
 *     H_kv = 1       multi-query attention, MQA    (Shazeer 2019)
 *
 * Heads cost no transpose: the output [B, T, H * D] of a linear layer, read as [B, T, H, D],
 * holds head h's vector of a token at offset h * D, and chapter 02's kernel takes strides.
 *
 * There is no position in here: a head sees which tokens stand before it but not where. Models
 * add position to x (this chapter's demo) or rotate q and k (chapter 07).
 */
#ifndef MULTIHEAD_H
#define MULTIHEAD_H

#include "03_multihead/kv_cache.h"
#include "common/core/ops.h"
#include "common/core/params.h"

__BEGIN_DECLS

/* The names of Hugging Face's config.json. */
typedef struct MultiheadConfig {
    int hidden_size;
    int num_attention_heads; /* H: query heads */
    int num_key_value_heads; /* H_kv: divides H */
    int head_dim;            /* D: often, but not always, hidden_size / H */
    bool attention_bias;     /* biases on all four projections, as in GPT-2; usually false */
} MultiheadConfig;

enum { MULTIHEAD_MAX_HEAD_DIM = 256 }; /* the widest head of chapter 02's CUDA kernels */
enum { MULTIHEAD_MAX_HEADS = 4096 };   /* far above any model, far below an overflow */

/* 0, or -1 and a message that names the number that is wrong, its value and what it may be. */
int multihead_check(const MultiheadConfig *cfg, Error *err);

typedef struct Multihead {
    Tensor *q_proj;                            /* [H * D, hidden_size] */
    Tensor *k_proj, *v_proj;                   /* [H_kv * D, hidden_size] */
    Tensor *o_proj;                            /* [hidden_size, H * D] */
    Tensor *q_bias, *k_bias, *v_bias, *o_bias; /* [rows of the weight], or NULL */
} Multihead;

/*
 * Registers the weights as PREFIX.q_proj.weight, PREFIX.q_proj.bias and so on; Hugging Face's
 * prefix of layer 0 is "model.layers.0.self_attn". cfg must have passed multihead_check. The data
 * is there after params_allocate().
 */
Multihead multihead_init(Params *params, const char *prefix, const MultiheadConfig *cfg);

/*
 * Normal(0, std) for q, k and v, Normal(0, out_std) for o, zero for biases. Deep models choose a
 * smaller out_std: o writes into the residual stream, where the layers add up.
 */
void multihead_randomize(Params *params, const Multihead *w, float std, float out_std);

/* What attention works on: the first half of multihead_forward(). A model with positions turns q
 * and k in place before the second half (chapter 07). */
typedef struct MultiheadHeads {
    Tensor *q;     /* [B, T, H, D] */
    Tensor *k, *v; /* [B, T, H_kv, D] */
} MultiheadHeads;

/* x [B, T, hidden_size] */
MultiheadHeads multihead_heads(Context *ctx, Tensor *x, const Multihead *w,
                               const MultiheadConfig *cfg);

/* The second half: attention and W_o. scale: of the scores; 0: 1 / sqrt(D). cache, to: as below. */
Tensor *multihead_attend(Context *ctx, MultiheadHeads heads, const Multihead *w,
                         const MultiheadConfig *cfg, float scale, KVCache *cache, Residual to);

/*
 * x [B, T, hidden_size] -> [B, T, hidden_size], causal.
 *
 * cache NULL: the T tokens are the whole sequence. This is training, and the only case that can be
 * differentiated.
 * Otherwise x holds the tokens that follow the cache->length tokens already there: their keys and
 * values are appended, and each new token sees the old ones too. There must be room for them
 * (kv_cache_room), and recording must be off.
 *
 * to: what the result is added to (ops.h); {0}: nothing.
 */
Tensor *multihead_forward(Context *ctx, Tensor *x, const Multihead *w, const MultiheadConfig *cfg,
                          KVCache *cache, Residual to);

__END_DECLS
#endif
