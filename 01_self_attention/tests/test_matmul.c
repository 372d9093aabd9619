/*
 * Matrix products: every rung against plain loops on ragged sizes, the batched product with all
 * transposes, gradients.
 */
#include "01_self_attention/matmul.h"
#include "common/core/cpu_matmul.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>

/* m, n, k: less than a tile, more than one, neither a multiple of anything; and a k beyond the
 * packed depth of 256. */
static const int64_t sizes[][3] = {{1, 1, 1},    {1, 33, 31},    {31, 33, 127}, {127, 31, 33},
                                   {64, 64, 64}, {200, 72, 264}, {5, 300, 513}, {13, 1100, 40}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* c = scale op(a) op(b) (+ c), summed in double. */
static void plain_loops(float *c, int add, const float *a, int ta, const float *b, int tb,
                        int64_t batch, int64_t m, int64_t n, int64_t k, float scale) {
    float *sum = malloc((size_t)(m * n) * sizeof *sum);
    for (int64_t i = 0; i < batch; i++, a += m * k, b += k * n, c += m * n) {
        cpu_matmul_reference(&(CpuMatmul){
            sum, NULL, n, {a, ta ? 1 : k, ta ? m : 1}, {b, tb ? 1 : n, tb ? k : 1}, m, n, k});
        for (int64_t j = 0; j < m * n; j++) c[j] = scale * sum[j] + (add ? c[j] : 0);
    }
    free(sum);
}

typedef void (*CpuRung)(float *, const float *, const float *, int64_t, int64_t, int64_t);

static void check_rung(const char *name, CpuRung run) {
    for (int i = 0; i < SIZES; i++) {
        Context ctx = test_context(CPU, F32);
        int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        Tensor *a = test_normal(&ctx, "a", 1, SHAPE(m, k)),
               *b = test_normal(&ctx, "b", 2, SHAPE(k, n));
        Tensor *c = tensor_new(&ctx, "c", F32, SHAPE(m, n));
        float *want = test_floats(m * n);
        plain_loops(want, 0, a->data, 0, b->data, 0, 1, m, n, k, 1);
        test_poison(&ctx, c);
        run(c->data, a->data, b->data, m, n, k);
        /* The rungs sum k products in different orders: twice the rounding of one order. */
        check_tensor(&ctx, name, c, want, 2 * tolerance_of(F32, k));
        context_free(&ctx);
    }
}

Test(matmul, naive_agrees_with_plain_loops) { check_rung("naive", matmul_naive_cpu); }
Test(matmul, ordered_agrees_with_plain_loops) { check_rung("ordered", matmul_ordered_cpu); }
Test(matmul, blocked_agrees_with_plain_loops) { check_rung("blocked", matmul_blocked_cpu); }

/* An empty sum is 0, not what was in memory. */
Test(matmul, no_products_give_zero) {
    CpuRung runs[] = {matmul_naive_cpu, matmul_ordered_cpu, matmul_blocked_cpu};
    for (int r = 0; r < 3; r++) {
        float c[6] = {NAN, NAN, NAN, NAN, NAN, NAN}, none = 0;
        runs[r](c, &none, &none, 2, 3, 0);
        for (int i = 0; i < 6; i++) cr_assert(c[i] == 0, "rung %d: c[%d] = %g", r, i, c[i]);
    }
}

DEVICE_TEST(matmul, batched_with_all_transposes) {
    for (int i = 0; i < SIZES; i++)
        for (int kind = 0; kind < 8; kind++) {
            Context ctx = test_context(device, dtype);
            int ta = kind & 1, tb = kind >> 1 & 1, add = kind >> 2;
            int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            Tensor *a = test_normal(&ctx, "a", 1, SHAPE(3, ta ? k : m, ta ? m : k));
            Tensor *b = test_normal(&ctx, "b", 2, SHAPE(3, tb ? n : k, tb ? k : n));
            Tensor *c = test_normal(&ctx, "c", 3, SHAPE(3, m, n));
            float *ha = test_values(&ctx, a), *hb = test_values(&ctx, b),
                  *want = test_values(&ctx, c);
            plain_loops(want, add, ha, ta, hb, tb, 3, m, n, k, 0.5f);
            if (!add) test_poison(&ctx, c);
            ON(&ctx, matmul_batched, c->data, add, a->data, ta, b->data, tb, 3, m, n, k, 0.5f);
            check_tensor(&ctx, "batched", c, want, 2 * tolerance_of(dtype, k));
            context_free(&ctx);
        }
}

static Tensor *product_loss(Context *ctx, void *user) {
    Tensor **t = user; /* a, b, c */
    return weighted_sum(ctx, matmul(ctx, t[0], t[1]), t[2]);
}

static Tensor *transposed_loss(Context *ctx, void *user) {
    Tensor **t = user;
    return weighted_sum(ctx, matmul_transposed(ctx, t[0], t[1], 0.3f), t[2]);
}

/* The loss is linear in each factor, so central differences have no error but rounding: 2^-24 of a
 * sum of order 30, over h. */
CPU_TEST(matmul, gradients_by_finite_differences) {
    Tensor *t[3] = {test_normal(&ctx, "a", 1, SHAPE(2, 3, 5)),
                    test_normal(&ctx, "b", 2, SHAPE(2, 5, 4)),
                    test_normal(&ctx, "c", 3, SHAPE(2, 3, 4))};
    t[2]->requires_grad = false;
    check_gradients(&ctx, "matmul", product_loss, t, t, 2, 64, 0.1, 1e-3);
    Tensor *u[3] = {test_normal(&ctx, "a", 1, SHAPE(2, 3, 5)),
                    test_normal(&ctx, "b", 2, SHAPE(2, 4, 5)),
                    test_normal(&ctx, "c", 3, SHAPE(2, 3, 4))};
    u[2]->requires_grad = false;
    check_gradients(&ctx, "matmul_transposed", transposed_loss, u, u, 2, 64, 0.1, 1e-3);
}

static Tensor *square_loss(Context *ctx, void *user) {
    Tensor **t = user; /* a [2, 4, 4], c */
    Tensor *twice = matmul_transposed(ctx, t[0], t[0], 0.5f);
    return weighted_sum(ctx, matmul(ctx, twice, t[0]), t[1]);
}

/* a a^T a: three contributions to one gradient, of which only the first may overwrite. */
CPU_TEST(matmul, gradient_of_a_tensor_used_twice) {
    Tensor *t[2] = {test_normal(&ctx, "a", 1, SHAPE(2, 4, 4)),
                    test_normal(&ctx, "c", 2, SHAPE(2, 4, 4))};
    t[1]->requires_grad = false;
    /* A cubic: h^2 = 1e-4 of its third derivative, and 2^-24 / h = 6e-6 of a loss of about ten. */
    check_gradients(&ctx, "a a^T a", square_loss, t, t, 1, 32, 1e-2, 2e-3);
}

/* (A B)^T = B^T A^T, by way of the two operations. */
CONTEXT_TEST(matmul, transposes_agree) {
    enum { M = 33, N = 31, K = 65 };
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(1, M, K)),
           *bt = test_normal(&ctx, "bt", 2, SHAPE(1, N, K));
    float *x = test_values(&ctx, matmul_transposed(&ctx, a, bt, 1)); /* a b */
    float *y = test_values(&ctx, matmul_transposed(&ctx, bt, a, 1)), *yt = test_floats(M * N);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) yt[i * N + j] = y[j * M + i];
    check_close("(A B)^T against B^T A^T", yt, x, M * N, 2 * tolerance_of(dtype, K));
}

#ifdef WITH_CUDA
static void check_cuda_rungs(DType dtype) {
    static const struct {
        const char *name;
        __typeof__(matmul_naive_cuda) *run;
    } rungs[] = {{"naive", matmul_naive_cuda},
                 {"shared", matmul_shared_cuda},
                 {"registers", matmul_registers_cuda},
                 {"tensor", matmul_tensor_cuda},
                 {"hopper", matmul_hopper_cuda}};
    /* Beside the ragged ones, multiples of 8 around the tiles of the last rung: 128 x 256 x 64, in
     * pairs. */
    static const int64_t more[][3] = {
        {128, 256, 64}, {256, 256, 512}, {300, 520, 136}, {1, 8, 8}, {640, 1032, 648}};
    for (int i = 0; i < SIZES + 5; i++) {
        Context ctx = test_context(CUDA, dtype);
        const int64_t *size = i < SIZES ? sizes[i] : more[i - SIZES];
        int64_t m = size[0], n = size[1], k = size[2];
        Tensor *a = test_normal(&ctx, "a", 1, SHAPE(m, k)),
               *b = test_normal(&ctx, "b", 2, SHAPE(k, n));
        Tensor *c = tensor_new(&ctx, "c", dtype, SHAPE(m, n));
        float *ha = test_values(&ctx, a), *hb = test_values(&ctx, b);
        float *want = test_floats(m * n);
        plain_loops(want, 0, ha, 0, hb, 0, 1, m, n, k, 1);
        for (int r = 0; r < 5; r++) {
            if (r == 3 && !matmul_tensor_available(ctx.gpu, dtype)) continue;
            if (r == 4 && !matmul_hopper_available(ctx.gpu, dtype, n, k)) continue;
            test_poison(&ctx, c);
            rungs[r].run(ctx.gpu, dtype, c->data, a->data, b->data, m, n, k);
            check_tensor(&ctx, rungs[r].name, c, want, 2 * tolerance_of(dtype, k));
        }
        context_free(&ctx);
    }
}
CUDA_TEST(matmul, every_rung) { check_cuda_rungs(dtype); }
#endif
