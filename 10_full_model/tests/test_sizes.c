/*
 * Sizes without a model: the published ones, and those that a model really has.
 */
#include "10_full_model/model/model.h"
#include "10_full_model/model/sizes.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>

static ModelConfig preset(const char *name) {
    ModelConfig cfg;
    check_ok(config_preset(&cfg, name, &err), &err);
    return cfg;
}

/* DeepSeek-V3's report: 671B, of which 37B for a token; V2's: 15.7B and 2.4B for V2-Lite; bytes
 * by hand: 61 x (512 + 64) x 2. The reports cut or round to the digit. */
Test(sizes, published_totals) {
    static const struct {
        const char *name;
        double total, active, within;
        int64_t cache;
    } published[] = {
        {"v3", 671e9, 37e9, 0.5e9, 70272},           {"v2-lite", 15.7e9, 2.4e9, 0.06e9, 31104},
        {"109m", 109e6, 50.2e6, 0.1e6, 2560},        {"109m-mha", 109.5e6, 50.7e6, 0.1e6, 12288},
        {"109m-dense", 76.1e6, 50.4e6, 0.1e6, 2560}, {"v3.2", 671.9e9, 37.5e9, 0.1e9, 85888}};
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        ModelConfig cfg = preset(published[i].name);
        double total = (double)config_parameters(&cfg),
               active = (double)config_active_parameters(&cfg);
        cr_assert(fabs(total - published[i].total) <= published[i].within, "%s has %.4g parameters",
                  published[i].name, total);
        cr_assert(fabs(active - published[i].active) <= published[i].within,
                  "%s has %.4g active parameters", published[i].name, active);
        cr_assert(size_cache_per_token(&cfg, BF16) == published[i].cache, "%s keeps %lld bytes",
                  published[i].name, (long long)size_cache_per_token(&cfg, BF16));
    }
}

Test(sizes, kinds_add_up) {
    for (int i = 0; config_preset_name(i); i++) {
        ModelConfig cfg = preset(config_preset_name(i));
        if (!cfg.vocab_size) cfg.vocab_size = 2048;
        cr_assert(config_check(&cfg, &err) == 0, "%s: %s", config_preset_name(i), err.text);
        ConfigSizes sizes = config_sizes(&cfg);
        int64_t total = 0, active = 0;
        for (int k = 0; k < SIZE_KINDS; k++) {
            total += sizes.total[k];
            active += sizes.active[k];
            check_all(sizes.total[k] >= 0, sizes.active[k] <= sizes.total[k] + sizes.total[0]);
        }
        cr_assert(total == sizes.all && active == sizes.all_active, "%s", config_preset_name(i));
        bool sparse = cfg.model_type == DEEPSEEK_V32;
        cr_assert((sizes.total[SIZE_INDEXER] > 0) == sparse, "%s", config_preset_name(i));
    }
}

/* What 109m is compared with differs in one thing: attention, whose size is 109m's within a tenth;
 * or the experts, with 109m's active numbers within half a percent. */
Test(sizes, comparisons_are_fair) {
    ConfigSizes base = {0}, heads = {0}, dense = {0};
    ModelConfig cfg = preset("109m"), mha = preset("109m-mha"), plain = preset("109m-dense");
    base = config_sizes(&cfg), heads = config_sizes(&mha), dense = config_sizes(&plain);
    for (int k = 0; k < SIZE_KINDS; k++)
        cr_assert(k == SIZE_ATTENTION || heads.total[k] == base.total[k], "kind %d", k);
    double attention = (double)heads.total[SIZE_ATTENTION] / (double)base.total[SIZE_ATTENTION];
    double active = (double)dense.all_active / (double)base.all_active;
    check_all(attention > 1, attention<1.1, active> 1, active < 1.005,
              dense.total[SIZE_ATTENTION] == base.total[SIZE_ATTENTION],
              dense.total[SIZE_ROUTED] == 0);
}

/* V3.2's indexer by hand: 61 x (64 x 128 x 1536 + 128 x 7168 + 2 x 128 + 64 x 7168). */
Test(sizes, the_indexer_is_counted_and_nothing_else) {
    ModelConfig v3 = preset("v3"), v32 = preset("v3.2");
    cr_assert(config_parameters(&v32) - config_parameters(&v3) == 851524864);
}

static void activations(ModelConfig cfg, int batch, int context) {
    Context ctx = test_context(CPU, F32);
    Model model;
    check_ok(model_register(&model, &ctx, &cfg, &err), &err);
    indexers_train(&model.indexers, &model.params, INDEXER_LEARNS, 1);
    check_ok(model_allocate(&model, true, &err), &err);
    model_randomize(&model);
    int32_t *ids = calloc((size_t)(batch * context), sizeof *ids);
    for (int i = 0; i < batch * context; i++) ids[i] = (i * 7) % cfg.vocab_size;
    ctx.recording = true;
    Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(batch, context));
    tape_backward(&ctx, indexers_add_losses(&ctx, &model.indexers, model_loss(&model, t, t), 1));
    double estimate = (double)size_to_train(&cfg, F32, batch, context).activations;
    double measured = (double)context_peak_bytes(&ctx);
    cr_assert(fabs(estimate / measured - 1) < 0.2, "%.1f MiB estimated, %.1f MiB measured",
              estimate / 1048576, measured / 1048576);
}

/* The estimate leaves out the experts' bookkeeping and attention's running sums: a fifth is
 * promised. */
Test(sizes, activations_are_estimated) {
    ModelConfig nano = preset("nano");
    nano.vocab_size = 2048;
    activations(nano, 4, 64);
    ModelConfig lite = preset("v2-lite"); /* its proportions, a sixteenth as wide */
    lite.hidden_size /= 16;
    lite.intermediate_size /= 16;
    lite.moe_intermediate_size /= 16;
    lite.kv_lora_rank /= 16;
    lite.num_hidden_layers = 3;
    lite.num_attention_heads = 4;
    lite.qk_nope_head_dim = lite.v_head_dim = 32;
    lite.qk_rope_head_dim = 16;
    lite.vocab_size = 1000;
    lite.max_position_embeddings = 64;
    lite.rope_type = ROPE_DEFAULT;
    lite.bos_token_id = lite.eos_token_id = -1;
    activations(lite, 2, 64);
    activations(tiny_config(300), 8, 64);
    nano.kv_lora_rank = nano.qk_nope_head_dim = 0; /* multi-head attention */
    nano.qk_rope_head_dim = nano.v_head_dim;
    activations(nano, 4, 64);
    ModelConfig wide = tiny_sparse_config(tiny_config(300)); /* indexers that weigh something */
    wide.index_n_heads = 8, wide.index_head_dim = 32, wide.index_topk = 40;
    activations(wide, 8, 64);
}

/* By hand: what each rank has of a model is what it has of the copied weights and of its experts;
 * one rank alone has what size_to_train says. */
Test(sizes, what_ranks_share) {
    ModelConfig cfg;
    check_ok(config_preset(&cfg, "109m", &err), &err);
    double all = (double)config_parameters(&cfg), layers = cfg.num_hidden_layers - 1;
    double experts =
        layers * 3 * cfg.n_routed_experts * cfg.hidden_size * cfg.moe_intermediate_size;
    double copied = all - experts;
    TrainMemory alone = size_to_train(&cfg, BF16, 8, 256);
    RankMemory one = size_of_rank(&cfg, BF16, 8, 256, 1, false, 1);
    cr_assert(one.weights + one.optimizer == alone.weights + alone.moments);
    cr_assert(one.gradients == alone.gradients && one.activations == alone.activations);
    RankMemory zero = size_of_rank(&cfg, BF16, 8, 256, 2, true, 1);
    cr_assert(zero.optimizer == one.optimizer / 2 && zero.weights == one.weights);
    cr_assert(zero.activations == size_to_train(&cfg, BF16, 4, 256).activations);
    RankMemory both = size_of_rank(&cfg, BF16, 8, 256, 4, true, 2);
    cr_assert(both.weights == 2 * (copied + experts / 2));
    cr_assert(both.optimizer == 12 * (copied / 4 + experts / 2 / 2));
}
