/*
 * What one token leaves in the cache, by kind of attention, at the sizes of published models.
 *
 *     MHA   2 H D          a key and a value for each of H heads of D numbers
 *     GQA   2 G D          for each of G groups of heads
 *     MQA   2 D            for all heads together
 *     MLA   d_c + d_rope   a latent and the shared part for positions
 *
 * numbers in each layer (DeepSeek-V2, table 1). Only MLA does not grow with the number of heads and
 * still lets every head have keys and values of its own.
 */
#ifndef CACHE_SIZES_H
#define CACHE_SIZES_H

#include "04_mla/mla.h"

typedef enum CacheKind { CACHE_MHA, CACHE_GQA, CACHE_MQA, CACHE_MLA, CACHE_KINDS } CacheKind;

typedef struct ModelSizes {
    const char *name;
    CacheKind own; /* what the model was published with; the other kinds are what-ifs */
    int layers, heads, head_dim;
    int groups;    /* key heads, were it (or since it is) GQA */
    MlaConfig mla; /* its own, or its heads over V2's latent of 512 + 64 */
} ModelSizes;

/*
 * MODEL_V2_ABLATION_*: the models with which the V2 paper compares MLA with MHA (its appendix). It
 * gives their cache, not their heads: 27 layers of 16 x 128 and 60 layers of 7168 (here 56 x 128)
 * are the sizes that reproduce its numbers.
 */
typedef enum ModelId {
    MODEL_V2_LITE,
    MODEL_V2,
    MODEL_V3,
    MODEL_LLAMA_7B,
    MODEL_DEEPSEEK_67B,
    MODEL_V2_ABLATION_SMALL,
    MODEL_V2_ABLATION_LARGE,
    MODEL_COUNT
} ModelId;

extern const ModelSizes model_sizes[MODEL_COUNT];

const char *cache_kind_name(CacheKind kind); /* "MHA" */

/* Numbers that one token leaves in all layers together; times 2 they are bytes of BF16. */
int64_t cache_numbers_per_token(const ModelSizes *model, CacheKind kind);

/* The same in bytes, when a number takes `bits` on average. */
double cache_bytes_per_token(const ModelSizes *model, CacheKind kind, double bits);

#endif
