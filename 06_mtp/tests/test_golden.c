/*
 * Modules and heads against PyTorch: logits and loss of each depth, and the gradient of every
 * weight; embedding and head get a part of theirs from each depth (tools/goldens/06_mtp.py).
 */
#include "06_mtp/heads.h"

#include "common/program/testing.h"

#include <stdio.h>

enum { V = 13, H = 12, B = 2, T = 9 };

typedef struct Golden {
    Context ctx;
    SafeTensors *file;
    Params params;
    Decoder decoder;
    Mtp mtp;
    MtpHeads heads;
} Golden;

static void golden_init(Golden *g, Device device, DType dtype, const char *path, int depth,
                        bool heads) {
    Error err = {0};
    DecoderConfig cfg = {.vocab_size = V, .num_hidden_layers = 1};
    cfg.block = (BlockConfig){.hidden_size = H,
                              .intermediate_size = 16,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {H, 2, 0, 8, 6, 0, 5, false}};
    *g = (Golden){.ctx = test_context(device, dtype), .file = golden_open(path)};
    params_init(&g->params, &g->ctx);
    decoder_register(&g->decoder, &g->params, &cfg);
    if (heads)
        mtp_heads_register(&g->heads, &g->params, &g->decoder, depth);
    else
        mtp_register(&g->mtp, &g->params, &g->decoder, depth);
    check_ok(params_allocate(&g->params, true, &err), &err);
    golden_weights(&g->params, g->file, "");
}

/*
 * F32: some twenty operations one after the other, each a sum of up to 24 products. BF16 rounds
 * each of them to 2^-9, and gradients pass twice as many.
 */
static void compare(Golden *g, int depth, Tensor *loss, Tensor *const *shown, DType dtype) {
    double tolerance = dtype == BF16 ? 4e-2 : 2e-6;
    char name[128];
    tape_backward(&g->ctx, loss);
    check_tensor(&g->ctx, "loss", loss, golden_values(g->file, "loss"), tolerance);
    for (int k = 0; k <= depth; k++) {
        snprintf(name, sizeof name, "loss.%d", k);
        check_tensor(&g->ctx, name, shown[k], golden_values(g->file, name), tolerance);
    }
    for (int i = 0; i < g->params.count; i++) {
        const Tensor *w = g->params.list[i];
        snprintf(name, sizeof name, "grad.%s", w->name);
        check_close(name, test_weight_gradient(&g->params, w), golden_values(g->file, name),
                    tensor_count(w), 3 * tolerance);
    }
}

static Tensor *ids_of(Golden *g, const char *name) { return golden_tensor(&g->ctx, g->file, name); }

static void check_logits(Golden *g, int k, Tensor *h, DType dtype) {
    char name[16];
    snprintf(name, sizeof name, "logits.%d", k);
    check_tensor(&g->ctx, name, decoder_head(&g->ctx, &g->decoder, h), golden_values(g->file, name),
                 dtype == BF16 ? 4e-2 : 2e-6);
}

static void modules(Device device, DType dtype, const char *path, int depth) {
    Golden g;
    golden_init(&g, device, dtype, path, depth, false);
    Tensor *ids = ids_of(&g, "ids"), *targets = ids_of(&g, "targets"), *ids_k, *none;
    Tensor *h = decoder_normed(&g.ctx, &g.decoder,
                               decoder_states(&g.ctx, &g.decoder, ids, &(DecoderRun){0}));
    check_logits(&g, 0, h, dtype);
    for (int k = 1; k <= depth; k++) {
        mtp_shift(&g.ctx, ids, ids, k, -1, &ids_k, &none);
        h = mtp_forward(&g.ctx, &g.mtp, k, ids_k, h, &(BlockRun){0});
        check_logits(&g, k, h, dtype);
    }
    const MtpTraining training = {.lambda = 0.3f, .end = 4};
    Tensor *shown[3];
    g.ctx.recording = true;
    Tensor *loss =
        mtp_training_loss(&g.ctx, &g.mtp, ids, targets, &(DecoderRun){0}, &training, shown);
    compare(&g, depth, loss, shown, dtype);
}

DEVICE_TEST(golden, one_module) { modules(device, dtype, "06_mtp/goldens/mtp_1.safetensors", 1); }

DEVICE_TEST(golden, two_modules) { modules(device, dtype, "06_mtp/goldens/mtp_2.safetensors", 2); }

DEVICE_TEST(golden, two_heads) {
    Golden g;
    golden_init(&g, device, dtype, "06_mtp/goldens/heads_2.safetensors", 2, true);
    Tensor *ids = ids_of(&g, "ids"), *targets = ids_of(&g, "targets");
    Tensor *x = decoder_states(&g.ctx, &g.decoder, ids, &(DecoderRun){0});
    for (int k = 1; k <= 2; k++)
        check_logits(&g, k, mtp_heads_forward(&g.ctx, &g.heads, k, x, &(BlockRun){0}), dtype);
    const MtpTraining training = {.lambda = 0.3f, .end = 4};
    Tensor *shown[3];
    g.ctx.recording = true;
    Tensor *loss =
        mtp_heads_training_loss(&g.ctx, &g.heads, ids, targets, &(DecoderRun){0}, &training, shown);
    compare(&g, 2, loss, shown, dtype);
}
