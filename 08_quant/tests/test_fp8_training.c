/*
 * Layers that multiply in FP8, and their gradients: near those in high precision, where DeepSeek-V3
 * has them, and in a decoder that learns as it does without.
 */
#include "08_quant/fp8.h"
#include "08_quant/fp8_rungs.h"

#include "05_moe/decoder/decoder.h"
#include "common/core/products.h"
#include "common/program/testing.h"

#include <math.h>

/* Weights are Params': their gradients are F32, whatever the context's dtype is. */
static void new_weights(Context *ctx, Params *params, Tensor **w, int count, const int64_t *shape,
                        int ndim) {
    static const char *const names[] = {"gate_proj", "up_proj"};
    params_init(params, ctx);
    for (int i = 0; i < count; i++) w[i] = params_new(params, NULL, names[i], shape, ndim);
    test_params(params, 1);
}

static Tensor constant(Context *ctx, uint64_t stream, int64_t rows, int64_t cols, int64_t used) {
    float *c = test_floats(rows * cols);
    for (int64_t i = 0; i < rows * cols; i++)
        c[i] = i < used * cols ? rng_normal(1, stream, (uint64_t)i) : 0;
    return *tensor_copy_in(ctx, "c", F32, c, SHAPE(rows, cols));
}

/* linear() and linear_residual(), x used twice and W, too: y and all gradients within what rounding
 * to 3 bits of fraction does (2.6 % of a Normal number, and two such operands in a product) of the
 * products in high precision. The limit says that the three products are the right ones. */
DEVICE_TEST(fp8, linear_near_high_precision) {
    Context ctx = test_context(device, dtype);
    if (fp8_check(&ctx, &err)) return;
    enum { ROWS = 150, D = 160 };
    Tensor c = constant(&ctx, 3, ROWS, D, ROWS);
    float *dx[2], *dw[2], total[2];
    for (int fp8 = 0; fp8 < 2; fp8++) {
        Params params;
        Tensor *w, *x = test_normal(&ctx, "x", 1, SHAPE(ROWS, D));
        new_weights(&ctx, &params, &w, 1, SHAPE(D, D));
        ctx.products = fp8 ? &fp8_products : NULL;
        ctx.recording = true;
        Tensor *y = linear(&ctx, x, w, NULL);
        y = linear_residual(&ctx, y, w, NULL, (Residual){.x = x});
        Tensor *loss = weighted_sum(&ctx, y, &c);
        tape_backward(&ctx, loss);
        tensor_download(&ctx, &total[fp8], loss);
        dx[fp8] = test_gradient(&ctx, x), dw[fp8] = test_weight_gradient(&params, w);
        ctx.recording = false;
    }
    cr_assert(total[0] != total[1], "FP8 changed nothing");
    check_close("dx", dx[1], dx[0], ROWS * D, 0.08);
    check_close("dw", dw[1], dw[0], D * D, 0.08);
}

/* Experts, one without rows and rows without an expert, in both grouped products. */
DEVICE_TEST(fp8, experts_near_high_precision) {
    Context ctx = test_context(device, dtype);
    if (fp8_check(&ctx, &err)) return;
    enum { E = 4, IN = 144, INNER = 160, ROWS = 300 };
    const int32_t host[E + 1] = {0, 130, 130, 141, 297};
    Tensor *offsets = tensor_copy_in(&ctx, "offsets", I32, host, SHAPE(E + 1));
    Tensor c = constant(&ctx, 9, ROWS, IN, host[E]); /* what nobody has does not count */
    float *got[2][4];
    for (int fp8 = 0; fp8 < 2; fp8++) {
        Params first, second;
        Tensor *up[2], *down, *x = test_normal(&ctx, "x", 1, SHAPE(ROWS, IN));
        new_weights(&ctx, &first, up, 2, SHAPE(E, INNER, IN));
        new_weights(&ctx, &second, &down, 1, SHAPE(E, IN, INNER));
        ctx.products = fp8 ? &fp8_products : NULL;
        ctx.recording = true;
        Tensor *h = grouped_swiglu(&ctx, x, up[0], up[1], offsets);
        tape_backward(&ctx, weighted_sum(&ctx, grouped_linear(&ctx, h, down, offsets), &c));
        ctx.recording = false;
        got[fp8][0] = test_gradient(&ctx, x);
        got[fp8][1] = test_weight_gradient(&first, up[0]);
        got[fp8][2] = test_weight_gradient(&first, up[1]);
        got[fp8][3] = test_weight_gradient(&second, down);
    }
    const int64_t counts[] = {host[E] * IN, E * INNER * IN, E * INNER * IN, E * IN * INNER};
    static const char *const names[] = {"dx", "dgate", "dup", "ddown"};
    /* three products one after the other, and SwiGLU's own gradient between them: 0.1 on a CPU */
    for (int i = 0; i < 4; i++) check_close(names[i], got[1][i], got[0][i], counts[i], 0.15);
    for (int i = host[E] * IN; i < ROWS * IN; i++)
        cr_assert(got[1][0][i] == 0, "dx of a row that nobody has");
}

#ifdef WITH_CUDA
CUDA_TEST(fp8, refuses_what_is_not_hopper_in_bf16) {
    Context ctx = test_context(CUDA, dtype);
    int can = fp8_hopper_available(ctx.gpu, dtype, 16, 16);
    cr_assert(fp8_check(&ctx, &err) == (can ? 0 : -1) && (can || strstr(err.text, "Hopper")));
}
#endif

/* Which weights: not the head, the gate and what the copy engine cannot address. */
CPU_TEST(fp8, what_stays_in_high_precision) {
    static const struct {
        const char *name;
        int64_t out, in;
        bool taken;
    } weights[] = {{"model.layers.0.mlp.down_proj.weight", 64, 32, true},
                   {"model.layers.0.self_attn.kv_b_proj.weight", 48, 16, true},
                   {"model.layers.3.mlp.gate_proj.weight", 64, 32, true},
                   {"model.layers.3.mlp.gate.weight", 64, 32, false},
                   {"lm_head.weight", 64, 32, false},
                   {"model.layers.61.eh_proj.weight", 64, 128, false},
                   {"model.layers.0.mlp.up_proj.weight", 40, 32, false},
                   {"model.layers.0.mlp.up_proj.weight", 64, 40, false}};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        Tensor w =
            tensor_view(NULL, weights[i].name, F32, CPU, SHAPE(weights[i].out, weights[i].in));
        cr_assert(fp8_takes(&ctx, &w) == weights[i].taken, "%s %lld x %lld", weights[i].name,
                  (long long)weights[i].out, (long long)weights[i].in);
    }
}

enum { VOCAB = 11, T = 16, B = 4, STEPS = 24 };

/* ids[i] = i^2 mod 11: the next one follows from the last two. Mean loss of all steps. */
static float trained(Context *ctx, bool fp8) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .places = T, .num_hidden_layers = 2};
    cfg.block = (BlockConfig){.hidden_size = 64,
                              .intermediate_size = 128,
                              .rms_norm_eps = 1e-6f,
                              .multihead = {64, 4, 4, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(64, 32, 4, 2)};
    Params params;
    Decoder model;
    params_init(&params, ctx);
    decoder_register(&model, &params, &cfg);
    check_ok(params_allocate(&params, true, &err), &err);
    decoder_randomize(&params, &model, (DecoderStart){0.5f, 0.13f, 0.13f, 0.13f});
    AdamW adamw = adamw_defaults();
    int32_t ids[2][B * T];
    for (int i = 0; i < B * T; i++)
        for (int next = 0; next < 2; next++) ids[next][i] = (i + next) * (i + next) % VOCAB;
    float mean = 0;
    ctx->products = fp8 ? &fp8_products : NULL;
    for (int step = 0; step < STEPS; step++) {
        BlockTraining training = {0};
        Tensor *loss;
        params_zero_grad(&params);
        ctx->recording = true;
        Tensor *from = tensor_copy_in(ctx, "ids", I32, ids[0], SHAPE(B, T));
        Tensor *to = tensor_copy_in(ctx, "targets", I32, ids[1], SHAPE(B, T));
        tape_backward(ctx, decoder_training_loss(ctx, &model, from, to,
                                                 &(DecoderRun){.training = &training}, &loss));
        float value;
        tensor_download(ctx, &value, loss);
        mean += value / STEPS;
        adamw_step(&adamw, &params, 0.001f, 1);
        context_reset(ctx);
    }
    ctx->products = NULL;
    decoder_free(&model);
    params_free(&params);
    return mean;
}

/* Steps in FP8 go where those in high precision go, from the same weights: the paper's runs end
 * within 0.25 % of BF16's. Here the loss falls from 2.7 to 0.06 in 24 steps, and FP8 is behind by
 * some per cent of what is left: 0.8 % of the mean, on the average of these four on a CPU. (Of two
 * runs in high precision whose rates differ by 1e-4 the means differ by 0.01 %.) On a GPU both
 * round to BF16 besides. */
DEVICE_TEST(fp8, training_goes_the_same_way) {
    enum { STARTS = 4 };
    double more = 0;
    for (uint64_t seed = 1; seed <= STARTS; seed++) {
        Context ctx = test_context(device, dtype);
        if (fp8_check(&ctx, &err)) return;
        ctx.rng = (Rng){.seed = seed};
        float plain = trained(&ctx, false);
        ctx.rng = (Rng){.seed = seed};
        float fp8 = trained(&ctx, true);
        cr_assert(plain < 2 && plain != fp8);
        more += (fp8 / plain - 1) / STARTS;
        context_free(&ctx);
    }
    cr_assert(fabs(more) < 0.02, "the loss is larger by %.2f %%", 100 * more);
}
