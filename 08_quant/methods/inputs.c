/*
 * The taps' table of products, and sums over what passes through them.
 */
#include "08_quant/methods/inputs.h"

#include "04_mla/mla.h"
#include "05_moe/grouped.h"
#include "common/core/cpu_matmul.h"
#include "common/core/ops_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- taps ---- */

/* A copy of x [rows, in] in the arena, for the function to change. */
static float *copy_of(Context *ctx, const float *x, int64_t rows, int64_t in) {
    float *copy = arena_alloc(&ctx->data, sizeof *copy * (size_t)(rows * in));
    memcpy(copy, x, sizeof *copy * (size_t)(rows * in));
    return copy;
}

static const Tap *tap_of(const Tensor *w) { return (const Tap *)w->quantised; }

static void tap_linear(Context *ctx, void *y, const void *base, const void *x, const Tensor *w,
                       const void *bias, int64_t rows) {
    const Tap *tap = tap_of(w);
    int64_t in = w->shape[1], out = w->shape[0];
    ArenaMark mark = arena_mark(&ctx->data);
    float *seen = copy_of(ctx, x, rows, in);
    tap->see(tap->user, seen, rows, in, 0);
    if (base)
        linear_onto_forward_cpu(y, base, seen, w->data, bias, rows, in, out);
    else
        linear_forward_cpu(y, seen, w->data, bias, rows, in, out);
    arena_release(&ctx->data, mark);
}

static void tap_grouped(Context *ctx, void *y, const void *x, const Tensor *w,
                        const int32_t *offsets, int64_t rows) {
    const Tap *tap = tap_of(w);
    int experts = (int)w->shape[0];
    int64_t in = w->shape[2];
    ArenaMark mark = arena_mark(&ctx->data);
    float *seen = copy_of(ctx, x, rows, in);
    for (int e = 0; e < experts; e++)
        if (offsets[e] < offsets[e + 1])
            tap->see(tap->user, seen + offsets[e] * in, offsets[e + 1] - offsets[e], in, e);
    grouped_forward_cpu(y, seen, w->data, offsets, (GroupedShape){rows, in, w->shape[1], experts});
    arena_release(&ctx->data, mark);
}

/* Absorbed, kv_b_proj is never given the latents: there is nothing to see. */
static void tap_absorb_query(Context *ctx, void *q_absorbed, const void *q, const Tensor *kv_b,
                             int64_t rows, struct MlaShape shape) {
    (void)ctx;
    mla_absorb_query_cpu(q_absorbed, q, kv_b->data, rows, shape);
}

static void tap_absorb_output(Context *ctx, void *o, const void *o_latent, const Tensor *kv_b,
                              int64_t rows, struct MlaShape shape) {
    (void)ctx;
    mla_absorb_output_cpu(o, o_latent, kv_b->data, rows, shape);
}

static void tap_dequantise(Context *ctx, void *to, const Tensor *w, int64_t first, int64_t count) {
    (void)ctx;
    int64_t in = tensor_dim(w, -1);
    memcpy(to, (const float *)w->data + first * in, sizeof(float) * (size_t)(count * in));
}

static const QuantisedProducts tap_products = {.linear = tap_linear,
                                               .grouped = tap_grouped,
                                               .absorb_query = tap_absorb_query,
                                               .absorb_output = tap_absorb_output,
                                               .dequantise = tap_dequantise};

/* The door wants a dtype of codes, blocks and scales: one block, whose scale nobody reads. */
void tap_open(Tap *tap, Tensor *w, TapFunction see, void *user) {
    CHECK(w->device == CPU && w->dtype == F32 && !w->quantised, "%s: %s on %s is not plain",
          w->name, dtype_name(w->dtype), device_name(w->device));
    int64_t shape[MAX_DIMS], out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    int ndim = quantised_scale_shape(shape, w, (int)out, (int)in);
    *tap = (Tap){.door = {.block_out = (int)out,
                          .block_in = (int)in,
                          .scale = tensor_view(w->data, w->name, F32, CPU, shape, ndim),
                          .products = &tap_products},
                 .weight = w,
                 .dtype = w->dtype,
                 .see = see,
                 .user = user};
    w->dtype = F8_E4M3;
    w->quantised = &tap->door;
}

void tap_close(Tap *tap) {
    tap->weight->dtype = tap->dtype;
    tap->weight->quantised = NULL;
}

/* ---- statistics ---- */

void input_stats_init(InputStats *s, int64_t in, int64_t rows) {
    *s = (InputStats){.in = in, .stride = (rows + INPUT_SAMPLES - 1) / INPUT_SAMPLES};
    if (s->stride < 1) s->stride = 1;
    s->gram = must_alloc((size_t)(in * in), sizeof *s->gram);
    s->sum_abs = must_alloc((size_t)in, sizeof *s->sum_abs);
    s->max_abs = must_alloc((size_t)in, sizeof *s->max_abs);
    s->sample = must_alloc((size_t)(INPUT_SAMPLES * in), sizeof *s->sample);
}

void input_stats_free(InputStats *s) {
    free(s->gram);
    free(s->sum_abs);
    free(s->max_abs);
    free(s->sample);
    *s = (InputStats){0};
}

/* gram += X^T X */
static void add_gram(InputStats *s, const float *x, int64_t rows) {
    cpu_matmul(&(CpuMatmul){.c = s->gram,
                            .base = s->gram,
                            .c_row = s->in,
                            .a = {x, 1, s->in},
                            .b = {x, s->in, 1},
                            .m = s->in,
                            .n = s->in,
                            .k = rows});
}

void input_stats_add(InputStats *s, const float *x, int64_t rows) {
    add_gram(s, x, rows);
    for (int64_t i = 0; i < rows; i++, s->rows++) {
        for (int64_t j = 0; j < s->in; j++) {
            float size = fabsf(x[i * s->in + j]);
            s->sum_abs[j] += size;
            if (!(size <= s->max_abs[j])) s->max_abs[j] = size; /* NaN, too */
        }
        if (s->rows % s->stride == 0 && s->samples < INPUT_SAMPLES)
            memcpy(s->sample + s->in * s->samples++, x + i * s->in, sizeof *x * (size_t)s->in);
    }
}

void input_stats_join(InputStats *s, const InputStats *other) {
    for (int64_t i = 0; i < s->in * s->in; i++) s->gram[i] += other->gram[i];
    for (int64_t j = 0; j < s->in; j++) {
        s->sum_abs[j] += other->sum_abs[j];
        s->max_abs[j] = fmaxf(s->max_abs[j], other->max_abs[j]);
    }
    s->rows += other->rows;
}

void input_stats_divide(InputStats *s, const float *by) {
    for (int64_t i = 0; i < s->in; i++)
        for (int64_t j = 0; j < s->in; j++) s->gram[i * s->in + j] /= by[i] * by[j];
    for (int64_t i = 0; i < s->samples; i++)
        for (int64_t j = 0; j < s->in; j++) s->sample[i * s->in + j] /= by[j];
    for (int64_t j = 0; j < s->in; j++) {
        s->sum_abs[j] /= by[j];
        s->max_abs[j] /= by[j];
    }
}

double input_square(const InputStats *s, const float *w, int64_t out) {
    float *product = must_realloc(NULL, (size_t)(out * s->in), sizeof *product); /* w gram */
    cpu_matmul(&(CpuMatmul){.c = product,
                            .c_row = s->in,
                            .a = {w, s->in, 1},
                            .b = {s->gram, s->in, 1},
                            .m = out,
                            .n = s->in,
                            .k = s->in});
    double square = 0;
    for (int64_t i = 0; i < out * s->in; i++) square += (double)product[i] * w[i];
    free(product);
    return square > 0 ? square : 0; /* rounding may leave a little less than nothing */
}
