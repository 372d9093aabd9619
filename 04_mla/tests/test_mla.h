/*
 * What the tests of latent attention share: a module with weights of a size that keeps every step
 * of order 1, and a Position that rotates.
 */
#ifndef TEST_MLA_H
#define TEST_MLA_H

#include "04_mla/mla.h"

#include "common/core/ops.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

MODULE(Mla, MlaConfig, mla_init(params, "self_attn", cfg), 0)

/* Tokens first .. first + count - 1 of sequences b .. b + batch - 1 of x [B, T, hidden] (host). */
static inline Tensor *tokens_of(Context *ctx, const float *x, int b, int batch, int T, int hidden,
                                int first, int count) {
    float *part = test_floats(batch * count * hidden);
    for (int i = 0; i < batch; i++)
        memcpy(part + i * count * hidden, x + ((b + i) * T + first) * hidden,
               sizeof(float) * (size_t)(count * hidden));
    Tensor *t = tensor_copy_in(ctx, "x", ctx->dtype, part, SHAPE(batch, count, hidden));
    return t;
}

/* ---- a cache of one layer, with pages of its own ---- */

typedef struct OneLayer {
    Pages pages;
    LatentCache latent;
} OneLayer;

static inline void one_layer_init(OneLayer *cache, Context *ctx, int batch, int capacity, int pages,
                                  int width) {
    Error err = {0};
    check_ok(pages_init(&cache->pages, ctx, batch, capacity, pages, &err) ||
                 latent_cache_init(&cache->latent, ctx, &cache->pages, width, &err),
             &err);
    test_poison(ctx, &cache->latent.latent); /* what no token wrote must not be used */
}

/* A step of it: the tokens of x [B, T, hidden_size]. */
static inline Tensor *cached_forward(Context *ctx, Tensor *x, const Mla *w, const MlaConfig *cfg,
                                     const Position *position, OneLayer *cache, MlaMode mode) {
    Error err = {0};
    CHECK(pages_begin(&cache->pages, (int)tensor_dim(x, 1), &err) == 0, "%s", err.text);
    return mla_forward(ctx, x, w, cfg, position, NULL, &cache->latent, mode, (Residual){0});
}

/* ---- a Position for tests ---- */

/*
 * Pair i (neighbours) of the last numbers of a head, turned by position * ANGLE * (i + 1): no
 * mistake in the position or in the part that is rotated can stay unseen. It works on the host,
 * whatever the device is.
 */
#define TURN_ANGLE 0.37
#define TURN_SCALE 1.25f

static inline void turn_head(float *head, int head_dim, int dim, int position, double sign) {
    float *part = head + head_dim - dim;
    for (int i = 0; i < dim / 2; i++) {
        double angle = sign * position * TURN_ANGLE * (i + 1), a = part[2 * i], b = part[2 * i + 1];
        part[2 * i] = (float)(a * cos(angle) - b * sin(angle));
        part[2 * i + 1] = (float)(a * sin(angle) + b * cos(angle));
    }
}

static inline void turn_tensor(Context *ctx, Tensor *t, int dim, const Tensor *positions,
                               double sign) {
    int64_t tokens = tensor_count(positions), heads = tensor_dim(t, 2), head_dim = tensor_dim(t, 3);
    float *values = test_values(ctx, t);
    int32_t *position = test_ints(ctx, positions);
    for (int64_t i = 0; i < tokens * heads; i++)
        turn_head(values + i * head_dim, (int)head_dim, dim, position[i / heads], sign);
    tensor_upload(ctx, t, values);
}

typedef struct TurnSaved {
    Tensor *q, *k;
    const Tensor *positions;
    int dim;
} TurnSaved;

static inline void turn_backward(Context *ctx, void *saved) {
    TurnSaved *s = saved;
    turn_tensor(ctx, s->q->grad, s->dim, s->positions, -1);
    turn_tensor(ctx, s->k->grad, s->dim, s->positions, -1);
}

static inline void turn(Context *ctx, const Position *self, Tensor *q, Tensor *k, int dim,
                        const Tensor *positions) {
    (void)self;
    check_shape("turn", positions, I32, SHAPE(tensor_dim(q, 0), tensor_dim(q, 1)));
    check_shape("turn", k, ctx->dtype, SHAPE(tensor_dim(q, 0), tensor_dim(q, 1), 1, dim));
    turn_tensor(ctx, q, dim, positions, 1);
    turn_tensor(ctx, k, dim, positions, 1);
    RECORD(ctx, q, turn_backward, TurnSaved, .q = q, .k = k, .positions = positions, .dim = dim);
}

static const Position TURN = {.rotate = turn, .max_position = 4096, .scale = TURN_SCALE};

#endif
