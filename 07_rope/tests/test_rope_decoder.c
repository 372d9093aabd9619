/*
 * Positions in a whole model: what they change, what they must not change, and that a model can
 * learn by them what it cannot learn without.
 */
#include "07_rope/rope.h"
#include "07_rope/trial.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 19, LONGEST = 256 };

/* A model with its own Params and positions. */
typedef struct Model {
    Params params;
    Decoder model;
    Rope rope;
} Model;

static DecoderConfig tiny(int layers) {
    return trial_config(VOCAB, layers, 20,
                        (MlaConfig){.hidden_size = 12,
                                    .num_attention_heads = 3,
                                    .q_lora_rank = 10,
                                    .kv_lora_rank = 9,
                                    .qk_nope_head_dim = 5,
                                    .qk_rope_head_dim = 6,
                                    .v_head_dim = 7});
}

static void make(Model *m, Context *ctx, const DecoderConfig *cfg, const RopeConfig *rope) {
    params_init(&m->params, ctx);
    decoder_register(&m->model, &m->params, cfg);
    check_ok(params_allocate(&m->params, true, &err) || rope_init(&m->rope, ctx, rope, &err), &err);
    trial_randomize(&m->params, &m->model);
}

static void unmake(Model *m) {
    rope_free(&m->rope);
    params_free(&m->params);
}

static RopeConfig plain(void) { return rope_config(6, LONGEST); }

/* With every number of YaRN at work: a ramp over the pairs and a factor on the softmax scale. */
static RopeConfig yarn(void) {
    RopeConfig cfg = rope_config(6, LONGEST);
    cfg.rope_type = ROPE_YARN;
    cfg.factor = 8;
    cfg.original_max_position_embeddings = 32;
    cfg.mscale = cfg.mscale_all_dim = 1;
    return cfg;
}

static void some_ids(int32_t *ids, int n, uint64_t stream) {
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(philox(7, stream, (uint64_t)i).word[0] % (uint32_t)VOCAB);
}

static Tensor *forward(Context *ctx, const Model *m, Tensor *ids, const Position *position,
                       DecoderCache *cache) {
    const DecoderRun run = {.position = position, .cache = cache};
    return decoder_logits(ctx, &m->model, decoder_states(ctx, &m->model, ids, &run));
}

/* Logits [n, VOCAB] of one text in host memory. */
static float *logits_of(Context *ctx, const Model *m, const int32_t *ids, int n,
                        const Position *position) {
    Tensor *input = tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, n));
    return test_values(ctx, forward(ctx, m, input, position, NULL));
}

static double distance(const float *a, const float *b, int n) {
    double difference = 0, size = 0;
    for (int i = 0; i < n; i++) {
        difference += (double)(a[i] - b[i]) * (a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(difference / size);
}

/*
 * Two layers of some ten operations. F32: sums in another order. BF16: each operation rounds its
 * output by up to 2^-8, and now and then a rounding falls the other way.
 */
static double model_tolerance(DType dtype) { return dtype == BF16 ? 3e-2 : 2e-5; }

/* ---- what positions are for ---- */

/*
 * One layer without positions: the last token sees the others as a set, so their order is nothing
 * to it. With positions it is.
 */
CONTEXT_TEST(rope_decoder, without_positions_the_past_is_a_set) {
    enum { T = 21 };
    DecoderConfig cfg = tiny(1);
    RopeConfig rope = plain();
    Model m;
    make(&m, &ctx, &cfg, &rope);
    int32_t ids[T], mixed[T];
    some_ids(ids, T, 1);
    for (int i = 0; i < T - 1; i++) mixed[i] = ids[(i * 7 + 3) % (T - 1)]; /* 7 and 20: no factor */
    mixed[T - 1] = ids[T - 1];
    for (int with = 0; with < 2; with++) {
        const Position *position = with ? &m.rope.position : NULL;
        float *a = logits_of(&ctx, &m, ids, T, position);
        float *b = logits_of(&ctx, &m, mixed, T, position);
        const float *last = a + (T - 1) * VOCAB, *last_mixed = b + (T - 1) * VOCAB;
        if (with)
            cr_assert(distance(last_mixed, last, VOCAB) > 0.05, "the order changed nothing");
        else
            check_close("the last token of a mixed text", last_mixed, last, VOCAB,
                        model_tolerance(dtype));
        free(a), free(b);
    }
    unmake(&m);
    context_free(&ctx);
}

/* A Position that starts to count at `first`. */
typedef struct Shifted {
    Position position;
    const Rope *rope;
    int first;
} Shifted;

static void rotate_shifted(Context *ctx, const Position *self, Tensor *q, Tensor *k, int dim,
                           const Tensor *positions) {
    const Shifted *s = (const Shifted *)self;
    Tensor *later =
        positions_from(ctx, tensor_dim(positions, 0), tensor_dim(positions, 1), s->first);
    s->rope->position.rotate(ctx, &s->rope->position, q, k, dim, later);
}

/* Only distances count: a text that begins at place 190 has the same logits. */
CONTEXT_TEST(rope_decoder, a_shift_of_all_positions_changes_nothing) {
    enum { T = 33 };
    DecoderConfig cfg = tiny(2);
    for (int kind = 0; kind < 2; kind++) {
        RopeConfig rope = kind ? yarn() : plain();
        Model m;
        make(&m, &ctx, &cfg, &rope);
        Shifted shifted = {m.rope.position, &m.rope, 190};
        shifted.position.rotate = rotate_shifted;
        int32_t ids[T];
        some_ids(ids, T, 2);
        float *a = logits_of(&ctx, &m, ids, T, &m.rope.position);
        float *b = logits_of(&ctx, &m, ids, T, &shifted.position);
        check_close("logits of a shifted text", b, a, T * VOCAB, model_tolerance(dtype));
        free(a), free(b);
        unmake(&m);
    }
    context_free(&ctx);
}

/* ---- the cache: positions go on where they stopped ---- */

CONTEXT_TEST(rope_decoder, with_the_cache_as_without) {
    enum { T = 70 }; /* more than one page */
    DecoderConfig cfg = tiny(2);
    const int pieces[] = {5, 1, 1, 33, 1, 29};
    for (int kind = 0; kind < 3; kind++) {
        RopeConfig rope = kind == 2 ? yarn() : plain();
        Model m;
        make(&m, &ctx, &cfg, &rope);
        const Position *position = kind ? &m.rope.position : NULL;
        DecoderCache cache;
        Error err;
        check_ok(decoder_cache_init(&cache, &ctx, &cfg.block, 2, 1, T, &err), &err);
        int32_t ids[T];
        some_ids(ids, T, 3);
        float *all = logits_of(&ctx, &m, ids, T, position);
        for (int i = 0, at = 0; i < (int)(sizeof pieces / sizeof *pieces); at += pieces[i++]) {
            Tensor *piece = tensor_copy_in(&ctx, "ids", I32, ids + at, SHAPE(1, pieces[i]));
            check_tensor(&ctx, "logits of a piece", forward(&ctx, &m, piece, position, &cache),
                         all + at * VOCAB, model_tolerance(dtype));
        }
        free(all);
        decoder_cache_free(&cache);
        unmake(&m);
    }
    context_free(&ctx);
}

/* What the cache keeps of a token's position is its rotated key: at place 0 nothing is turned, and
 * the same character at the next place is turned by f_i. Layer 0 has no other way to tell them. */
CONTEXT_TEST(rope_decoder, the_cached_key_is_rotated) {
    enum { T = 9 };
    DecoderConfig cfg = tiny(1);
    RopeConfig rope = plain();
    Model m;
    make(&m, &ctx, &cfg, &rope);
    int c = cfg.block.mla.kv_lora_rank, dim = cfg.block.mla.qk_rope_head_dim, width = c + dim;
    DecoderCache cache;
    check_ok(decoder_cache_init(&cache, &ctx, &cfg.block, 1, 1, T, &err), &err);
    int32_t ids[T];
    for (int t = 0; t < T; t++) ids[t] = 4;
    forward(&ctx, &m, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T)), &m.rope.position, &cache);
    float *latent = test_values(&ctx, &cache.layers[0].latent.latent), expected[64];
    double f[32];
    rope_frequencies(&rope, f);
    for (int t = 1; t < T; t++) {
        const float *first = latent + c, *row = latent + t * width; /* one page: rows in order */
        for (int i = 0; i < dim / 2; i++) {
            double a = first[2 * i], b = first[2 * i + 1];
            expected[2 * i] = (float)(a * cos(t * f[i]) - b * sin(t * f[i]));
            expected[2 * i + 1] = (float)(a * sin(t * f[i]) + b * cos(t * f[i]));
        }
        /* One product of two numbers each; BF16: `first` and `row` are rounded on their own. */
        check_close("rotated key", row + c, expected, dim, dtype == BF16 ? 8e-3 : 1e-6);
        check_close("latent", row, latent, c, dtype == BF16 ? 8e-3 : 1e-6);
    }
    free(latent);
    decoder_cache_free(&cache);
    unmake(&m);
    context_free(&ctx);
}

/* ---- gradients ---- */

typedef struct Problem {
    Model *m;
    Tensor *ids, *targets;
} Problem;

static Tensor *problem_loss(Context *ctx, void *user) {
    Problem *p = user;
    return decoder_loss(ctx, &p->m->model, p->ids, p->targets, &p->m->rope.position);
}

CPU_TEST(rope_decoder, gradients_agree_with_finite_differences) {
    DecoderConfig cfg = tiny(2);
    RopeConfig rope = yarn();
    Model m;
    make(&m, &ctx, &cfg, &rope);
    int32_t ids[2 * 9], targets[2 * 9];
    some_ids(ids, 18, 4);
    some_ids(targets, 18, 5);
    targets[3] = IGNORE_TARGET;
    Problem p = {&m, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2, 9)),
                 tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(2, 9))};
    /* The loss is about 3 and rounded to 2e-7; 1e-2 in a weight moves it by 1e-3 and more. */
    check_gradients(&ctx, "rope_decoder", problem_loss, &p, m.params.list, m.params.count, 12, 1e-2,
                    2e-2);
    unmake(&m);
    context_free(&ctx);
}

/* The device's loss and gradients are the CPU's. */
DEVICE_TEST(rope_decoder, every_device_computes_what_the_cpu_computes) {
    enum { B = 3, T = 33 };
    int32_t ids[B * T], targets[B * T];
    some_ids(ids, B * T, 6);
    some_ids(targets, B * T, 7);
    float loss[2], *grads[2];
    int64_t count = 0;
    for (int side = 0; side < 2; side++) {
        Context ctx = test_context(side ? device : CPU, side ? dtype : F32);
        DecoderConfig cfg = tiny(2);
        RopeConfig rope = yarn();
        Model m;
        make(&m, &ctx, &cfg, &rope);
        Problem p = {&m, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(B, T)),
                     tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(B, T))};
        ctx.recording = true;
        Tensor *l = problem_loss(&ctx, &p);
        tape_backward(&ctx, l);
        tensor_download(&ctx, &loss[side], l);
        count = params_count(&m.params);
        float *next = grads[side] = malloc((size_t)count * sizeof(float));
        for (int i = 0; i < m.params.count; next += tensor_count(m.params.list[i++]))
            params_get_grad(&m.params, m.params.list[i], next);
        unmake(&m);
        context_free(&ctx);
    }
    check_close("loss", &loss[1], &loss[0], 1, dtype == BF16 ? 5e-3 : 1e-6);
    check_close("all gradients", grads[1], grads[0], count, model_tolerance(dtype));
}

/* ---- learning by distance ---- */

/* Loss after some steps of "say again what stood three places back", on random characters. */
static float copy_loss(Device device, DType dtype, bool with_positions) {
    enum { B = 8, T = 24, BACK = 3, STEPS = 150 };
    Context ctx = test_context(device, dtype);
    DecoderConfig cfg = tiny(1);
    cfg.block.hidden_size = 32;
    cfg.block.mla = (MlaConfig){.hidden_size = 32,
                                .num_attention_heads = 2,
                                .kv_lora_rank = 24,
                                .qk_nope_head_dim = 8,
                                .qk_rope_head_dim = 8,
                                .v_head_dim = 16};
    RopeConfig rope = rope_config(8, T);
    rope.rope_theta = 100; /* fast hands: the distance is short */
    Model m;
    make(&m, &ctx, &cfg, &rope);
    AdamW adamw = adamw_defaults();
    float loss = 0;
    for (int step = 0; step < STEPS; step++) {
        int32_t ids[B * T], targets[B * T];
        some_ids(ids, B * T, 100 + (uint64_t)step);
        for (int i = 0; i < B * T; i++) targets[i] = i % T < BACK ? IGNORE_TARGET : ids[i - BACK];
        params_zero_grad(&m.params);
        ctx.recording = true;
        Tensor *l = decoder_loss(&ctx, &m.model, tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(B, T)),
                                 tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(B, T)),
                                 with_positions ? &m.rope.position : NULL);
        tape_backward(&ctx, l);
        tensor_download(&ctx, &loss, l);
        adamw_step(&adamw, &m.params, 1e-2f, 1.0f);
        context_reset(&ctx);
    }
    unmake(&m);
    context_free(&ctx);
    return loss;
}

DEVICE_TEST(rope_decoder, learns_to_copy_from_three_back_by_positions_only) {
    float with = copy_loss(device, dtype, true), without = copy_loss(device, dtype, false);
    /* Guessing among all 19 costs ln 19 = 2.94; to know the set but not the order, less. */
    cr_assert(with < 0.5f, "the loss with positions is still %g", with);
    cr_assert(without > 1.5f, "the loss without positions is %g: how can it know?", without);
}
