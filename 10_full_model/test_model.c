/*
 * The whole model: gradients, causality, the cache, and that it learns.
 */
#include "../common/testing.h"
#include "generate.h"
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ModelConfig tiny(bool tied) {
    return (ModelConfig){.vocab_size = 19,
                         .hidden_size = 12,
                         .intermediate_size = 20,
                         .num_hidden_layers = 2,
                         .num_attention_heads = 4,
                         .num_key_value_heads = 2,
                         .head_dim = 5,
                         .max_position_embeddings = 64,
                         .rms_norm_eps = 1e-6f,
                         .initializer_range =
                             0.3f, /* large, so that every part of the model matters */
                         .tie_word_embeddings = tied};
}

static Model make(Context *ctx, ModelConfig cfg, bool training) {
    Model model;
    Error err;
    if (model_init(&model, ctx, &cfg, training, &err)) cr_assert_fail("%s", err.text);
    model_randomize(&model);
    return model;
}

/* Ids that repeat, so that embeddings get several contributions. */
static void some_ids(int32_t *ids, int n, int vocab, uint64_t stream) {
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(philox(5, stream, (uint64_t)i).word[0] % (uint32_t)vocab);
}

/* ---- gradients ---- */

typedef struct Problem {
    Model *model;
    Tensor *ids, *targets;
} Problem;

static Tensor *problem_loss(Context *ctx, void *user) {
    (void)ctx;
    Problem *p = user;
    return model_loss(p->model, p->ids, p->targets);
}

static void finite_differences(bool tied) {
    Context ctx = test_context(CPU, F32);
    Model model = make(&ctx, tiny(tied), true);
    int32_t ids[2 * 7], targets[2 * 7];
    some_ids(ids, 14, 19, 1);
    some_ids(targets, 14, 19, 2);
    Problem p = {&model, tensor_from(&ctx, "ids", I32, ids, SHAPE(2, 7)),
                 tensor_from(&ctx, "targets", I32, targets, SHAPE(2, 7))};
    /* The loss is about 3 and rounded to 2e-7, the differences of 1e-2 in a weight move it by 1e-3 and more. */
    check_gradients(&ctx, tied ? "model, tied" : "model", problem_loss, &p, model.params.list,
                    model.params.count, 12, 1e-2, 2e-2);
    model_free(&model);
    test_context_free(&ctx);
}

Test(model, gradients_agree_with_finite_differences) { finite_differences(false); }
Test(model, gradients_agree_with_finite_differences_when_tied) { finite_differences(true); }

/* The device's loss and gradients are the CPU's. */
DEVICE_TEST(model, every_device_computes_what_the_cpu_computes) {
    int32_t ids[3 * 33], targets[3 * 33];
    some_ids(ids, 99, 19, 1);
    some_ids(targets, 99, 19, 2);
    float loss[2], *grads[2];
    int64_t count = 0;
    for (int side = 0; side < 2; side++) {
        Context ctx = test_context(side ? device : CPU, side ? dtype : F32);
        Model model = make(&ctx, tiny(false), true);
        ctx.recording = true;
        Tensor *l = model_loss(&model, tensor_from(&ctx, "ids", I32, ids, SHAPE(3, 33)),
                               tensor_from(&ctx, "targets", I32, targets, SHAPE(3, 33)));
        tape_backward(&ctx, l);
        tensor_download(&ctx, &loss[side], l);
        count = params_count(&model.params);
        grads[side] = malloc((size_t)count * sizeof(float));
        float *next = grads[side];
        for (int i = 0; i < model.params.count; i++) {
            params_get_grad(&model.params, model.params.list[i], next);
            next += tensor_count(model.params.list[i]);
        }
        model_free(&model);
        test_context_free(&ctx);
    }
    /* F32: the same sums in another order, through some ten ops. BF16: each op rounds its output by up to 2^-8, and weights are rounded too. */
    double tolerance = dtype == BF16 ? 2e-2 : 2e-5;
    check_close("loss", &loss[1], &loss[0], 1, dtype == BF16 ? 5e-3 : 1e-6);
    check_close("all gradients", grads[1], grads[0], count, tolerance);
    free(grads[0]), free(grads[1]);
}

/* ---- properties ---- */

DEVICE_TEST(model, the_future_changes_nothing) {
    Context ctx = test_context(device, dtype);
    Model model = make(&ctx, tiny(true), false);
    int32_t ids[31];
    some_ids(ids, 31, 19, 1);
    float *before = test_values(
        &ctx, model_forward(&model, tensor_from(&ctx, "ids", I32, ids, SHAPE(1, 31)), NULL));
    ids[20] = (ids[20] + 1) % 19;
    float *after = test_values(
        &ctx, model_forward(&model, tensor_from(&ctx, "ids", I32, ids, SHAPE(1, 31)), NULL));
    cr_assert(!memcmp(before, after, 20 * 19 * sizeof(float)),
              "a later token changed an earlier logit");
    cr_assert(memcmp(before + 20 * 19, after + 20 * 19, 19 * sizeof(float)),
              "token 20 must change its own logits");
    free(before), free(after);
    model_free(&model);
    test_context_free(&ctx);
}

DEVICE_TEST(model, with_the_cache_as_without) {
    Context ctx = test_context(device, dtype);
    Model model = make(&ctx, tiny(true), false);
    Error err;
    KVCache *caches = model_caches_new(&model, 33, &err);
    int32_t ids[33];
    some_ids(ids, 33, 19, 1);
    float *all = test_values(
        &ctx, model_forward(&model, tensor_from(&ctx, "ids", I32, ids, SHAPE(1, 33)), NULL));
    int pieces[] = {5, 1, 1, 17, 1, 8}, at = 0;
    for (int i = 0; i < 6; i++) {
        at += pieces[i];
        Tensor *t = tensor_from(&ctx, "ids", I32, ids + at - pieces[i], SHAPE(1, pieces[i]));
        /* The same numbers in other tiles: F32 rounding through two layers; in BF16 a rounding of 2^-8 may fall the other way. */
        check_tensor(&ctx, "logits of the last token", model_forward(&model, t, caches),
                     all + (at - 1) * 19, dtype == BF16 ? 2e-2 : 1e-5);
    }
    free(all);
    model_caches_free(&model, caches);
    model_free(&model);
    test_context_free(&ctx);
}

/* The parameter count of the config is that of the model. */
Test(model, config_counts_the_parameters) {
    Context ctx = test_context(CPU, F32);
    for (int tied = 0; tied < 2; tied++) {
        ModelConfig cfg = tiny(tied);
        Model model = make(&ctx, cfg, false);
        cr_assert(config_parameters(&cfg) == params_count(&model.params));
        model_free(&model);
    }
    test_context_free(&ctx);
}

/* ---- sampling ---- */

Test(sampling, keeps_to_its_limits) {
    float logits[5] = {1, 3, 2, 3, -50}, copy[5];
    Sampling greedy = {.temperature = 0, .top_p = 1};
    memcpy(copy, logits, sizeof copy);
    cr_assert(sample_token(copy, 5, &greedy, 0.99f) == 1, "of equal logits the smaller id");
    int seen[5] = {0};
    for (int i = 0; i < 20000; i++) {
        Sampling s = {.temperature = 1, .top_p = 1};
        memcpy(copy, logits, sizeof copy);
        seen[sample_token(copy, 5, &s, rng_uniform(1, 2, (uint64_t)i))]++;
    }
    double z = 2 * exp(3) + exp(2) + exp(1),
           p[5] = {exp(1) / z, exp(3) / z, exp(2) / z, exp(3) / z, 0};
    for (int i = 0; i < 5; i++) /* five standard deviations of a binomial count */
        cr_assert(fabs(seen[i] - 20000 * p[i]) <= 5 * sqrt(20000 * p[i]),
                  "token %d: %d of 20000, expected %.0f", i, seen[i], 20000 * p[i]);
    for (int i = 0; i <= 100; i++) {
        Sampling k = {.temperature = 1, .top_k = 2, .top_p = 1},
                 nucleus = {.temperature = 1, .top_p = 0.5f};
        memcpy(copy, logits, sizeof copy);
        int32_t id = sample_token(copy, 5, &k, (float)i / 100.001f);
        cr_assert(id == 1 || id == 3, "top_k 2 chose %d", id);
        memcpy(copy, logits, sizeof copy);
        id = sample_token(copy, 5, &nucleus, (float)i / 100.001f);
        cr_assert(id == 1 || id == 3, "top_p 0.5 chose %d",
                  id); /* the first has 0.40, so the second is needed, the third not */
    }
    Sampling tight = {.temperature = 1, .top_p = 0};
    memcpy(copy, logits, sizeof copy);
    cr_assert(sample_token(copy, 5, &tight, 0.999f) == 1, "top_p 0 still keeps one");
}
