/*
 * Dispatch against a plain sort, there and back again, with dropped tokens, and by finite
 * differences.
 */
#include "05_moe/dispatch.h"

#include "common/program/testing.h"

#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static int32_t *ints_of(Context *ctx, const Tensor *t) {
    int32_t *host = malloc(tensor_bytes(t) + 1);
    tensor_download_ints(ctx, host, t);
    return host;
}

/* K different experts for each token; `popular` tokens out of 8 take expert E - 1 first. */
static int32_t *random_choices(int64_t N, int K, int E, int popular) {
    int32_t *chosen = malloc((size_t)(N * K) * sizeof *chosen);
    for (int64_t n = 0; n < N; n++)
        for (int j = 0; j < K; j++) {
            int e = (int)(rng_uniform(7, (uint64_t)j, (uint64_t)n) * (float)E);
            if (j == 0 && n % 8 < popular) e = E - 1;
            for (int i = 0; i < j; i++) /* taken already: the next one that is not */
                if (chosen[n * K + i] == e) e = (e + 1) % E, i = -1;
            chosen[n * K + j] = e;
        }
    return chosen;
}

static const struct {
    int tokens, experts, k, popular;
} cases[] = {{1, 1, 1, 0},   {1, 8, 8, 0},    {33, 8, 2, 0},     {31, 64, 6, 0},
             {127, 7, 3, 8}, {700, 33, 4, 3}, {2000, 256, 8, 1}, {1024, 5, 1, 7}};
enum { CASES = sizeof cases / sizeof *cases };

/* counts, offsets, and for each slot in order its row, by walking through the slots expert by
 * expert */
static void check_plan(Context *ctx, int i, int64_t capacity) {
    int64_t N = cases[i].tokens, K = cases[i].k, E = cases[i].experts, S = N * K;
    int32_t *chosen = random_choices(N, (int)K, (int)E, cases[i].popular);
    Tensor *indices = tensor_copy_in(ctx, "indices", I32, chosen, SHAPE(N, K));
    Dispatch plan = dispatch_plan(ctx, indices, (int)E, capacity);
    int32_t *counts = ints_of(ctx, plan.counts), *offsets = ints_of(ctx, plan.offsets);
    int32_t *rows = ints_of(ctx, plan.row_of_slot), *slots = ints_of(ctx, plan.slot_of_row);
    int32_t next = 0;
    for (int e = 0; e < E; e++) {
        int32_t seen = 0;
        cr_assert_eq(offsets[e], next, "case %d: expert %d begins at %d, not %d", i, e, offsets[e],
                     next);
        for (int64_t s = 0; s < S; s++) {
            if (chosen[s] != e) continue;
            bool kept = !capacity || seen < capacity;
            int32_t want = kept ? next : -1;
            cr_assert_eq(rows[s], want, "case %d: slot %lld is in row %d, not %d", i, (long long)s,
                         rows[s], want);
            if (kept) cr_assert_eq(slots[next], s);
            next += kept, seen++;
        }
        cr_assert_eq(counts[e], seen);
    }
    cr_assert_eq(offsets[E], next);
}

CONTEXT_TEST(dispatch, plan_is_a_stable_sort) {
    for (int i = 0; i < CASES; i++) check_plan(&ctx, i, 0);
}

CONTEXT_TEST(dispatch, over_capacity_the_later_tokens_are_dropped) {
    for (int i = 0; i < CASES; i++) {
        check_plan(&ctx, i, 1);
        check_plan(&ctx, i, dispatch_capacity(1.0f, cases[i].tokens, cases[i].k, cases[i].experts));
    }
    cr_assert_eq(dispatch_capacity(0, 100, 2, 8), 0);
    cr_assert_eq(dispatch_capacity(1, 100, 2, 8), 25);
    cr_assert_eq(dispatch_capacity(1.25f, 33, 2, 8), 11); /* 10.3, rounded up */
    cr_assert_eq(dispatch_capacity(1e-30f, 33, 2, 8), 1);
    cr_assert_eq(dispatch_capacity(8, 33, 2, 8), 33);     /* 66, but there are 33 tokens */
    cr_assert_eq(dispatch_capacity(1e30f, 33, 2, 8), 33); /* more than an int64_t holds */
}

/* Permuted and combined with weights 1 / K, everything is back where it was. */
DEVICE_TEST(dispatch, there_and_back_again) {
    for (int i = 0; i < CASES; i++) {
        Context ctx = test_context(device, dtype);
        int64_t N = cases[i].tokens, K = cases[i].k, D = i % 2 ? 31 : 64;
        int32_t *chosen = random_choices(N, (int)K, cases[i].experts, cases[i].popular);
        Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
        Dispatch plan = dispatch_plan(&ctx, indices, cases[i].experts, 0);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(N, D));
        float *expected = test_values(&ctx, x);
        float *share = test_floats(N * K);
        for (int64_t s = 0; s < N * K; s++) share[s] = 1.0f / (float)K;
        Tensor *weights = tensor_copy_in(&ctx, "weights", F32, share, SHAPE(N, K));
        Tensor *y = dispatch_combine(&ctx, NULL, dispatch_permute(&ctx, x, &plan), weights, &plan);
        /* K products and sums in F32, and one rounding to dtype */
        check_tensor(&ctx, "y", y, expected, 4 * tolerance_of(dtype, K));
        context_free(&ctx);
    }
}

/*
 * Forward and backward of both halves by plain loops, with dropped tokens, over poison, and added
 * to what was there.
 */
CONTEXT_TEST(dispatch, kernels_by_plain_loops) {
    enum { N = 127, K = 3, E = 7, D = 33, S = N * K };
    int32_t *chosen = random_choices(N, K, E, 4);
    Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
    Dispatch plan = dispatch_plan(&ctx, indices, E, dispatch_capacity(1, N, K, E));
    int32_t *row = ints_of(&ctx, plan.row_of_slot), *offsets = ints_of(&ctx, plan.offsets);
    cr_assert(offsets[E] < S, "some are dropped");
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(N, D)),
           *yp = test_normal(&ctx, "yp", 2, SHAPE(S, D));
    Tensor *dy = test_normal(&ctx, "dy", 3, SHAPE(N, D));
    Tensor *dxp = test_normal(&ctx, "dxp", 4, SHAPE(S, D));
    Tensor *dx = test_normal(&ctx, "dx", 5, SHAPE(N, D));
    Tensor *dyp = test_normal(&ctx, "dyp", 6, SHAPE(S, D));
    float wh[S], dwh[S];
    for (int s = 0; s < S; s++) wh[s] = rng_normal(1, 8, (uint64_t)s), dwh[s] = (float)s / S;
    Tensor *weights = tensor_copy_in(&ctx, "weights", F32, wh, SHAPE(N, K));
    Tensor *dw = tensor_copy_in(&ctx, "dw", F32, dwh, SHAPE(N, K));
    Tensor *xp = tensor_new(&ctx, "xp", dtype, SHAPE(S, D)),
           *y = tensor_new(&ctx, "y", dtype, SHAPE(N, D));
    Tensor *fresh = tensor_new(&ctx, "fresh", dtype, SHAPE(N, D));
    Tensor *fresh_p = tensor_new(&ctx, "fresh", dtype, SHAPE(S, D));
    Tensor *fresh_w = tensor_new(&ctx, "fresh", F32, SHAPE(N, K));
    test_poison(&ctx, xp), test_poison(&ctx, y), test_poison(&ctx, fresh);
    test_poison(&ctx, fresh_p), test_poison(&ctx, fresh_w);
    float *xh = test_values(&ctx, x), *yph = test_values(&ctx, yp), *dyh = test_values(&ctx, dy);
    float *dxph = test_values(&ctx, dxp), *dxh = test_values(&ctx, dx),
          *dyph = test_values(&ctx, dyp);

    const int32_t *rows = plan.row_of_slot->data;
    ON(&ctx, dispatch_permute, xp->data, x->data, rows, N, K, D);
    ON(&ctx, dispatch_combine, y->data, NULL, yp->data, weights->data, rows, N, K, D);
    ON(&ctx, dispatch_permute_backward, dx->data, 1, dxp->data, rows, N, K, D);
    ON(&ctx, dispatch_permute_backward, fresh->data, 0, dxp->data, rows, N, K, D);
    ON(&ctx, dispatch_combine_backward, dyp->data, 1, dw->data, 1, dy->data, yp->data,
       weights->data, rows, N, K, D);
    ON(&ctx, dispatch_combine_backward, fresh_p->data, 0, fresh_w->data, 0, dy->data, yp->data,
       weights->data, rows, N, K, D);

    float *want_y = calloc(N * D, 4), *want_dx = calloc(N * D, 4), *want_w = calloc(S, 4);
    float *got = test_values(&ctx, xp), *got_p = test_values(&ctx, fresh_p);
    float *got_added = test_values(&ctx, dyp);
    double close = 4 * tolerance_of(dtype, K);
    for (int s = 0; s < S; s++) {
        if (row[s] < 0) continue;
        const float *dyn = dyh + s / K * D;
        float want_p[D], want_added[D];
        double dot = 0;
        for (int i = 0; i < D; i++) {
            want_y[s / K * D + i] += wh[s] * yph[row[s] * D + i];
            want_dx[s / K * D + i] += dxph[row[s] * D + i];
            want_p[i] = wh[s] * dyn[i];
            want_added[i] = dyph[row[s] * D + i] + want_p[i];
            dot += (double)dyn[i] * yph[row[s] * D + i];
        }
        want_w[s] = (float)dot;
        check_close("xp", got + row[s] * D, xh + s / K * D, D, 0);
        check_close("dyp", got_p + row[s] * D, want_p, D, close);
        check_close("dyp, added", got_added + row[s] * D, want_added, D, close);
    }
    check_tensor(&ctx, "y", y, want_y, close);
    check_tensor(&ctx, "dx", fresh, want_dx, close);
    check_tensor(&ctx, "dw", fresh_w, want_w, 4 * tolerance_of(F32, D));
    for (int i = 0; i < N * D; i++) want_dx[i] += dxh[i];
    for (int s = 0; s < S; s++) want_w[s] += dwh[s];
    check_tensor(&ctx, "dx, added", dx, want_dx, close);
    check_tensor(&ctx, "dw, added", dw, want_w, 4 * tolerance_of(F32, D));
}

typedef struct Graph {
    Tensor *x, *weights, *scale, *base, *c;
    Dispatch plan;
} Graph;

/* What an expert does in between: here it scales every row by a number of its own. */
static Tensor *round_trip_loss(Context *ctx, void *user) {
    Graph *g = user;
    Tensor *xp = dispatch_permute(ctx, g->x, &g->plan);
    xp = swiglu(ctx, xp, g->scale);
    return weighted_sum(ctx, dispatch_combine(ctx, g->base, xp, g->weights, &g->plan), g->c);
}

Test(dispatch, gradients_agree_with_finite_differences) {
    enum { N = 9, K = 3, E = 5, D = 4 };
    for (int capacity = 0; capacity <= 4; capacity += 4) {
        Context ctx = test_context(CPU, F32);
        int32_t *chosen = random_choices(N, K, E, 4);
        Graph g = {.x = test_normal(&ctx, "x", 1, SHAPE(N, D)),
                   .weights = test_normal(&ctx, "weights", 2, SHAPE(N, K)),
                   .scale = test_normal(&ctx, "scale", 3, SHAPE(N * K, D)),
                   .base = capacity ? test_normal(&ctx, "base", 5, SHAPE(N, D)) : NULL,
                   .c = test_normal(&ctx, "c", 4, SHAPE(N, D))};
        Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
        g.plan = dispatch_plan(&ctx, indices, E, capacity);
        Tensor *inputs[] = {g.x, g.weights, g.base};
        check_gradients(&ctx, "dispatch", round_trip_loss, &g, inputs, capacity ? 3 : 2, 40, 1e-2,
                        1e-2);
        context_free(&ctx);
    }
}

CPU_TEST(dispatch, an_expert_out_of_range_stops_the_program, .signal = SIGABRT) {
    int32_t chosen[2] = {0, 8};
    dispatch_plan(&ctx, tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(1, 2)), 8, 0);
}

Test(dispatch, threads_do_not_change_results) {
    enum { N = 5000, K = 4, E = 64, D = 8 };
    static int32_t plans[2][N * K];
    static float sums[2][N * D];
    int32_t *chosen = random_choices(N, K, E, 2);
    for (int round = 0; round < 2; round++) {
        omp_set_num_threads(round ? 4 : 1);
        Context ctx = test_context(CPU, F32);
        Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
        Dispatch plan = dispatch_plan(&ctx, indices, E, 0);
        memcpy(plans[round], plan.row_of_slot->data, sizeof plans[round]);
        Tensor *yp = test_normal(&ctx, "yp", 1, SHAPE(N * K, D));
        Tensor *weights = test_normal(&ctx, "weights", 2, SHAPE(N, K));
        memcpy(sums[round], dispatch_combine(&ctx, NULL, yp, weights, &plan)->data,
               sizeof sums[round]);
        context_free(&ctx);
    }
    cr_assert(!memcmp(plans[0], plans[1], sizeof plans[0]));
    cr_assert(!memcmp(sums[0], sums[1], sizeof sums[0]));
}
