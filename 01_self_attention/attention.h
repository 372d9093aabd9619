/*
 * Self-attention: every token asks a question of all tokens, and takes a weighted mean of their
 * answers.
 *
 *     Q = x W_q^T,  K = x W_k^T,  V = x W_v^T                     (W as in PyTorch: [out, in])
 *     O = softmax(Q K^T / sqrt(D)) V                              (Vaswani et al. 2017, eq. 1)
 *
 * Row t of the weights softmax(Q K^T / sqrt(D)) says how much of each token goes into the new token
 * t: its numbers are positive and sum to 1. One head, no mask: every token sees every other, before
 * and after. Chapter 02 hides the future, chapter 03 puts several heads side by side.
 *
 * Nothing here depends on the order of the tokens: permute the rows of x, and the rows of the
 * output are permuted alike. The number of queries and keys may differ. One query over S keys is
 * what a decoder does for each new token.
 */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "common/core/context.h"
#include "common/core/params.h"

typedef struct SelfAttentionConfig {
    int hidden_size; /* C: numbers in a token's vector */
    int head_dim;    /* D: numbers in a query, a key and a value */
} SelfAttentionConfig;

typedef struct SelfAttention {
    Tensor *q_proj, *k_proj, *v_proj; /* [head_dim, hidden_size] each */
} SelfAttention;

/* Registers PREFIX.q_proj.weight and so on. The data is there after params_allocate(). */
SelfAttention self_attention_init(Params *params, const char *prefix,
                                  const SelfAttentionConfig *cfg);

/* Normal(0, std). With std = 1 / sqrt(hidden_size) queries and keys of normal x are normal too. */
void self_attention_randomize(Params *params, const SelfAttention *w, float std);

/* x [B, T, hidden_size] -> [B, T, head_dim]. *weights, unless NULL, is set to softmax's output [B,
 * T, T]. */
Tensor *self_attention_forward(Context *ctx, Tensor *x, const SelfAttention *w, Tensor **weights);

/* q [B, T, D], k [B, S, D], v [B, S, E] -> [B, T, E]; *weights, unless NULL, is set to [B, T, S].
 * */
Tensor *attention(Context *ctx, Tensor *q, Tensor *k, Tensor *v, Tensor **weights);

/*
 * The reference: the formula with plain loops, and its derivative, summed in double. weights [B, T,
 * S] is written by forward and read by backward. The gradients are overwritten.
 */
void attention_reference_forward_cpu(float *o, float *weights, const float *q, const float *k,
                                     const float *v, int64_t batch, int64_t t, int64_t s, int64_t d,
                                     int64_t e);
void attention_reference_backward_cpu(float *dq, float *dk, float *dv, const float *d_o,
                                      const float *weights, const float *q, const float *k,
                                      const float *v, int64_t batch, int64_t t, int64_t s,
                                      int64_t d, int64_t e);

#endif
