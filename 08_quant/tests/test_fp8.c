/*
 * FP8 products: codes and scales bit for bit alike on every device, every rung and every shape of
 * tiles against plain loops in double precision, ragged sizes, experts with none or few rows.
 */
#include "08_quant/fp8.h"
#include "08_quant/fp8_rungs.h"

#include "05_moe/decoder/decoder.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- bytes and floats on a device ---- */

static void *device_memory(Context *ctx, const void *host, size_t bytes) {
    void *to = arena_alloc(&ctx->data, bytes + 64); /* +: what a vector may read past the end */
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        gpu_set(ctx->gpu, to, 0xff, bytes + 64);
        if (host) gpu_upload(ctx->gpu, to, host, bytes);
        return to;
    }
#endif
    memset(to, 0xff, bytes + 64);
    if (host) memcpy(to, host, bytes);
    return to;
}

static void *host_memory(Context *ctx, const void *from, size_t bytes) {
    void *to = malloc(bytes + 1);
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        gpu_download(ctx->gpu, to, from, bytes);
        return to;
    }
#endif
    memcpy(to, from, bytes);
    (void)ctx;
    return to;
}

/* Codes and scales on the device and on the host. */
typedef struct Coded {
    uint8_t *codes, *codes_host;
    float *scales, *scales_host;
    int64_t count, scale_count;
} Coded;

static Coded new_coded(Context *ctx, int64_t count, int64_t scale_count) {
    Coded c = {.count = count, .scale_count = scale_count};
    c.codes = device_memory(ctx, NULL, (size_t)count);
    c.scales = device_memory(ctx, NULL, (size_t)scale_count * 4);
    c.codes_host = malloc((size_t)count + 1);
    c.scales_host = malloc((size_t)scale_count * 4 + 4);
    memset(c.codes_host, 0xff, (size_t)count + 1);
    memset(c.scales_host, 0xff, (size_t)scale_count * 4 + 4);
    return c;
}

static void check_coded(Context *ctx, const char *what, const Coded *c) {
    uint8_t *codes = host_memory(ctx, c->codes, (size_t)c->count);
    float *scales = host_memory(ctx, c->scales, (size_t)c->scale_count * 4);
    for (int64_t i = 0; i < c->count; i++)
        cr_assert(codes[i] == c->codes_host[i], "%s: code %lld is %02x, not %02x", what,
                  (long long)i, codes[i], c->codes_host[i]);
    cr_assert(!memcmp(scales, c->scales_host, (size_t)c->scale_count * 4), "%s: scales", what);
    free(codes), free(scales);
}

/* Normal numbers, now and then a large one, and a stretch of zeros: blocks differ. */
static Tensor *uneven(Context *ctx, const char *name, uint64_t stream, int64_t rows, int64_t cols) {
    Tensor *x = test_normal(ctx, name, stream, SHAPE(rows, cols));
    float *v = test_values(ctx, x);
    for (int64_t i = 0; i < rows * cols; i++) {
        if (i % 977 == 3) v[i] *= 64;
        if (i / 200 % 7 == 2) v[i] = i % 2 ? 0 : -0.0f;
        if (i / 130 % 5 == 1) v[i] *= 1e-6f; /* below what 1e-4 / 448 can scale to normal codes */
    }
    tensor_upload(ctx, x, v);
    free(v);
    return x;
}

static Coded coded_rows(Context *ctx, const Tensor *x, int power_of_two) {
    int64_t rows = x->shape[0], cols = x->shape[1];
    Coded c = new_coded(ctx, rows * cols, fp8_row_scales(rows, cols));
    float *v = test_values(ctx, x);
    ON_AS(ctx, x->dtype, fp8_quantise_rows, c.codes, c.scales, x->data, rows, cols, power_of_two);
    fp8_quantise_rows_cpu(c.codes_host, c.scales_host, v, rows, cols, power_of_two);
    free(v);
    return c;
}

static Coded coded_columns(Context *ctx, const Tensor *x, const int32_t *offsets,
                           const int32_t *offsets_host, int experts, int power_of_two) {
    int64_t rows = x->shape[0], cols = x->shape[1];
    int64_t padded = fp8_padded_rows(rows, offsets ? experts : 1);
    Coded c = new_coded(ctx, padded * cols, padded / FP8_STEP * fp8_scale_stride(cols));
    float *v = test_values(ctx, x);
    ON_AS(ctx, x->dtype, fp8_quantise_columns, c.codes, c.scales, x->data, offsets, experts, rows,
          cols, power_of_two);
    fp8_quantise_columns_cpu(c.codes_host, c.scales_host, v, offsets_host, experts, rows, cols,
                             power_of_two);
    free(v);
    return c;
}

/* With the transpose in the second. */
static void coded_blocks(Context *ctx, Coded c[2], const Tensor *w, int experts, int64_t out,
                         int64_t in, int power_of_two) {
    int64_t scales = experts * fp8_blocks(out) * fp8_blocks(in);
    for (int i = 0; i < 2; i++) c[i] = new_coded(ctx, experts * out * in, scales);
    float *v = test_values(ctx, w);
    ON_AS(ctx, w->dtype, fp8_quantise_blocks, c[0].codes, c[0].scales, c[1].codes, c[1].scales,
          w->data, experts, out, in, power_of_two);
    fp8_quantise_blocks_cpu(c[0].codes_host, c[0].scales_host, c[1].codes_host, c[1].scales_host, v,
                            experts, out, in, power_of_two);
    free(v);
}

/* ---- quantising ---- */

static const int64_t sizes[][2] = {{1, 1},     {3, 8},     {31, 33},   {64, 128},
                                   {129, 127}, {130, 264}, {257, 384}, {5, 1000}};
enum { SIZES = sizeof sizes / sizeof *sizes };

DEVICE_TEST(fp8, codes_are_the_same_on_every_device) {
    for (int i = 0; i < 2 * SIZES; i++) {
        Context ctx = test_context(device, dtype);
        int64_t rows = sizes[i / 2][0], cols = sizes[i / 2][1];
        Tensor *x = uneven(&ctx, "x", 1, rows, cols);
        Coded c = coded_rows(&ctx, x, i % 2), blocks[2];
        check_coded(&ctx, "rows", &c);
        c = coded_columns(&ctx, x, NULL, NULL, 1, i % 2);
        check_coded(&ctx, "columns", &c);
        coded_blocks(&ctx, blocks, x, 1, rows, cols, i % 2);
        check_coded(&ctx, "blocks", &blocks[0]);
        check_coded(&ctx, "blocks of the transpose", &blocks[1]);
        context_free(&ctx);
    }
}

/* Against the definition: a scale is amax / 448, so no code is beyond 448 and the largest is it. */
CPU_TEST(fp8, largest_of_a_block_is_448) {
    Tensor *x = uneven(&ctx, "x", 1, 37, 300);
    Coded c = coded_rows(&ctx, x, 0);
    const float *v = x->data;
    for (int64_t row = 0; row < 37; row++)
        for (int64_t b = 0; b < 3; b++) {
            float amax = 0, code = 0, s = c.scales[b * fp8_scale_stride(37) + row];
            for (int64_t i = row * 300 + b * 128; i < row * 300 + (b == 2 ? 300 : b * 128 + 128);
                 i++) {
                float q = e4m3_to_float(c.codes[i]);
                amax = fmaxf(amax, fabsf(v[i])), code = fmaxf(code, fabsf(q));
                /* half a step of 3 bits of fraction, or of the smallest code, 2^-9 */
                cr_assert(fabsf(q * s - v[i]) <= fmaxf(fabsf(v[i]) / 16, s / 1024) * 1.0001f);
            }
            check_all(s == fmaxf(amax, 1e-4f) / 448, amax < 1e-4f || code == 448);
        }
}

CPU_TEST(fp8, power_of_two_goes_up) {
    (void)ctx;
    check_all(fp8_scale(448, 0) == 1, fp8_scale(448, 1) == 1, fp8_scale(449, 1) == 2,
              fp8_scale(447, 1) == 1, fp8_scale(0, 0) == 1e-4f / 448, fp8_scale(0, 1) == 0x1p-22f);
    for (float amax = 1e-5f; amax < 1e5f; amax *= 1.37f) {
        float s = fp8_scale(amax, 1), plain = fp8_scale(amax, 0);
        int e;
        check_all(frexpf(s, &e) == 0.5f, s >= plain, s < 2 * plain);
    }
}

/* ---- products ---- */

typedef struct Size {
    int64_t m, n, k;
} Size;

static const Size products[] = {
    {1, 8, 16},       {31, 40, 48},     {64, 128, 128}, {127, 136, 272}, {129, 264, 128},
    {300, 520, 1040}, {70, 1000, 1296}, {5, 7, 9},      {33, 31, 129},   {640, 384, 640}};
enum { PRODUCTS = sizeof products / sizeof *products };

/* The product of one size, its operands and what it should be. */
typedef struct Work {
    Size s;
    Coded a, b[2];
    float *want;
    Tensor *d, *base; /* base: in every other work, else NULL */
} Work;

static void *data_of(const Tensor *t) { return t ? t->data : NULL; }

static Work new_work(Context *ctx, Size s) {
    Work w = {.s = s};
    w.a = coded_rows(ctx, uneven(ctx, "a", 1, s.m, s.k), 0);
    coded_blocks(ctx, w.b, uneven(ctx, "b", 2, s.n, s.k), 1, s.n, s.k, 0);
    w.want = test_floats(s.m * s.n);
    if (s.m % 2) w.base = test_normal(ctx, "base", 3, SHAPE(s.m, s.n));
    fp8_product_reference_cpu(w.want, w.base ? test_values(ctx, w.base) : NULL, w.a.codes_host,
                              w.a.scales_host, w.b[0].codes_host, w.b[0].scales_host, s.m, s.n,
                              s.k);
    w.d = tensor_new(ctx, "d", ctx->dtype, SHAPE(s.m, s.n));
    test_poison(ctx, w.d);
    return w;
}

/*
 * Products of E4M3 are exact in F32, so a sum differs by the order of its additions, and in BF16 by
 * one rounding more. wgmma adds the products of a step with about 14 bits: 2^-14 of the largest,
 * less than that rounding. Numbers that are mostly small beside a few large ones make cancellation
 * harmless: the norm is that of the large ones.
 */
static double close_to(DType dtype, int64_t k) { return 4 * tolerance_of(dtype, k); }

DEVICE_TEST(fp8, product_by_plain_loops) {
    for (int i = 0; i < PRODUCTS; i++) {
        Context ctx = test_context(device, dtype);
        Work w = new_work(&ctx, products[i]);
        ON(&ctx, fp8_product, w.d->data, data_of(w.base), w.a.codes, w.a.scales, w.b[0].codes,
           w.b[0].scales, w.s.m, w.s.n, w.s.k);
        check_tensor(&ctx, "d", w.d, w.want, close_to(dtype, w.s.k));
        context_free(&ctx);
    }
}

/* One NaN in a row makes the row NaN, and no other. */
DEVICE_TEST(fp8, nan_stays_nan) {
    Context ctx = test_context(device, dtype);
    Size s = {40, 16, 256};
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(s.m, s.k)), *d;
    float *v = test_values(&ctx, x);
    v[7 * s.k + 130] = NAN;
    tensor_upload(&ctx, x, v);
    Coded a = coded_rows(&ctx, x, 0), b[2];
    coded_blocks(&ctx, b, test_normal(&ctx, "w", 2, SHAPE(s.n, s.k)), 1, s.n, s.k, 0);
    d = tensor_new(&ctx, "d", dtype, SHAPE(s.m, s.n));
    ON(&ctx, fp8_product, d->data, NULL, a.codes, a.scales, b[0].codes, b[0].scales, s.m, s.n, s.k);
    float *got = test_values(&ctx, d);
    for (int64_t i = 0; i < s.m * s.n; i++)
        cr_assert(isnan(got[i]) == (i / s.n == 7), "number %lld is %g", (long long)i, got[i]);
}

#ifdef WITH_CUDA
typedef __typeof__(&fp8_product_cuda) ProductRung;

static int takes(Gpu *gpu, ProductRung rung, DType dtype, Size s) {
    return rung == fp8_product_plain_cuda  ? 1
           : rung == fp8_product_mma_cuda  ? fp8_mma_available(gpu, dtype, s.n, s.k)
           : rung == fp8_product_blas_cuda ? !fp8_blas_refusal(gpu, dtype, s.m, s.n, s.k)
                                           : fp8_hopper_available(gpu, dtype, s.n, s.k);
}

CUDA_TEST(fp8, every_rung_by_plain_loops) {
    static const struct {
        const char *name;
        ProductRung run;
    } rungs[] = {{"plain", fp8_product_plain_cuda},
                 {"mma", fp8_product_mma_cuda},
                 {"wgmma", fp8_product_wgmma_cuda},
                 {"persistent", fp8_product_persistent_cuda},
                 {"cuBLASLt", fp8_product_blas_cuda}};
    for (int i = 0; i <= PRODUCTS; i++) {
        Context ctx = test_context(CUDA, dtype);
        Work w = new_work(&ctx, i < PRODUCTS ? products[i] : (Size){192, 256, 1024});
        for (int r = 0; r < 5; r++) {
            if (!takes(ctx.gpu, rungs[r].run, dtype, w.s)) continue;
            test_poison(&ctx, w.d);
            rungs[r].run(ctx.gpu, dtype, w.d->data, data_of(w.base), w.a.codes, w.a.scales,
                         w.b[0].codes, w.b[0].scales, w.s.m, w.s.n, w.s.k);
            check_tensor(&ctx, rungs[r].name, w.d, w.want, close_to(dtype, w.s.k));
        }
        context_free(&ctx);
    }
}

CUDA_TEST(fp8, every_shape_by_plain_loops) {
    for (int i = 0; dtype == BF16 && i < PRODUCTS; i++) {
        Context ctx = test_context(CUDA, dtype);
        Work w = new_work(&ctx, products[i]);
        for (int shape = 0; shape < fp8_shape_count(); shape++) {
            if (!fp8_hopper_available(ctx.gpu, dtype, w.s.n, w.s.k)) continue;
            test_poison(&ctx, w.d);
            fp8_product_shape_cuda(ctx.gpu, shape, w.d->data, data_of(w.base), w.a.codes,
                                   w.a.scales, w.b[0].codes, w.b[0].scales, w.s.m, w.s.n, w.s.k);
            check_tensor(&ctx, fp8_shape_name(shape), w.d, w.want, close_to(dtype, w.s.k));
        }
        context_free(&ctx);
    }
}

/*
 * Hopper's tensor core adds E4M3 products with fewer bits than F32 has. Of 16384 positive products
 * each sum should be right to 2^-20; by itself it is not to 2^-11, and promoted every 128 it is to
 * 2^-12 or so.
 */
CUDA_TEST(fp8, promotion_mends_the_short_accumulator) {
    Context ctx = test_context(CUDA, dtype);
    Size s = {128, 128, 16384};
    if (dtype != BF16 || !fp8_hopper_available(ctx.gpu, dtype, s.n, s.k)) return;
    uint8_t *a = malloc((size_t)(s.m * s.k)), *b = malloc((size_t)(s.n * s.k));
    float *ones = malloc((size_t)fp8_row_scales(s.m, s.k) * 4), *want = test_floats(s.m * s.n);
    for (int64_t i = 0; i < fp8_row_scales(s.m, s.k); i++) ones[i] = 1;
    for (int64_t i = 0; i < s.m * s.k; i++) /* 1 to 2, by a generator of whole numbers */
        a[i] = (uint8_t)(0x38 + i * 2654435761u % 4294967296u / 536870912u),
        b[i] = (uint8_t)(0x38 + i * 2246822519u % 4294967296u / 536870912u);
    fp8_product_reference_cpu(want, NULL, a, ones, b, ones, s.m, s.n, s.k);
    void *da = device_memory(&ctx, a, (size_t)(s.m * s.k));
    void *db = device_memory(&ctx, b, (size_t)(s.n * s.k));
    float *d = device_memory(&ctx, NULL, (size_t)(s.m * s.n) * 4);
    double error[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        fp8_accumulate_cuda(ctx.gpu, d, da, db, s.m, s.n, s.k, i ? FP8_STEP : 0);
        float *got = host_memory(&ctx, d, (size_t)(s.m * s.n) * 4);
        for (int64_t j = 0; j < s.m * s.n; j++)
            error[i] = fmax(error[i], fabs((double)got[j] / want[j] - 1));
    }
    cr_assert(error[0] > 4 * error[1] && error[1] < 0x1p-8,
              "largest relative error: %g without promotion, %g with", error[0], error[1]);
}
#endif

/* ---- experts ---- */

typedef struct Group {
    int64_t in, out;
    int experts, rows[8], spare; /* spare: rows past the last expert's */
} Group;

static const Group groups[] = {
    {16, 8, 1, {1}, 0},
    {48, 40, 3, {0, 5, 1}, 2},
    {128, 128, 8, {33, 0, 1, 127, 0, 64, 31, 4}, 5},
    {272, 136, 4, {0, 0, 300, 0}, 0},
    {192, 520, 4, {128, 129, 257, 0}, 7},
    {128, 64, 3, {0, 0, 0}, 4}, /* nobody has a token */
    {31, 33, 3, {40, 2, 130}, 1},
    {384, 264, 5, {70, 600, 1, 0, 191}, 3},
};
enum { GROUPS = sizeof groups / sizeof *groups };

typedef struct Setup {
    GroupedShape s;
    int32_t offsets[9], *offsets_device;
    Tensor *x, *dy;
} Setup;

static Setup setup(Context *ctx, const Group *g) {
    Setup u = {.s = {.in = g->in, .out = g->out, .experts = g->experts}};
    for (int e = 0; e < g->experts; e++) u.offsets[e + 1] = u.offsets[e] + g->rows[e];
    u.s.rows = u.offsets[g->experts] + g->spare;
    u.offsets_device = device_memory(ctx, u.offsets, sizeof u.offsets);
    u.x = uneven(ctx, "x", 1, u.s.rows, g->in);
    u.dy = uneven(ctx, "dy", 2, u.s.rows, g->out);
    return u;
}

/* Rows of an expert are right, the others are as they were. */
static void check_grouped(Context *ctx, const char *what, const Setup *u, const Tensor *y,
                          const float *want) {
    int64_t used = u->offsets[u->s.experts] * u->s.out;
    float *got = test_values(ctx, y);
    if (used) check_close(what, got, want, used, close_to(ctx->dtype, u->s.in));
    for (int64_t i = used; i < u->s.rows * u->s.out; i++)
        cr_assert(isnan(got[i]), "%s: a row past the last expert's was written", what);
    free(got);
}

DEVICE_TEST(fp8, grouped_by_plain_loops) {
    for (int i = 0; i < GROUPS; i++) {
        Context ctx = test_context(device, dtype);
        Setup u = setup(&ctx, &groups[i]);
        Coded x = coded_rows(&ctx, u.x, 0), w[2];
        Tensor *weight = uneven(&ctx, "w", 3, u.s.experts * u.s.out, u.s.in);
        coded_blocks(&ctx, w, weight, u.s.experts, u.s.out, u.s.in, 0);
        float *want = test_floats(u.s.rows * u.s.out);
        fp8_grouped_reference_cpu(want, NULL, x.codes_host, x.scales_host, w[0].codes_host,
                                  w[0].scales_host, u.offsets, u.s);
        Tensor *y = tensor_new(&ctx, "y", dtype, SHAPE(u.s.rows, u.s.out));
        test_poison(&ctx, y);
        ON(&ctx, fp8_grouped, y->data, NULL, x.codes, x.scales, w[0].codes, w[0].scales,
           u.offsets_device, u.s);
        check_grouped(&ctx, "y", &u, y, want);
#ifdef WITH_CUDA
        bool hopper = device == CUDA && fp8_hopper_available(ctx.gpu, dtype, u.s.out, u.s.in);
        for (int shape = 0; hopper && shape < fp8_shape_count(); shape++) {
            test_poison(&ctx, y);
            fp8_grouped_shape_cuda(ctx.gpu, shape, y->data, NULL, x.codes, x.scales, w[0].codes,
                                   w[0].scales, u.offsets_device, u.s);
            check_grouped(&ctx, fp8_shape_name(shape), &u, y, want);
        }
#endif
        context_free(&ctx);
    }
}

/* dW adds up an expert's tokens; with `add` it starts from what is there. `one` expert has all
 * rows: offsets NULL. F32 throughout, but for wgmma's short sums. */
static void weight_gradient(Device device, DType dtype, int add, bool one) {
    for (int i = 0; i < GROUPS; i++) {
        Context ctx = test_context(device, dtype);
        Setup u = setup(&ctx, &groups[i]);
        int shapes = 0;
        const int32_t *on_device = one ? NULL : u.offsets_device, *host = one ? NULL : u.offsets;
        if (one) u.s.experts = 1;
        Coded x = coded_columns(&ctx, u.x, on_device, host, u.s.experts, 0);
        Coded dy = coded_columns(&ctx, u.dy, on_device, host, u.s.experts, 0);
        int64_t count = u.s.experts * u.s.out * u.s.in;
        float *want = test_floats(count), *before = test_floats(count);
        for (int64_t j = 0; j < count; j++) want[j] = before[j] = (float)(j % 13 - 6);
        fp8_weight_reference_cpu(want, add, dy.codes_host, dy.scales_host, x.codes_host,
                                 x.scales_host, host, u.s);
#ifdef WITH_CUDA
        if (device == CUDA && fp8_weight_hopper_available(ctx.gpu, u.s))
            shapes = fp8_weight_shape_count();
#endif
        for (int shape = -1; shape < shapes; shape++) {
            float *dw = device_memory(&ctx, add ? before : NULL, (size_t)count * 4);
            if (shape < 0)
                ON(&ctx, fp8_weight, dw, add, dy.codes, dy.scales, x.codes, x.scales, on_device,
                   u.s);
#ifdef WITH_CUDA
            else
                fp8_weight_shape_cuda(ctx.gpu, shape, dw, add, dy.codes, dy.scales, x.codes,
                                      x.scales, on_device, u.s);
#endif
            float *got = host_memory(&ctx, dw, (size_t)count * 4);
            check_close("dw", got, want, count,
                        device == CUDA ? 0x1p-8 : 4 * tolerance_of(F32, u.s.rows));
            free(got);
        }
        context_free(&ctx);
    }
}
/* Four tests, for a tool that looks at every access takes its time. */
DEVICE_TEST(fp8, weight_gradient_by_plain_loops) { weight_gradient(device, dtype, 0, false); }
DEVICE_TEST(fp8, weight_gradient_is_added) { weight_gradient(device, dtype, 1, false); }
DEVICE_TEST(fp8, weight_gradient_of_all_rows) { weight_gradient(device, dtype, 0, true); }
DEVICE_TEST(fp8, weight_gradient_of_all_rows_is_added) { weight_gradient(device, dtype, 1, true); }
