/*
 * One node on the tape for all of it: both gradients of kv_b_proj are halves of one tensor, which
 * only who has both can overwrite.
 */
#include "04_mla/mla_selected.h"

#include <string.h>

typedef struct SelectedSaved {
    Tensor *o, *q, *c_kv, *k_rope, *kv_b;
    Tensor *q_absorbed, *latent, *o_latent;
    const float *lse;
    const void *work;
    SelectedShape shape;
    MlaShape mla;
} SelectedSaved;

static SelectedShape latent_shape(MlaShape m, int64_t B, int64_t T, int64_t count, float scale) {
    SelectedShape s = {.attention = attention_shape((int)B, m.heads, 1, (int)T, (int)T,
                                                    m.kv_lora_rank + m.rope, m.kv_lora_rank, 1),
                       .count = (int)count,
                       .latent = true};
    s.attention.v = s.attention.k;
    s.attention.scale = scale;
    return s;
}

/* Pairs of a query and a key that it sees, and those that it reads: query t sees S - T + t + 1. */
static double pairs_left_out(int64_t T, int64_t S, int64_t k) {
    int64_t first = S - T + 1 > k ? S - T + 1 : k + 1; /* keys of the first that leaves some out */
    double queries = S >= first ? (double)(S - first + 1) : 0;
    return queries * ((double)first + (double)S - 2 * (double)k) / 2;
}

MlaMode mla_selected_cheaper(const MlaConfig *cfg, int64_t T, int64_t S, int64_t k) {
    double H = cfg->num_attention_heads, out = 2 * pairs_left_out(T, S, k) * H;
    double rope = cfg->qk_rope_head_dim, rank = cfg->kv_lora_rank;
    double naive =
        mla_naive_flop(cfg, T, S) - out * (cfg->qk_nope_head_dim + rope + cfg->v_head_dim);
    return mla_absorbed_flop(cfg, T, S) - out * (2 * rank + rope) < naive ? MLA_ABSORBED
                                                                          : MLA_NAIVE;
}

bool mla_selected_fits(Context *ctx, const MlaConfig *cfg, const Tensor *kv_b) {
#ifdef WITH_CUDA
    if (ctx->device != CUDA || kv_b->quantised) return false;
    SelectedShape s = latent_shape(mla_kernel_shape(cfg), 1, 1, 1, 1);
    return selected_hopper_supports(ctx->gpu, ctx->dtype, NULL, NULL, NULL, NULL, s);
#else
    (void)ctx, (void)cfg, (void)kv_b;
    return false;
#endif
}

static void selected_backward(Context *ctx, void *saved) {
    SelectedSaved *s = saved;
    const AttentionShape *a = &s->shape.attention;
    int64_t rows = (int64_t)a->batch * a->q_len;
    int add_q, add_c, add_rope, add_w;
    void *dq = grad_slot(ctx, s->q, &add_q), *dc = grad_slot(ctx, s->c_kv, &add_c);
    void *dk_rope = grad_slot(ctx, s->k_rope, &add_rope);
    float *dkv_b = grad_slot(ctx, s->kv_b, &add_w);
    ArenaMark mark = arena_mark(&ctx->data); /* behind the gradients, which stay */
    const void *d_o = s->o->grad->data, *q = s->q_absorbed->data, *latent = s->latent->data;
    void *do_latent = arena_alloc(&ctx->data, tensor_bytes(s->o_latent));
    ON(ctx, mla_absorb_output_backward, do_latent, dkv_b, add_w, d_o, s->o_latent->data,
       s->kv_b->data, rows, s->mla);
    void *dq_absorbed = dq || dkv_b ? arena_alloc(&ctx->data, tensor_bytes(s->q_absorbed)) : NULL;
    void *d_latent = dc || dk_rope ? arena_alloc(&ctx->data, tensor_bytes(s->latent)) : NULL;
    size_t bytes = ON(ctx, selected_backward_scratch, s->shape);
    void *scratch = bytes ? arena_alloc(&ctx->data, bytes) : NULL;
    ON(ctx, selected_backward, dq_absorbed, 0, d_latent, 0, NULL, 0, scratch, do_latent, q, latent,
       latent, s->o_latent->data, s->lse, s->work, s->shape);
    if (dq_absorbed)
        ON(ctx, mla_absorb_query_backward, dq, add_q, dkv_b, add_w, dq_absorbed, s->q->data,
           s->kv_b->data, rows, s->mla);
    if (d_latent)
        ON(ctx, mla_latents_backward, dc, add_c, dk_rope, add_rope, d_latent, rows, s->mla);
    arena_release(&ctx->data, mark);
}

/* [mla_selected_attention] */
Tensor *mla_selected_attention(Context *ctx, Tensor *q, Tensor *c_kv, Tensor *k_rope,
                               const Tensor *selected, Tensor *kv_b, const MlaConfig *cfg,
                               float scale, Attended *attended) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), H = cfg->num_attention_heads;
    MlaShape mla = mla_kernel_shape(cfg);
    int64_t rank = mla.kv_lora_rank, width = rank + mla.rope;
    check_shape("mla_selected_attention", q, ctx->dtype, SHAPE(B, T, H, mla.nope + mla.rope));
    check_shape("mla_selected_attention", c_kv, ctx->dtype, SHAPE(B, T, rank));
    check_shape("mla_selected_attention", selected, I32, SHAPE(B, T, -1));
    check_shape("mla_selected_attention", kv_b, ctx->dtype, SHAPE(H * (mla.nope + mla.v), rank));
    SelectedShape shape = latent_shape(mla, B, T, tensor_dim(selected, 2), scale);
    Tensor *o = tensor_new(ctx, "attention", ctx->dtype, SHAPE(B, T, H, mla.v));
    ArenaMark mark = arena_mark(&ctx->data);
    Tensor *q_absorbed = tensor_new(ctx, "q_absorbed", ctx->dtype, SHAPE(B, T, H, width));
    Tensor *latent = tensor_new(ctx, "latents", ctx->dtype, SHAPE(B, T, 1, width));
    Tensor *o_latent = tensor_new(ctx, "o_latent", ctx->dtype, SHAPE(B, T, H, rank));
    float *lse = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * H * T));
    void *work = arena_alloc(&ctx->data, ON(ctx, selected_work, shape));
    ON(ctx, mla_latents, latent->data, c_kv->data, k_rope ? k_rope->data : NULL, B * T, mla);
    ON(ctx, mla_absorb_query, q_absorbed->data, q->data, kv_b->data, B * T, mla);
    ON(ctx, selected_forward, o_latent->data, lse, q_absorbed->data, latent->data, latent->data,
       selected->data, work, shape);
    ON(ctx, mla_absorb_output, o->data, o_latent->data, kv_b->data, B * T, mla);
    if (attended) *attended = (Attended){q_absorbed, latent, lse, selected, scale};
    RECORD(ctx, o, selected_backward, SelectedSaved, .o = o, .q = q, .c_kv = c_kv, .k_rope = k_rope,
           .kv_b = kv_b, .q_absorbed = q_absorbed, .latent = latent, .o_latent = o_latent,
           .lse = lse, .work = work, .shape = shape, .mla = mla);
    if (!ctx->recording) arena_release(&ctx->data, mark); /* else backward needs them */
    return o;
}
/* [/mla_selected_attention] */

/* ---- kernels of the CPU ---- */

static void plus(float *to, float factor, const float *from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

static float dot(const float *a, const float *b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void mla_latents_cpu(float *latent, const float *c_kv, const float *k_rope, int64_t rows,
                     MlaShape s) {
    int64_t rank = s.kv_lora_rank, rope = s.rope;
    for (int64_t row = 0; row < rows; row++) {
        float *to = latent + row * (rank + rope);
        memcpy(to, c_kv + row * rank, sizeof *to * (size_t)rank);
        if (rope) memcpy(to + rank, k_rope + row * rope, sizeof *to * (size_t)rope);
    }
}

void mla_latents_backward_cpu(float *dc_kv, int add_c, float *dk_rope, int add_rope,
                              const float *d_latent, int64_t rows, MlaShape s) {
    int64_t rank = s.kv_lora_rank, rope = s.rope;
    for (int64_t row = 0; row < rows; row++) {
        const float *from = d_latent + row * (rank + rope);
        for (int64_t i = 0; i < rank && dc_kv; i++)
            dc_kv[row * rank + i] = (add_c ? dc_kv[row * rank + i] : 0) + from[i];
        for (int64_t i = 0; i < rope && dk_rope; i++)
            dk_rope[row * rope + i] = (add_rope ? dk_rope[row * rope + i] : 0) + from[rank + i];
    }
}

void mla_absorb_query_backward_cpu(float *dq, int add_q, float *dkv_b, int add_w,
                                   const float *dq_absorbed, const float *q, const float *kv_b,
                                   int64_t rows, MlaShape s) {
    int64_t H = s.heads, nope = s.nope, rope = s.rope, rank = s.kv_lora_rank, width = rank + rope;
#pragma omp parallel for
    for (int64_t h = 0; h < H; h++) {
        const float *w = kv_b + h * (nope + s.v) * rank;
        float *dw = dkv_b ? dkv_b + h * (nope + s.v) * rank : NULL;
        if (dw && !add_w) memset(dw, 0, sizeof *dw * (size_t)(nope * rank));
        for (int64_t row = 0; row < rows; row++) {
            const float *from = dq_absorbed + (row * H + h) * width;
            const float *own = q + (row * H + h) * (nope + rope);
            float *to = dq ? dq + (row * H + h) * (nope + rope) : NULL;
            for (int64_t i = 0; i < nope; i++) {
                if (to) to[i] = (add_q ? to[i] : 0) + dot(from, w + i * rank, rank);
                if (dw) plus(dw + i * rank, own[i], from, rank);
            }
            for (int64_t i = 0; i < rope && to; i++)
                to[nope + i] = (add_q ? to[nope + i] : 0) + from[rank + i];
        }
    }
}

void mla_absorb_output_backward_cpu(float *do_latent, float *dkv_b, int add_w, const float *d_o,
                                    const float *o_latent, const float *kv_b, int64_t rows,
                                    MlaShape s) {
    int64_t H = s.heads, v = s.v, rank = s.kv_lora_rank;
#pragma omp parallel for
    for (int64_t h = 0; h < H; h++) {
        const float *w = kv_b + (h * (s.nope + v) + s.nope) * rank;
        float *dw = dkv_b ? dkv_b + (h * (s.nope + v) + s.nope) * rank : NULL;
        if (dw && !add_w) memset(dw, 0, sizeof *dw * (size_t)(v * rank));
        for (int64_t row = 0; row < rows; row++) {
            float *to = do_latent + (row * H + h) * rank;
            memset(to, 0, sizeof *to * (size_t)rank);
            for (int64_t i = 0; i < v; i++) {
                float g = d_o[(row * H + h) * v + i];
                plus(to, g, w + i * rank, rank);
                if (dw) plus(dw + i * rank, g, o_latent + (row * H + h) * rank, rank);
            }
        }
    }
}
