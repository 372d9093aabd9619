/*
 * Fake quantisation: PyTorch's numbers and gradients, the rounding of formats.h, and a decoder that
 * learns to live with four bits.
 */
#include "08_quant/qat.h"

#include "08_quant/methods/quantise_decoder.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A weight of Params, since gradients of weights are F32 in every dtype. */
static Tensor *weight(Params *params, Context *ctx, int64_t out, int64_t in, const float *numbers) {
    params_init(params, ctx);
    Tensor *w = params_new(params, NULL, "w", SHAPE(out, in));
    check_ok(params_allocate(params, true, &err), &err);
    if (numbers)
        params_set(params, w, numbers);
    else
        params_normal(params, w, 1);
    return w;
}

/*
 * In F32 a rounding may fall the other way only at a tie, and there is none. PyTorch multiplies by
 * 1 / s: one rounding more. BF16 numbers are others (2^-9 of each), so that some cross over to the
 * next step: there only what follows from the numbers themselves is compared (the next test).
 */
DEVICE_TEST(qat, equals_pytorch) {
    const struct {
        const char *name;
        DType dtype;
        float clip_at;
    } cases[] = {{"i4.1.0", I4, 1}, {"i4.0.5", I4, 0.5f}, {"u8.1.0", U8, 1}, {"u8.0.5", U8, 0.5f}};
    SafeTensors *golden = golden_open("08_quant/goldens/qat.safetensors");
    for (int c = 0; c < 4; c++) {
        Context ctx = test_context(device, F32);
        (void)dtype;
        Params params;
        char name[32];
        Tensor *w = weight(&params, &ctx, 5, 24, golden_values(golden, "w"));
        Tensor *coefficients = golden_tensor(&ctx, golden, "c");
        ctx.recording = true;
        QuantFormat f = {cases[c].dtype, 1, 8, false};
        Tensor *y = fake_quantise(&ctx, w, &f, cases[c].clip_at);
        tape_backward(&ctx, weighted_sum(&ctx, y, coefficients));
        snprintf(name, sizeof name, "%s.y", cases[c].name);
        check_tensor(&ctx, name, y, golden_values(golden, name), 1e-6);
        snprintf(name, sizeof name, "%s.grad", cases[c].name);
        check_close(name, test_weight_gradient(&params, w), golden_values(golden, name), 5 * 24, 0);
    }
}

/* What is trained with is what formats.h will make of it: all sizes, all dtypes. */
CONTEXT_TEST(qat, rounds_as_formats_do) {
    const struct {
        int64_t out, in;
        QuantFormat format;
    } cases[] = {{3, 31, {U8, 1, 0, false}},
                 {7, 96, {I4, 1, 32, false}},
                 {1, 2, {I4, 1, 0, false}},
                 {33, 256, {U8, 1, 128, false}},
                 {65, 130, {I4, 1, 26, false}}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        Params params;
        int64_t out = cases[c].out, in = cases[c].in, n = out * in;
        Tensor *w = weight(&params, &ctx, out, in, NULL);
        float *numbers = test_values(&ctx, w), *expected = test_floats(n); /* rounded, if BF16 */
        check_ok(quant_round_trip(expected, NULL, numbers, out, in, &cases[c].format, &err), &err);
        for (int64_t i = 0; i < n && dtype == BF16; i++)
            expected[i] = bf16_to_float(bf16_from_float(expected[i]));
        check_tensor(&ctx, "y", fake_quantise(&ctx, w, &cases[c].format, 1), expected, 0);
        params_free(&params);
    }
}

/* Straight through inside of the range, zero outside; onto what is there, too. */
CONTEXT_TEST(qat, gradients_pass_inside_of_the_range_alone) {
    enum { OUT = 4, IN = 64 };
    if (ctx.dtype != F32) /* only products give a weight its gradient in F32; a sum does not */
        cr_skip_test("weighted_sum() takes it for a tensor of BF16");
    Params params;
    Tensor *w = weight(&params, &ctx, OUT, IN, NULL);
    Tensor *c = test_normal(&ctx, "c", 5, SHAPE(OUT, IN));
    float *factors = test_values(&ctx, c), *numbers = test_values(&ctx, w);
    Tensor *factors_f32 = tensor_copy_in(&ctx, "c", F32, factors, SHAPE(OUT, IN));
    QuantFormat f = {I4, 1, 32, false};
    ctx.recording = true;
    Tensor *once = weighted_sum(&ctx, fake_quantise(&ctx, w, &f, 0.5f), factors_f32);
    Tensor *twice = weighted_sum(&ctx, fake_quantise(&ctx, w, &f, 0.5f), factors_f32);
    tape_backward(&ctx, add(&ctx, once, twice));
    float *gradient = test_weight_gradient(&params, w), expected[OUT * IN];
    int outside = 0;
    for (int i = 0; i < OUT * IN; i++) {
        float amax = 0;
        for (int j = i / 32 * 32; j < i / 32 * 32 + 32; j++) amax = fmaxf(amax, fabsf(numbers[j]));
        bool in_range = rintf(fabsf(numbers[i]) / (0.5f * amax / 7)) <= 7;
        expected[i] = in_range ? 2 * factors[i] : 0;
        outside += !in_range;
    }
    cr_assert(outside > 5 && outside < OUT * IN / 2, "%d", outside);
    check_close("gradient", gradient, expected, OUT * IN, 0);
}

Test(qat, a_block_of_zeros_stays_zero) {
    Context ctx = test_context(CPU, F32);
    Params params;
    float zeros[64] = {0};
    zeros[40] = 1;
    Tensor *w = weight(&params, &ctx, 2, 32, zeros);
    ctx.recording = true;
    Tensor *y = fake_quantise(&ctx, w, &(QuantFormat){I4, 1, 32, false}, 1);
    check_tensor(&ctx, "y", y, zeros, 1e-7);
    tape_backward(&ctx, sum(&ctx, y));
    float *gradient = test_weight_gradient(&params, w);
    check_all(gradient[0] == 1, gradient[40] == 1);
}

/* ---- a decoder ---- */

enum { VOCAB = 13, T = 24, B = 8, STEPS = 160 };

typedef struct Module {
    Params params;
    Decoder model;
} Module;

static void module_init(Module *m, Context *ctx) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .places = T, .num_hidden_layers = 2};
    cfg.block = (BlockConfig){.hidden_size = 32,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .multihead = {32, 2, 2, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(32, 32, 4, 2)};
    params_init(&m->params, ctx);
    decoder_register(&m->model, &m->params, &cfg);
    check_ok(params_allocate(&m->params, true, &err), &err);
    decoder_randomize(&m->params, &m->model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
}

/* ids[i] = i^3 mod 13 from different places: three tokens say which one follows. */
static Tensor *cubes(Context *ctx, int shift) {
    int32_t ids[B * T];
    for (int i = 0; i < B * T; i++) {
        int n = i / T * 5 + i % T + shift;
        ids[i] = n * n % VOCAB * n % VOCAB;
    }
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T));
}

static float loss_of(Context *ctx, const Decoder *d, bool record, float *value) {
    ctx->recording = record;
    Tensor *loss = decoder_loss(ctx, d, cubes(ctx, 0), cubes(ctx, 1), NULL);
    if (record) tape_backward(ctx, loss);
    tensor_download(ctx, value, loss);
    return *value;
}

static const QuantFormat four_bits = {I4, 1, 32, false};

/*
 * After a plain start, both go on: one plainly, one with what it will be. Then both are rounded.
 * What that costs varies with the order of sums: seen from 0.0018 to 0.05 after plain training,
 * less than 0.0003 after the other.
 */
CPU_TEST(qat, learns_to_live_with_four_bits) {
    float cost[2], trained, rounded;
    for (int qat = 0; qat < 2; qat++) {
        Module m;
        module_init(&m, &ctx);
        AdamW adamw = adamw_defaults();
        for (int step = 0; step < STEPS; step++) {
            params_zero_grad(&m.params);
            ctx.recording = true;
            const Decoder *d = &m.model;
            if (qat && step >= STEPS / 2) d = qat_decoder(&ctx, d, &four_bits, 1);
            loss_of(&ctx, d, true, &trained);
            adamw_step(&adamw, &m.params, step < STEPS / 2 ? 0.01f : 0.003f, 1);
            context_reset(&ctx);
        }
        QuantReport report = {0};
        QuantRecipe recipe = quant_recipe(QUANT_RTN, four_bits);
        check_ok(quantise_decoder(&ctx, &m.model, &recipe, NULL, &report, &err), &err);
        loss_of(&ctx, &m.model, false, &rounded);
        cost[qat] = rounded - trained;
        cr_expect(trained < 0.03f, "%g", (double)trained);
    }
    cr_expect(cost[0] > 0 && cost[1] < 0.25f * cost[0], "after plain training %g, after QAT %g",
              (double)cost[0], (double)cost[1]);
}

/* A decoder made of fake-quantised weights computes what the quantised decoder does. */
CONTEXT_TEST(qat, computes_what_the_quantised_decoder_will) {
    Module m;
    float quantised, plain, fake;
    module_init(&m, &ctx);
    loss_of(&ctx, &m.model, false, &plain);
    ctx.recording = true;
    const Decoder *d = qat_decoder(&ctx, &m.model, &four_bits, 1);
    cr_assert(d->layers[0].mlp.up_proj != m.model.layers[0].mlp.up_proj);
    check_all(d->embed_tokens == m.model.embed_tokens,
              d->layers[1].moe.router.weight == m.model.layers[1].moe.router.weight);
    loss_of(&ctx, d, true, &fake);
    for (int i = 0; i < m.params.count; i++) { /* every weight has a gradient */
        float *gradient = test_weight_gradient(&m.params, m.params.list[i]), largest = 0;
        for (int64_t n = 0; n < tensor_count(m.params.list[i]); n++)
            largest = fmaxf(largest, fabsf(gradient[n]));
        cr_expect(largest > 0 && isfinite(largest), "%s", m.params.list[i]->name);
    }
    if (device == CUDA) return; /* the driver computes on the CPU */
    QuantReport report = {0};
    QuantRecipe recipe = quant_recipe(QUANT_RTN, four_bits);
    check_ok(quantise_decoder(&ctx, &m.model, &recipe, NULL, &report, &err), &err);
    loss_of(&ctx, &m.model, false, &quantised);
    cr_expect(fabsf(fake / quantised - 1) < 1e-5f && fabsf(fake / plain - 1) > 1e-4f,
              "plain %g, fake %g, quantised %g", (double)plain, (double)fake, (double)quantised);
}
