/*
 * Rotary embeddings as a module: the config's door, the table, the rotation on the tape, and the
 * map between the two layouts.
 */
#include "07_rope/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the config ---- */

RopeConfig rope_config(int dim, int max_position_embeddings) {
    return (RopeConfig){.dim = dim,
                        .max_position_embeddings = max_position_embeddings,
                        .rope_theta = 10000,
                        .layout = ROPE_INTERLEAVED,
                        .rope_type = ROPE_DEFAULT,
                        .factor = 1};
}

/* Both tables together; above that a setting is wrong, not large. */
static const int64_t MAX_TABLE_BYTES = (int64_t)8 << 30;

static int64_t table_bytes(const RopeConfig *cfg) { /* of one of the two */
    return (int64_t)cfg->max_position_embeddings * (cfg->dim / 2) * (int64_t)sizeof(float);
}

/* NaN fails every comparison: so each one here must succeed, not fail. */
static int check_numbers(const RopeConfig *cfg, Error *err) {
    const double numbers[] = {cfg->beta_fast, cfg->beta_slow, cfg->mscale, cfg->mscale_all_dim,
                              cfg->attention_factor};
    const char *const names[] = {"beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                                 "attention_factor"};
    for (int i = 0; i < 5; i++)
        if (!(numbers[i] >= 0 && isfinite(numbers[i])))
            return error_set(err, "%s is %g; it must be a number above 0, or 0 for its default",
                             names[i], numbers[i]);
    return 0;
}

static int check_yarn(const RopeConfig *cfg, Error *err) {
    if (cfg->original_max_position_embeddings <= 0)
        return error_set(err,
                         "original_max_position_embeddings is %d; rope_type yarn needs the context "
                         "that the model was trained for, at least 1",
                         cfg->original_max_position_embeddings);
    double fast = cfg->beta_fast > 0 ? cfg->beta_fast : 32;
    double slow = cfg->beta_slow > 0 ? cfg->beta_slow : 1;
    if (!(fast >= slow)) /* equal: the ramp is a step (Kimi-K2's file says 1 and 1) */
        return error_set(err, "beta_fast is %g and beta_slow is %g; beta_fast must be the larger",
                         fast, slow);
    return 0;
}

int rope_check(const RopeConfig *cfg, Error *err) {
    if (cfg->dim <= 0 || cfg->dim % 2 != 0)
        return error_set(err,
                         "the rotated dimension (qk_rope_head_dim, or head_dim without MLA) is %d; "
                         "numbers are rotated in pairs, so it must be even and at least 2",
                         cfg->dim);
    if (cfg->max_position_embeddings <= 0)
        return error_set(err, "max_position_embeddings is %d; it must be at least 1",
                         cfg->max_position_embeddings);
    if (2 * table_bytes(cfg) > MAX_TABLE_BYTES)
        return error_set(err,
                         "max_position_embeddings is %d: with %d rotated numbers a head the tables "
                         "of cos and sin would take %.1f GiB, and at most %.0f are allowed",
                         cfg->max_position_embeddings, cfg->dim,
                         2 * (double)table_bytes(cfg) / 0x1p30, (double)MAX_TABLE_BYTES / 0x1p30);
    if (!(cfg->rope_theta > 1 && isfinite(cfg->rope_theta)))
        return error_set(err, "rope_theta is %g; it must be above 1 (10000 is usual)",
                         cfg->rope_theta);
    if (cfg->layout != ROPE_INTERLEAVED && cfg->layout != ROPE_HALVES)
        return error_set(err, "the layout is %d; it must be interleaved (%d) or halves (%d)",
                         (int)cfg->layout, ROPE_INTERLEAVED, ROPE_HALVES);
    if (cfg->rope_type < ROPE_DEFAULT || cfg->rope_type > ROPE_YARN)
        return error_set(err, "rope_type is %d; known are default (%d), linear, ntk and yarn (%d)",
                         (int)cfg->rope_type, ROPE_DEFAULT, ROPE_YARN);
    if (cfg->rope_type == ROPE_DEFAULT) return 0;
    if (!(cfg->factor >= 1 && isfinite(cfg->factor)))
        return error_set(err,
                         "factor is %g; it says how much longer the context becomes, so it "
                         "must be at least 1",
                         cfg->factor);
    if (cfg->rope_type == ROPE_NTK && cfg->dim < 4)
        return error_set(err,
                         "rope_type ntk needs 4 or more rotated numbers a head, not %d: a "
                         "single pair has no frequency to stretch",
                         cfg->dim);
    if (check_numbers(cfg, err)) return -1;
    return cfg->rope_type == ROPE_YARN ? check_yarn(cfg, err) : 0;
}

/* ---- the table ---- */

/* [fill_table] */
/*
 * In double precision: at position 163,840 the angle p f has 18 bits before the binary point, and
 * F32's 24 would leave 6 behind it. Rounded after cos and sin, each is off by 2^-25 at most.
 */
static void fill_table(const RopeConfig *cfg, const double *f, float *cos_table, float *sin_table) {
    int half = cfg->dim / 2;
    double factor = rope_attention_factor(cfg);
#pragma omp parallel for schedule(static) if (cfg->max_position_embeddings > 256)
    for (int p = 0; p < cfg->max_position_embeddings; p++)
        for (int i = 0; i < half; i++) {
            cos_table[(int64_t)p * half + i] = (float)(factor * cos(p * f[i]));
            sin_table[(int64_t)p * half + i] = (float)(factor * sin(p * f[i]));
        }
}
/* [/fill_table] */

static void rotate_last(Context *ctx, const Position *self, Tensor *q, Tensor *k, int dim,
                        const Tensor *positions);

int rope_init(Rope *rope, Context *ctx, const RopeConfig *cfg, Error *err) {
    *rope = (Rope){.cfg = *cfg};
    if (rope_check(cfg, err)) return -1;
    size_t bytes = (size_t)table_bytes(cfg);
    double *f = malloc((size_t)(cfg->dim / 2) * sizeof *f);
    float *tables[2] = {malloc(bytes), malloc(bytes)};
    if (!f || !tables[0] || !tables[1]) goto no_memory;
    rope_frequencies(cfg, f);
    fill_table(cfg, f, tables[0], tables[1]);
    rope->gpu = ctx->gpu;
    rope->cos = device_alloc(ctx->gpu, bytes);
    rope->sin = device_alloc(ctx->gpu, bytes);
    if (!rope->cos || !rope->sin) goto no_memory;
    device_put(ctx->gpu, rope->cos, tables[0], bytes);
    device_put(ctx->gpu, rope->sin, tables[1], bytes);
    free(f), free(tables[0]), free(tables[1]);
    rope->position =
        (Position){.rotate = rotate_last,
                   .max_position = cfg->max_position_embeddings,
                   .scale = (float)rope_softmax_factor(cfg),
                   .angles = {rope->cos, rope->sin, cfg->dim, cfg->layout == ROPE_HALVES}};
    return 0;

no_memory:
    free(f), free(tables[0]), free(tables[1]);
    rope_free(rope);
    return error_set(err,
                     "out of memory: the tables of cos and sin for max_position_embeddings %d take "
                     "%.1f MiB",
                     cfg->max_position_embeddings, 2 * (double)bytes / 0x1p20);
}

void rope_free(Rope *rope) {
    device_free(rope->gpu, rope->cos);
    device_free(rope->gpu, rope->sin);
    *rope = (Rope){0};
}

/* ---- rotation ---- */

typedef struct RopeSaved {
    const Rope *rope;
    Tensor *q, *k;
    int q_offset, k_offset;
    const Tensor *positions;
} RopeSaved;

/* [rotate] */
/* One pass over q and k (either may be NULL), or over their gradients, which have their shapes. */
static void rotate(Context *ctx, const RopeSaved *s, const Tensor *q, const Tensor *k,
                   int inverse) {
    (void)ctx; /* without CUDA there is no device to choose */
    RopePart parts[2] = {{0}, {0}};
    if (q) parts[0] = (RopePart){q->data, (int)q->shape[2], (int)q->shape[3], s->q_offset};
    if (k) parts[1] = (RopePart){k->data, (int)k->shape[2], (int)k->shape[3], s->k_offset};
    const RopeConfig *cfg = &s->rope->cfg;
    ON(ctx, rope_rotate, parts[0], parts[1], s->rope->cos, s->rope->sin, s->positions->data,
       tensor_count(s->positions), cfg->dim, cfg->max_position_embeddings, cfg->layout, inverse);
}

static const Tensor *gradient_of(const Tensor *t) { return t && t->has_grad ? t->grad : NULL; }

/*
 * y = a R x with R a rotation and a the attention factor: dx = a R^T dy, the same kernel with the
 * angles reversed. Both gradients are turned in one pass.
 */
static void rope_backward(Context *ctx, void *saved) {
    RopeSaved *s = saved;
    rotate(ctx, s, gradient_of(s->q), gradient_of(s->k), 1);
}
/* [/rotate] */

/* The tape runs rope_backward only if q has a gradient. If k alone has one, this does it. */
static void rope_backward_of_k(Context *ctx, void *saved) {
    RopeSaved *s = saved;
    if (!gradient_of(s->q)) rotate(ctx, s, NULL, s->k->grad, 1);
}

/* t [B, T, heads, D], of which dim numbers from `offset` on are rotated. */
static void check_rotated(Context *ctx, const Rope *rope, const Tensor *t, int offset, int64_t B,
                          int64_t T) {
    check_shape("rope_rotate", t, ctx->dtype, SHAPE(B, T, -1, -1));
    CHECK(t->device == ctx->device, "rope_rotate: %s is on %s, not on %s", t->name,
          device_name(t->device), device_name(ctx->device));
    CHECK(offset >= 0 && offset <= tensor_dim(t, 3) - rope->cfg.dim,
          "rope_rotate: the %d numbers from %d on of each head of %s, which has %lld",
          rope->cfg.dim, offset, t->name, (long long)tensor_dim(t, 3));
}

void rope_rotate(Context *ctx, const Rope *rope, Tensor *q, int q_offset, Tensor *k, int k_offset,
                 const Tensor *positions) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1);
    check_rotated(ctx, rope, q, q_offset, B, T);
    if (k) check_rotated(ctx, rope, k, k_offset, B, T);
    check_shape("rope_rotate", positions, I32, SHAPE(B, T));
    CHECK(q->data != (k ? k->data : NULL), "rope_rotate: q and k are the same numbers");
    RopeSaved s = {rope, q, k, q_offset, k_offset, positions};
    rotate(ctx, &s, q, k, 0);
    tape_push(ctx, q, rope_backward, &s, sizeof s);
    if (k) tape_push(ctx, k, rope_backward_of_k, &s, sizeof s);
}

/* A Rope as a Position: rotates the last numbers of each head. */
static void rotate_last(Context *ctx, const Position *self, Tensor *q, Tensor *k, int dim,
                        const Tensor *positions) {
    const Rope *rope = (const Rope *)self; /* position is its first member */
    CHECK(dim == rope->cfg.dim, "this Rope turns %d numbers of a head, not %d", rope->cfg.dim, dim);
    rope_rotate(ctx, rope, q, (int)tensor_dim(q, -1) - dim, k, k ? (int)tensor_dim(k, -1) - dim : 0,
                positions);
}

/* ---- the two layouts ---- */

/*
 * Row 2i of the interleaved layout is row i of the halves, row 2i + 1 is row i + dim/2. Scores do
 * not change, because q and k change places alike and a sum does not mind the order.
 */
void rope_layout_rows(float *w, int64_t heads, int64_t head_dim, int64_t dim, int64_t in,
                      RopeLayout from, RopeLayout to) {
    CHECK(dim > 0 && dim % 2 == 0 && dim <= head_dim, "rope_layout_rows: %lld of %lld rows",
          (long long)dim, (long long)head_dim);
    if (from == to) return;
    size_t row = (size_t)in * sizeof(float);
    float *old = must_alloc((size_t)dim, row);
    for (int64_t h = 0; h < heads; h++) {
        float *rotated = w + (h * head_dim + head_dim - dim) * in;
        memcpy(old, rotated, (size_t)dim * row);
        for (int64_t i = 0; i < dim / 2; i++)
            for (int64_t side = 0; side < 2; side++) {
                int64_t interleaved = 2 * i + side, halves = i + side * (dim / 2);
                int64_t source = from == ROPE_INTERLEAVED ? interleaved : halves;
                int64_t target = from == ROPE_INTERLEAVED ? halves : interleaved;
                memcpy(rotated + target * in, old + source * in, row);
            }
    }
    free(old);
}
