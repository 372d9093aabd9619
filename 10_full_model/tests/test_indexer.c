/*
 * The lightning indexer by itself: its kernels against their definitions, and the choice on rows
 * that are all ties.
 */
#include "10_full_model/sparse/index_kernels.h"
#include "10_full_model/sparse/indexer.h"
#include "10_full_model/sparse/layer_norm.h"
#include "10_full_model/tests/test_rows.h"

#include "common/core/cpu_matmul.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>

/* ---- the k largest ---- */

Test(top_k, is_what_k_times_the_largest_is) {
    static const int lengths[] = {1, 2, 31, 64, 127, 1000};
    static const int ks[] = {1, 2, 5, 64, 500, 1500};
    float row[1000];
    int32_t got[1500], want[1500];
    for (int kind = 0; kind < KINDS; kind++)
        for (int l = 0; l < 6; l++)
            for (int c = 0; c < 6; c++) {
                for (int i = 0; i < lengths[l]; i++) row[i] = row_value(kind, i);
                top_k_row_cpu(got, row, lengths[l], ks[c]);
                top_k_reference_cpu(want, row, lengths[l], ks[c]);
                for (int i = 0; i < ks[c]; i++)
                    cr_assert(got[i] == want[i],
                              "rows of kind %d, %d of %d: entry %d is %d, not %d", kind, ks[c],
                              lengths[l], i, got[i], want[i]);
            }
}

/* By hand: the lower position of equals, zero and minus zero are equal, and -1 fills up. */
Test(top_k, by_hand) {
    const float row[] = {2, 1, 3, 1, -0.0f, 1, 0};
    int32_t got[9];
    top_k_row_cpu(got, row, 7, 3);
    cr_assert(got[0] == 0 && got[1] == 1 && got[2] == 2);
    top_k_row_cpu(got, row, 7, 4);
    cr_assert(got[3] == 3);
    top_k_row_cpu(got, row, 7, 6);
    cr_assert(got[4] == 4 && got[5] == 5, "minus zero is as large as zero");
    top_k_row_cpu(got, row, 7, 9);
    cr_assert(got[6] == 6 && got[7] == -1 && got[8] == -1);
}

/* ---- scores ---- */

typedef struct Scored {
    float *q, *w, *k;
    IndexShape shape;
} Scored;

static float *numbers(int64_t n, uint64_t stream) {
    float *x = malloc(sizeof *x * (size_t)n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)philox(7, stream, (uint64_t)i).word[0] / 2147483648.0f - 1;
    return x;
}

static Scored scored(int B, int T, int S, int heads, int dim) {
    return (Scored){numbers((int64_t)B * T * heads * dim, 1),
                    numbers((int64_t)B * T * heads, 2),
                    numbers((int64_t)B * S * dim, 3),
                    {.batch = B,
                     .q_len = T,
                     .count = T,
                     .heads = heads,
                     .dim = dim,
                     .scale = 0.37f,
                     .kv_len = S}};
}

Test(index_scores, are_the_formula) {
    static const int sizes[][5] = {{1, 1, 1, 1, 1},   {2, 31, 31, 3, 13}, {1, 5, 127, 4, 32},
                                   {3, 1, 65, 5, 33}, {1, 33, 64, 2, 8},  {2, 7, 200, 9, 16}};
    for (int i = 0; i < 6; i++) {
        const int *n = sizes[i];
        Scored s = scored(n[0], n[1], n[2], n[3], n[4]);
        int64_t count = (int64_t)n[0] * n[1] * n[2];
        float *got = malloc(sizeof *got * (size_t)count),
              *want = malloc(sizeof *want * (size_t)count);
        for (int64_t j = 0; j < count; j++) got[j] = want[j] = NAN;
        index_scores_cpu(got, s.q, s.w, s.k, s.shape);
        index_scores_reference_cpu(want, s.q, s.w, s.k, s.shape);
        for (int64_t j = 0; j < count; j++) { /* what a query does not see stays as it was */
            cr_assert(isnan(got[j]) == isnan(want[j]), "score %lld", (long long)j);
            if (isnan(want[j])) got[j] = want[j] = 0;
        }
        check_close("scores", got, want, count, 8 * tolerance_of(F32, n[3] * n[4]));
    }
}

/* Alone, in passes, and all together: the same bits, so the same choice. Of few queries also as the
 * queries of another step, of which they are the last. */
Test(index_scores, bits_do_not_depend_on_the_pass) {
    enum { MOST = 40, S = 150 };
    for (int T = 5; T <= MOST; T += MOST - 5) {
        Scored s = scored(2, T, S, 5, 24);
        float all[2 * MOST * S] = {0}, part[2 * MOST * S] = {0};
        index_scores_cpu(all, s.q, s.w, s.k, s.shape);
        for (int first = 0, count; first < T; first += count) {
            count = first == 0 ? 1 : T - first < 7 ? T - first : 7;
            s.shape.first = first, s.shape.count = count;
            index_scores_cpu(part, s.q, s.w, s.k, s.shape);
            for (int b = 0; b < 2; b++)
                for (int i = 0; i < count; i++)
                    cr_assert(!memcmp(part + (b * count + i) * S, all + (b * T + first + i) * S,
                                      sizeof(float) * (size_t)(S - T + first + i + 1)),
                              "query %d", first + i);
        }
        if (T > CPU_FEW_ROWS) continue;
        s.shape.first = 0, s.shape.count = s.shape.q_len = s.shape.batch = 1;
        index_scores_cpu(part, s.q + (T - 1) * 5 * 24, s.w + (T - 1) * 5, s.k, s.shape);
        cr_assert(!memcmp(part, all + (T - 1) * S, sizeof(float) * S));
    }
}

/* One query by hand (the lesson's): ties go to the lower position. */
Test(index_scores, by_hand) {
    const float q[] = {2, -1, 0, 1}, w[] = {1, 0.5f}, k[] = {1, 0, 0, 1, 1, 1, -1, 1};
    const float want[] = {1, 0.25f, 0.75f, 0.25f};
    float scores[4];
    int32_t selected[3];
    IndexShape shape = {
        .batch = 1, .q_len = 1, .count = 1, .heads = 2, .dim = 2, .scale = 0.5f, .kv_len = 4};
    index_scores_cpu(scores, q, w, k, shape);
    for (int i = 0; i < 4; i++) cr_assert_eq(scores[i], want[i], "score %d is %g", i, scores[i]);
    top_k_cpu(selected, scores, 3, shape);
    cr_assert(selected[0] == 0 && selected[1] == 1 && selected[2] == 2);
}

/* ---- turning and rounding ---- */

Test(hadamard, keeps_products_and_spreads_what_stands_out) {
    enum { D = 128 };
    float *x = numbers(2 * D, 4), before = 0, after = 0, one[D] = {0};
    for (int i = 0; i < D; i++) before += x[i] * x[D + i];
    hadamard_cpu(x, 2, D);
    for (int i = 0; i < D; i++) after += x[i] * x[D + i];
    cr_assert_float_eq(after, before, 1e-4);
    hadamard_cpu(x, 2, D); /* H H / d is the identity */
    float *again = numbers(2 * D, 4);
    check_close("twice", x, again, 2 * D, 16 * tolerance_of(F32, D));
    one[5] = 1;
    hadamard_cpu(one, 1, D);
    for (int i = 0; i < D; i++) cr_assert_float_eq(fabsf(one[i]), 1 / sqrtf(D), 1e-6);
}

/* ---- LayerNorm ---- */

typedef struct Norm {
    Tensor *x, *w, *b, *c;
} Norm;

static Tensor *norm_loss(Context *ctx, void *user) {
    Norm *n = user;
    return weighted_sum(ctx, layer_norm(ctx, n->x, n->w, n->b, 1e-6f), n->c);
}

CONTEXT_TEST(layer_norm, by_hand_and_its_gradients) {
    float x[] = {1, 2, 3, 6}, w[] = {1, 1, 2, 1}, b[] = {0, 0, 0, 10};
    Tensor *y = layer_norm(&ctx, tensor_copy_in(&ctx, "x", dtype, x, SHAPE(1, 4)),
                           tensor_copy_in(&ctx, "w", dtype, w, SHAPE(4)),
                           tensor_copy_in(&ctx, "b", dtype, b, SHAPE(4)), 0.5f);
    /* mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, sqrt(3.5 + 0.5) = 2 */
    const float want[] = {-1, -0.5f, 0, 11.5f};
    check_tensor(&ctx, "y", y, want, 1e-6);
    if (device != CPU) return; /* slopes by differences are the CPU's */
    Norm n = {test_normal(&ctx, "x", 1, SHAPE(5, 12)), test_normal(&ctx, "w", 2, SHAPE(12)),
              test_normal(&ctx, "b", 3, SHAPE(12)), test_normal(&ctx, "c", 4, SHAPE(5, 12))};
    Tensor *inputs[] = {n.x, n.w, n.b};
    check_gradients(&ctx, "layer_norm", norm_loss, &n, inputs, 3, 12, 1e-2, 1e-2);
}

/* Ragged rows, and gradients that are added. */
DEVICE_TEST(layer_norm, agrees_with_the_cpu) {
    static const int shapes[][2] = {{1, 1}, {7, 33}, {70, 128}, {3, 500}};
    for (int i = 0; i < 4; i++) {
        float *got[4], *want[4];
        int64_t rows = shapes[i][0], d = shapes[i][1];
        for (int reference = 0; reference < 2; reference++) {
            Context ctx = test_context(reference ? CPU : device, reference ? F32 : dtype);
            DType type = ctx.dtype;
            Tensor *in[4]; /* x, w, b, dy */
            for (int j = 0; j < 4; j++) {
                Context rounds = test_context(device, dtype);
                int64_t n = j % 3 ? 1 : rows;
                Tensor *t = test_normal(&rounds, "t", (uint64_t)j + 1, SHAPE(n, d));
                in[j] = tensor_copy_in(&ctx, "t", type, test_values(&rounds, t), t->shape, t->ndim);
                context_free(&rounds);
            }
            Tensor *y = tensor_new(&ctx, "y", type, SHAPE(rows, d));
            Tensor *dx = tensor_copy_in(&ctx, "dx", type, test_values(&ctx, in[0]), SHAPE(rows, d));
            Tensor *dw = tensor_copy_in(&ctx, "dw", F32, test_values(&ctx, in[1]), SHAPE(1, d));
            Tensor *db = tensor_new(&ctx, "db", F32, SHAPE(1, d));
            Tensor *moments = tensor_new(&ctx, "moments", F32, SHAPE(rows, 2));
            ON(&ctx, layer_norm_forward, y->data, moments->data, in[0]->data, in[1]->data,
               in[2]->data, rows, d, 1e-6f);
            ON(&ctx, layer_norm_backward, dx->data, 1, dw->data, 1, db->data, 0, in[3]->data,
               in[0]->data, in[1]->data, moments->data, rows, d);
            Tensor *const out[] = {y, dx, dw, db};
            for (int j = 0; j < 4; j++) (reference ? want : got)[j] = test_values(&ctx, out[j]);
            context_free(&ctx);
        }
        double t = dtype == BF16 ? 1e-2 : 1e-5;
        check_close("y", got[0], want[0], rows * d, t);
        check_close("dx", got[1], want[1], rows * d, t);
        check_close("dw", got[2], want[2], d, 1e-4);
        check_close("db", got[3], want[3], d, 1e-4);
    }
}
