/* Exercise 10.12's check: the counts of the preset v3.2. */
#include "10_full_model/exercises/12_when_it_pays.h"
#include "10_full_model/model/config.h"

#include <criterion/criterion.h>
#include <math.h>

static void near(double answer, double truth, const char *what) {
    cr_assert(fabs(answer / truth - 1) <= 0.01, "%s is not %g", what, answer);
}

Test(pays, when) {
    ModelConfig cfg;
    cr_assert(config_preset(&cfg, "v3.2", NULL) == 0);
    MlaDecodeShape one = {.batch = 1,
                          .q_len = 1,
                          .heads = cfg.num_attention_heads,
                          .kv_lora_rank = cfg.kv_lora_rank,
                          .rope_dim = cfg.qk_rope_head_dim};
    double n = 131072, k = cfg.index_topk, attention = mla_decode_flop(one, 1);
    double indexer = 2.0 * cfg.index_n_heads * cfg.index_head_dim;
    double row = 2.0 * (cfg.kv_lora_rank + cfg.qk_rope_head_dim);
    double key = (double)latent_row_bytes(cfg.index_head_dim, 0);
    near(times_fewer_at_128k, attention * n / (indexer * n + attention * k), "times_fewer_at_128k");
    near(crossing, attention * k / (attention - indexer), "crossing");
    near(most_times_fewer, attention / indexer, "most_times_fewer");
    near(bytes_at_128k, row * n / (key * n + row * k), "bytes_at_128k");
}
