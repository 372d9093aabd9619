/*
 * What the modes cost, and which one is chosen: counts by hand against mla_naive_flop and
 * mla_absorbed_flop. They are whole numbers below 2^53, so exact.
 */
#include "04_mla/cache_sizes.h"
#include "04_mla/mla_selected.h"

#include <criterion/criterion.h>

/* One new token, 1000 in the cache with it, one layer of V2-Lite: 16 heads, 512 -> 128 + 128. */
Test(mla_cost, one_new_token) {
    const MlaConfig *lite = &model_sizes[MODEL_V2_LITE].mla;
    double expand = 2.0 * 1000 * 512 * 16 * 256, absorb = 2.0 * 512 * 16 * 256;
    double naive = 2.0 * 1000 * 16 * (192 + 128), absorbed = 2.0 * 1000 * 16 * (576 + 512);
    cr_assert(mla_naive_flop(lite, 1, 1000) == expand + naive);
    cr_assert(mla_absorbed_flop(lite, 1, 1000) == absorb + absorbed);
}

/* A prompt of 4: 1 + 2 + 3 + 4 pairs; and its last 2 tokens alone: 3 + 4. */
Test(mla_cost, the_mask_is_work_that_is_not_done) {
    const MlaConfig cfg = {.num_attention_heads = 3,
                           .kv_lora_rank = 10,
                           .qk_nope_head_dim = 4,
                           .qk_rope_head_dim = 2,
                           .v_head_dim = 5};
    cr_assert(mla_naive_flop(&cfg, 4, 4) == 2.0 * 3 * (4 * 10 * 9 + 10 * 11));
    cr_assert(mla_naive_flop(&cfg, 2, 4) == 2.0 * 3 * (4 * 10 * 9 + 7 * 11));
    cr_assert(mla_absorbed_flop(&cfg, 2, 4) == 2.0 * 3 * (2 * 10 * 9 + 7 * 22));
}

/* The lesson: 512 * 256 / (2 * 512 - 256) = 170.67 with a long cache, whatever the heads. */
Test(mla_cost, where_the_modes_cross) {
    const int64_t S = 1 << 30;
    for (int id = MODEL_V2_LITE; id <= MODEL_V3; id++) {
        const MlaConfig *cfg = &model_sizes[id].mla;
        cr_assert(mla_cheaper(cfg, 1, S) == MLA_ABSORBED);
        cr_assert(mla_cheaper(cfg, 170, S) == MLA_ABSORBED);
        cr_assert(mla_cheaper(cfg, 171, S) == MLA_NAIVE);
        cr_assert(mla_cheaper(cfg, 100, 100) == MLA_NAIVE,
                  "a prompt alone: nothing to expand twice");
    }
}

/* What a selection leaves out, counted pair by pair; and whom it helps. */
Test(mla_cost, of_a_selection) {
    const MlaConfig v3 = {7168, 128, 1536, 512, 128, 64, 128, false};
    for (int i = 0; i < 60; i++) {
        int64_t S = 1 + 7 * i, T = 1 + i * i % S, k = 1 + 5 * i % 90;
        double pairs = 0, all = 0;
        for (int64_t t = 0; t < T; t++)
            all += (double)(S - T + t + 1),
                pairs += (double)(S - T + t + 1 < k ? S - T + t + 1 : k);
        double left_out = 2 * 128 * (all - pairs);
        double naive = mla_naive_flop(&v3, T, S) - left_out * (128 + 64 + 128);
        double absorbed = mla_absorbed_flop(&v3, T, S) - left_out * (2 * 512 + 64);
        cr_assert(mla_selected_cheaper(&v3, T, S, k) ==
                      (absorbed < naive ? MLA_ABSORBED : MLA_NAIVE),
                  "T %d, S %d, k %d", (int)T, (int)S, (int)k);
        cr_assert(mla_selected_cheaper(&v3, T, S, S) == mla_cheaper(&v3, T, S));
    }
    /* a prompt behind 64K tokens: dense is naive, 2048 of them are read as they lie */
    cr_assert(mla_cheaper(&v3, 4096, 65536) == MLA_NAIVE);
    cr_assert(mla_selected_cheaper(&v3, 4096, 65536, 2048) == MLA_ABSORBED);
}
