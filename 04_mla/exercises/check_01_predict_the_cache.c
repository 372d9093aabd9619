/* The predictions against the project's own counts. */
#include "03_multihead/kv_cache.h"
#include "04_mla/cache_sizes.h"

#include <criterion/criterion.h>
#include <math.h>

extern const long long mla_bytes, mha_bytes, mla_bytes_128, tokens_in_20_gib;
extern const double groups, percent_claimed, percent_by_mla;

Test(predict, cache) {
    MlaConfig cfg = {.num_attention_heads = 64, .kv_lora_rank = 384, .qk_rope_head_dim = 32};
    int64_t bytes = mla_cache_bytes_per_token(&cfg, 48, BF16);
    cr_assert(mla_bytes == bytes, "mla_bytes is not %lld", mla_bytes);
    cr_assert(mha_bytes == kv_cache_bytes_per_token(48, 64, 128, BF16), "mha_bytes is not %lld",
              mha_bytes);
    double group = (double)kv_cache_bytes_per_token(48, 1, 128, BF16);
    cr_assert(fabs(groups - (double)bytes / group) < 1e-3, "groups is not %g", groups);
    cfg.num_attention_heads = 128;
    cr_assert(mla_bytes_128 == mla_cache_bytes_per_token(&cfg, 48, BF16),
              "mla_bytes_128 is not %lld", mla_bytes_128);
    cr_assert(tokens_in_20_gib == (20LL << 30) / bytes, "tokens_in_20_gib is not %lld",
              tokens_in_20_gib);
}

Test(predict, what_is_saved) {
    const ModelSizes *v3 = &model_sizes[MODEL_V3], *dense = &model_sizes[MODEL_DEEPSEEK_67B];
    double before = cache_bytes_per_token(dense, CACHE_GQA, 16);
    double claimed = 100 * (1 - cache_bytes_per_token(v3, CACHE_MLA, 8) / before);
    double of_a_layer = cache_bytes_per_token(v3, CACHE_MLA, 16) / v3->layers;
    double by_mla = 100 * (1 - of_a_layer * dense->layers / before);
    cr_assert(fabs(percent_claimed - claimed) < 0.06, "percent_claimed is not %g", percent_claimed);
    cr_assert(fabs(percent_by_mla - by_mla) < 0.06, "percent_by_mla is not %g", percent_by_mla);
}
