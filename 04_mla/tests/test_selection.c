/*
 * A selection: all tokens selected are none left out, a subset is a mask, and what a list may not
 * say counts for nothing.
 */
#include "04_mla/mla_selected.h"
#include "04_mla/tests/test_mla.h"

/* A Selection that was made before: of the tokens that the step begins with. */
typedef struct Fixed {
    Selection selection;
    const int32_t *lists; /* [B, all, k], host */
    int all, k, width;    /* tokens with a list, entries of each, c_q's numbers */
} Fixed;

static Tensor *fixed_select(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                            LatentCache *cache) {
    const Fixed *f = (const Fixed *)self;
    int B = (int)tensor_dim(x, 0), T = (int)tensor_dim(x, 1);
    check_shape("fixed_select", c_q, ctx->dtype, SHAPE(B, T, f->width));
    int32_t *lists = malloc(sizeof *lists * (size_t)(B * T * f->k));
    for (int b = 0; b < B; b++) {
        int first = cache ? cache->pages->length[b] - T : 0;
        memcpy(lists + b * T * f->k, f->lists + (b * f->all + first) * f->k,
               sizeof *lists * (size_t)(T * f->k));
    }
    Tensor *t = tensor_copy_in(ctx, "selected", I32, lists, SHAPE(B, T, f->k));
    free(lists);
    return t;
}

static Fixed fixed(const int32_t *lists, int all, int k, const MlaConfig *cfg) {
    int width = cfg->q_lora_rank ? cfg->q_lora_rank : cfg->hidden_size;
    return (Fixed){{.select = fixed_select}, lists, all, k, width};
}

/* k positions for each of B * T queries: at random, up to a little beyond the query, some of them
 * twice, some -1. Each list holds the query itself, so that none is empty. */
static int32_t *random_lists(int B, int T, int k) {
    int32_t *lists = malloc(sizeof *lists * (size_t)(B * T * k));
    for (int i = 0; i < B * T * k; i++) {
        int t = i / k % T;
        lists[i] = i % k ? (int32_t)(philox(3, 1, (uint64_t)i).word[0] % (uint32_t)(t + 4)) - 1 : t;
    }
    return lists;
}

/* All of T tokens, the last first. */
static int32_t *full_lists(int B, int T) {
    int32_t *lists = malloc(sizeof *lists * (size_t)(B * T * T));
    for (int i = 0; i < B * T * T; i++) lists[i] = T - 1 - i % T;
    return lists;
}

/* Other orders of sums, as test_mla_cache.c has it. */
static double tolerance(DType dtype) { return (dtype == BF16 ? 10 : 5) * tolerance_of(dtype, 128); }

static const MlaConfig ragged = {25, 3, 0, 11, 7, 6, 5, true};
static const MlaConfig with_q = {40, 5, 12, 16, 8, 8, 8, false};
static const MlaConfig full_size = {512, 2,  64,  512,
                                    128, 64, 128, false}; /* a layer of V3, narrow */
static const MlaConfig no_rope = {24, 1, 9, 8, 4, 0, 9, false};

/* ---- the kernels, against plain attention with a mask ---- */

/* q, k, v and d_o [B, T, H, D], D_v, for T queries of S keys; results on the host. */
typedef struct Plain {
    float *o, *dq, *dk, *dv;
} Plain;

/* Forward and backward in double, by the formulas. */
static Plain plain_attention(const float *q, const float *k, const float *v, const float *d_o,
                             const int32_t *lists, int count, AttentionShape a) {
    size_t q_n = (size_t)(a.batch * a.q_len * a.heads),
           k_n = (size_t)(a.batch * a.kv_len * a.heads);
    Plain y = {calloc(q_n * (size_t)a.v_dim, 4), calloc(q_n * (size_t)a.qk_dim, 4),
               calloc(k_n * (size_t)a.qk_dim, 4), calloc(k_n * (size_t)a.v_dim, 4)};
    double *p = malloc(sizeof *p * (size_t)a.kv_len), *dp = malloc(sizeof *dp * (size_t)a.kv_len);
    for (int row = 0; row < (int)q_n; row++) {
        int h = row % a.heads, t = row / a.heads % a.q_len, b = row / a.heads / a.q_len;
        double sum = 0, delta = 0;
        for (int j = 0; j < a.kv_len; j++) {
            bool in = false;
            for (int i = 0; i < count; i++) in = in || lists[(b * a.q_len + t) * count + i] == j;
            int key = (b * a.kv_len + j) * a.heads + h;
            p[j] = dp[j] = 0;
            if (!in || j > a.kv_len - a.q_len + t) continue;
            double s = 0;
            for (int c = 0; c < a.qk_dim; c++)
                s += (double)q[row * a.qk_dim + c] * k[key * a.qk_dim + c];
            for (int c = 0; c < a.v_dim; c++)
                dp[j] += (double)d_o[row * a.v_dim + c] * v[key * a.v_dim + c];
            sum += p[j] = exp(s * a.scale);
        }
        for (int j = 0; j < a.kv_len && sum > 0; j++) delta += (p[j] /= sum) * dp[j];
        for (int j = 0; j < a.kv_len; j++) {
            int key = (b * a.kv_len + j) * a.heads + h;
            double ds = p[j] * (dp[j] - delta) * a.scale;
            if (p[j] == 0) continue;
            for (int c = 0; c < a.v_dim; c++) {
                y.o[row * a.v_dim + c] += (float)(p[j] * v[key * a.v_dim + c]);
                y.dv[key * a.v_dim + c] += (float)(p[j] * d_o[row * a.v_dim + c]);
            }
            for (int c = 0; c < a.qk_dim; c++) {
                y.dq[row * a.qk_dim + c] += (float)(ds * k[key * a.qk_dim + c]);
                y.dk[key * a.qk_dim + c] += (float)(ds * q[row * a.qk_dim + c]);
            }
        }
    }
    free(p), free(dp);
    return y;
}

static void check_kernels(Device device, DType dtype, int B, int T, int S, int H, int D, int Dv,
                          int count) {
    Context ctx = test_context(device, dtype);
    AttentionShape a = attention_shape(B, H, H, T, S, D, Dv, 1);
    SelectedShape shape = {.attention = a, .count = count};
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(B, T, H, D));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(B, S, H, D));
    Tensor *v = test_normal(&ctx, "v", 3, SHAPE(B, S, H, Dv));
    Tensor *d_o = test_normal(&ctx, "d_o", 4, SHAPE(B, T, H, Dv));
    int32_t *lists = random_lists(B, S, count),
            *last = malloc(sizeof *last * (size_t)(B * T * count));
    for (int b = 0; b < B; b++) /* of the last T of S tokens */
        memcpy(last + b * T * count, lists + (b * S + S - T) * count,
               sizeof *last * (size_t)(T * count));
    if (S > 3) last[0] = count > 1 ? -5 : S; /* the first query's list has lost its own token */
    float *hosts[] = {test_values(&ctx, q), test_values(&ctx, k), test_values(&ctx, v),
                      test_values(&ctx, d_o)};
    Plain want = plain_attention(hosts[0], hosts[1], hosts[2], hosts[3], last, count, a);

    Tensor *selected = tensor_copy_in(&ctx, "selected", I32, last, SHAPE(B, T, count));
    Tensor *o = tensor_new(&ctx, "o", dtype, SHAPE(B, T, H, Dv));
    Tensor *dq = tensor_new(&ctx, "dq", dtype, SHAPE(B, T, H, D));
    Tensor *dk = tensor_new(&ctx, "dk", dtype, SHAPE(B, S, H, D));
    Tensor *dv = tensor_new(&ctx, "dv", dtype, SHAPE(B, S, H, Dv));
    Tensor *const out[] = {o, dq, dk, dv};
    for (int i = 0; i < 4; i++) test_poison(&ctx, out[i]);
    void *work = arena_alloc(&ctx.data, ON(&ctx, selected_work, shape));
    void *scratch = arena_alloc(&ctx.data, ON(&ctx, selected_backward_scratch, shape) + 1);
    float *lse = arena_alloc(&ctx.data, sizeof(float) * (size_t)(B * H * T));
    ON(&ctx, selected_forward, o->data, lse, q->data, k->data, v->data, selected->data, work,
       shape);
    ON(&ctx, selected_backward, dq->data, 0, dk->data, 0, dv->data, 0, scratch, d_o->data, q->data,
       k->data, v->data, o->data, lse, work, shape);
    /* F32: sums of `count` and D terms in another order. BF16: o is rounded, and enters delta. */
    double t = dtype == BF16 ? 0x1p-6 : 40 * tolerance_of(F32, D);
    check_tensor(&ctx, "o", o, want.o, t);
    check_tensor(&ctx, "dq", dq, want.dq, t);
    check_tensor(&ctx, "dk", dk, want.dk, t);
    check_tensor(&ctx, "dv", dv, want.dv, t);
    for (int i = 0; i < 4; i++) free(hosts[i]);
    free(want.o), free(want.dq), free(want.dk), free(want.dv), free(lists), free(last);
}

DEVICE_TEST(selection, a_subset_is_a_mask) {
    check_kernels(device, dtype, 1, 1, 1, 1, 1, 1, 1);
    check_kernels(device, dtype, 2, 31, 31, 3, 13, 5, 4);
    check_kernels(device, dtype, 1, 33, 70, 2, 24, 16, 9);
    check_kernels(device, dtype, 3, 1, 127, 5, 33, 31, 40);
    check_kernels(device, dtype, 1, 3, 65, 1, 192, 128, 1);
}

/* ---- latents: one row is key and value of all heads ---- */

/* What plain_attention gives when every head has its own copy of the rows, and these add up. */
static Plain plain_latents(const float *q, const float *latent, const float *d_o,
                           const int32_t *lists, int count, AttentionShape a) {
    int64_t rows = (int64_t)a.batch * a.kv_len;
    AttentionShape own =
        attention_shape(a.batch, a.heads, a.heads, a.q_len, a.kv_len, a.qk_dim, a.v_dim, 1);
    float *k = test_floats(rows * a.heads * a.qk_dim), *v = test_floats(rows * a.heads * a.v_dim);
    for (int64_t i = 0; i < rows * a.heads; i++) {
        const float *row = latent + i / a.heads * a.qk_dim;
        memcpy(k + i * a.qk_dim, row, sizeof(float) * (size_t)a.qk_dim);
        memcpy(v + i * a.v_dim, row, sizeof(float) * (size_t)a.v_dim);
    }
    own.scale = a.scale;
    Plain y = plain_attention(q, k, v, d_o, lists, count, own);
    float *d = calloc((size_t)(rows * a.qk_dim), sizeof *d);
    for (int64_t i = 0; i < rows * a.heads; i++)
        for (int c = 0; c < a.qk_dim; c++)
            d[i / a.heads * a.qk_dim + c] +=
                y.dk[i * a.qk_dim + c] + (c < a.v_dim ? y.dv[i * a.v_dim + c] : 0);
    free(k), free(v), free(y.dk), free(y.dv);
    y.dk = d, y.dv = NULL;
    return y;
}

/* The second query's list is empty, if there is one. */
static void check_latents(Device device, DType dtype, int B, int T, int S, int H, int rank,
                          int rope, int count) {
    Context ctx = test_context(device, dtype);
    int W = rank + rope;
    AttentionShape a = attention_shape(B, H, 1, T, S, W, rank, 1);
    a.v = a.k; /* the same rows */
    SelectedShape shape = {.attention = a, .count = count, .latent = true};
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(B, T, H, W));
    Tensor *latent = test_normal(&ctx, "latent", 2, SHAPE(B, S, W));
    Tensor *d_o = test_normal(&ctx, "d_o", 3, SHAPE(B, T, H, rank));
    int32_t *lists = random_lists(B, S, count),
            *last = malloc(sizeof *last * (size_t)(B * T * count));
    for (int b = 0; b < B; b++)
        memcpy(last + b * T * count, lists + (b * S + S - T) * count,
               sizeof *last * (size_t)(T * count));
    for (int i = count; i < 2 * count && T > 1; i++) last[i] = -1;
    float *hosts[] = {test_values(&ctx, q), test_values(&ctx, latent), test_values(&ctx, d_o)};
    Plain want = plain_latents(hosts[0], hosts[1], hosts[2], last, count, a);

    Tensor *selected = tensor_copy_in(&ctx, "selected", I32, last, SHAPE(B, T, count));
    Tensor *o = tensor_new(&ctx, "o", dtype, SHAPE(B, T, H, rank));
    Tensor *dq = tensor_new(&ctx, "dq", dtype, SHAPE(B, T, H, W));
    Tensor *d = tensor_new(&ctx, "d_latent", dtype, SHAPE(B, S, W));
    Tensor *const out[] = {o, dq, d};
    for (int i = 0; i < 3; i++) test_poison(&ctx, out[i]);
    void *work = arena_alloc(&ctx.data, ON(&ctx, selected_work, shape));
    void *scratch = arena_alloc(&ctx.data, ON(&ctx, selected_backward_scratch, shape) + 1);
    float *lse = arena_alloc(&ctx.data, sizeof(float) * (size_t)(B * H * T));
    float *before = NULL;
    for (int run = 0; run < 2; run++) { /* the same bits */
        ON(&ctx, selected_forward, o->data, lse, q->data, latent->data, latent->data,
           selected->data, work, shape);
        ON(&ctx, selected_backward, dq->data, 0, d->data, 0, NULL, 0, scratch, d_o->data, q->data,
           latent->data, latent->data, o->data, lse, work, shape);
        float *now = test_values(&ctx, d);
        if (before) cr_assert_eq(memcmp(before, now, sizeof *now * (size_t)(B * S * W)), 0);
        before = now;
    }
    double t = dtype == BF16 ? 0x1p-6 : 40 * tolerance_of(F32, W);
    check_tensor(&ctx, "o", o, want.o, t);
    check_tensor(&ctx, "dq", dq, want.dq, t);
    check_tensor(&ctx, "d_latent", d, want.dk, t);
    /* once more, added */
    ON(&ctx, selected_backward, dq->data, 1, d->data, 1, NULL, 0, scratch, d_o->data, q->data,
       latent->data, latent->data, o->data, lse, work, shape);
    for (int64_t i = 0; i < (int64_t)B * T * H * W; i++) want.dq[i] *= 2;
    for (int64_t i = 0; i < (int64_t)B * S * W; i++) want.dk[i] *= 2;
    check_tensor(&ctx, "dq twice", dq, want.dq, t);
    check_tensor(&ctx, "d_latent twice", d, want.dk, t);
    free(want.o), free(want.dq), free(want.dk), free(lists), free(last);
    context_free(&ctx);
}

DEVICE_TEST(selection, of_latents) {
    check_latents(device, dtype, 1, 1, 1, 1, 1, 1, 1);
    check_latents(device, dtype, 2, 31, 31, 3, 13, 5, 4);
    check_latents(device, dtype, 1, 33, 70, 5, 24, 0, 9);
    check_latents(device, dtype, 3, 2, 127, 67, 33, 31, 40);
    /* Hopper's sizes: less than a tile of heads, and more; whole steps of keys and others */
    check_latents(device, dtype, 1, 1, 65, 64, 512, 64, 64);
    check_latents(device, dtype, 1, 3, 130, 5, 512, 64, 70);
    check_latents(device, dtype, 2, 5, 300, 70, 512, 64, 260);
    check_latents(device, dtype, 1, 2, 66000, 1, 512, 64, 3); /* more than a window of bits */
    check_latents(device, dtype, 1, 530, 530, 2, 512, 64, 8); /* two chunks of queries */
}

/* ---- all selected = none selected ---- */

/* y, dx and the gradient of kv_b_proj, whose numbers are `weights`, one after the other. */
static float *with_gradients(Device device, DType dtype, const MlaConfig *cfg, int B, int T,
                             const Selection *selection, MlaMode mode, int64_t weights) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, *cfg);
    int64_t n = (int64_t)B * T * cfg->hidden_size;
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, cfg->hidden_size));
    /* y's gradient, in F32 as a loss wants it */
    Tensor *random = test_normal(&ctx, "c", 2, SHAPE(B, T, cfg->hidden_size));
    Tensor *c =
        tensor_copy_in(&ctx, "c", F32, test_values(&ctx, random), random->shape, random->ndim);
    ctx.recording = true;
    Tensor *y = mla_forward(&ctx, x, &m.w, cfg, cfg->qk_rope_head_dim ? &TURN : NULL, selection,
                            NULL, mode, (Residual){0});
    tape_backward(&ctx, weighted_sum(&ctx, y, c));
    float *all = malloc(sizeof(float) * (size_t)(2 * n + weights));
    float *out = test_values(&ctx, y), *dx = test_gradient(&ctx, x);
    memcpy(all, out, sizeof(float) * (size_t)n), memcpy(all + n, dx, sizeof(float) * (size_t)n);
    params_get_grad(&m.params, m.w.kv_b_proj, all + 2 * n);
    free(out), free(dx);
    return all;
}

static void check_full(Device device, DType dtype, MlaConfig cfg, int B, int T) {
    int64_t n = (int64_t)B * T * cfg.hidden_size;
    int64_t weights = (int64_t)cfg.num_attention_heads * (cfg.qk_nope_head_dim + cfg.v_head_dim) *
                      cfg.kv_lora_rank;
    int32_t *lists = full_lists(B, T);
    Fixed f = fixed(lists, T, T, &cfg);
    float *want = with_gradients(device, dtype, &cfg, B, T, NULL, MLA_AUTO, weights);
    for (int absorbed = 0; absorbed < 2; absorbed++) {
        float *got = with_gradients(device, dtype, &cfg, B, T, &f.selection,
                                    absorbed ? MLA_ABSORBED : MLA_AUTO, weights);
        check_close("y", got, want, n, tolerance(dtype));
        check_close("dx", got + n, want + n, n, 2 * tolerance(dtype));
        check_close("dkv_b", got + 2 * n, want + 2 * n, weights, 2 * tolerance(dtype));
        free(got);
    }
    free(lists), free(want);
}

DEVICE_TEST(selection, all_are_none_left_out) {
    check_full(device, dtype, with_q, 2, 31);
    check_full(device, dtype, ragged, 1, 33);
    check_full(device, dtype, no_rope, 2, 7);
    check_full(device, dtype, full_size, 1, 70);
}

/* ---- gradients by finite differences ---- */

typedef struct Graph {
    Tensor *x, *c;
    Module *m;
    Fixed *fixed;
    MlaMode mode;
} Graph;

static Tensor *module_loss(Context *ctx, void *user) {
    Graph *g = user;
    return weighted_sum(ctx,
                        mla_forward(ctx, g->x, &g->m->w, &g->m->cfg, &TURN, &g->fixed->selection,
                                    NULL, g->mode, (Residual){0}),
                        g->c);
}

CPU_TEST(selection, gradients_of_a_subset) {
    enum { B = 2, T = 7, K = 3 };
    Module m;
    module_init(&m, &ctx, with_q);
    int32_t *lists = random_lists(B, T, K);
    Fixed f = fixed(lists, T, K, &with_q);
    Graph g = {.m = &m, .fixed = &f};
    g.x = test_normal(&ctx, "x", 1, SHAPE(B, T, with_q.hidden_size));
    g.c = test_normal(&ctx, "c", 2, SHAPE(B, T, with_q.hidden_size));
    for (int absorbed = 0; absorbed < 2; absorbed++) {
        g.mode = absorbed ? MLA_ABSORBED : MLA_AUTO;
        check_gradients(&ctx, "selection", module_loss, &g, &g.x, 1, 24, 1e-2, 1e-2);
    }
}

/* Whoever reads q, c_kv, k_rope and kv_b twice gets each gradient twice: the second one is added to
 * what is there. */
CONTEXT_TEST(selection, absorbed_gradients_are_added_to) {
    enum { B = 2, T = 9, K = 3 };
    Module m;
    module_init(&m, &ctx, with_q);
    int H = with_q.num_attention_heads, width = with_q.qk_nope_head_dim + with_q.qk_rope_head_dim;
    int32_t *lists = random_lists(B, T, K);
    Tensor *selected = tensor_copy_in(&ctx, "selected", I32, lists, SHAPE(B, T, K));
    Tensor *const inputs[] = {test_normal(&ctx, "q", 1, SHAPE(B, T, H, width)),
                              test_normal(&ctx, "c_kv", 2, SHAPE(B, T, with_q.kv_lora_rank)),
                              test_normal(&ctx, "k_rope", 3, SHAPE(B, T, with_q.qk_rope_head_dim)),
                              m.w.kv_b_proj};
    float *once[4];
    for (int times = 1; times <= 2; times++) {
        for (int i = 0; i < 4; i++) inputs[i]->has_grad = false;
        ctx.recording = true;
        Tensor *o[2] = {NULL};
        for (int j = 0; j < times; j++)
            o[j] = mla_selected_attention(&ctx, inputs[0], inputs[1], inputs[2], selected,
                                          inputs[3], &with_q, 0.3f, NULL);
        tape_backward(&ctx, sum(&ctx, o[1] ? add(&ctx, o[0], o[1]) : o[0]));
        for (int i = 0; i < 4; i++) {
            float *got = test_gradient(&ctx, inputs[i]);
            int64_t n = tensor_count(inputs[i]);
            if (times == 2) check_close(inputs[i]->name, got, once[i], n, tolerance(dtype));
            for (int64_t j = 0; j < n; j++) got[j] *= 2;
            if (times == 2) free(once[i]);
            once[i] = got;
        }
    }
    for (int i = 0; i < 4; i++) free(once[i]);
    free(lists);
}

/* ---- with a cache = without, in both modes ---- */

/* The same lists for every token, whether the text comes whole or in steps; `full`: all tokens. */
static void check_cached(Device device, DType dtype, MlaConfig cfg, bool full, MlaMode mode) {
    enum { B = 3, T = 70 };
    static const int chunks[] = {33, 1, 1, 7, 23, 5};
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    int k = full ? T : 9, hidden = cfg.hidden_size;
    int32_t *lists = full ? full_lists(B, T) : random_lists(B, T, k);
    Fixed f = fixed(lists, T, k, &cfg);
    OneLayer cache;
    one_layer_init(&cache, &ctx, B, T, 0, cfg.kv_lora_rank + cfg.qk_rope_head_dim);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, hidden));
    float *all = test_values(&ctx, x), *pieced = malloc(sizeof(float) * (size_t)(B * T * hidden));
    float *whole =
        test_values(&ctx, mla_forward(&ctx, x, &m.w, &cfg, &TURN, full ? NULL : &f.selection, NULL,
                                      MLA_AUTO, (Residual){0}));
    for (int first = 0, i = 0; first < T; first += chunks[i++]) {
        Tensor *part = tokens_of(&ctx, all, 0, B, T, hidden, first, chunks[i]);
        cr_assert_eq(pages_begin(&cache.pages, chunks[i], NULL), 0);
        float *y = test_values(&ctx, mla_forward(&ctx, part, &m.w, &cfg, &TURN, &f.selection,
                                                 &cache.latent, mode, (Residual){0}));
        for (int b = 0; b < B; b++)
            memcpy(pieced + (b * T + first) * hidden, y + b * chunks[i] * hidden,
                   sizeof(float) * (size_t)(chunks[i] * hidden));
        free(y);
    }
    check_close("cached", pieced, whole, B * T * hidden, tolerance(dtype));
    free(all), free(whole), free(pieced), free(lists);
}

DEVICE_TEST(selection, cached_is_uncached) {
    static const MlaMode modes[] = {MLA_NAIVE, MLA_ABSORBED};
    for (int i = 0; i < 4; i++) {
        check_cached(device, dtype, with_q, i / 2, modes[i % 2]);
        check_cached(device, dtype, ragged, i / 2, modes[i % 2]);
    }
}

/* A prompt long enough for kernels that a few tokens do not take, behind a text that is there. */
DEVICE_TEST(selection, a_prompt_behind_a_cache) {
    enum { FIRST = 70, T = 300, K = 40 };
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, full_size);
    int hidden = full_size.hidden_size;
    int32_t *lists = random_lists(1, FIRST + T, K);
    Fixed f = fixed(lists, FIRST + T, K, &full_size);
    OneLayer cache;
    one_layer_init(&cache, &ctx, 1, FIRST + T, 0, 512 + 64);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, FIRST + T, hidden));
    float *all = test_values(&ctx, x);
    float *whole = test_values(&ctx, mla_forward(&ctx, x, &m.w, &full_size, &TURN, &f.selection,
                                                 NULL, MLA_AUTO, (Residual){0}));
    for (int first = 0; first <= FIRST; first += FIRST) {
        int count = first ? T : FIRST;
        cr_assert_eq(pages_begin(&cache.pages, count, NULL), 0);
        x = tokens_of(&ctx, all, 0, 1, FIRST + T, hidden, first, count);
        check_tensor(&ctx, "y",
                     mla_forward(&ctx, x, &m.w, &full_size, &TURN, &f.selection, &cache.latent,
                                 MLA_ABSORBED, (Residual){0}),
                     whole + first * hidden, tolerance(dtype));
    }
}

/* ---- sequences of different lengths ---- */

/* Two sequences of 5 and 66 tokens; a step of 2 in each selects by places in its own sequence. */
static void check_lengths(Device device, DType dtype, MlaMode mode) {
    enum { T = 68, K = 6 };
    static const int length[] = {5, 66};
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, with_q);
    int hidden = with_q.hidden_size;
    int32_t *lists = random_lists(2, T, K);
    Fixed f = fixed(lists, T, K, &with_q);
    OneLayer cache;
    one_layer_init(&cache, &ctx, 2, T, 0, with_q.kv_lora_rank + with_q.qk_rope_head_dim);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, T, hidden));
    float *all = test_values(&ctx, x), next[2 * 2 * 40], expected[2 * 2 * 40];
    float *whole = test_values(&ctx, mla_forward(&ctx, x, &m.w, &with_q, &TURN, &f.selection, NULL,
                                                 MLA_AUTO, (Residual){0}));
    cached_forward(&ctx, tokens_of(&ctx, all, 0, 2, T, hidden, 0, 66), &m.w, &with_q, &TURN, &cache,
                   mode);
    for (int b = 0; b < 2; b++) {
        pages_truncate(&cache.pages, b, length[b]);
        memcpy(next + b * 80, all + (b * T + length[b]) * hidden, sizeof next / 2);
        memcpy(expected + b * 80, whole + (b * T + length[b]) * hidden, sizeof next / 2);
    }
    cr_assert_eq(pages_begin(&cache.pages, 2, NULL), 0);
    x = tensor_copy_in(&ctx, "x", dtype, next, SHAPE(2, 2, hidden));
    check_tensor(&ctx, "y",
                 mla_forward(&ctx, x, &m.w, &with_q, &TURN, &f.selection, &cache.latent, mode,
                             (Residual){0}),
                 expected, tolerance(dtype));
    free(all), free(whole), free(lists);
}

DEVICE_TEST(selection, of_different_lengths) {
    check_lengths(device, dtype, MLA_NAIVE);
    check_lengths(device, dtype, MLA_ABSORBED);
}
