/* The predictions against the project's own counts. */
#include "03_multihead/kv_cache.h"
#include "04_mla/cache_sizes.h"

#include <criterion/criterion.h>
#include <math.h>

extern const long long mla_bytes, mha_bytes, mla_bytes_128, tokens_in_20_gib;
extern const double groups, percent_saved;

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
    double v2 = cache_bytes_per_token(&model_sizes[MODEL_V2], CACHE_MLA, 16);
    double dense = cache_bytes_per_token(&model_sizes[MODEL_DEEPSEEK_67B], CACHE_GQA, 16);
    cr_assert(fabs(percent_saved - 100 * (1 - v2 / dense)) < 0.06, "percent_saved is not %g",
              percent_saved);
}
