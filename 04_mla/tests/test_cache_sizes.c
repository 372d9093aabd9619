/*
 * The sizes against the numbers that the papers print. They are exact: no tolerance but the papers'
 * own rounding.
 */
#include "04_mla/cache_sizes.h"

#include <criterion/criterion.h>
#include <math.h>

static int64_t numbers(ModelId id, CacheKind kind) {
    return cache_numbers_per_token(&model_sizes[id], kind);
}

/* V3's report, and the slides about its hardware: 70.272 KB a token in BF16. */
Test(cache_sizes, v3_keeps_70272_bytes) {
    cr_assert(cache_bytes_per_token(&model_sizes[MODEL_V3], CACHE_MLA, 16) == 70272);
    cr_assert(mla_cache_bytes_per_token(&model_sizes[MODEL_V3].mla, 61, BF16) == 70272);
    cr_assert(mla_cache_bytes_per_token(&model_sizes[MODEL_V3].mla, 61, F32) == 2 * 70272);
}

/* V2's appendix on MLA against MHA: thousands of elements with one decimal. */
Test(cache_sizes, v2_ablations) {
    cr_assert(round(numbers(MODEL_V2_ABLATION_SMALL, CACHE_MHA) / 100.0) == 1106);
    /* 15,552: the paper writes 15.6K */
    cr_assert(round(numbers(MODEL_V2_ABLATION_SMALL, CACHE_MLA) / 100.0) == 156);
    cr_assert(round(numbers(MODEL_V2_ABLATION_LARGE, CACHE_MHA) / 100.0) == 8602);
    cr_assert(round(numbers(MODEL_V2_ABLATION_LARGE, CACHE_MLA) / 100.0) == 346);
}

/* V2, section 2.1.4: as large as GQA with 2.25 groups, whatever the number of heads and layers. */
Test(cache_sizes, mla_is_two_and_a_quarter_groups) {
    for (int id = 0; id < MODEL_COUNT; id++)
        cr_assert(4 * numbers(id, CACHE_MLA) == 9 * numbers(id, CACHE_MQA), "%s",
                  model_sizes[id].name);
}

/* What "reduces the KV cache by 93.3 %" compares: GQA in 16 bits with MLA in 6. */
Test(cache_sizes, what_93_percent_compares) {
    const ModelSizes *v2 = &model_sizes[MODEL_V2], *dense = &model_sizes[MODEL_DEEPSEEK_67B];
    double before = cache_bytes_per_token(dense, CACHE_GQA, 16); /* 389,120 bytes */
    double claimed = cache_bytes_per_token(v2, CACHE_MLA, 6);    /*  25,920 bytes */
    double same_bits = cache_bytes_per_token(v2, CACHE_MLA, 16); /*  69,120 bytes */
    cr_assert(round(1000 * (1 - claimed / before)) == 933);
    cr_assert(round(1000 * (1 - same_bits / before)) == 822);
    /* against the same model with a key and a value for each of its 128 heads */
    double as_mha = cache_bytes_per_token(v2, CACHE_MHA, 16);
    cr_assert(round(1000 * (1 - same_bits / as_mha)) == 982);
}

/* No typing error in the table: each is a layer that mla_init would take. */
Test(cache_sizes, every_layer_is_possible) {
    Error err = {0};
    for (int id = 0; id < MODEL_COUNT; id++)
        cr_assert(mla_check(&model_sizes[id].mla, &err) == 0, "%s: %s", model_sizes[id].name,
                  err.text);
}
