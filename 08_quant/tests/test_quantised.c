/*
 * The door for quantised weights, and what stands behind it: codes against the definition, every
 * operation that takes such a weight against the same one with its numbers, and what is refused.
 */
#include "08_quant/tests/test_quantised.h"

#include "05_moe/decoder/decoder.h"
#include "05_moe/grouped.h"
#include "08_quant/quantised_int8.h"
#include "common/core/cpu_matmul.h"

#include <signal.h>

/* ---- codes ---- */

/* By hand: two rows of I4 with groups of 32, whose byte b has numbers b and b + 16; U8; E4M3. */
Test(quantised, numbers_by_hand) {
    uint8_t nibbles[32] = {0x8f, 0x80};
    float scales[2] = {0.5f, 2};
    nibbles[16] = 0x98, nibbles[31] = 0x1f;
    QuantisedMatrix i4 = {I4, 1, 32, 2, 32, 1, nibbles, scales};
    check_all(quantised_number(&i4, 0, 0) == 3.5f, quantised_number(&i4, 0, 16) == 0,
              quantised_number(&i4, 0, 1) == -4, quantised_number(&i4, 0, 17) == 0,
              quantised_number(&i4, 1, 0) == 0, quantised_number(&i4, 1, 16) == 2,
              quantised_number(&i4, 1, 15) == 14, quantised_number(&i4, 1, 31) == -14);
    const uint8_t bytes[4] = {1, 128, 255, 0};
    QuantisedMatrix u8 = {U8, 1, 2, 1, 4, 2, bytes, scales};
    check_all(quantised_number(&u8, 0, 0) == -63.5f, quantised_number(&u8, 0, 1) == 0,
              quantised_number(&u8, 0, 2) == 254, quantised_number(&u8, 0, 3) == -256);
    const uint8_t floats[6] = {0x38, 0xb8, 0x7e,
                               0x01, 0x08, 0x7f}; /* 1, -1, 448, least ones, NaN */
    const float one = 1;
    QuantisedMatrix f8 = {F8_E4M3, 128, 128, 2, 3, 1, floats, &one};
    check_all(quantised_number(&f8, 0, 0) == 1, quantised_number(&f8, 0, 1) == -1,
              quantised_number(&f8, 0, 2) == 448, quantised_number(&f8, 1, 0) == 0x1p-9f,
              quantised_number(&f8, 1, 1) == 0x1p-6f, isnan(quantised_number(&f8, 1, 2)));
}

CPU_TEST(quantised, what_params_give_is_what_the_codes_mean) {
    for (int i = 0; i < HELD_CASES; i++) {
        Pair p;
        const HeldCase *c = held_cases + i;
        pair_init(&p, &ctx, c, &quantised_weight_only);
        QuantisedMatrix w = quantised_matrix(p.held, 0);
        const float *numbers = p.plain->data;
        for (int64_t j = 0; j < c->out * c->in; j++)
            cr_assert(numbers[j] == quantised_number(&w, j / c->in, j % c->in), "case %d, %lld", i,
                      (long long)j);
        cr_assert(params_count(&p.params) == 2 * c->out * c->in);
        cr_assert(tensor_bytes(p.held) == (size_t)(c->out * c->in) / (c->dtype == I4 ? 2 : 1));
        params_free(&p.params);
    }
}

/* Experts one after the other, in codes and scales; with 160 rows E4M3 has two rows of blocks each,
 * of which the second is not whole. */
CPU_TEST(quantised, experts_have_codes_and_scales_of_their_own) {
    static const HeldCase cases[] = {{U8, 1, 32, 3, 5, 64}, {F8_E4M3, 128, 128, 3, 160, 140}};
    for (int i = 0; i < 2; i++) {
        Pair p;
        const HeldCase *c = cases + i;
        pair_init(&p, &ctx, c, &quantised_weight_only);
        const uint8_t *codes = p.held->data;
        const float *scale = p.held->quantised->scale.data, *numbers = p.plain->data;
        int64_t across = 2, down = i ? 2 : 5; /* blocks of an expert */
        for (int64_t at = 0; at < 3 * c->out * c->in; at++) {
            int64_t e = at / (c->out * c->in), row = at / c->in % c->out, column = at % c->in;
            int64_t block = (e * down + row / c->block_out) * across + column / c->block_in;
            float q = i ? e4m3_to_float(codes[at]) : (float)codes[at] - 128;
            cr_assert(numbers[at] == scale[block] * q, "case %d: %lld", i, (long long)at);
        }
        params_free(&p.params);
    }
}

/* ---- kernels ---- */

/* A kernel's product of the case's weight: y [rows, out], of x or with a base. */
static QuantisedProduct product_of(Context *ctx, const Pair *p, int64_t rows, bool onto) {
    QuantisedMatrix w = quantised_matrix(p->held, 0);
    return (QuantisedProduct){.y = test_floats(rows * w.out),
                              .base = onto ? test_normal(ctx, "base", 6, SHAPE(rows, w.out))->data
                                           : NULL,
                              .x = test_normal(ctx, "x", 5, SHAPE(rows, w.in))->data,
                              .y_row = w.out,
                              .x_row = w.in,
                              .rows = rows,
                              .w = w,
                              .count = w.out};
}

typedef void Kernel(Context *ctx, const QuantisedProduct *p);

static void panels(Context *ctx, const QuantisedProduct *p) { (void)ctx, quantised_panels_cpu(p); }
static void few(Context *ctx, const QuantisedProduct *p) { (void)ctx, quantised_few_rows_cpu(p); }
static void int8(Context *ctx, const QuantisedProduct *p) {
    quantised_int8_cpu(p, quantised_rows(ctx, p->x, p->x_row, p->rows, &p->w));
}

static const struct {
    const char *name;
    Kernel *run;
    void (*reference)(const QuantisedProduct *p);
} kernels[] = {{"panels", panels, quantised_reference_cpu},
               {"few rows", few, quantised_reference_cpu},
               {"int8", int8, quantised_int8_reference_cpu}};
enum { PANELS, FEW, INT8, KERNELS };

static bool takes(int kernel, const QuantisedMatrix *w) {
    return kernel != INT8 || quantised_int8_takes(w);
}

/*
 * Against the definitions. Where int8's x has one scale for the whole row there is one whole
 * number, below 2^24 in these sizes, and one rounding of its product with the scales: 1 ulp at most
 * from what double precision gives.
 */
CPU_TEST(quantised, kernels_agree_with_their_definitions) {
    for (int i = 0; i < HELD_CASES * KERNELS; i++) {
        Pair pair;
        const HeldCase *c = held_cases + i / KERNELS;
        int k = i % KERNELS;
        pair_init(&pair, &ctx, c, &quantised_weight_only);
        for (int rows = 1; rows <= 33; rows += rows < 17 ? 1 : 8) {
            QuantisedProduct p = product_of(&ctx, &pair, rows, rows % 2);
            if (!takes(k, &p.w)) continue;
            QuantisedProduct should = p;
            should.y = test_floats(rows * c->out);
            kernels[k].run(&ctx, &p);
            kernels[k].reference(&should);
            bool whole = k == INT8 && c->block_in == c->in && c->dtype == U8;
            check_close(kernels[k].name, p.y, should.y, rows * c->out,
                        whole ? 0x1p-23 : 4 * tolerance_of(F32, c->in));
            free(p.y), free(should.y);
        }
        params_free(&pair.params);
        context_reset(&ctx);
    }
}

/* A row alone, and among as many as are looked at together: the same bits. Columns that another
 * thread makes: the same, too. */
CPU_TEST(quantised, a_row_does_not_depend_on_its_neighbours) {
    for (int i = 0; i < HELD_CASES * KERNELS; i++) {
        Pair pair;
        const HeldCase *c = held_cases + i / KERNELS;
        int k = i % KERNELS;
        pair_init(&pair, &ctx, c, &quantised_weight_only);
        QuantisedProduct all = product_of(&ctx, &pair, CPU_FEW_ROWS, false);
        if (!takes(k, &all.w)) continue;
        kernels[k].run(&ctx, &all);
        float *y = test_floats(CPU_FEW_ROWS * c->out);
        for (int rows = 1; rows < CPU_FEW_ROWS; rows++)
            for (int first = 0; first + rows <= CPU_FEW_ROWS; first += rows) {
                QuantisedProduct some = all;
                some.y = y, some.x += first * c->in, some.rows = rows;
                some.count = c->out / 3; /* in two pieces */
                kernels[k].run(&ctx, &some);
                some.first = some.count, some.count = c->out - some.count;
                kernels[k].run(&ctx, &some);
                cr_assert(
                    !memcmp(y, all.y + first * c->out, (size_t)(rows * c->out) * sizeof(float)),
                    "%s, case %d: rows %d to %d", kernels[k].name, i / KERNELS, first,
                    first + rows - 1);
            }
        free(all.y), free(y);
        params_free(&pair.params);
        context_reset(&ctx);
    }
}

/* What becomes numbers is multiplied like numbers: the bits are those of the dequantised weight's
 * product, in registers as in panels, for as many rows as have bits of their own. */
CPU_TEST(quantised, weight_only_is_the_product_of_the_numbers) {
    for (int i = 0; i < HELD_CASES; i++) {
        Pair pair;
        const HeldCase *c = held_cases + i;
        pair_init(&pair, &ctx, c, &quantised_weight_only);
        for (int rows = 1; rows <= CPU_FEW_ROWS; rows += rows < 6 ? 1 : 5) {
            QuantisedProduct p = product_of(&ctx, &pair, rows, rows % 2);
            size_t bytes = (size_t)(rows * c->out) * sizeof(float);
            float *y = test_floats(rows * c->out);
            cpu_matmul(&(CpuMatmul){y,
                                    p.base,
                                    c->out,
                                    {p.x, c->in, 1},
                                    {pair.plain->data, 1, c->in},
                                    rows,
                                    c->out,
                                    c->in});
            panels(&ctx, &p);
            cr_assert(!memcmp(p.y, y, bytes), "panels, case %d, %d rows", i, rows);
            if (quantised_few_rows_takes(&p.w)) few(&ctx, &p);
            cr_assert(!memcmp(p.y, y, bytes), "few rows, case %d, %d rows", i, rows);
            free(y), free(p.y);
        }
        params_free(&pair.params);
        context_reset(&ctx);
    }
}

/* y = x W by some rows of W, as one head of latent attention has it: again the numbers' bits. */
CPU_TEST(quantised, turned_is_the_product_of_the_numbers) {
    int taken = 0;
    for (int i = 0; i < HELD_CASES; i++) {
        Pair pair;
        const HeldCase *c = held_cases + i;
        pair_init(&pair, &ctx, c, &quantised_weight_only);
        int64_t first = c->out / 3, count = c->out - first;
        QuantisedMatrix w = quantised_matrix(pair.held, 0);
        for (int rows = 1; rows < 6 && quantised_turned_takes(&w); rows++, taken++) {
            const float *x = test_normal(&ctx, "x", 5, SHAPE(rows, count))->data;
            float *y = test_floats(rows * c->in), *should = test_floats(rows * c->in);
            const float *numbers = (float *)pair.plain->data + first * c->in;
            quantised_turned_cpu(&(QuantisedProduct){.y = y,
                                                     .x = x,
                                                     .y_row = c->in,
                                                     .x_row = count,
                                                     .rows = rows,
                                                     .w = w,
                                                     .first = first,
                                                     .count = count});
            cpu_matmul(&(CpuMatmul){
                should, NULL, c->in, {x, count, 1}, {numbers, c->in, 1}, rows, c->in, count});
            cr_assert(!memcmp(y, should, (size_t)(rows * c->in) * sizeof *y), "case %d", i);
            free(y), free(should);
        }
        params_free(&pair.params);
        context_reset(&ctx);
    }
    cr_assert(taken > 20, "%d", taken);
}

/* x = 1, -1, 1, ... in a group is its own code times a scale, so nothing is rounded; zeros have no
 * scale to be divided by; and what is no number does not become one. */
CPU_TEST(quantised, int8_of_x_that_is_special) {
    static const HeldCase cases[] = {{U8, 1, 64, 0, 5, 192}, {I4, 1, 32, 0, 5, 192}};
    static const float specials[] = {1, 0, 1e-44f, NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 12; i++) {
        Pair pair;
        float special = specials[i % 6], should[5];
        pair_init(&pair, &ctx, cases + i / 6, &quantised_weight_only);
        QuantisedProduct p = product_of(&ctx, &pair, 1, false);
        float *x = (float *)p.x;
        for (int j = 0; j < 192; j++)
            x[j] = special == 1 && j % 2 ? -1 : isfinite(special) * special;
        if (!isfinite(special)) x[77] = special;
        int8(&ctx, &p);
        for (int j = 0; j < 5 && !isfinite(special); j++)
            cr_assert(!isfinite(p.y[j]), "%g", p.y[j]);
        QuantisedProduct exact = p;
        exact.y = should;
        quantised_reference_cpu(&exact);
        if (special == 1) check_close("whole", p.y, should, 5, tolerance_of(F32, 192));
        for (int j = 0; j < 5 && fabsf(special) < 1; j++)
            cr_assert(fabsf(p.y[j]) <= 1e-40f, "%g", p.y[j]);
        params_free(&pair.params);
    }
}

/* ---- operations ---- */

/* A table whose results are those of the weight's numbers but for the order of sums; and one that
 * rounds x to 1 part in 254 of its group's largest number, which is up to 3.5 times the root mean
 * square: 0.008 / sqrt(12) or so, where tolerance 0.02 is safe. */
static const struct {
    const QuantisedProducts *products;
    double more;
} tables[] = {{&quantised_weight_only, 0}, {&quantised_products, 0.02}};
enum { TABLES = sizeof tables / sizeof *tables };

/* A sum of `in` products, in another order: a few times tolerance_of, for terms do not all have one
 * size. */
static double close_to(int table, int64_t in) {
    return 4 * tolerance_of(F32, in) + tables[table].more;
}

/* LLM.int8()'s outliers, in some rows: where a whole row would have one scale, those rows have the
 * bits of weight-only products, and the others those that they have by themselves. In groups of up
 * to 128 nothing steps aside. */
CPU_TEST(quantised, rows_with_outliers_step_aside) {
    enum { ROWS = 7 };
    static const HeldCase cases[] = {
        {U8, 1, 256, 0, 70, 256}, {U8, 1, 128, 0, 33, 384}, {I4, 1, 128, 0, 33, 384}};
    for (int i = 0; i < 3; i++) {
        Pair fast, slow;
        const HeldCase *c = cases + i;
        pair_init(&fast, &ctx, c, &quantised_products);
        pair_init(&slow, &ctx, c, &quantised_weight_only);
        Tensor *x = test_normal(&ctx, "x", 5, SHAPE(ROWS, c->in)), *calm[ROWS];
        float *numbers = x->data;
        bool outlier[ROWS];
        for (int64_t j = 0; j < ROWS * c->in; j++) numbers[j] = fminf(fmaxf(numbers[j], -5), 5);
        for (int r = 0; r < ROWS; r++) {
            outlier[r] = r == 0 || r == 3 || r == 4;
            if (outlier[r]) numbers[r * c->in + 40 * r + 11] = r == 3 ? -6 : 900;
            calm[r] = tensor_copy_in(&ctx, "row", F32, numbers + r * c->in, SHAPE(1, c->in));
        }
        const float *y = linear(&ctx, x, fast.held, NULL)->data;
        const float *exact = linear(&ctx, x, slow.held, NULL)->data;
        for (int r = 0; r < ROWS; r++) {
            const float *alone = linear(&ctx, calm[r], fast.held, NULL)->data;
            size_t at = (size_t)(r * c->out), bytes = (size_t)c->out * sizeof *y;
            bool aside = outlier[r] && c->block_in == 256;
            cr_assert(!memcmp(y + at, alone, bytes), "case %d: row %d", i, r);
            cr_assert(!memcmp(y + at, exact + at, bytes) == aside, "case %d: row %d", i, r);
        }
        params_free(&fast.params), params_free(&slow.params);
        context_reset(&ctx);
    }
}

CPU_TEST(quantised, linear_is_that_of_the_numbers) {
    static const int64_t rows[] = {1, 2, 5, 16, 17, 33};
    for (int i = 0; i < HELD_CASES * TABLES; i++) {
        Pair p;
        const HeldCase *c = held_cases + i / TABLES;
        pair_init(&p, &ctx, c, tables[i % TABLES].products);
        Tensor *bias = test_normal(&ctx, "bias", 3, SHAPE(c->out));
        Tensor *norm = test_normal(&ctx, "norm", 4, SHAPE(c->in));
        for (int r = 0; r < 6; r++) {
            Tensor *x = test_normal(&ctx, "x", 5, SHAPE(rows[r], c->in));
            Tensor *base = test_normal(&ctx, "base", 6, SHAPE(rows[r], c->out));
            const struct {
                const char *name;
                Tensor *is, *should;
            } same[] = {
                {"linear", linear(&ctx, x, p.held, NULL), linear(&ctx, x, p.plain, NULL)},
                {"with bias", linear(&ctx, x, p.held, bias), linear(&ctx, x, p.plain, bias)},
                {"residual", linear_residual(&ctx, x, p.held, bias, (Residual){base, 0}),
                 linear_residual(&ctx, x, p.plain, bias, (Residual){base, 0})},
                {"normed", rmsnorm_linear(&ctx, x, norm, 1e-6f, p.held),
                 rmsnorm_linear(&ctx, x, norm, 1e-6f, p.plain)},
            };
            for (size_t k = 0; k < sizeof same / sizeof *same; k++)
                check_tensor(&ctx, same[k].name, same[k].is, same[k].should->data,
                             close_to(i % TABLES, c->in));
        }
        params_free(&p.params);
        context_reset(&ctx);
    }
}

CPU_TEST(quantised, experts_are_those_of_the_numbers) {
    static const HeldCase cases[] = {{U8, 1, 64, 4, 70, 64},
                                     {I4, 1, 32, 4, 33, 96},
                                     {F8_E4M3, 128, 128, 4, 160, 48}}; /* 2 rows of blocks each */
    static const int32_t begins[][5] = {{0, 1, 1, 3, 4}, {0, 20, 20, 21, 70}, {0, 0, 0, 0, 0}};
    for (int i = 0; i < 9 * TABLES; i++) {
        Pair p, up;
        const HeldCase *c = cases + i % 3;
        pair_init(&p, &ctx, c, tables[i / 9].products);
        pair_init(&up, &ctx, c, tables[i / 9].products);
        held_fill(&up.params, up.held, 2);
        params_get(&up.params, up.held, up.plain->data);
        const int32_t *begin = begins[i / 3 % 3];
        int64_t used = begin[4];
        Tensor *offsets = tensor_copy_in(&ctx, "offsets", I32, begin, SHAPE(5));
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(used + 2, c->in)); /* two belong to nobody */
        Tensor *is = grouped_linear(&ctx, x, p.held, offsets);
        Tensor *should = grouped_linear(&ctx, x, p.plain, offsets);
        check_close("grouped", is->data, should->data, used * c->out, close_to(i / 9, c->in));
        is = grouped_swiglu(&ctx, x, p.held, up.held, offsets);
        should = grouped_swiglu(&ctx, x, p.plain, up.plain, offsets);
        check_close("swiglu", is->data, should->data, used * c->out, 4 * close_to(i / 9, c->in));
        is = grouped_swiglu(&ctx, x, p.held, up.plain, offsets); /* one of the two */
        check_close("half", is->data, should->data, used * c->out, 4 * close_to(i / 9, c->in));
        is = grouped_swiglu(&ctx, x, p.plain, up.held, offsets); /* and the other */
        check_close("half", is->data, should->data, used * c->out, 4 * close_to(i / 9, c->in));
        params_free(&p.params), params_free(&up.params);
        context_reset(&ctx);
    }
}

/* ---- refused ---- */

CPU_TEST(quantised, no_gradient_through_codes, .signal = SIGABRT) {
    Pair p;
    pair_init(&p, &ctx, held_cases + 1, &quantised_weight_only);
    ctx.recording = true;
    linear(&ctx, test_normal(&ctx, "x", 1, SHAPE(2, 31)), p.held, NULL);
}

CPU_TEST(quantised, is_not_set_as_numbers, .signal = SIGABRT) {
    Pair p;
    pair_init(&p, &ctx, held_cases + 1, &quantised_weight_only);
    params_fill(&p.params, p.held, 0);
}

CPU_TEST(quantised, is_no_table_of_embeddings, .signal = SIGABRT) {
    Pair p;
    pair_init(&p, &ctx, held_cases + 1, &quantised_weight_only);
    const int32_t id = 0;
    embedding(&ctx, p.held, tensor_copy_in(&ctx, "ids", I32, &id, SHAPE(1)));
}

Test(quantised, formats_that_cannot_be) {
    static const struct {
        DType dtype;
        int block_out, block_in;
        int64_t in;
        const char *says;
    } wrong[] = {
        {U8, 1, 48, 64, "groups of 48 do not divide its 64 columns"},
        {U8, 2, 32, 64, "blocks of 2 x 32; those of U8 have one row"},
        {I4, 1, 16, 64, "32, 64 or 128"},
        {I4, 1, 64, 96, "groups of 64 do not divide its 96 columns"},
        {I8, 1, 64, 64, "no weights in I8"},
        {F8_E4M3, 0, 128, 64, "blocks of 0 x 128"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Tensor t = tensor_view(NULL, "w", F32, CPU, SHAPE(8, wrong[i].in));
        Error err = {0};
        cr_assert(quantised_format_check(&t, wrong[i].dtype, wrong[i].block_out, wrong[i].block_in,
                                         &err) == -1);
        cr_assert(strstr(err.text, wrong[i].says), "%s", err.text);
    }
}
