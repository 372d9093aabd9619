/*
 * Modules for multi-token prediction: which ids and targets they get, what they leave as it was,
 * what they cannot see, and that all gradients arrive.
 */
#include "06_mtp/tests/test_mtp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- ids and targets ---- */

/* Windows of six, 9 ends a document. */
DEVICE_TEST(mtp, ids_are_shifted_and_targets_stay_in_their_document) {
    enum { T = 6, X = IGNORE_TARGET };
    const int32_t ids[] = {1, 2, 3, 4, 5, 6, 1, 9, 3, 4, 5, 9};
    const int32_t targets[] = {2, 3, 4, 5, 6, 7, 9, 3, 4, 5, 9, 8};
    const struct {
        int k;
        int32_t end, ids[2 * T], targets[2 * T];
    } cases[] = {
        {1, -1, {2, 3, 4, 5, 6, 6, 9, 3, 4, 5, 9, 9}, {3, 4, 5, 6, 7, X, 3, 4, 5, 9, 8, X}},
        {1, 9, {2, 3, 4, 5, 6, 6, 9, 3, 4, 5, 9, 9}, {3, 4, 5, 6, 7, X, X, 4, 5, 9, X, X}},
        {2, 9, {3, 4, 5, 6, 6, 6, 3, 4, 5, 9, 9, 9}, {4, 5, 6, 7, X, X, X, 5, 9, X, X, X}},
        {5, -1, {6, 6, 6, 6, 6, 6, 9, 9, 9, 9, 9, 9}, {7, X, X, X, X, X, 8, X, X, X, X, X}},
        {6, -1, {6, 6, 6, 6, 6, 6, 9, 9, 9, 9, 9, 9}, {X, X, X, X, X, X, X, X, X, X, X, X}}};
    Context ctx = test_context(device, dtype);
    Tensor *i = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2, T));
    Tensor *t = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(2, T));
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Tensor *ids_k, *targets_k;
        mtp_shift(&ctx, i, t, cases[c].k, cases[c].end, &ids_k, &targets_k);
        cr_assert_arr_eq(test_ints(&ctx, ids_k), cases[c].ids, sizeof ids, "ids of case %zu", c);
        cr_assert_arr_eq(test_ints(&ctx, targets_k), cases[c].targets, sizeof ids,
                         "targets of case %zu", c);
    }
}

/* ---- the loss ---- */

/* One step's loss and gradients. */
static float step_loss(Context *ctx, Module *m, float lambda, float *shown) {
    BlockTraining blocks = {.losses.aux_loss_alpha = 0.01f};
    MtpTraining training = {lambda, -1};
    Tensor *parts[1 + MTP_MAX_DEPTH];
    params_zero_grad(&m->params);
    ctx->recording = true;
    Tensor *loss = mtp_training_loss(ctx, &m->mtp, squares(ctx, 3, 17, 0), squares(ctx, 3, 17, 1),
                                     &(DecoderRun){.training = &blocks}, &training, parts);
    tape_backward(ctx, loss);
    float value;
    tensor_download(ctx, &value, loss);
    for (int k = 0; k <= m->mtp.depth; k++) tensor_download(ctx, &shown[k], parts[k]);
    return value;
}

/* With no modules, and with modules that count nothing, every bit is the plain decoder's. (The
 * routers' losses of the modules count whatever lambda is: not here.) */
Test(mtp, without_weight_nothing_changes) {
    Context ctx = test_context(CPU, F32), ctx2 = test_context(CPU, F32);
    Module plain = {0}, with = {0};
    DecoderConfig cfg = small_config();
    cfg.block.first_k_dense_replace = 2; /* the module's block has experts, the decoder's do not */
    for (int depth = 0; depth <= 2; depth += 2) {
        module_init(&plain, &ctx, cfg, 0), module_init(&with, &ctx2, cfg, depth);
        float shown[3], shown2[3];
        Tensor *want;
        params_zero_grad(&plain.params);
        ctx.recording = true;
        tape_backward(&ctx,
                      decoder_training_loss(&ctx, &plain.decoder, squares(&ctx, 3, 17, 0),
                                            squares(&ctx, 3, 17, 1), &(DecoderRun){0}, &want));
        tensor_download(&ctx, shown, want);
        MtpTraining none = {0, -1};
        Tensor *parts[3];
        params_zero_grad(&with.params);
        ctx2.recording = true;
        tape_backward(&ctx2,
                      mtp_training_loss(&ctx2, &with.mtp, squares(&ctx2, 3, 17, 0),
                                        squares(&ctx2, 3, 17, 1), &(DecoderRun){0}, &none, parts));
        tensor_download(&ctx2, shown2, parts[0]);
        cr_assert(shown[0] == shown2[0]);
        for (int i = 0; i < plain.params.count; i++) {
            const Tensor *w = plain.params.list[i];
            const Tensor *same = params_find(&with.params, w->name);
            float *a = test_weight_gradient(&plain.params, w);
            float *b = test_weight_gradient(&with.params, same);
            for (int64_t j = 0; j < tensor_count(w); j++)
                cr_assert(a[j] == b[j], "depth %d, %s, %lld: %g, %g", depth, w->name, (long long)j,
                          a[j], b[j]);
        }
        context_reset(&ctx), context_reset(&ctx2);
        ctx.rng.stream = ctx2.rng.stream = 0;
    }
}

/* The whole is what its parts add up to. */
DEVICE_TEST(mtp, loss_is_the_weighted_sum) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, small_config(), 3);
    float shown[4], total = step_loss(&ctx, &m, 0.3f, shown), balance;
    double want = shown[0] + 0.3 / 3 * (shown[1] + shown[2] + shown[3]);
    tensor_download(&ctx, &balance, m.decoder.records[1].loss);
    want += balance;
    for (int k = 0; k < 3; k++) {
        tensor_download(&ctx, &balance, m.mtp.records[k].loss);
        cr_assert(balance > 0.001f);
        want += balance;
    }
    cr_assert_float_eq(total, want, 1e-5);
}

DEVICE_TEST(mtp, learns) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, small_config(), 2);
    AdamW adamw = adamw_defaults();
    float first[3] = {0}, last[3];
    for (int step = 0; step < 80; step++) {
        step_loss(&ctx, &m, 1, last);
        if (step == 0) memcpy(first, last, sizeof first);
        adamw_step(&adamw, &m.params, 0.01f, 1);
        decoder_rebalance(&ctx, &m.decoder, 0.01f);
        mtp_rebalance(&ctx, &m.mtp, 0.01f);
        context_reset(&ctx);
    }
    for (int k = 0; k < 3; k++)
        cr_assert(first[k] > 2 && last[k] < 0.8f, "depth %d: %g to %g", k, first[k], last[k]);
}

/* The modules' routers count their load, and their biases move. */
DEVICE_TEST(mtp, routers_of_modules_are_balanced) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, small_config(), 1);
    float shown[2];
    step_loss(&ctx, &m, 0.3f, shown);
    const Moe *moe = &m.mtp.modules[0].block.moe;
    int32_t *load = test_ints(&ctx, moe->load), sum = 0;
    for (int e = 0; e < 4; e++) sum += load[e];
    cr_assert(sum == 3 * 17 * 2);
    mtp_rebalance(&ctx, &m.mtp, 0.25f);
    float *bias = test_values(&ctx, moe->router.bias);
    for (int e = 0; e < 4; e++)
        cr_assert(bias[e] == (load[e] * 4 < sum ? 0.25f : load[e] * 4 > sum ? -0.25f : 0));
}

/* ---- what a row sees ---- */

/* Row i of module k depends on token i + k and not on the next. */
Test(mtp, no_row_sees_its_target) {
    enum { T = 12, DEPTH = 3 };
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx, small_config(), DEPTH);
    float before[DEPTH + 1][T * HIDDEN], after[T * HIDDEN];
    int32_t ids[T] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
    for (int change = -1; change < T; change++) {
        if (change >= 0) ids[change] = (ids[change] + 1) % VOCAB;
        Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T)), *ids_k, *none;
        Tensor *h =
            decoder_normed(&ctx, &m.decoder, decoder_states(&ctx, &m.decoder, t, &(DecoderRun){0}));
        for (int k = 0; k <= DEPTH; k++) {
            if (k) {
                mtp_shift(&ctx, t, t, k, -1, &ids_k, &none);
                h = mtp_forward(&ctx, &m.mtp, k, ids_k, h, &(BlockRun){0});
            }
            tensor_download(&ctx, change < 0 ? before[k] : after, h);
            if (change < 0) continue;
            /* Experts get other tokens beside the old ones; only the order of sums may change. */
            for (int i = 0; i + k < T; i++) {
                float far = 0;
                for (int j = 0; j < HIDDEN; j++)
                    far = fmaxf(far, fabsf(after[i * HIDDEN + j] - before[k][i * HIDDEN + j]));
                if (i + k < change)
                    cr_assert(far < 1e-4f, "module %d, row %d saw token %d", k, i, change);
                if (i + k == change)
                    cr_assert(far > 1e-3f, "module %d, row %d did not see %d", k, i, change);
            }
        }
        if (change >= 0) ids[change] = (ids[change] + VOCAB - 1) % VOCAB;
        context_reset(&ctx);
    }
}

/* A position that turns nothing and looks where its rows stand. */
typedef struct Watch {
    Position position;
    int first, calls;
} Watch;

static void watch(Context *ctx, const Position *self, Tensor *q, Tensor *k, int dim,
                  const Tensor *positions) {
    Watch *w = (Watch *)self;
    (void)q, (void)k, (void)dim;
    int32_t *at = test_ints(ctx, positions);
    int64_t T = positions->shape[1];
    for (int64_t i = 0; i < tensor_count(positions); i++)
        cr_assert(at[i] == w->first + i % T, "row %lld stands at %d", (long long)i, at[i]);
    w->calls++;
}

/* Row i of every module stands at position i, though its token is i + k; also behind a cache. */
DEVICE_TEST(mtp, positions_are_not_shifted) {
    enum { T = 6 };
    Context ctx = test_context(device, dtype);
    Module m;
    DecoderCache cache;
    Error err = {0};
    DecoderConfig cfg = small_config();
    cfg.block.mla.qk_rope_head_dim = 8;
    module_init(&m, &ctx, cfg, 2);
    Watch w = {.position = {.rotate = watch, .max_position = 64, .scale = 1}};
    MtpTraining training = {0.3f, -1};
    Tensor *shown[3];
    ctx.recording = true;
    mtp_training_loss(&ctx, &m.mtp, squares(&ctx, 2, T, 0), squares(&ctx, 2, T, 1),
                      &(DecoderRun){.position = &w.position}, &training, shown);
    cr_assert(w.calls == LAYERS + 2);
    context_reset(&ctx);
    ctx.recording = false;
    check_ok(decoder_cache_init(&cache, &ctx, &cfg.block, 1, 2, 64, &err), &err);
    for (; w.first <= 2 * T; w.first += T) {
        decoder_cache_begin(&cache, T);
        mtp_forward(&ctx, &m.mtp, 1, squares(&ctx, 2, T, w.first),
                    test_normal(&ctx, "h", 7, SHAPE(2, T, HIDDEN)),
                    &(BlockRun){.position = &w.position, .cache = &cache.layers[0]});
    }
    decoder_cache_free(&cache);
}

/* In one go, and row by row behind a cache. */
DEVICE_TEST(mtp, cached_is_uncached) {
    enum { B = 2, T = 9, FIRST = 4 };
    Context ctx = test_context(device, dtype);
    Module m;
    Error err = {0};
    module_init(&m, &ctx, small_config(), 1);
    Tensor *ids = squares(&ctx, B, T, 3), *h = test_normal(&ctx, "h", 7, SHAPE(B, T, HIDDEN));
    float *want = test_values(&ctx, mtp_forward(&ctx, &m.mtp, 1, ids, h, &(BlockRun){0}));
    float *states = test_values(&ctx, h);
    int32_t *numbers = test_ints(&ctx, ids);
    DecoderCache cache;
    check_ok(decoder_cache_init(&cache, &ctx, &m.decoder.cfg.block, 1, B, 64, &err), &err);
    for (int at = 0; at < T;) {
        int count = at ? 1 : FIRST;
        int32_t part_ids[B * FIRST];
        float part_h[B * FIRST * HIDDEN], part_want[B * FIRST * HIDDEN];
        for (int b = 0; b < B; b++) {
            size_t n = (size_t)(count * HIDDEN), from = (size_t)(b * T + at);
            memcpy(part_ids + b * count, numbers + from, (size_t)count * sizeof *part_ids);
            memcpy(part_h + (size_t)b * n, states + from * HIDDEN, n * sizeof(float));
            memcpy(part_want + (size_t)b * n, want + from * HIDDEN, n * sizeof(float));
        }
        Tensor *i = tensor_copy_in(&ctx, "ids", I32, part_ids, SHAPE(B, count));
        Tensor *s = tensor_copy_in(&ctx, "h", dtype, part_h, SHAPE(B, count, HIDDEN));
        BlockRun run = {.cache = &cache.layers[0]};
        decoder_cache_begin(&cache, count);
        Tensor *y =
            at ? mtp_decode(&ctx, &m.mtp, 1, i, s, &run) : mtp_forward(&ctx, &m.mtp, 1, i, s, &run);
        /* Other kernels: the order of sums differs, and in BF16 what is rounded on the way. */
        check_tensor(&ctx, "rows", y, part_want, dtype == BF16 ? 3e-2 : 1e-5);
        at += count;
    }
    decoder_cache_free(&cache);
}

/* ---- gradients ---- */

static Tensor *loss_of(Context *ctx, void *user) {
    Module *m = user;
    Tensor *shown[3];
    MtpTraining training = {3, 7};
    return mtp_training_loss(ctx, &m->mtp, squares(ctx, 2, 6, 0), squares(ctx, 2, 6, 1),
                             &(DecoderRun){0}, &training, shown);
}

/* All weights, the shared table and head among them, which get a part from each depth. */
Test(mtp, finite_differences) {
    Context ctx = test_context(CPU, F32);
    Module m;
    DecoderConfig cfg = small_config();
    cfg.block.moe.router.n_routed_experts = 0; /* a choice of experts has no derivative */
    cfg.num_hidden_layers = 1;
    module_init(&m, &ctx, cfg, 2);
    params_zero_grad(&m.params);
    check_gradients(&ctx, "mtp", loss_of, &m, m.params.list, m.params.count, 6, 1e-2, 2e-2);
}

/* ---- bad input ---- */

Test(mtp, what_does_not_go_is_named) {
    Error err = {0};
    MtpTraining training = {0.3f, -1};
    check_all(mtp_check(0, &err) == 0, mtp_check(MTP_MAX_DEPTH, &err) == 0);
    cr_assert(mtp_check(9, &err) == -1);
    cr_assert(strstr(err.text, "num_nextn_predict_layers is 9"), "%s", err.text);
    cr_assert(mtp_check(-1, &err) == -1);
    cr_assert(mtp_training_check(&training, 3, 4, &err) == 0);
    cr_assert(mtp_training_check(&training, 4, 4, &err) == -1);
    cr_assert(strstr(err.text, "a window of 4 tokens"), "%s", err.text);
    training.lambda = NAN;
    cr_assert(mtp_training_check(&training, 1, 4, &err) == -1);
    cr_assert(strstr(err.text, "lambda is nan"), "%s", err.text);
}
