/*
 * Weights and the optimizer: the list without a device, the layout, groups and dtypes, AdamW
 * against its formulas, and the schedule.
 */
#include "common/core/optimizer.h"

#include "common/program/testing.h"

#include <math.h>
#include <string.h>

/* ---- the list ---- */

Test(params, are_counted_and_found_without_a_device) {
    Params params = {0};
    Tensor *w = params_new(&params, "model.layers.60", "q_proj.weight", SHAPE(1 << 30, 1 << 20));
    Tensor *embed = params_new(&params, NULL, "embed", SHAPE(7, 3));
    Tensor *bias = params_buffer(&params, "gate", "bias", F32, SHAPE(5));
    cr_assert_str_eq(w->name, "model.layers.60.q_proj.weight");
    cr_assert_str_eq(embed->name, "embed");
    cr_assert(params_find(&params, "gate.bias") == bias && !params_find(&params, "bias"));
    cr_assert(params_count(&params) == (1LL << 50) + 21);
    cr_assert(!w->data && !embed->data && !bias->data);
}

CONTEXT_TEST(params, that_do_not_fit_say_what_they_need) {
    Params params;
    params_init(&params, &ctx);
    params_new(&params, NULL, "w", SHAPE(1 << 30, 1 << 20));
    cr_assert(params_allocate(&params, true, &err) == -1);
    cr_assert(strstr(err.text, "1125899.9 billion weights") && strstr(err.text, "to train"), "%s",
              err.text);
}

/* ---- the layout ---- */

/* A model of three weights; other: of another dtype, if there is one; frozen. */
typedef struct Three {
    Params params;
    Tensor *w, *other, *bias;
} Three;

static void three_register(Three *t, Context *ctx) {
    params_init(&t->params, ctx);
    t->bias = params_new(&t->params, NULL, "bias", SHAPE(70));
    t->w = params_new(&t->params, NULL, "w", SHAPE(3, 21));
    t->other = params_new(&t->params, NULL, "other", SHAPE(5, 13));
}

static void three_allocate(Three *t, bool training) {
    check_ok(params_allocate(&t->params, training, &err), &err);
    for (int i = 0; i < 3; i++) params_normal(&t->params, t->params.list[i], 1);
}

/* Steps on gradients that depend on the weight and the step alone; returns the last norm. */
static float three_train(Three *t, int steps, float lr) {
    AdamW adamw = adamw_defaults();
    float grads[70], norm = 0;
    for (int step = 0; step < steps; step++) {
        params_zero_grad(&t->params);
        for (int i = 0; i < 3; i++) {
            Tensor *w = t->params.list[i];
            if (!w->grad) continue;
            for (int j = 0; j < 70; j++)
                grads[j] = rng_normal((uint64_t)step, (uint64_t)w->name[0], (uint64_t)j);
            tensor_upload(t->params.ctx, w->grad, grads), w->has_grad = true;
        }
        norm = adamw_step(&adamw, &t->params, lr, 1);
    }
    return norm;
}

CONTEXT_TEST(params, all_that_train_alike_are_one_span) {
    Three t;
    three_register(&t, &ctx);
    three_allocate(&t, true);
    const ParamSpan *s = t.params.spans;
    cr_assert(t.params.span_count == 1 && s->dtype == dtype && s->rate == 1 && s->first == 0);
    cr_assert(s->size == 64 + 128 + 128 && s->decayed == 64 + 128 && t.params.size == s->size);
    cr_assert(s->values == t.params.values && t.w->data == s->values);
    cr_assert(params_offset(&t.params, t.w) == 0 && params_offset(&t.params, t.other) == 64 &&
              params_offset(&t.params, t.bias) == 192);
    cr_assert(params_master(&t.params, t.bias) == s->master + 192);
}

/* Two bytes a weight where nothing trains: what is read back is what the model computes with. */
CONTEXT_TEST(params, that_only_infer_have_a_value_and_no_more) {
    Three t;
    three_register(&t, &ctx);
    three_allocate(&t, false);
    cr_assert(!t.params.master && !t.params.grads && !t.params.m && !t.params.v);
    cr_assert(!t.w->requires_grad && !t.w->grad && t.params.size == 0);
    float values[63], got[63];
    for (int i = 0; i < 63; i++) values[i] = 1 + (float)i / 512; /* F32 has them, BF16 rounds */
    params_set(&t.params, t.w, values);
    params_get(&t.params, t.w, got);
    for (int i = 0; i < 63; i++) {
        float want = dtype == BF16 ? bf16_to_float(bf16_from_float(values[i])) : values[i];
        cr_assert(got[i] == want, "%g, not %g", got[i], want);
    }
}

/* What is frozen stays as it is to the bit, and the others move as if it were not there. */
DEVICE_TEST(params, a_frozen_weight_does_not_move) {
    float moved[2][63], norms[2], before[65], after[65];
    for (int run = 0; run < 2; run++) {
        Context ctx = test_context(device, dtype);
        Three t;
        three_register(&t, &ctx);
        params_group(&t.params, t.other)->frozen = true;
        three_allocate(&t, true);
        cr_assert(!t.other->requires_grad && !t.other->grad && t.params.size == 64 + 128);
        if (run) { /* its numbers are nobody's business: nor is a NaN */
            float nan[65];
            for (int i = 0; i < 65; i++) nan[i] = i % 7 ? (float)i / 3 : NAN;
            params_set(&t.params, t.other, nan);
        }
        params_get(&t.params, t.other, before);
        norms[run] = three_train(&t, 3, 0.1f);
        params_get(&t.params, t.other, after);
        cr_assert(!memcmp(before, after, sizeof before), "it moved");
        params_get(&t.params, t.w, moved[run]);
        params_free(&t.params);
        context_free(&ctx);
    }
    cr_assert(isfinite(norms[0]) && norms[0] == norms[1]);
    cr_assert(!memcmp(moved[0], moved[1], sizeof moved[0]));
}

/* A rate of 2 at half the learning rate is the learning rate, and each weight may be decayed or
 * not. */
DEVICE_TEST(params, a_group_has_a_rate_and_a_decay) {
    float moved[3][70], start[70];
    for (int run = 0; run < 3; run++) {
        Context ctx = test_context(device, dtype);
        Three t;
        three_register(&t, &ctx);
        if (run == 1) params_group(&t.params, t.bias)->rate = 2;
        if (run == 2) params_group(&t.params, t.bias)->decayed = true;
        three_allocate(&t, true);
        cr_assert(t.params.span_count == (run == 1 ? 2 : 1));
        params_get(&t.params, t.bias, start);
        three_train(&t, 1, run == 1 ? 0.05f : 0.1f);
        params_get(&t.params, t.bias, moved[run]);
        params_free(&t.params);
        context_free(&ctx);
    }
    cr_assert(!memcmp(moved[0], moved[1], sizeof moved[0]));
    for (int i = 0; i < 70; i++) { /* 0.1 of 0.1 of the weight; its roundings */
        float decay = moved[0][i] - moved[2][i];
        cr_assert(fabsf(decay - 0.01f * start[i]) < 1e-6f, "[%d] decays by %g, not %g", i, decay,
                  0.01f * start[i]);
    }
}

/* One weight has another dtype than the model; on the CPU, which computes in F32, it is frozen. */
CONTEXT_TEST(params, a_weight_may_have_a_dtype_of_its_own) {
    Three alike, mixed;
    DType another = dtype == F32 ? BF16 : F32;
    three_register(&alike, &ctx);
    three_register(&mixed, &ctx);
    params_set_dtype(&mixed.params, mixed.other, another);
    if (device == CPU)
        params_group(&mixed.params, mixed.other)->frozen =
            params_group(&alike.params, alike.other)->frozen = true;
    three_allocate(&alike, true);
    three_allocate(&mixed, true);
    cr_assert(mixed.other->dtype == another && mixed.w->dtype == dtype);
    float host[70], got[70];
    for (int i = 0; i < 3; i++) {
        params_get(&alike.params, alike.params.list[i], host);
        params_set(&mixed.params, mixed.params.list[i], host);
    }
    cr_assert(three_train(&alike, 3, 0.1f) > 0 && three_train(&mixed, 3, 0.1f) > 0);
    Tensor *const weights[] = {mixed.w, mixed.other, mixed.bias};
    Tensor *const wanted[] = {alike.w, alike.other, alike.bias};
    for (int i = 0; i < 3; i++) {
        int64_t n = tensor_count(weights[i]);
        params_get(&alike.params, wanted[i], host);
        params_get(&mixed.params, weights[i], got);
        /* Where both have F32 numbers the norm's other order is all that differs; a frozen BF16 one
         * is rounded. */
        bool rounded = device == CPU && i == 1;
        check_close(weights[i]->name, got, host, n, rounded ? 0x1p-8 : 1e-6);
        check_tensor(&ctx, weights[i]->name, weights[i], host,
                     weights[i]->dtype == BF16 ? 0x1p-8 : 1e-6);
    }
}

/* Behind params_finish_gradients() grads may be added to, for instance by other processes. */
CONTEXT_TEST(params, finished_gradients_are_taken_as_they_are) {
    Three t;
    three_register(&t, &ctx);
    three_allocate(&t, true);
    float stale[70], zeros[70] = {0}, before[65], after[65];
    for (int i = 0; i < 70; i++) stale[i] = 1;
    for (int i = 0; i < 3; i++) tensor_upload(&ctx, t.params.list[i]->grad, stale);
    params_zero_grad(&t.params);
    t.w->has_grad = true; /* the others were written in an earlier step */
    params_finish_gradients(&t.params);
    check_tensor(&ctx, "w", t.w->grad, stale, 0);
    check_tensor(&ctx, "bias", t.bias->grad, zeros, 0);
    tensor_upload(&ctx, t.other->grad, stale); /* what another process found */
    params_get(&t.params, t.other, before);
    AdamW adamw = adamw_defaults();
    float norm = adamw_step(&adamw, &t.params, 0.1f, 1);
    cr_assert_float_eq(norm, sqrtf(63 + 65), 1e-4);
    params_get(&t.params, t.other, after);
    for (int i = 0; i < 65; i++) cr_assert(after[i] < before[i] + 0.01f * fabsf(before[i]));
}

/* ---- AdamW ---- */

/* As it is kept between steps. */
static double kept(double moment, DType moments) {
    return moments == BF16 ? bf16_to_float(bf16_from_float((float)moment)) : moment;
}

/* Three steps of AdamW on two weights against the formulas of optimizer.h, in double precision. (Of
 * these moments none is so near to a tie between two BF16 that F32 would round it elsewhere.) */
static void check_adamw(Context *of, DType moments) {
    Context ctx = *of;
    Params params;
    ctx.moments = moments;
    params_init(&params, &ctx);
    Tensor *matrix = params_new(&params, NULL, "matrix", SHAPE(3, 21)); /* decayed */
    Tensor *vector = params_new(&params, NULL, "vector", SHAPE(5));     /* not */
    Tensor *unused =
        params_new(&params, NULL, "unused", SHAPE(2, 2)); /* no gradient: only decays */
    cr_assert(params_allocate(&params, true, &err) == 0);
    cr_assert(params_count(&params) == 63 + 5 + 4);
    params_normal(&params, matrix, 1);
    params_fill(&params, vector, 2);
    params_fill(&params, unused, 1);

    AdamW adamw = adamw_defaults();
    adamw.clip = 0.5f;
    double w[68], m[68] = {0}, v[68] = {0}, lr = 0.1, scale = 0.5, u = 1;
    float host[63], grads[68];
    params_get(&params, matrix, host);
    for (int i = 0; i < 68; i++) w[i] = i < 63 ? host[i] : 2;
    for (int step = 1; step <= 3; step++) {
        double squares = 0;
        for (int i = 0; i < 68; i++) {
            grads[i] = rng_normal(9, (uint64_t)step, (uint64_t)i);
            squares += scale * scale * grads[i] * grads[i];
        }
        params_zero_grad(&params);
        tensor_upload(&ctx, matrix->grad, grads), matrix->has_grad = true;
        tensor_upload(&ctx, vector->grad, grads + 63), vector->has_grad = true;
        float norm = adamw_step(&adamw, &params, (float)lr, (float)scale);
        cr_assert(fabs(norm - sqrt(squares)) < 1e-5 * norm, "norm %g, not %g", norm, sqrt(squares));
        double shrink = sqrt(squares) > 0.5 ? 0.5 / sqrt(squares) : 1;
        for (int i = 0; i < 68; i++) {
            double g = scale * shrink * grads[i];
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.95 * v[i] + 0.05 * g * g;
            double update =
                m[i] / (1 - pow(0.9, step)) / (sqrt(v[i] / (1 - pow(0.95, step))) + 1e-8);
            w[i] -= lr * update + (i < 63 ? lr * 0.1 * w[i] : 0);
            m[i] = kept(m[i], moments), v[i] = kept(v[i], moments);
        }
        u -= lr * 0.1 * u;
    }
    float want[63], want_vector[5], want_unused[4] = {(float)u, (float)u, (float)u, (float)u},
                                    got[63];
    for (int i = 0; i < 63; i++) want[i] = (float)w[i];
    for (int i = 0; i < 5; i++) want_vector[i] = (float)w[63 + i];
    /* Three steps of about ten roundings each. The masters are F32 also when the model computes in
     * BF16. */
    params_get(&params, matrix, got), check_close("matrix", got, want, 63, 30 * 0x1p-24);
    params_get(&params, vector, got), check_close("vector", got, want_vector, 5, 30 * 0x1p-24);
    params_get(&params, unused, got), check_close("unused", got, want_unused, 4, 30 * 0x1p-24);
    check_tensor(&ctx, "the model's copy", matrix, want,
                 0x1p-9); /* the masters, rounded to dtype */
    params_free(&params);
}

CONTEXT_TEST(adamw, follows_its_formulas) { check_adamw(&ctx, F32); }
CONTEXT_TEST(adamw, keeps_its_moments_in_bf16) { check_adamw(&ctx, BF16); }

CONTEXT_TEST(adamw, a_gradient_that_is_not_finite_changes_nothing) {
    Params params;
    params_init(&params, &ctx);
    Tensor *w = params_new(&params, NULL, "w", SHAPE(2, 2));
    cr_assert(params_allocate(&params, true, &err) == 0);
    params_fill(&params, w, 3);
    float grads[4] = {1, NAN, 1, 1}, want[4] = {3, 3, 3, 3};
    tensor_upload(&ctx, w->grad, grads), w->has_grad = true;
    AdamW adamw = adamw_defaults();
    cr_assert(isnan(adamw_step(&adamw, &params, 0.1f, 1)));
    cr_assert(adamw.step == 0);
    check_tensor(&ctx, "w", w, want, 0);
}

/* State that is not learned: zero at first, of its own dtype, found by name, and no step changes
 * it. */
CONTEXT_TEST(params, buffers_are_not_learned) {
    Params params;
    params_init(&params, &ctx);
    Tensor *w = params_new(&params, NULL, "w", SHAPE(2, 2));
    Tensor *bias = params_buffer(&params, NULL, "bias", F32, SHAPE(5));
    Tensor *load = params_buffer(&params, NULL, "load", I32, SHAPE(3));
    cr_assert(params_allocate(&params, true, &err) == 0);
    cr_assert(params_count(&params) == 4, "buffers are not counted as weights");
    cr_assert(params_find(&params, "bias") == bias && params_find(&params, "load") == load);
    cr_assert(bias->dtype == F32 && load->dtype == I32 && !bias->requires_grad && !bias->grad);
    const float zeros[5] = {0}, values[5] = {0.1f, -2, 3, 1e-9f, 5}, ones[4] = {1, 1, 1, 1};
    check_tensor(&ctx, "fresh", bias, zeros, 0);
    params_set(&params, bias, values);
    params_zero_grad(&params);
    tensor_upload(&ctx, w->grad, ones), w->has_grad = true;
    AdamW adamw = adamw_defaults();
    adamw_step(&adamw, &params, 0.1f, 1);
    float got[5];
    params_get(&params, bias, got);
    check_close("bias", got, values, 5, 0);
    check_tensor(&ctx, "bias", bias, values, 0);
}

/* ---- the schedule ---- */

Test(schedule, warms_up_and_comes_down) {
    Schedule s = {.steps = 100, .warmup = 10, .peak = 1, .floor = 0.1f};
    cr_assert_float_eq(schedule_rate(&s, 0), 0.1, 1e-6);
    cr_assert_float_eq(schedule_rate(&s, 9), 1.0, 1e-6);
    cr_assert_float_eq(schedule_rate(&s, 55), 0.55, 1e-6); /* half way down */
    cr_assert_float_eq(schedule_rate(&s, 100), 0.1, 1e-6);
    for (int step = 10; step < 100; step++)
        cr_assert(schedule_rate(&s, step + 1) < schedule_rate(&s, step));
}
