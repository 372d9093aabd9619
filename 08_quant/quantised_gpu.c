/*
 * Products with quantised weights on the GPU: who computes what. Many rows, and kv_b_proj outside
 * the fused kernels, are multiplied as numbers, which are in the arena as long as the product runs.
 */
#include "08_quant/quantised_gpu.h"

#include "04_mla/mla.h"
#include "05_moe/grouped.h"
#include "common/core/ops_kernels.h"

#ifdef WITH_CUDA

QuantisedCodes quantised_codes(const Tensor *w) {
    const Quantised *q = w->quantised;
    return (QuantisedCodes){w->data,
                            q->scale.data,
                            w->dtype,
                            q->block_out,
                            q->block_in,
                            tensor_dim(w, -2),
                            tensor_dim(w, -1),
                            tensor_dim(&q->scale, -1),
                            tensor_dim(&q->scale, -2)};
}

static void dequantise_gpu(Context *ctx, void *to, const Tensor *w, int64_t first, int64_t count) {
    QuantisedCodes codes = quantised_codes(w);
    FewRowsWeight weight = few_rows_weight(w);
    if (ctx->dtype == BF16 && few_rows_weight_supports(&weight, BF16) && (uintptr_t)to % 16 == 0)
        quantised_numbers_fast_cuda(ctx->gpu, to, &weight, first, count);
    else
        quantised_numbers_cuda(ctx->gpu, ctx->dtype, to, &codes, first, count);
}

/* All of w as numbers, until the arena is released. */
static void *numbers_of(Context *ctx, const Tensor *w) {
    void *to = arena_alloc(&ctx->data, (size_t)tensor_count(w) * dtype_size(ctx->dtype));
    dequantise_gpu(ctx, to, w, 0, tensor_rows(w));
    return to;
}

/* As many times FEW_ROWS rows: to read the codes again costs less than to write the numbers and to
 * read those. */
enum { TIMES = 2 };

/* few, of any number of rows, FEW_ROWS of them at a time. */
static void linear_in_turns(Gpu *gpu, FewRowsLinear few) {
    FewRowsPart *part = &few.part[0];
    const size_t in = (size_t)few.in * dtype_size(BF16);
    const size_t out = (size_t)part->w.out * dtype_size(BF16);
    for (int64_t left = few.rows; left > 0; left -= FEW_ROWS) {
        few.rows = left < FEW_ROWS ? left : FEW_ROWS;
        few_rows_linear_cuda(gpu, BF16, &few);
        few.x = (const char *)few.x + FEW_ROWS * in;
        part->y = (char *)part->y + FEW_ROWS * out;
        if (part->residual) part->residual = (const char *)part->residual + FEW_ROWS * out;
    }
}

static void linear_gpu(Context *ctx, void *y, const void *base, const void *x, const Tensor *w,
                       const void *bias, int64_t rows) {
    int64_t out = tensor_dim(w, 0), in = tensor_dim(w, 1);
    FewRowsLinear few = {
        .x = x,
        .rows = rows,
        .in = in,
        .part = {{.y = y, .w = few_rows_weight(w), .bias = bias, .residual = base}}};
    if (rows > FEW_ROWS && rows <= TIMES * FEW_ROWS) few.rows = FEW_ROWS;
    if (ctx->dtype == BF16 && few_rows_supports(ctx->gpu, BF16, &few)) {
        few.rows = rows;
        linear_in_turns(ctx->gpu, few);
    } else if (rows <= FEW_ROWS) {
        QuantisedPlain p = {
            .y = y, .base = base, .x = x, .bias = bias, .rows = rows, .w = quantised_codes(w)};
        quantised_plain_cuda(ctx->gpu, ctx->dtype, &p);
    } else {
        ArenaMark mark = arena_mark(&ctx->data);
        void *numbers = numbers_of(ctx, w);
        if (base)
            linear_onto_forward_cuda(ctx->gpu, ctx->dtype, y, base, x, numbers, bias, rows, in,
                                     out);
        else
            linear_forward_cuda(ctx->gpu, ctx->dtype, y, x, numbers, bias, rows, in, out);
        arena_release(&ctx->data, mark);
    }
}

static void grouped_gpu(Context *ctx, void *y, const void *x, const Tensor *w,
                        const int32_t *offsets, int64_t rows) {
    int experts = (int)tensor_dim(w, 0);
    if (rows <= FEW_ROWS) {
        QuantisedPlain p = {.y = y,
                            .x = x,
                            .offsets = offsets,
                            .experts = experts,
                            .rows = rows,
                            .w = quantised_codes(w)};
        quantised_plain_cuda(ctx->gpu, ctx->dtype, &p);
        return;
    }
    ArenaMark mark = arena_mark(&ctx->data);
    GroupedShape shape = {
        .rows = rows, .in = tensor_dim(w, 2), .out = tensor_dim(w, 1), .experts = experts};
    grouped_forward_cuda(ctx->gpu, ctx->dtype, y, x, numbers_of(ctx, w), offsets, shape);
    arena_release(&ctx->data, mark);
}

static void absorb_query_gpu(Context *ctx, void *q_absorbed, const void *q, const Tensor *kv_b,
                             int64_t rows, struct MlaShape shape) {
    ArenaMark mark = arena_mark(&ctx->data);
    mla_absorb_query_cuda(ctx->gpu, ctx->dtype, q_absorbed, q, numbers_of(ctx, kv_b), rows, shape);
    arena_release(&ctx->data, mark);
}

static void absorb_output_gpu(Context *ctx, void *o, const void *o_latent, const Tensor *kv_b,
                              int64_t rows, struct MlaShape shape) {
    ArenaMark mark = arena_mark(&ctx->data);
    mla_absorb_output_cuda(ctx->gpu, ctx->dtype, o, o_latent, numbers_of(ctx, kv_b), rows, shape);
    arena_release(&ctx->data, mark);
}

const QuantisedProducts quantised_on_gpu = {linear_gpu, grouped_gpu, absorb_query_gpu,
                                            absorb_output_gpu, dequantise_gpu};

#else

const QuantisedProducts quantised_on_gpu = {0};

#endif
