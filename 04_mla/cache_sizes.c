/*
 * Sizes of published models, from their config.json files and papers, and what they cache.
 */
#include "04_mla/cache_sizes.h"

#include "03_multihead/kv_cache.h"

/* V2's sizes of a head and of a latent: nope 128, rope 64, v 128 over 512 numbers. */
#define MLA_512(hidden, heads, q_lora)                                                          \
    {                                                                                           \
        .hidden_size = hidden, .num_attention_heads = heads, .q_lora_rank = q_lora,             \
        .kv_lora_rank = 512, .qk_nope_head_dim = 128, .qk_rope_head_dim = 64, .v_head_dim = 128 \
    }

const ModelSizes model_sizes[MODEL_COUNT] = {
    /* layers, heads, head_dim, groups; hidden_size, heads, q_lora_rank */
    [MODEL_V2_LITE] = {"DeepSeek-V2-Lite", CACHE_MLA, 27, 16, 128, 8, MLA_512(2048, 16, 0)},
    [MODEL_V2] = {"DeepSeek-V2", CACHE_MLA, 60, 128, 128, 8, MLA_512(5120, 128, 1536)},
    [MODEL_V3] = {"DeepSeek-V3", CACHE_MLA, 61, 128, 128, 8, MLA_512(7168, 128, 1536)},
    [MODEL_LLAMA_7B] = {"Llama 2 7B", CACHE_MHA, 32, 32, 128, 8, MLA_512(4096, 32, 0)},
    [MODEL_DEEPSEEK_67B] = {"DeepSeek 67B", CACHE_GQA, 95, 64, 128, 8, MLA_512(8192, 64, 0)},
    [MODEL_V2_ABLATION_SMALL] = {"16B of V2's ablation", CACHE_MLA, 27, 16, 128, 8,
                                 MLA_512(2048, 16, 0)},
    [MODEL_V2_ABLATION_LARGE] = {"250B of V2's ablation", CACHE_MLA, 60, 56, 128, 8,
                                 MLA_512(5120, 56, 0)},
};

const char *cache_kind_name(CacheKind kind) {
    static const char *const names[CACHE_KINDS] = {"MHA", "GQA", "MQA", "MLA"};
    return names[kind];
}

int64_t cache_numbers_per_token(const ModelSizes *model, CacheKind kind) {
    /* bytes of numbers that take one byte each */
    if (kind == CACHE_MLA) return mla_cache_bytes_per_token(&model->mla, model->layers, I8);
    int kv_heads = kind == CACHE_MHA ? model->heads : kind == CACHE_GQA ? model->groups : 1;
    return kv_cache_bytes_per_token(model->layers, kv_heads, model->head_dim, I8);
}

double cache_bytes_per_token(const ModelSizes *model, CacheKind kind, double bits) {
    return (double)cache_numbers_per_token(model, kind) * bits / 8;
}
