/*
 * The model: DeepSeek's decoder, a stack of chapter 05's blocks.
 *
 *     x = embed_tokens[ids]
 *     for each layer:   x = x + mla(rmsnorm(x))        chapters 04 and 07
 *                       x = x + experts(rmsnorm(x))    chapter 05; the first layers: a SwiGLU
 *     logits = lm_head(rmsnorm(x))
 *     and behind it, if the settings say so, modules for multi-token prediction    chapter 06
 *
 * In a sparse model (V3.2) each layer, those of modules too, has an indexer that chooses what its
 * attention sees (sparse/indexer.h). It belongs to the layer: whoever runs the layer runs it.
 *
 * Weights carry the names that Hugging Face gives them, but for the experts of a layer, which are
 * one tensor here ("model.layers.3.mlp.experts.gate_proj.weight", [E, inner, hidden]); checkpoint.h
 * takes them apart.
 */
#ifndef MODEL_H
#define MODEL_H

#include "10_full_model/model/config.h"

#include "06_mtp/mtp.h"
#include "common/core/params.h"

typedef struct Model {
    Context *ctx;
    ModelConfig cfg;
    Params params;
    Rope rope, index_rope; /* the same rotation, for attention and for indexers */
    Decoder decoder;
    Mtp mtp; /* depth num_nextn_predict_layers; knows the decoder, so a Model must not move */
    Indexers indexers; /* of the layers, then of the modules; none in a dense model */
} Model;

/*
 * The weights' names and shapes, which costs no memory to speak of however large the model is; then
 * the weights themselves, all zero (training: with gradients and moments), and the rotation's
 * tables. model_init() does both, and frees what is there if it fails. cfg must have passed
 * config_check.
 */
int model_register(Model *model, Context *ctx, const ModelConfig *cfg, Error *err);
int model_allocate(Model *model, bool training, Error *err);
int model_init(Model *model, Context *ctx, const ModelConfig *cfg, bool training, Error *err);
void model_free(Model *model); /* one that is all zeros is fine */

/* Why are logits or a loss of ids [count] not finite? -1, and a message that names the first weight
 * which holds such a number, or else the first layer behind which there is one. 0: they are. */
int model_not_finite(Model *model, const int32_t *ids, int count, Error *err);

/*
 * Normal(0, initializer_range); what writes into the residual stream (o_proj, down_proj) is smaller
 * by sqrt(2 num_hidden_layers), the number of its summands (GPT-2). Norm weights are 1.
 * The decoder gets the same numbers with modules and indexers, and without.
 * model_randomize_modules, model_randomize_indexers: those alone; of modules with their indexers.
 */
void model_randomize(Model *model);
void model_randomize_modules(Model *model);
void model_randomize_indexers(Model *model);

/* The positions of its tokens; NULL for a model without a rotated part. */
const Position *model_position(const Model *model);

/*
 * ids I32 [B, T] -> logits [B, T, vocab_size].
 * cache: NULL, or what holds the tokens before: ids follow them and are appended
 * (model_cache_reserve first), and the logits [B, 1, vocab_size] are those of the last token only:
 * no other is needed to go on.
 */
Tensor *model_forward(Model *model, Tensor *ids, DecoderCache *cache);

/* Mean cross entropy of targets I32 [B, T] (F32 [1], natural log). */
Tensor *model_loss(Model *model, Tensor *ids, Tensor *targets);

/* For `batch` sequences of up to `capacity` tokens; -1 and a message when memory runs out. Free
 * with decoder_cache_free. */
int model_cache_init(Model *model, DecoderCache *cache, int batch, int capacity, Error *err);

/* Is there room for `tokens` more, and have they positions? -1 and a message if not. */
int model_cache_reserve(Model *model, DecoderCache *cache, int tokens, Error *err);

#endif
