/*
 * Where a weight of the model lies in a file, under Hugging Face's names.
 *
 * All names and shapes are the same on both sides but those of the experts: here a layer's are
 * one tensor,
 *     model.layers.3.mlp.experts.gate_proj.weight      [E, inner, hidden]
 * in a file each has its own,
 *     model.layers.3.mlp.experts.17.gate_proj.weight   [inner, hidden]
 * So a weight has as many parts in a file as it has experts, or one; part j is `count` numbers
 * of it, from `offset` on.
 *
 * Modules for multi-token prediction (chapter 06) share the model's embedding and head; files
 * repeat both for each module: model.layers.{L+k-1}.embed_tokens.weight and
 * model.layers.{L+k-1}.shared_head.head.weight. weight_alias() knows these.
 *
 * (In memory transformers 5 keeps a layer's experts in two tensors, and can write them like this:
 *     model.layers.3.mlp.experts.gate_up_proj          [E, 2 inner, hidden], per expert [gate | up]
 *     model.layers.3.mlp.experts.down_proj             [E, hidden, inner]
 * weight_fused() knows these; we only read them.)
 */
#ifndef WEIGHTS_MAP_H
#define WEIGHTS_MAP_H

#include "10_full_model/model/model.h"

typedef struct WeightPart {
    char name[200]; /* in the file */
    int64_t shape[MAX_DIMS];
    int ndim;
    int64_t offset, count; /* elements: which of the model's tensor */
} WeightPart;

/* How many tensors of a file hold this weight. */
int weight_parts(const Tensor *weight);

/* Part j of them, 0 <= j < weight_parts(). */
WeightPart weight_part(const Tensor *weight, int j);

/* Of which layer is this the name of a weight? -1: of none. */
int weight_layer(const char *name);

/* Repetition i of one of the model's weights, *weight, under another name. false: there are no
 * more. */
bool weight_alias(const Model *model, int i, Tensor **weight, WeightPart *alias);

/*
 * The fused tensor that holds all experts' gate_proj (or up_proj, or down_proj) and perhaps
 * more. In it expert j's numbers begin at `first + j * stride` (elements). false: not a weight
 * of experts.
 */
bool weight_fused(const Tensor *weight, WeightPart *fused, int64_t *first, int64_t *stride);

/*
 * What of a model is in its file, i counting from 0: the weights, then the state that is not
 * learned but belongs to the model (the routers' biases, F32). NULL behind the last.
 */
Tensor *weights_at(const Params *params, int i);

#endif
