/*
 * The model: a decoder-only transformer.
 *
 *     x = embed_tokens[ids]
 *     for each layer:   x = x + attention(rmsnorm(x))          chapter 03
 *                       x = x + down(silu(gate(h)) * up(h))    h = rmsnorm(x)
 *     logits = lm_head(rmsnorm(x))
 *
 * Weights carry the names that Hugging Face gives such a model ("model.layers.0.mlp.gate_proj.weight"). There is no
 * encoding of position: the causal mask alone tells the first token from the second (Kazemnejad et al. 2023).
 */
#ifndef MODEL_H
#define MODEL_H

#include "config.h"

#include "../common/params.h"

typedef struct ModelLayer {
    Tensor *input_layernorm; /* [hidden_size] */
    Multihead self_attn;
    Tensor *post_attention_layernorm; /* [hidden_size] */
    Tensor *gate_proj, *up_proj;      /* [intermediate_size, hidden_size] */
    Tensor *down_proj;                /* [hidden_size, intermediate_size] */
} ModelLayer;

typedef struct Model {
    Context *ctx;
    ModelConfig cfg;
    Params params;
    Tensor *embed_tokens; /* [vocab_size, hidden_size] */
    ModelLayer *layers;
    Tensor *norm;    /* [hidden_size] */
    Tensor *lm_head; /* [vocab_size, hidden_size]; embed_tokens itself when tied */
} Model;

/* Registers and allocates the weights, all zero; training: with gradients and moments. cfg must have passed config_check. */
int model_init(Model *model, Context *ctx, const ModelConfig *cfg, bool training, Error *err);
void model_free(Model *model); /* one that is all zeros is fine */

/*
 * Normal(0, initializer_range); what writes into the residual stream (o_proj, down_proj) is smaller by
 * sqrt(2 num_hidden_layers), the number of its summands (GPT-2). Norm weights are 1.
 */
void model_randomize(Model *model);

/*
 * ids I32 [B, T] -> logits [B, T, vocab_size].
 * caches: NULL, or one KVCache for each layer: ids follow what they hold and are appended (they must fit), B = 1, and
 * the logits [1, 1, vocab_size] are those of the last token only: no other is needed to go on.
 */
Tensor *model_forward(Model *model, Tensor *ids, KVCache *caches);

/* Mean cross entropy of targets I32 [B, T] (F32 [1], natural log). */
Tensor *model_loss(Model *model, Tensor *ids, Tensor *targets);

/* One cache for each layer; -1 and a message when memory runs out. Free with model_caches_free. */
KVCache *model_caches_new(Model *model, int capacity, Error *err);
void model_caches_free(Model *model, KVCache *caches);

#endif
