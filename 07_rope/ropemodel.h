/*
 * A small language model that knows positions by rotation only: embedding, layers of latent
 * attention (chapter 04) with rotary positions and SwiGLU, and a head.
 *
 *     h = embedding[character]
 *     h = h + mla(rmsnorm(h), position)
 *     h = h + W_down swiglu(W_gate n, W_up n),  n = rmsnorm(h)          in every layer
 *     logits = rmsnorm(h) W_out^T
 *
 * Nothing in the weights depends on the length of a text, unlike chapter 03's model with its table
 * of places. So the position is not part of the model: the caller hands it over, and the same
 * weights can be run with other frequencies, or with none (NULL).
 */
#ifndef ROPEMODEL_H
#define ROPEMODEL_H

#include "04_mla/mla.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ROPEMODEL_MAX_LAYERS = 8 };

typedef struct RopeModelConfig {
    int vocab_size, num_hidden_layers, intermediate_size;
    MlaConfig attention;
} RopeModelConfig;

typedef struct RopeModelLayer {
    Tensor *input_norm, *post_norm; /* [hidden_size] */
    Mla attention;
    Tensor *gate_proj, *up_proj; /* [intermediate_size, hidden_size] */
    Tensor *down_proj;           /* [hidden_size, intermediate_size] */
} RopeModelLayer;

typedef struct RopeModel {
    RopeModelConfig cfg;
    Tensor *embed; /* [vocab_size, hidden_size] */
    RopeModelLayer layers[ROPEMODEL_MAX_LAYERS];
    Tensor *norm, *head; /* [hidden_size], [vocab_size, hidden_size] */
} RopeModel;

/* Registers the weights; 0, or -1 and a message when the config makes no sense. */
int ropemodel_init(RopeModel *model, Params *params, const RopeModelConfig *cfg, Error *err);
void ropemodel_randomize(Params *params, const RopeModel *model);

/*
 * ids [B, T] -> logits [B, T, vocab_size]. position: NULL for none. caches: NULL, or one for each
 * layer, under the same pages; then ids follow the tokens that they hold, and their positions go on
 * from there.
 */
Tensor *ropemodel_forward(Context *ctx, const RopeModel *model, Tensor *ids,
                          const Position *position, LatentCache *caches);

/* Mean loss over targets I32 [B, T]; those that are IGNORE_TARGET do not count. */
Tensor *ropemodel_loss(Context *ctx, const RopeModel *model, Tensor *ids, Tensor *targets,
                       const Position *position);

#ifdef __cplusplus
}
#endif
#endif
