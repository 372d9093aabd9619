/*
 * The decoder, with learned places: its loss is what its parts add up to, it learns, and it cannot
 * see the future. With positions and caches it is tested by chapters 07 and 10.
 */
#include "05_moe/decoder.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 11, T = 16, B = 4, LAYERS = 2 };

typedef struct Module {
    Params params;
    Decoder model;
} Module;

static DecoderConfig config(void) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .places = T, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = 32,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .multihead = {32, 2, 2, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(32, 16, 4, 2)};
    return cfg;
}

static void module_init(Module *m, Context *ctx) {
    DecoderConfig cfg = config();
    Error err = {0};
    params_init(&m->params, ctx);
    cr_assert(decoder_check(&cfg, &err) == 0, "%s", err.text);
    decoder_register(&m->model, &m->params, &cfg);
    cr_assert(params_allocate(&m->params, true, &err) == 0, "%s", err.text);
    decoder_randomize(&m->params, &m->model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
}

/* ids[i] = i^2 mod 11: the next one follows from the last two */
static Tensor *squares(Context *ctx, int shift) {
    int32_t ids[B * T];
    for (int i = 0; i < B * T; i++) ids[i] = (i + shift) * (i + shift) % VOCAB;
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T));
}

DEVICE_TEST(decoder, learns) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx);
    AdamW adamw = adamw_defaults();
    float first = 0, last = 0;
    for (int step = 0; step < 60; step++) {
        BlockTraining training = {.losses.aux_loss_alpha = 0.01f};
        Tensor *loss;
        params_zero_grad(&m.params);
        ctx.recording = true;
        Tensor *total = decoder_training_loss(&ctx, &m.model, squares(&ctx, 0), squares(&ctx, 1),
                                              &(DecoderRun){.training = &training}, &loss);
        const MoeRecord *records = m.model.records;
        tape_backward(&ctx, total);
        cr_assert(!records[0].loss && records[1].loss, "the first layer is dense");
        float value[3];
        tensor_download(&ctx, value, total), tensor_download(&ctx, value + 1, loss);
        tensor_download(&ctx, value + 2, records[1].loss);
        cr_assert_float_eq(value[0], value[1] + value[2], 1e-5);
        first = step ? first : value[1], last = value[1];
        adamw_step(&adamw, &m.params, 0.01f, 1);
        decoder_rebalance(&ctx, &m.model, 0.01f);
        context_reset(&ctx);
    }
    cr_assert(first > 2 && last < 0.7f, "from %g to %g", first, last);
}

static Tensor *logits_of(Context *ctx, const Decoder *d, Tensor *ids) {
    return decoder_logits(ctx, d, decoder_states(ctx, d, ids, &(DecoderRun){0}));
}

Test(decoder, the_future_changes_nothing) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx);
    int32_t ids[T] = {0};
    float before[T * VOCAB], after[T * VOCAB];
    Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&ctx, before, logits_of(&ctx, &m.model, t));
    for (int i = 9; i < T; i++) ids[i] = 5;
    t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&ctx, after, logits_of(&ctx, &m.model, t));
    /* Experts get other tokens beside the old ones; only the order of sums may change. */
    check_close("the past", after, before, 9 * VOCAB, 1e-5);
    cr_assert(fabsf(after[9 * VOCAB] - before[9 * VOCAB]) > 1e-3f);
}

Test(decoder, a_wrong_config_is_named) {
    DecoderConfig cfg = config();
    Error err = {0};
    cfg.num_hidden_layers = 0;
    cr_assert(decoder_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_hidden_layers is 0"), "%s", err.text);
    cfg = config(), cfg.vocab_size = 1;
    cr_assert(decoder_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "vocab_size is 1"), "%s", err.text);
    cfg = config(), cfg.block.moe.router.num_experts_per_tok = 5;
    cr_assert(decoder_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_experts_per_tok is 5"), "%s", err.text);
}
