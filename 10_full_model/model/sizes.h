/*
 * How large a model is, before there is one: from its settings alone, allocating nothing but a list
 * of names.
 */
#ifndef SIZES_H
#define SIZES_H

#include "10_full_model/model/config.h"

typedef enum SizeKind {
    SIZE_EMBEDDING,
    SIZE_ATTENTION,
    SIZE_INDEXER,
    SIZE_DENSE,
    SIZE_ROUTER,
    SIZE_SHARED,
    SIZE_ROUTED,
    SIZE_NORM,
    SIZE_HEAD,
    SIZE_KINDS
} SizeKind;
const char *size_name(const ModelConfig *cfg, SizeKind kind);

/*
 * Numbers by kind, and how many of them one token is multiplied with: num_experts_per_tok of the
 * routed experts; the head, though it is the embedding table again when they are tied; of the
 * table itself nothing, for a token takes one row of it.
 */
typedef struct ConfigSizes {
    int64_t total[SIZE_KINDS], active[SIZE_KINDS];
    int64_t all, all_active; /* config_parameters(), config_active_parameters() */
} ConfigSizes;

ConfigSizes config_sizes(const ModelConfig *cfg);

/* Bytes that one token takes in the caches of all layers: the latent and the rotated key, and
 * for V3.2 the indexer's key; with multi-head attention a key and a value of each head. */
int64_t size_cache_per_token(const ModelConfig *cfg, DType dtype);

/*
 * Bytes, with the modules for multi-token prediction that cfg has; as double: what a config.json
 * may ask for is more than an int64_t holds. dtype: what is computed in; BF16 weights have F32
 * masters while they are trained.
 */
typedef struct TrainMemory {
    double weights; /* with masters */
    double gradients, moments;
    double activations; /* of one batch, and their gradients: an estimate, within a fifth */
} TrainMemory;
TrainMemory size_to_train(const ModelConfig *cfg, DType dtype, int batch, int context);

/*
 * Of one of `ranks` that share a step's batch: with zero, AdamW's moments and the F32 masters of
 * BF16 weights too (ZeRO-1); experts over `spread` of them, 1: each has all. Masters are with the
 * moments here, for they are shared like these.
 */
typedef struct RankMemory {
    double weights, gradients, optimizer, activations;
} RankMemory;
RankMemory size_of_rank(const ModelConfig *cfg, DType dtype, int batch, int context, int ranks,
                        bool zero, int spread);

typedef struct ServeMemory {
    double weights; /* as they are in a file */
    double cache;
} ServeMemory;
ServeMemory size_to_serve(const ModelConfig *cfg, DType dtype, int batch, int context);

/* Can this weight be held quantised: is it, by its name, one of attention's or of an FFN's
 * projections? Not the routers, norms, tables, heads, nor eh_proj of multi-token prediction. */
bool size_quantisable(const Tensor *weight);

/* Bytes of all weights in a file when those are quantised as cfg says and the rest is BF16. Rows
 * that groups do not divide are plain; FP8 takes ragged tiles too, as in DeepSeek's files. */
double size_quantised(const ModelConfig *cfg);

#endif
