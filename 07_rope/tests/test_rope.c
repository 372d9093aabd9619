/*
 * The rotation against complex numbers in double precision, and against what must hold for any
 * numbers: norms are kept, only distances count, the inverse undoes, gradients turn back, and what
 * is not rotated is not touched.
 */
#include "07_rope/rope.h"

#include "common/program/testing.h"

#include <complex.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/*
 * A rotated number is two products and a sum, with cos and sin rounded once: four roundings, and
 * one more to BF16 where that is the dtype. Twice what they do in the mean is allowed.
 */
static double rotation_tolerance(DType dtype) { return 2 * tolerance_of(dtype, 4); }

/* ---- the reference: plain rotation with base 10000, pair i of x times e^(i p f_i) ---- */

static double complex turn_of(int position, int i, int dim) {
    return cexp(I * position * pow(10000, -2.0 * i / dim));
}

/* x [tokens, heads, head_dim] with `dim` numbers from `offset` on, in place. */
static void reference(float *x, const int32_t *positions, int64_t tokens, RopePart part, int dim,
                      RopeLayout layout, int inverse) {
    int step = layout == ROPE_HALVES ? 1 : 2, other = layout == ROPE_HALVES ? dim / 2 : 1;
    for (int64_t t = 0; t < tokens; t++)
        for (int i = 0; i < dim / 2; i++) {
            double complex turn = turn_of(positions[t], i, dim);
            if (inverse) turn = conj(turn);
            for (int h = 0; h < part.heads; h++) {
                float *a = x + (t * part.heads + h) * part.head_dim + part.offset + step * i;
                double complex y = (a[0] + I * (double)a[other]) * turn;
                a[0] = (float)creal(y);
                a[other] = (float)cimag(y);
            }
        }
}

/* Numbers before and behind the rotated ones must be the same bits as before. */
static void check_untouched(const char *what, const float *now, const float *before, int64_t rows,
                            int head_dim, int offset, int dim) {
    for (int64_t i = 0; i < rows * head_dim; i++) {
        int64_t column = i % head_dim;
        if (column >= offset && column < offset + dim) continue;
        cr_assert(memcmp(now + i, before + i, sizeof *now) == 0,
                  "%s: number %lld of a head lies outside the rotated part but changed from %g to "
                  "%g",
                  what, (long long)column, before[i], now[i]);
    }
}

/* ---- setting up ---- */

enum { MAX_POSITION = 300 };

static Rope rope_new(Context *ctx, int dim, RopeLayout layout) {
    RopeConfig cfg = rope_config(dim, MAX_POSITION);
    Rope rope;
    cfg.layout = layout;
    check_ok(rope_init(&rope, ctx, &cfg, &err), &err);
    return rope;
}

/* A list with gaps, repeats, the first and the last position, and in no order. */
static Tensor *some_positions(Context *ctx, int64_t B, int64_t T, int32_t *host) {
    for (int64_t i = 0; i < B * T; i++) host[i] = (int32_t)(i * 7919 % MAX_POSITION);
    host[B * T - 1] = MAX_POSITION - 1;
    if (B * T > 2) host[1] = host[0];
    return tensor_copy_in(ctx, "positions", I32, host, SHAPE(B, T));
}

typedef struct Sizes {
    int dim, heads, kv_heads, T, offset, tail; /* tail: numbers of a head behind the rotated ones */
} Sizes;

/* Every dim with every number of heads and tokens; offsets that are multiples of 8 and not. */
static int all_sizes(Sizes *sizes) {
    static const int dims[] = {2, 6, 64, 66, 128}, heads[] = {1, 3, 31}, tokens[] = {1, 33, 127};
    static const int offsets[] = {0, 3, 16, 128, 5, 8}, tails[] = {0, 2, 0, 8, 1};
    int count = 0;
    for (int d = 0; d < 5; d++)
        for (int h = 0; h < 3; h++)
            for (int t = 0; t < 3; t++, count++)
                sizes[count] = (Sizes){dims[d],   heads[h],           h == 1 ? 3 : 1,
                                       tokens[t], offsets[count % 6], tails[count % 5]};
    return count;
}
enum { SIZES = 45 };

typedef struct Pair { /* q and k on the device, and what they were */
    Tensor *q, *k, *positions;
    RopePart q_part, k_part; /* without data */
    float *q_before, *k_before;
    int32_t host[2 * 127];
    int64_t tokens;
} Pair;

static void pair_make(Pair *p, Context *ctx, Sizes s) {
    int64_t B = s.T == 33 ? 2 : 1;
    p->q_part = (RopePart){NULL, s.heads, s.offset + s.dim + s.tail, s.offset};
    p->k_part = (RopePart){NULL, s.kv_heads, s.tail + s.dim, s.tail}; /* another offset than q's */
    p->tokens = B * s.T;
    p->q = test_normal(ctx, "q", 1, SHAPE(B, s.T, s.heads, p->q_part.head_dim));
    p->k = test_normal(ctx, "k", 2, SHAPE(B, s.T, s.kv_heads, p->k_part.head_dim));
    p->positions = some_positions(ctx, B, s.T, p->host);
    p->q_before = test_values(ctx, p->q);
    p->k_before = test_values(ctx, p->k);
}

/* `rotated` must be `before` turned; `before` is overwritten. */
static void check_rotated(Context *ctx, const char *name, const Tensor *rotated, float *before,
                          const Pair *p, RopePart part, int dim, RopeLayout layout, int inverse) {
    char what[160];
    snprintf(what, sizeof what, "%s: dim %d from %d of %d, %d heads, %lld tokens, %s", name, dim,
             part.offset, part.head_dim, part.heads, (long long)p->tokens,
             layout == ROPE_HALVES ? "halves" : "interleaved");
    float *now = test_values(ctx, rotated);
    check_untouched(what, now, before, p->tokens * part.heads, part.head_dim, part.offset, dim);
    reference(before, p->host, p->tokens, part, dim, layout, inverse);
    check_close(what, now, before, tensor_count(rotated), rotation_tolerance(ctx->dtype));
}

/* ---- forward ---- */

CONTEXT_TEST(rotate, equals_complex_numbers) {
    Sizes sizes[SIZES];
    for (int i = all_sizes(sizes) - 1; i >= 0; i--)
        for (int layout = 0; layout < 2; layout++) {
            Sizes s = sizes[i];
            Rope rope = rope_new(&ctx, s.dim, layout);
            Pair p;
            pair_make(&p, &ctx, s);
            rope_rotate(&ctx, &rope, p.q, s.offset, p.k, s.tail, p.positions);
            check_rotated(&ctx, "q", p.q, p.q_before, &p, p.q_part, s.dim, layout, 0);
            check_rotated(&ctx, "k", p.k, p.k_before, &p, p.k_part, s.dim, layout, 0);
            context_reset(&ctx);
        }
}

/* There and back: two rotations' roundings, and in BF16 both results are rounded. */
CONTEXT_TEST(rotate, inverse_undoes) {
    Sizes sizes[SIZES];
    for (int i = all_sizes(sizes) - 1; i >= 0; i -= 2)
        for (int layout = 0; layout < 2; layout++) {
            Sizes s = sizes[i];
            Rope rope = rope_new(&ctx, s.dim, layout);
            Pair p;
            pair_make(&p, &ctx, s);
            RopePart q = p.q_part, k = p.k_part;
            q.data = p.q->data, k.data = p.k->data;
            for (int inverse = 0; inverse < 2; inverse++)
                ON(&ctx, rope_rotate, q, k, rope.cos, rope.sin, p.positions->data, p.tokens, s.dim,
                   MAX_POSITION, layout, inverse);
            check_tensor(&ctx, "q", p.q, p.q_before, 2 * rotation_tolerance(dtype));
            check_tensor(&ctx, "k", p.k, p.k_before, 2 * rotation_tolerance(dtype));
            context_reset(&ctx);
        }
}

CONTEXT_TEST(rotate, keeps_the_length_of_every_pair) {
    enum { T = 33, H = 3, DIM = 66 };
    for (int layout = 0; layout < 2; layout++) {
        Rope rope = rope_new(&ctx, DIM, layout);
        Pair p;
        pair_make(&p, &ctx, (Sizes){DIM, H, 1, T, 0, 0});
        rope_rotate(&ctx, &rope, p.q, 0, p.k, 0, p.positions);
        float *now = test_values(&ctx, p.q);
        int step = layout == ROPE_HALVES ? 1 : 2, other = layout == ROPE_HALVES ? DIM / 2 : 1;
        for (int64_t row = 0; row < p.tokens * H; row++)
            for (int i = 0; i < DIM / 2; i++) {
                int64_t a = row * DIM + step * i;
                double was = hypot(p.q_before[a], p.q_before[a + other]);
                double is = hypot(now[a], now[a + other]);
                /* One pair, not a mean: up to 2^-8 for BF16's rounding, 2^-22 for F32's. */
                double allowed = was * (dtype == BF16 ? 0x1p-8 : 0x1p-22);
                cr_assert(fabs(is - was) <= allowed, "pair %d: length %.8g became %.8g", i, was,
                          is);
            }
        context_reset(&ctx);
    }
}

CONTEXT_TEST(rotate, k_may_be_missing) {
    enum { T = 33, H = 3, DIM = 64 };
    for (int layout = 0; layout < 2; layout++) {
        Rope rope = rope_new(&ctx, DIM, layout);
        Pair p;
        pair_make(&p, &ctx, (Sizes){DIM, H, 1, T, 8, 0});
        rope_rotate(&ctx, &rope, p.q, 8, NULL, 0, p.positions);
        check_tensor(&ctx, "k, which was not given,", p.k, p.k_before, 0);
        check_rotated(&ctx, "q", p.q, p.q_before, &p, p.q_part, DIM, layout, 0);
        context_reset(&ctx);
    }
}

/* ---- positions ---- */

/*
 * The same q and the same k at many places: q at position p, k at position s. The products must be
 * equal wherever p - s is. In BF16 both are rounded after they are turned.
 */
CONTEXT_TEST(rotate, only_the_distance_counts) {
    enum { DIM = 64, PLACES = 100 };
    static const int distances[] = {0, 1, 7, 100};
    for (int layout = 0; layout < 2; layout++)
        for (int d = 0; d < 4; d++) {
            Rope rope = rope_new(&ctx, DIM, layout);
            Tensor *one = test_normal(&ctx, "one", 1, SHAPE(2, DIM));
            float *values = test_values(&ctx, one), many[2][PLACES * DIM], products[PLACES];
            int32_t places[2][PLACES];
            for (int i = 0; i < PLACES; i++)
                for (int side = 0; side < 2; side++) {
                    memcpy(many[side] + i * DIM, values + side * DIM, DIM * sizeof(float));
                    places[side][i] = side == 0 ? i + distances[d] : i;
                }
            float *turned[2];
            for (int side = 0; side < 2; side++) {
                Tensor *t = tensor_copy_in(&ctx, "t", dtype, many[side], SHAPE(1, PLACES, 1, DIM));
                Tensor *at = tensor_copy_in(&ctx, "at", I32, places[side], SHAPE(1, PLACES));
                rope_rotate(&ctx, &rope, t, 0, NULL, 0, at);
                turned[side] = test_values(&ctx, t);
            }
            double size = 0;
            for (int j = 0; j < DIM; j++) size += fabs(values[j] * values[DIM + j]);
            for (int i = 0; i < PLACES; i++) {
                double product = 0;
                for (int j = 0; j < DIM; j++)
                    product += (double)turned[0][i * DIM + j] * turned[1][i * DIM + j];
                products[i] = (float)product;
                /* Errors of single numbers partly cancel in the sum; size bounds what they add. */
                cr_assert(fabs(product - products[0]) <= size * 2 * rotation_tolerance(dtype),
                          "distance %d: q.k is %.7g at 0 but %.7g at %d", distances[d], products[0],
                          product, i);
            }
            context_reset(&ctx);
        }
}

CONTEXT_TEST(rotate, counts_from_an_offset) {
    enum { B = 2, T = 9, H = 2, DIM = 6, FIRST = 41 };
    Rope rope = rope_new(&ctx, DIM, ROPE_INTERLEAVED);
    int32_t list[B * T];
    for (int i = 0; i < B * T; i++) list[i] = FIRST + i % T;
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(B, T, H, DIM));
    Tensor *b = test_normal(&ctx, "b", 1, SHAPE(B, T, H, DIM));
    rope_rotate(&ctx, &rope, a, 0, NULL, 0, tensor_copy_in(&ctx, "list", I32, list, SHAPE(B, T)));
    rope_rotate(&ctx, &rope, b, 0, NULL, 0, positions_from(&ctx, B, T, FIRST));
    float *expected = test_values(&ctx, a);
    check_tensor(&ctx, "by offset", b, expected, 0);
}

/* The table is exact to F32 at every position: what angles in F32 would not be. */
CPU_TEST(table, is_exact_far_out) {
    static const int rows[] = {0, 1, 2, 4095, 4096, 65537, 100003, 163839};
    RopeConfig cfg = rope_config(64, 163840);
    Rope rope;
    check_ok(rope_init(&rope, &ctx, &cfg, &err), &err);
    double worst = 0, worst_f32 = 0;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (int i = 0; i < 32; i++) {
            long double f = powl(10000, -2.0L * i / 64), angle = rows[r] * f;
            int64_t at = (int64_t)rows[r] * 32 + i;
            worst = fmax(worst, fabs((double)(rope.cos[at] - cosl(angle))));
            worst = fmax(worst, fabs((double)(rope.sin[at] - sinl(angle))));
            worst_f32 =
                fmax(worst_f32, fabs((double)(cosf((float)rows[r] * (float)f) - cosl(angle))));
        }
    /* Half of the last bit of a number below 1, and the error of the angle in double precision:
     * 163840 times a few 2^-53. */
    cr_assert(worst <= 0x1p-25 + 1e-10,
              "cos or sin in the table is off by %.3g; rounded once to F32 it is by %.3g at most",
              worst, 0x1p-25 + 1e-10);
    cr_assert(worst_f32 > 1e-3, "angles in F32 are off by no more than %.3g", worst_f32);
}

static void rotate_beyond(int32_t bad) {
    Context ctx = test_context(CPU, F32);
    Rope rope = rope_new(&ctx, 4, ROPE_HALVES);
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(1, 2, 1, 4));
    int32_t list[] = {0, bad};
    rope_rotate(&ctx, &rope, q, 0, NULL, 0, tensor_copy_in(&ctx, "list", I32, list, SHAPE(1, 2)));
}

Test(positions, beyond_the_table_stop_the_program, .signal = SIGABRT) {
    rotate_beyond(MAX_POSITION);
}

Test(positions, below_zero_stop_the_program, .signal = SIGABRT) { rotate_beyond(-1); }

CPU_TEST(positions, q_given_as_k_too_stops_the_program, .signal = SIGABRT) {
    Rope rope = rope_new(&ctx, 4, ROPE_HALVES);
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(1, 2, 1, 4));
    rope_rotate(&ctx, &rope, q, 0, q, 0, positions_from(&ctx, 1, 2, 0));
}

/* A kernel cannot stop the program: it reads nothing outside, and NaN makes the mistake seen. */
Test(positions, beyond_the_table_become_nan_on_cuda) {
    test_needs_gpu();
    enum { T = 3, H = 2 };
    static const int dims[] = {64, 6}; /* the vectorised rung, and the plain one */
    for (int d = 0; d < 2; d++)
        for (int layout = 0; layout < 2; layout++) {
            int dim = dims[d], row = H * dim;
            Context ctx = test_context(CUDA, F32);
            Rope rope = rope_new(&ctx, dim, layout);
            Tensor *q = test_normal(&ctx, "q", 1, SHAPE(1, T, H, dim));
            float *expected = test_values(&ctx, q);
            int32_t list[] = {5, layout ? MAX_POSITION : -1, 9};
            rope_rotate(&ctx, &rope, q, 0, NULL, 0,
                        tensor_copy_in(&ctx, "list", I32, list, SHAPE(1, T)));
            float *now = test_values(&ctx, q);
            for (int i = row; i < 2 * row; i++)
                cr_assert(isnan(now[i]), "number %d is %g", i, now[i]);
            RopePart part = {NULL, H, dim, 0};
            reference(expected, list, 1, part, dim, layout, 0);
            reference(expected + 2 * row, list + 2, 1, part, dim, layout, 0);
            check_close("before", now, expected, row, rotation_tolerance(F32));
            check_close("behind", now + 2 * row, expected + 2 * row, row, rotation_tolerance(F32));
            context_free(&ctx);
        }
}

/* ---- the CUDA ladder ---- */

#ifdef WITH_CUDA
typedef enum Rung { SINCOS, TABLE, VECTOR, HEADS, RUNGS } Rung;
static const char *const rung_names[] = {"sincos", "table", "vector", "heads"};

static void run_rung(Context *ctx, Rung rung, RopePart q, RopePart k, const Rope *rope,
                     const int32_t *positions, int64_t tokens, int inverse) {
    int dim = rope->cfg.dim;
    RopeLayout layout = rope->cfg.layout;
    if (rung == SINCOS) {
        rope_sincos_cuda(ctx->gpu, ctx->dtype, q, k, 10000, positions, tokens, dim, MAX_POSITION,
                         layout, inverse);
        return;
    }
    (rung == TABLE    ? rope_table_cuda
     : rung == VECTOR ? rope_vector_cuda
                      : rope_heads_cuda)(ctx->gpu, ctx->dtype, q, k, rope->cos, rope->sin,
                                         positions, tokens, dim, MAX_POSITION, layout, inverse);
}

/* Every rung at every size it takes, and the way back at every other one. */
static void check_rungs(DType dtype) {
    Context ctx = test_context(CUDA, dtype);
    Sizes sizes[SIZES];
    int runs[RUNGS] = {0};
    for (int i = all_sizes(sizes) - 1; i >= 0; i--)
        for (int which = 0; which < 2 * RUNGS; which++) {
            Rung rung = which / 2;
            RopeLayout layout = which % 2;
            Sizes s = sizes[i];
            if (s.dim % 16 == 0 && i % 3 < 2) s.offset = 64, s.tail = 8 * (i % 3); /* whole words */
            Rope rope = rope_new(&ctx, s.dim, layout);
            Pair p;
            pair_make(&p, &ctx, s);
            RopePart q = p.q_part, k = p.k_part;
            q.data = p.q->data, k.data = p.k->data;
            if (rung < VECTOR ||
                rope_vector_supports(dtype, q, k, rope.cos, rope.sin, s.dim, layout)) {
                run_rung(&ctx, rung, q, k, &rope, p.positions->data, p.tokens, i % 2);
                /* check_rotated's tolerance is for the table; angles in F32, up to 300, are off by
                 * 300 * 2^-23, and sincos is used for nothing but measuring. */
                if (rung != SINCOS || dtype == BF16) {
                    check_rotated(&ctx, rung_names[rung], p.q, p.q_before, &p, p.q_part, s.dim,
                                  layout, i % 2);
                    check_rotated(&ctx, rung_names[rung], p.k, p.k_before, &p, p.k_part, s.dim,
                                  layout, i % 2);
                } else {
                    reference(p.q_before, p.host, p.tokens, p.q_part, s.dim, layout, i % 2);
                    check_tensor(&ctx, "sincos", p.q, p.q_before, 300 * 0x1p-23);
                }
                runs[rung]++;
            }
            context_reset(&ctx);
        }
    for (int rung = 0; rung < RUNGS; rung++)
        cr_assert(runs[rung] >= 10, "%s was tried at %d sizes", rung_names[rung], runs[rung]);
}

CUDA_TEST(rungs, agree) { check_rungs(dtype); }
#endif
