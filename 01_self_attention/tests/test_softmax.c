/*
 * Softmax: reference against fast and every rung on ragged sizes, properties, extreme values,
 * gradients, golden files.
 */
#include "01_self_attention/softmax.h"
#include "common/program/testing.h"

#include <math.h>

static const int64_t sizes[][2] = {{1, 1},   {1, 33},   {31, 5},   {33, 31},  {127, 129},
                                   {3, 512}, {2, 1000}, {300, 64}, {2, 20001}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/*
 * y = e^(x - max) / sum. fast_exp and __expf are off by a few units in the last place (2^-23 each,
 * and |x - max| < 10 times the rounding of the difference, 2^-24); the sum's rounding is a common
 * factor. 30 units of 2^-24 cover it. BF16 rounds the result once more.
 */
static double forward_tolerance(DType dtype) {
    return 30 * 0x1p-24 + (dtype == BF16) * 1.5 * 0x1p-9;
}

DEVICE_TEST(softmax, agrees_with_reference) {
    for (int i = 0; i < SIZES; i++) {
        Context ctx = test_context(device, dtype);
        int64_t rows = sizes[i][0], cols = sizes[i][1];
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, cols));
        Tensor *y = tensor_new(&ctx, "y", dtype, SHAPE(rows, cols));
        test_poison(&ctx, y);
        float *host = test_values(&ctx, x), *want = test_floats(rows * cols);
        softmax_reference_forward_cpu(want, host, rows, cols);
        ON(&ctx, softmax_forward, y->data, x->data, rows, cols);
        check_tensor(&ctx, "softmax", y, want, forward_tolerance(dtype));
        ON(&ctx, softmax_forward, x->data, x->data, rows, cols); /* in place */
        check_tensor(&ctx, "softmax in place", x, want, forward_tolerance(dtype));
        context_free(&ctx);
    }
}

DEVICE_TEST(softmax, backward_agrees_with_reference) {
    for (int i = 0; i < SIZES; i++)
        for (int add = 0; add < 2; add++) {
            Context ctx = test_context(device, dtype);
            int64_t rows = sizes[i][0], cols = sizes[i][1], n = rows * cols;
            Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, cols));
            Tensor *y = softmax(&ctx, x);
            Tensor *dy = test_normal(&ctx, "dy", 2, SHAPE(rows, cols));
            Tensor *dx = test_normal(&ctx, "dx", 3, SHAPE(rows, cols));
            float *hy = test_values(&ctx, y), *hdy = test_values(&ctx, dy);
            float *want = test_values(&ctx, dx); /* what add adds to */
            softmax_reference_backward_cpu(want, add, hdy, hy, rows, cols);
            if (!add) test_poison(&ctx, dx);
            ON(&ctx, softmax_backward, dx->data, add, dy->data, y->data, rows, cols);
            /* dx is a difference of terms of the size of dy y: with one column it is 0 up to their
             * rounding, so the comparison is made on dx + 1. */
            float *got = test_values(&ctx, dx);
            for (int64_t j = 0; j < n; j++) got[j] += 1, want[j] += 1;
            check_close("softmax backward", got, want, n,
                        2 * tolerance_of(dtype, cols) + 4 * 0x1p-24);
            context_free(&ctx);
        }
}

CONTEXT_TEST(softmax, rows_sum_to_one) {
    Tensor *y = softmax(&ctx, test_normal(&ctx, "x", 1, SHAPE(33, 127)));
    float *host = test_values(&ctx, y);
    for (int i = 0; i < 33; i++) {
        double sum = 0;
        for (int j = 0; j < 127; j++) {
            cr_assert(host[127 * i + j] > 0, "weight %g is not positive", host[127 * i + j]);
            sum += host[127 * i + j];
        }
        /* 127 weights, each rounded once in its dtype, the errors of either sign. */
        double tolerance = dtype == BF16 ? 0x1p-9 : 127 * 0x1p-24;
        cr_assert(fabs(sum - 1) <= tolerance, "row %d sums to %.9g", i, sum);
    }
}

/* softmax(x + c) = softmax(x): exactly, when x + c is exact; integers are. */
CONTEXT_TEST(softmax, shift_changes_nothing) {
    enum { N = 67 };
    float x[N], shifted[N];
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i * 7 % 11);
        shifted[i] = x[i] + 64;
    }
    float *a = test_values(&ctx, softmax(&ctx, tensor_copy_in(&ctx, "x", dtype, x, SHAPE(1, N))));
    float *b =
        test_values(&ctx, softmax(&ctx, tensor_copy_in(&ctx, "s", dtype, shifted, SHAPE(1, N))));
    for (int i = 0; i < N; i++) cr_assert(a[i] == b[i], "%d: %.9g and %.9g", i, a[i], b[i]);
}

/* e^1000 is beyond F32, e^-1000 is 0: without the subtraction of the maximum both rows would be
 * NaN. */
CONTEXT_TEST(softmax, huge_scores_do_not_overflow) {
    float x[3][4] = {
        {1000, 1000, 0, -1000}, {-1000, -1000, -2000, -INFINITY}, {3e38f, 0, -3e38f, 0}};
    float want[3][4] = {{0.5f, 0.5f, 0, 0}, {0.5f, 0.5f, 0, 0}, {1, 0, 0, 0}};
    Tensor *y = softmax(&ctx, tensor_copy_in(&ctx, "x", dtype, x, SHAPE(3, 4)));
    check_tensor(&ctx, "softmax of huge scores", y, &want[0][0],
                 1e-6); /* halves and ones are exact in both dtypes */
}

CONTEXT_TEST(softmax, nan_is_not_hidden) {
    float x[2][40] = {{0}};
    x[1][17] = NAN;
    float *y = test_values(&ctx, softmax(&ctx, tensor_copy_in(&ctx, "x", dtype, x, SHAPE(2, 40))));
    for (int j = 0; j < 40; j++) {
        cr_assert(y[j] > 0, "the row without a NaN has %g", y[j]);
        cr_assert(isnan(y[40 + j]), "column %d of the row with a NaN has %g", j, y[40 + j]);
    }
}

/* Each row belongs to one thread: more threads change no bit. */
CPU_TEST(softmax, does_not_depend_on_the_threads) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(500, 129));
    Tensor *all = softmax(&ctx, x), *one = tensor_new(&ctx, "one", F32, SHAPE(1, 129));
    for (int i = 0; i < 500; i++) {
        softmax_forward_cpu(one->data, (float *)x->data + 129 * i, 1, 129);
        for (int j = 0; j < 129; j++)
            cr_assert(((float *)one->data)[j] == ((float *)all->data)[129 * i + j]);
    }
}

static Tensor *softmax_loss(Context *ctx, void *user) {
    Tensor **t = user; /* x, c */
    return weighted_sum(ctx, softmax(ctx, t[0]), t[1]);
}

CPU_TEST(softmax, gradient_by_finite_differences) {
    Tensor *t[2] = {test_normal(&ctx, "x", 1, SHAPE(5, 7)), test_normal(&ctx, "c", 2, SHAPE(5, 7))};
    t[1]->requires_grad = false;
    /* Central differences: h^2 = 1e-4 of curvature, and 2^-24 / h = 6e-6 of rounding, both relative
     * to sums of order 1. */
    check_gradients(&ctx, "softmax", softmax_loss, t, t, 1, 35, 1e-2, 2e-3);
}

#ifdef WITH_CUDA
static const struct {
    const char *name;
    __typeof__(softmax_forward_cuda) *run;
    int64_t most_cols;
} rungs[] = {{"naive", softmax_naive_cuda, 1 << 30},
             {"warp", softmax_warp_cuda, 1 << 30},
             {"online", softmax_online_cuda, 1 << 30},
             {"registers", softmax_registers_cuda, 16384}};

static void check_rungs(Context *ctx, Tensor *x) {
    int64_t rows = tensor_rows(x), cols = tensor_dim(x, -1);
    Tensor *y = tensor_new(ctx, "y", x->dtype, SHAPE(rows, cols));
    float *host = test_values(ctx, x), *want = test_floats(rows * cols);
    softmax_reference_forward_cpu(want, host, rows, cols);
    for (size_t r = 0; r < sizeof rungs / sizeof *rungs; r++) {
        if (cols > rungs[r].most_cols) continue;
        test_poison(ctx, y);
        rungs[r].run(ctx->gpu, x->dtype, y->data, x->data, rows, cols);
        check_tensor(ctx, rungs[r].name, y, want, forward_tolerance(x->dtype));
    }
}

static void all_rungs(DType dtype) {
    for (int i = 0; i < SIZES; i++) {
        Context ctx = test_context(CUDA, dtype);
        check_rungs(&ctx, test_normal(&ctx, "x", 1, SHAPE(sizes[i][0], sizes[i][1])));
        context_free(&ctx);
    }
    /* Masked elements: every other one, and whole pieces, so that some threads see nothing but
     * -inf. */
    Context ctx = test_context(CUDA, dtype);
    enum { COLS = 2000 };
    static float masked[2][COLS];
    for (int j = 0; j < COLS; j++) {
        masked[0][j] = j % 2 ? -INFINITY : (float)(j % 7);
        masked[1][j] = j < 1500 ? -INFINITY : -100 - (float)(j % 5);
    }
    check_rungs(&ctx, tensor_copy_in(&ctx, "masked", dtype, masked, SHAPE(2, COLS)));
}
CUDA_TEST(softmax, every_rung) { all_rungs(dtype); }
#endif
