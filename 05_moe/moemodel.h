/*
 * A small language model of characters whose feed-forward layers are experts: what the demo trains.
 *
 *     x = embedding[character] + position[t]
 *     x = block(x)                                in every layer (block.h)
 *     logits = rmsnorm(x) W_out^T
 *
 * Attention is chapter 03's, and position is learned, as there (charmodel.h).
 */
#ifndef MOEMODEL_H
#define MOEMODEL_H

#include "05_moe/block.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MOEMODEL_MAX_LAYERS = 8 };

typedef struct MoeModelConfig {
    int vocab_size, context, num_hidden_layers;
    BlockConfig block; /* attention must be ATTENTION_MULTIHEAD */
} MoeModelConfig;

typedef struct MoeModel {
    MoeModelConfig cfg;
    Tensor *embed, *position; /* [vocab_size, hidden_size], [context, hidden_size] */
    Block layers[MOEMODEL_MAX_LAYERS];
    Tensor *norm, *head; /* [hidden_size], [vocab_size, hidden_size] */
} MoeModel;

/* Registers the weights; 0, or -1 and a message when the config makes no sense. */
int moemodel_init(MoeModel *model, Params *params, const MoeModelConfig *cfg, Error *err);
void moemodel_randomize(Params *params, const MoeModel *model);

/* ids I32 [B, T] -> logits [B, T, vocab_size]. records: NULL, or one for each layer. */
Tensor *moemodel_forward(Context *ctx, const MoeModel *model, Tensor *ids,
                         const BlockTraining *training, MoeRecord *records);

/* What training makes smaller: mean cross entropy of targets I32 [B, T], plus the auxiliary losses
 * of all layers. *loss is the cross entropy alone. records as above, but not NULL. */
Tensor *moemodel_loss(Context *ctx, const MoeModel *model, Tensor *ids, Tensor *targets,
                      const BlockTraining *training, MoeRecord *records, Tensor **loss);

/* After the optimizer's step: moe_rebalance() of every layer that has experts. */
void moemodel_rebalance(Context *ctx, const MoeModel *model, float gamma);

#ifdef __cplusplus
}
#endif
#endif
