/*
 * Rows are written by steps alone. So if one step has begun since the last time, and every sequence
 * is longer by its tokens, these are the rows to be made; else every row is compared with the copy
 * of what it was made of. All rows go through one product.
 */
#include "04_mla/mla_kept.h"

#include "02_causal/causal_tile.h"
#include "common/core/fastmath.h"
#include "common/core/memory.h"
#include "common/core/ops_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE_KEYS = 64 }; /* as in 02_causal/causal_cpu.c: after so many the maximum is looked at */
static const size_t MOST_BYTES = (size_t)256 << 20;

typedef struct Widths {
    size_t latent, k, kv; /* numbers of a token */
} Widths;

static Widths widths_of(MlaShape s) {
    size_t H = (size_t)s.heads;
    return (Widths){(size_t)(s.kv_lora_rank + s.rope), H * (size_t)(s.nope + s.rope),
                    H * (size_t)(s.nope + s.v)};
}

static MlaKept *new_kept(const Pages *pages, Widths w, size_t weight_bytes) {
    size_t rows = (size_t)pages->batch * (size_t)pages->capacity;
    if (rows * (w.latent + w.k + w.kv) * sizeof(float) + weight_bytes > MOST_BYTES) return NULL;
    MlaKept *kept = must_alloc(1, sizeof *kept);
    kept->batch = pages->batch;
    kept->capacity = pages->capacity;
    kept->weight = must_alloc(weight_bytes, 1);
    kept->latent = must_alloc(rows * w.latent, sizeof(float));
    kept->k = must_alloc(rows * w.k, sizeof(float));
    kept->kv = must_alloc(rows * w.kv, sizeof(float));
    kept->known = must_alloc((size_t)kept->batch, sizeof(int));
    kept->length = must_alloc((size_t)kept->batch, sizeof(int));
    return kept;
}

void mla_kept_free(MlaKept *kept) {
    if (!kept) return;
    free(kept->weight), free(kept->latent), free(kept->k), free(kept->kv);
    free(kept->known), free(kept->length);
    free(kept);
}

static void weights_are(MlaKept *kept, const Tensor *kv_b) {
    if (!memcmp(kept->weight, kv_b->data, tensor_bytes(kv_b))) return;
    memcpy(kept->weight, kv_b->data, tensor_bytes(kv_b));
    memset(kept->known, 0, (size_t)kept->batch * sizeof *kept->known);
}

static bool one_step_on(const MlaKept *kept, const Pages *pages) {
    bool is = pages->steps == kept->steps + 1;
    for (int b = 0; is && b < kept->batch; b++)
        is = pages->length[b] == kept->length[b] + pages->step && kept->known[b];
    return is;
}

/* The rows whose latents are others than those they were made of, as numbers b capacity + t. */
static int64_t stale_rows(MlaKept *kept, const LatentCache *cache, int64_t *rows) {
    const Pages *pages = cache->pages;
    const float *pool = cache->latent.data;
    size_t width = (size_t)cache->width;
    bool on = one_step_on(kept, pages);
    int64_t count = 0;
    for (int b = 0; b < kept->batch; b++) {
        const int32_t *table = pages->table + b * pages->max_pages;
        for (int t = on ? kept->length[b] : 0; t < pages->length[b]; t++) {
            int64_t row = (int64_t)b * kept->capacity + t;
            const float *is = pool + (size_t)page_row(table, t) * width;
            float *was = kept->latent + (size_t)row * width;
            if (t < kept->known[b] && !memcmp(was, is, width * sizeof *is)) continue;
            memcpy(was, is, width * sizeof *is);
            rows[count++] = row;
        }
        if (pages->length[b] > kept->known[b]) kept->known[b] = pages->length[b];
        kept->length[b] = pages->length[b];
    }
    kept->steps = pages->steps;
    return count;
}

/* A token's keys become a column of [H, nope + rope, capacity]. */
static void put_keys(MlaKept *kept, MlaShape s, int64_t row) {
    Widths w = widths_of(s);
    int64_t capacity = kept->capacity, b = row / capacity, t = row % capacity;
    const float *kv = kept->kv + (size_t)row * w.kv;
    const float *k_rope = kept->latent + (size_t)row * w.latent + s.kv_lora_rank;
    float *to = kept->k + b * capacity * (int64_t)w.k + t;
    for (int h = 0; h < s.heads; h++, kv += s.nope + s.v) {
        for (int c = 0; c < s.nope; c++, to += capacity) *to = kv[c];
        for (int c = 0; c < s.rope; c++, to += capacity) *to = k_rope[c];
    }
}

static void make_rows(Context *ctx, MlaKept *kept, const Tensor *kv_b, MlaShape shape,
                      const int64_t *rows, int64_t count) {
    Widths w = widths_of(shape);
    size_t rank = (size_t)shape.kv_lora_rank;
    float *c_kv = arena_alloc(&ctx->data, (size_t)count * rank * sizeof *c_kv);
    float *kv = arena_alloc(&ctx->data, (size_t)count * w.kv * sizeof *kv);
    for (int64_t i = 0; i < count; i++)
        memcpy(c_kv + (size_t)i * rank, kept->latent + (size_t)rows[i] * w.latent,
               rank * sizeof *c_kv);
    ON(ctx, linear_forward, kv, c_kv, kv_b->data, NULL, count, (int64_t)rank, (int64_t)w.kv);
    for (int64_t i = 0; i < count; i++) {
        size_t row = (size_t)rows[i];
        memcpy(kept->kv + row * w.kv, kv + (size_t)i * w.kv, w.kv * sizeof *kv);
        put_keys(kept, shape, rows[i]);
    }
    kept->made += count;
}

/* k and kv of all tokens that the cache holds, ready; or NULL. */
static MlaKept *bring_up(Context *ctx, LatentCache *cache, const Tensor *kv_b, MlaShape shape) {
    const Pages *pages = cache->pages;
    if (!cache->kept) cache->kept = new_kept(pages, widths_of(shape), tensor_bytes(kv_b));
    MlaKept *kept = cache->kept;
    if (!kept) return NULL;
    ArenaMark mark = arena_mark(&ctx->data);
    size_t most = 0;
    for (int b = 0; b < kept->batch; b++) most += (size_t)pages->length[b];
    int64_t *rows = arena_alloc(&ctx->data, most * sizeof *rows);
    weights_are(kept, kv_b);
    int64_t count = stale_rows(kept, cache, rows);
    if (count) make_rows(ctx, kept, kv_b, shape, rows, count);
    arena_release(&ctx->data, mark);
    return kept;
}

/*
 * One query of a head over n tokens: what a lane of chapter 02's tiles computes (causal_cpu.c), in
 * the same order. There lanes are queries; here there is one, and lanes are keys, which is why they
 * stand as columns, and then columns of values.
 */
static void one_query(float *o, const float *q, const float *keys, const float *values,
                      const MlaKept *kept, MlaShape shape, int n, float scale) {
    float scores[TILE_KEYS], sum_v[MAX_DIM] = {0}, m = -INFINITY, l = 0;
    int64_t row = (int64_t)shape.heads * (shape.nope + shape.v);
    for (int first = 0; first < n; first += TILE_KEYS) {
        int count = n - first < TILE_KEYS ? n - first : TILE_KEYS;
        float m_new = m, sum = 0;
        memset(scores, 0, sizeof scores);
        for (int c = 0; c < shape.nope + shape.rope; c++) {
            const float *k = keys + c * kept->capacity + first;
            float x = q[c] * scale;
            for (int j = 0; j < count; j++) scores[j] += k[j] * x;
        }
        for (int j = 0; j < count; j++) m_new = scores[j] > m_new ? scores[j] : m_new;
        for (int j = 0; j < count; j++) scores[j] = fast_exp(scores[j] - m_new);
        for (int j = 0; j < count; j++) sum += scores[j];
        float rescale = fast_exp(m - m_new);
        l = l * rescale + sum;
        m = m_new;
        for (int c = 0; c < shape.v; c++) sum_v[c] *= rescale;
        for (int j = 0; j < count; j++)
            for (int c = 0; c < shape.v; c++) sum_v[c] += values[(first + j) * row + c] * scores[j];
    }
    for (int c = 0; c < shape.v; c++) o[c] = sum_v[c] / l;
}

Tensor *mla_kept_attention(Context *ctx, Tensor *q, const Tensor *selected, const Mla *w,
                           const MlaConfig *cfg, LatentCache *cache, float scale) {
    const Pages *pages = cache->pages;
    int64_t H = cfg->num_attention_heads, v = cfg->v_head_dim;
    MlaShape mla = {(int)H, cfg->qk_nope_head_dim, cfg->qk_rope_head_dim, (int)v,
                    cfg->kv_lora_rank};
    if (ctx->device != CPU || tensor_dim(q, 1) != 1 || selected || w->kv_b_proj->quantised ||
        latent_cache_is_e4m3(cache))
        return NULL;
    MlaKept *kept = bring_up(ctx, cache, w->kv_b_proj, mla);
    if (!kept) return NULL;
    Tensor *o = tensor_new(ctx, "attention", F32, SHAPE(pages->batch, 1, H, v));
    int64_t capacity = kept->capacity, qk = mla.nope + mla.rope;
#pragma omp parallel for schedule(dynamic) if (pages_longest(pages) * pages->batch > 64)
    for (int64_t i = 0; i < pages->batch * H; i++) {
        int64_t b = i / H, h = i % H;
        const float *values = kept->kv + (b * capacity * H + h) * (mla.nope + v) + mla.nope;
        one_query((float *)o->data + i * v, (const float *)q->data + i * qk,
                  kept->k + i * qk * capacity, values, kept, mla, pages->length[b], scale);
    }
    return o;
}
