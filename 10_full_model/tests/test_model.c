/*
 * The whole model: gradients, causality, the cache, and that it learns.
 */
#include "10_full_model/tests/test_world.h"

/* The two differ in more than the tied head: query compression, biases, the layout of RoPE. */
static ModelConfig tiny(bool tied) {
    ModelConfig cfg = tiny_config(19);
    cfg.tie_word_embeddings = cfg.attention_bias = cfg.rope_interleave = tied;
    if (tied) cfg.q_lora_rank = 0;
    return cfg;
}

static Model make(Context *ctx, ModelConfig cfg, bool training) {
    Model model;
    check_ok(model_init(&model, ctx, &cfg, training, &err), &err);
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
    ModelConfig cfg = tiny(tied);
    /* Choosing experts jumps, and a difference across a jump is no derivative: here all are
     * chosen. */
    cfg.num_experts_per_tok = cfg.n_routed_experts;
    cfg.topk_group = cfg.n_group;
    Model model = make(&ctx, cfg, true);
    int32_t ids[2 * 7], targets[2 * 7];
    some_ids(ids, 14, 19, 1);
    some_ids(targets, 14, 19, 2);
    Problem p = {&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2, 7)),
                 tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(2, 7))};
    /* The loss is about 3 and rounded to 2e-7, the differences of 1e-2 in a weight move it by 1e-3
     * and more. */
    check_gradients(&ctx, tied ? "model, tied" : "model", problem_loss, &p, model.params.list,
                    model.params.count, 12, 1e-2, 2e-2);
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
        Tensor *l = model_loss(&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(3, 33)),
                               tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(3, 33)));
        tape_backward(&ctx, l);
        tensor_download(&ctx, &loss[side], l);
        count = params_count(&model.params);
        grads[side] = malloc((size_t)count * sizeof(float));
        float *next = grads[side];
        for (int i = 0; i < model.params.count; i++) {
            params_get_grad(&model.params, model.params.list[i], next);
            next += tensor_count(model.params.list[i]);
        }
        context_free(&ctx);
    }
    /* F32: the same sums in another order, through some ten ops. BF16: each op rounds its output by
     * up to 2^-8, weights are rounded too, and it is three layers forward and back: transformers'
     * own BF16 gradients are 2 to 6 % from the truth on models of this size (test_golden prints
     * them). */
    double tolerance = dtype == BF16 ? 8e-2 : 2e-5;
    check_close("loss", &loss[1], &loss[0], 1, dtype == BF16 ? 5e-3 : 1e-6);
    check_close("all gradients", grads[1], grads[0], count, tolerance);
}

/* ---- properties ---- */

CONTEXT_TEST(model, the_future_changes_nothing) {
    Model model = make(&ctx, tiny(true), false);
    int32_t ids[31];
    some_ids(ids, 31, 19, 1);
    float *before = test_values(
        &ctx, model_forward(&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, 31)), NULL));
    ids[20] = (ids[20] + 1) % 19;
    float *after = test_values(
        &ctx, model_forward(&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, 31)), NULL));
    /* Not the same bits: the token may choose other experts, and a product with one row more or
     * fewer may be another kernel's sum. That is rounding; a token that is seen too early changes
     * its logits by a tenth and more. */
    check_close("logits before it", after, before, 20 * 19, dtype == BF16 ? 2e-2 : 2e-6);
    cr_assert(memcmp(before + 20 * 19, after + 20 * 19, 19 * sizeof(float)),
              "token 20 must change its own logits");
}

CONTEXT_TEST(model, with_the_cache_as_without) {
    Model model = make(&ctx, tiny(true), false);
    DecoderCache cache;
    check_ok(model_cache_init(&model, &cache, 1, 33, &err), &err);
    int32_t ids[33];
    some_ids(ids, 33, 19, 1);
    float *all = test_values(
        &ctx, model_forward(&model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, 33)), NULL));
    int pieces[] = {5, 1, 1, 17, 1, 8}, at = 0;
    for (int i = 0; i < 6; i++) {
        at += pieces[i];
        Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids + at - pieces[i], SHAPE(1, pieces[i]));
        /* The same numbers in other tiles: F32 rounding through two layers; in BF16 a rounding of
         * 2^-8 may fall the other way. */
        check_tensor(&ctx, "logits of the last token", model_forward(&model, t, &cache),
                     all + (at - 1) * 19, dtype == BF16 ? 2e-2 : 1e-5);
    }
}

/* The parameter count of the config is that of the model. */
CPU_TEST(model, config_counts_the_parameters) {
    for (int tied = 0; tied < 2; tied++) {
        ModelConfig cfg = tiny(tied);
        Model model = make(&ctx, cfg, false);
        cr_assert(config_parameters(&cfg) == params_count(&model.params));
    }
}
