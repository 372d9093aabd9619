/*
 * The feed-forward half for a few tokens: what fits, and the three calls. See ffn_few_rows.h.
 */
#include "05_moe/ffn_few_rows.h"

#ifdef WITH_CUDA

static FfnFewRows few(const Tensor *x, const Tensor *norm, float eps, const Ffn *ffn) {
    int64_t rows = tensor_rows(x);
    FfnFewRows f = {.x = x->data,
                    .norm = norm->data,
                    .eps = eps,
                    .rows = rows < INT32_MAX ? (int)rows : INT32_MAX,
                    .hidden = (int)tensor_dim(x, -1)};
    const Mlp *shared = ffn->mlp;
    if (ffn->moe) {
        const Moe *w = ffn->moe;
        f.route = route_shape(&ffn->cfg->router, rows);
        f.router = w->gate.weight->data;
        f.bias = w->gate.bias ? w->gate.bias->data : NULL;
        f.status = w->gate.status->data;
        f.gate_proj = w->gate_proj->data, f.up_proj = w->up_proj->data;
        f.down_proj = w->down_proj->data, f.inner = ffn->cfg->moe_intermediate_size;
        shared = w->shared.gate_proj ? &w->shared : NULL;
    }
    if (shared) {
        f.shared_gate = shared->gate_proj->data, f.shared_up = shared->up_proj->data;
        f.shared_down = shared->down_proj->data;
        f.shared_inner = (int)tensor_dim(shared->gate_proj, 0);
    }
    return f;
}

bool ffn_few_rows_supports(Context *ctx, const Tensor *x, const Tensor *norm, const Ffn *ffn) {
    if (ctx->device != CUDA || ctx->recording) return false;
    if (ffn->moe && (ffn->cfg->router.gate == GATE_CENTROID || ffn->cfg->capacity_factor > 0))
        return false;
    FfnFewRows f = few(x, norm, 0, ffn);
    return ffn_few_rows_kernels_support(ctx->gpu, ctx->dtype, &f);
}

Tensor *ffn_few_rows_forward(Context *ctx, Tensor *x, const Tensor *norm, float eps,
                             const Ffn *ffn) {
    CHECK(ffn_few_rows_supports(ctx, x, norm, ffn), "ffn_few_rows_forward: not these sizes");
    check_shape("ffn_few_rows_forward", norm, ctx->dtype, SHAPE(tensor_dim(x, -1)));
    FfnFewRows f = few(x, norm, eps, ffn);
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

bool ffn_few_rows_supports(Context *ctx, const Tensor *x, const Tensor *norm, const Ffn *ffn) {
    return (void)ctx, (void)x, (void)norm, (void)ffn, false;
}

Tensor *ffn_few_rows_forward(Context *ctx, Tensor *x, const Tensor *norm, float eps,
                             const Ffn *ffn) {
    (void)ctx, (void)x, (void)norm, (void)eps, (void)ffn;
    CHECK(0, "ffn_few_rows_forward: built without CUDA");
    return NULL;
}

#endif
