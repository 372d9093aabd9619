/*
 * The demo's model: its loss is what its parts add up to, it learns, and it cannot see the future.
 */
#include "05_moe/moemodel.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 11, T = 16, B = 4, LAYERS = 2 };

typedef struct Module {
    Params params;
    MoeModel model;
} Module;

static MoeModelConfig config(void) {
    MoeModelConfig cfg = {.vocab_size = VOCAB, .context = T, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = 32,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .multihead = {32, 2, 2, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(32, 16, 4, 2)};
    return cfg;
}

static void module_init(Module *m, Context *ctx) {
    MoeModelConfig cfg = config();
    Error err = {0};
    params_init(&m->params, ctx);
    cr_assert(moemodel_init(&m->model, &m->params, &cfg, &err) == 0, "%s", err.text);
    cr_assert(params_allocate(&m->params, true, &err) == 0, "%s", err.text);
    moemodel_randomize(&m->params, &m->model);
}

/* ids[i] = i^2 mod 11: the next one follows from the last two */
static Tensor *squares(Context *ctx, int shift) {
    int32_t ids[B * T];
    for (int i = 0; i < B * T; i++) ids[i] = (i + shift) * (i + shift) % VOCAB;
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T));
}

DEVICE_TEST(moemodel, learns) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx);
    AdamW adamw = adamw_defaults();
    float first = 0, last = 0;
    for (int step = 0; step < 60; step++) {
        MoeRecord records[LAYERS];
        BlockTraining training = {.losses.aux_loss_alpha = 0.01f};
        Tensor *loss;
        params_zero_grad(&m.params);
        ctx.recording = true;
        Tensor *total = moemodel_loss(&ctx, &m.model, squares(&ctx, 0), squares(&ctx, 1), &training,
                                      records, &loss);
        tape_backward(&ctx, total);
        ctx.recording = false;
        cr_assert(!records[0].loss && records[1].loss, "the first layer is dense");
        float value[3];
        tensor_download(&ctx, value, total), tensor_download(&ctx, value + 1, loss);
        tensor_download(&ctx, value + 2, records[1].loss);
        cr_assert_float_eq(value[0], value[1] + value[2], 1e-5);
        first = step ? first : value[1], last = value[1];
        adamw_step(&adamw, &m.params, 0.01f, 1);
        moemodel_rebalance(&ctx, &m.model, 0.01f);
        context_reset(&ctx);
    }
    cr_assert(first > 2 && last < 0.7f, "from %g to %g", first, last);
}

Test(moemodel, the_future_changes_nothing) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx);
    int32_t ids[T] = {0};
    float before[T * VOCAB], after[T * VOCAB];
    Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&ctx, before, moemodel_forward(&ctx, &m.model, t, NULL, NULL));
    for (int i = 9; i < T; i++) ids[i] = 5;
    t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&ctx, after, moemodel_forward(&ctx, &m.model, t, NULL, NULL));
    /* Experts get other tokens beside the old ones; only the order of sums may change. */
    check_close("the past", after, before, 9 * VOCAB, 1e-5);
    cr_assert(fabsf(after[9 * VOCAB] - before[9 * VOCAB]) > 1e-3f);
}

Test(moemodel, a_wrong_config_is_named) {
    Context ctx = test_context(CPU, F32);
    Params params;
    MoeModel model;
    Error err = {0};
    params_init(&params, &ctx);
    MoeModelConfig cfg = config();
    cfg.num_hidden_layers = 9;
    cr_assert(moemodel_init(&model, &params, &cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_hidden_layers is 9"), "%s", err.text);
    cfg = config(), cfg.block.moe.router.num_experts_per_tok = 5;
    cr_assert(moemodel_init(&model, &params, &cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_experts_per_tok is 5"), "%s", err.text);
}
