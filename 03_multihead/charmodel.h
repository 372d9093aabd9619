/*
 * A small language model of characters, the smallest thing in which heads can be watched at work.
 *
 *     h = embedding[character] + position[t]
 *     in every layer:
 *         h = h + multihead(rmsnorm(h))
 *         n = rmsnorm(h),  h = h + W_down swiglu(W_gate n, W_up n)
 *     logits = rmsnorm(h) W_out^T
 *
 * A character is a byte; the vocabulary is the bytes that the text has. A head cannot tell where
 * a token stands (multihead.h), so position is added to the input: one learned vector for each
 * place (GPT-2). They start as random directions, far from each other, which is what lets a head
 * find "the previous one" within seconds of training. The price: no text longer than the table.
 * Chapter 07 does better.
 */
#ifndef CHARMODEL_H
#define CHARMODEL_H

#include "03_multihead/multihead.h"

enum { CHARMODEL_MAX_LAYERS = 8 };

typedef struct CharModelConfig {
    int vocab_size, context, num_hidden_layers, intermediate_size;
    MultiheadConfig attention;
} CharModelConfig;

typedef struct CharLayer {
    Tensor *input_norm, *post_norm; /* [hidden_size] */
    Multihead attention;
    Tensor *gate_proj, *up_proj; /* [intermediate_size, hidden_size] */
    Tensor *down_proj;           /* [hidden_size, intermediate_size] */
} CharLayer;

typedef struct CharModel {
    CharModelConfig cfg;
    Tensor *embed, *position; /* [vocab_size, hidden_size], [context, hidden_size] */
    CharLayer layers[CHARMODEL_MAX_LAYERS];
    Tensor *norm, *head; /* [hidden_size], [vocab_size, hidden_size] */
} CharModel;

/* Registers the weights; 0, or -1 and a message when the config makes no sense. */
int charmodel_init(CharModel *model, Params *params, const CharModelConfig *cfg, Error *err);
void charmodel_randomize(Params *params, const CharModel *model);

/*
 * ids [B, T] -> logits [B, T, vocab_size]. caches: NULL, or one for each layer; then ids follow
 * the tokens that they hold. watched: NULL, or room for one tensor for each layer: what its
 * attention was given, for head_probabilities().
 */
Tensor *charmodel_forward(Context *ctx, const CharModel *model, Tensor *ids, KVCache *caches,
                          Tensor **watched);

/* Mean loss over targets I32 [B, T]. */
Tensor *charmodel_loss(Context *ctx, const CharModel *model, Tensor *ids, Tensor *targets);

/*
 * Continues the prompt, ids[0 .. prompt), by count characters drawn at the temperature (0: the
 * likeliest), and writes them behind it; prompt + count <= context. cached: with a KV cache, one
 * token a step; otherwise the whole text again at each step. Both draw the same random numbers
 * from (seed, position). -1 and a message when the cache cannot be made.
 */
int charmodel_generate(Context *ctx, const CharModel *model, int32_t *ids, int prompt, int count,
                       float temperature, uint64_t seed, bool cached, Error *err);

#endif
