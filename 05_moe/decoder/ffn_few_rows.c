/*
 * The feed-forward half for a few tokens: which weights the three kernels can take, and their
 * calls. A dense layer is a shared expert without others, so both kinds fill in the same arguments;
 * norm and router are numbers of ctx's dtype, because the kernels would read them as that.
 */
#include "05_moe/decoder/ffn_few_rows.h"

#ifdef WITH_CUDA

static FfnFewRows kernel_arguments(const Tensor *x, const Block *w, const BlockConfig *cfg) {
    int64_t rows = tensor_rows(x);
    FfnFewRows f = {.x = x->data,
                    .norm = w->post_attention_layernorm->data,
                    .eps = cfg->rms_norm_eps,
                    .rows = rows < INT32_MAX ? (int)rows : INT32_MAX,
                    .hidden = (int)tensor_dim(x, -1)};
    const Mlp *shared = w->dense ? &w->mlp : &w->moe.shared;
    if (!w->dense) {
        const Moe *moe = &w->moe;
        f.route = route_shape(&cfg->moe.router, rows);
        f.router = moe->router.weight->data;
        f.bias = moe->router.bias ? moe->router.bias->data : NULL;
        f.status = moe->router.status->data;
        f.gate_proj = few_rows_weight(moe->gate_proj), f.up_proj = few_rows_weight(moe->up_proj);
        f.down_proj = few_rows_weight(moe->down_proj), f.inner = cfg->moe.moe_intermediate_size;
    }
    if (shared->gate_proj) {
        f.shared_gate = few_rows_weight(shared->gate_proj);
        f.shared_up = few_rows_weight(shared->up_proj);
        f.shared_down = few_rows_weight(shared->down_proj);
        f.shared_inner = (int)tensor_dim(shared->gate_proj, 0);
    }
    return f;
}

bool ffn_few_rows_supports(Context *ctx, const Tensor *x, const Block *w, const BlockConfig *cfg) {
    const Tensor *const used[] = {x, w->post_attention_layernorm, w->moe.router.weight};
    if (ctx->device != CUDA || ctx->recording ||
        !tensors_have_dtype(used, sizeof used / sizeof *used, ctx->dtype))
        return false;
    if (!w->dense && (cfg->moe.router.gate_kind == GATE_CENTROID || cfg->moe.capacity_factor > 0))
        return false;
    FfnFewRows f = kernel_arguments(x, w, cfg);
    return ffn_few_rows_kernels_support(ctx->gpu, ctx->dtype, &f);
}

Tensor *ffn_few_rows_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg) {
    CHECK(ffn_few_rows_supports(ctx, x, w, cfg), "ffn_few_rows_forward: not these sizes");
    check_shape("ffn_few_rows_forward", w->post_attention_layernorm, ctx->dtype,
                SHAPE(tensor_dim(x, -1)));
    FfnFewRows f = kernel_arguments(x, w, cfg);
    Tensor *y = tensor_new(ctx, "block", ctx->dtype, x->shape, x->ndim);
    ArenaMark mark = arena_mark(&ctx->data); /* from here on: between the kernels alone */
    size_t slots = (size_t)f.rows * (size_t)f.route.top_k, size = dtype_size(ctx->dtype);
    f.y = y->data;
    f.normed = arena_alloc(&ctx->data, (size_t)f.rows * (size_t)f.hidden * size);
    f.h = arena_alloc(&ctx->data, slots * (size_t)f.inner * size + 1);
    f.h_shared = arena_alloc(&ctx->data, (size_t)f.rows * (size_t)f.shared_inner * size + 1);
    f.indices = arena_alloc(&ctx->data, slots * sizeof *f.indices + 1);
    f.weights = arena_alloc(&ctx->data, slots * sizeof *f.weights + 1);
    ffn_few_rows_choose_cuda(ctx->gpu, ctx->dtype, &f);
    ffn_few_rows_up_cuda(ctx->gpu, ctx->dtype, &f);
    ffn_few_rows_down_cuda(ctx->gpu, ctx->dtype, &f);
    arena_release(&ctx->data, mark);
    return y;
}

#else

bool ffn_few_rows_supports(Context *ctx, const Tensor *x, const Block *w, const BlockConfig *cfg) {
    return (void)ctx, (void)x, (void)w, (void)cfg, false;
}

Tensor *ffn_few_rows_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg) {
    (void)ctx, (void)x, (void)w, (void)cfg;
    CHECK(0, "ffn_few_rows_forward: built without CUDA");
    return NULL;
}

#endif
