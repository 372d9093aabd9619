/*
 * Exercise 10.2's check: presets, tied heads, biases and dense models, against what registering a
 * model counts. block_parameters() would do the counting, so it is not there.
 */
#include "10_full_model/model/config.h"

#include "10_full_model/tests/test_world.h"

extern const double one_layer_more;

int64_t block_parameters(const BlockConfig *cfg, int layer) {
    cr_assert_fail("block_parameters() counts by itself: do without it");
    return cfg->hidden_size + layer;
}

static void counted(const char *what, ModelConfig cfg) {
    Context ctx = test_context(CPU, F32);
    Model model;
    Error err = {0};
    check_ok(model_register(&model, &ctx, &cfg, &err), &err);
    int64_t truth = params_count(&model.params), answer = config_parameters(&cfg);
    cr_assert(answer == truth, "%s has %lld numbers, not %lld", what, (long long)truth,
              (long long)answer);
}

static ModelConfig preset(const char *name) {
    ModelConfig cfg;
    cr_assert(config_preset(&cfg, name, NULL) == 0);
    return cfg;
}

Test(count, presets) {
    static const char *const names[] = {"nano", "small", "default", "large", "109m", "v2-lite"};
    for (int i = 0; i < 6; i++) counted(names[i], preset(names[i]));
}

Test(count, other_models) {
    ModelConfig cfg = tiny_config(50);
    counted("a small model", cfg);
    cfg.tie_word_embeddings = true;
    counted("one whose head is its table", cfg);
    cfg.q_lora_rank = 0;
    counted("one without compressed queries", cfg);
    cfg.first_k_dense_replace = cfg.num_hidden_layers;
    counted("a dense one", cfg);
}

Test(count, one_layer_more) {
    ModelConfig cfg = preset("v3");
    int64_t before = config_parameters(&cfg);
    cfg.num_hidden_layers++;
    double billions = (double)(config_parameters(&cfg) - before) / 1e9;
    cr_assert(fabs(one_layer_more / billions - 1) <= 0.005, "it is not %g", one_layer_more);
}
