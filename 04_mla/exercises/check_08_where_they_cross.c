/* The counts against the module's own, and the crossing against what MLA_AUTO would choose. */
#include "04_mla/cache_sizes.h"

#include <criterion/criterion.h>

extern const int operations_naive, operations_absorbed, operations_expanding;
double largest_chunk(const MlaConfig *cfg);

static const int64_t LONG = (int64_t)1 << 40;

Test(where_they_cross, operations) {
    MlaConfig sizes = model_sizes[MODEL_V3].mla, *cfg = &sizes;
    sizes.qk_nope_head_dim = 96;
    sizes.qk_rope_head_dim = 32;
    sizes.v_head_dim = 64;
    sizes.kv_lora_rank = 384;
    double H = cfg->num_attention_heads, S = 1000;
    /* T = 1 meets S, or S + 1: what one more cached token costs */
    double naive = (mla_naive_flop(cfg, 1, 1001) - mla_naive_flop(cfg, 1, 1000)) / H;
    double absorbed = (mla_absorbed_flop(cfg, 1, 1001) - mla_absorbed_flop(cfg, 1, 1000)) / H;
    double two = (mla_naive_flop(cfg, 2, 1000) - mla_naive_flop(cfg, 1, 1000)) / H / (S - 1);
    cr_assert(operations_absorbed == (int)absorbed, "operations_absorbed is not %d",
              operations_absorbed);
    cr_assert(operations_naive == (int)two, "operations_naive is not %d", operations_naive);
    cr_assert(operations_expanding == (int)(naive - two), "operations_expanding is not %d",
              operations_expanding);
}

Test(where_they_cross, as_mla_auto_chooses) {
    for (int rank = 129; rank <= 1024; rank += 97)
        for (int heads = 1; heads <= 128; heads *= 8) {
            MlaConfig cfg = model_sizes[MODEL_V3].mla;
            cfg.num_attention_heads = heads;
            cfg.kv_lora_rank = rank;
            double T = largest_chunk(&cfg);
            cr_assert(T > 1 && T < 1e6, "kv_lora_rank %d: it is not %g", rank, T);
            cr_assert(mla_cheaper(&cfg, (int64_t)(T * 0.99), LONG) == MLA_ABSORBED,
                      "kv_lora_rank %d: naive is cheaper before %g", rank, T);
            cr_assert(mla_cheaper(&cfg, (int64_t)(T * 1.01) + 1, LONG) == MLA_NAIVE,
                      "kv_lora_rank %d: absorbed is still cheaper after %g", rank, T);
        }
}

Test(where_they_cross, small_latents_never_cross) {
    MlaConfig cfg = model_sizes[MODEL_V3].mla;
    for (cfg.kv_lora_rank = 16; cfg.kv_lora_rank <= 128; cfg.kv_lora_rank += 16)
        cr_assert(largest_chunk(&cfg) == -1, "kv_lora_rank %d: absorbed is always cheaper",
                  cfg.kv_lora_rank);
}
