/*
 * Training in FP8: the table of products (common/core/products.h) that a Context carries for it.
 *
 *     forward    y  = x W^T      x 1 x 128 along its columns,  W 128 x 128
 *     dgrad      dx = dy W       dy 1 x 128 along its columns, W^T 128 x 128
 *     wgrad      dW = dy^T x     both 1 x 128 along tokens, sums to F32
 *
 * Codes are made from the high-precision numbers, right before the product that reads them, and
 * given back behind it: what is saved for the backward pass stays as it was. Scales are powers of
 * two, whose division loses nothing.
 *
 * What stays in high precision, as in the paper: the embedding, the head, the router's gate, norms,
 * attention itself, a MTP module's projection, master weights, gradients and whatever is summed;
 * and weights whose sides are no multiples of 16, which the copy engine cannot address.
 */
#include "08_quant/fp8.h"

#include "08_quant/fp8_rungs.h"
#include "common/core/products.h"

#include <string.h>

enum { POWER_OF_TWO = 1 };

typedef struct Codes {
    uint8_t *codes;
    float *scales;
} Codes;

static Codes new_codes(Context *ctx, int64_t count, int64_t scales) {
    return (Codes){arena_alloc(&ctx->data, (size_t)count),
                   arena_alloc(&ctx->data, (size_t)scales * sizeof(float))};
}

/* A weight's sides and experts. */
static GroupedShape shape_of(const Tensor *w, ProductRows rows) {
    return (GroupedShape){.rows = rows.rows,
                          .in = tensor_dim(w, -1),
                          .out = tensor_dim(w, -2),
                          .experts = w->ndim == 3 ? (int)tensor_dim(w, 0) : 1};
}

static Codes codes_of_rows(Context *ctx, const void *x, int64_t rows, int64_t cols) {
    Codes c = new_codes(ctx, rows * cols, fp8_row_scales(rows, cols));
    ON(ctx, fp8_quantise_rows, c.codes, c.scales, x, rows, cols, POWER_OF_TWO);
    return c;
}

static Codes codes_of_columns(Context *ctx, const void *x, int64_t cols, ProductRows rows,
                              int experts) {
    int64_t padded = fp8_padded_rows(rows.rows, rows.offsets ? experts : 1);
    Codes c = new_codes(ctx, padded * cols, padded / FP8_STEP * fp8_scale_stride(cols));
    ON(ctx, fp8_quantise_columns, c.codes, c.scales, x, rows.offsets, experts, rows.rows, cols,
       POWER_OF_TWO);
    return c;
}

static Codes codes_of_weight(Context *ctx, const Tensor *w, GroupedShape s, bool transposed) {
    Codes c = new_codes(ctx, tensor_count(w), s.experts * fp8_blocks(s.out) * fp8_blocks(s.in));
    Codes plain = transposed ? (Codes){0} : c, turned = transposed ? c : (Codes){0};
    ON(ctx, fp8_quantise_blocks, plain.codes, plain.scales, turned.codes, turned.scales, w->data,
       s.experts, s.out, s.in, POWER_OF_TWO);
    return c;
}

/* y = base + x W^T, whatever W is called. */
static void multiply(Context *ctx, void *y, const void *base, Codes x, Codes w, ProductRows rows,
                     GroupedShape s) {
    if (rows.offsets)
        ON(ctx, fp8_grouped, y, base, x.codes, x.scales, w.codes, w.scales, rows.offsets, s);
    else
        ON(ctx, fp8_product, y, base, x.codes, x.scales, w.codes, w.scales, s.rows, s.out, s.in);
}

static void forward(Context *ctx, const ProductTerm *terms, int count, ProductRows rows) {
    if (!rows.rows) return;
    ArenaMark before = arena_mark(&ctx->data);
    Codes x = codes_of_rows(ctx, rows.x, rows.rows, tensor_dim(terms[0].w, -1));
    for (int i = 0; i < count; i++) {
        GroupedShape s = shape_of(terms[i].w, rows);
        Codes w = codes_of_weight(ctx, terms[i].w, s, false);
        multiply(ctx, terms[i].y, terms[i].base, x, w, rows, s);
    }
    arena_release(&ctx->data, before);
}

static void input_gradient(Context *ctx, void *dx, int add, const ProductTerm *terms, int count,
                           ProductRows rows) {
    for (int i = 0; i < count; i++) {
        ArenaMark before = arena_mark(&ctx->data);
        GroupedShape s = shape_of(terms[i].w, rows);
        GroupedShape turned = {.rows = s.rows, .in = s.out, .out = s.in, .experts = s.experts};
        Codes dy = codes_of_rows(ctx, terms[i].dy, rows.rows, s.out);
        Codes w = codes_of_weight(ctx, terms[i].w, s, true);
        multiply(ctx, dx, add || i > 0 ? dx : NULL, dy, w, rows, turned);
        if (rows.offsets && !add && i == 0)
            ON(ctx, fp8_clear_rest, dx, rows.offsets, s.experts, s.rows, s.in);
        arena_release(&ctx->data, before);
    }
}

static void weight_gradients(Context *ctx, const ProductTerm *terms, int count, ProductRows rows) {
    ArenaMark before = arena_mark(&ctx->data);
    Codes x = {0};
    for (int i = 0; i < count; i++) {
        if (!terms[i].dw) continue;
        GroupedShape s = shape_of(terms[i].w, rows);
        if (!x.codes) x = codes_of_columns(ctx, rows.x, s.in, rows, s.experts);
        ArenaMark term = arena_mark(&ctx->data);
        Codes dy = codes_of_columns(ctx, terms[i].dy, s.out, rows, s.experts);
        ON(ctx, fp8_weight, terms[i].dw, terms[i].add, dy.codes, dy.scales, x.codes, x.scales,
           rows.offsets, s);
        arena_release(&ctx->data, term);
    }
    arena_release(&ctx->data, before);
}

static void backward(Context *ctx, void *dx, int add, const ProductTerm *terms, int count,
                     ProductRows rows) {
    if (dx) input_gradient(ctx, dx, add, terms, count, rows);
    weight_gradients(ctx, terms, count, rows);
}

bool fp8_takes(const Context *ctx, const Tensor *w) {
    (void)ctx;
    static const char *const stay[] = {"lm_head", "embed_tokens", "eh_proj", "mlp.gate.",
                                       "weights_proj"};
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++)
        if (strstr(w->name, stay[i])) return false;
    return (w->ndim == 2 || w->ndim == 3) && tensor_dim(w, -1) % 16 == 0 &&
           tensor_dim(w, -2) % 16 == 0;
}

const Products fp8_products = {.takes = fp8_takes, .forward = forward, .backward = backward};

int fp8_check(const Context *ctx, Error *err) {
#ifdef WITH_CUDA
    if (ctx->device == CUDA && !fp8_hopper_available(ctx->gpu, ctx->dtype, 16, 16)) {
        return error_set(
            err,
            "FP8 training needs a Hopper GPU (H100, H200, ..) and --dtype bf16: this is "
            "%s in %s; leave --fp8 out, or take --device cpu, which imitates it slowly",
            gpu_describe(ctx->gpu).text, dtype_name(ctx->dtype));
    }
#endif
    (void)ctx, (void)err;
    return 0;
}
