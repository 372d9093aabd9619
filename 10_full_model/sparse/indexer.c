/*
 * The indexer: its weights, and the few operations that lead to its scores. Scores are made and
 * chosen from in passes of as many queries as INDEX_SCORES numbers have room for.
 */
#include "10_full_model/sparse/indexer.h"

#include "10_full_model/sparse/index_kernels.h"
#include "10_full_model/sparse/layer_norm.h"
#include "common/comm/comm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int indexer_check(const IndexerConfig *cfg, Error *err) {
    if (!cfg->q_lora_rank)
        return error_set(err, "q_lora_rank is null, but deepseek_v32's indexer reads that latent");
    if (cfg->index_head_dim < cfg->qk_rope_head_dim)
        return error_set(err,
                         "index_head_dim is %d; the indexer rotates qk_rope_head_dim = %d numbers "
                         "of a head, so it must be at least that",
                         cfg->index_head_dim, cfg->qk_rope_head_dim);
    return 0;
}

int indexer_check_e4m3(const IndexerConfig *cfg, Error *err) {
    int dim = cfg->index_head_dim;
    if (dim >= 4 && (dim & (dim - 1)) == 0) return 0;
    return error_set(err,
                     "a cache in FP8 turns the indexer's keys by Hadamard's matrix, so "
                     "index_head_dim must be a power of two, at least 4; it is %d",
                     dim);
}

/* ---- weights ---- */

static Tensor *indexer_select(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                              LatentCache *cache);
static void indexer_learn(Context *ctx, const Selection *self, const Attended *attended);

static Indexer indexer_register(Params *params, const char *prefix, const IndexerConfig *cfg) {
    int64_t heads = cfg->index_n_heads, dim = cfg->index_head_dim, hidden = cfg->hidden_size;
    Indexer w = {.selection = {indexer_select, indexer_learn}, .cfg = *cfg};
    w.wq_b = params_new(params, prefix, "wq_b.weight", SHAPE(heads * dim, cfg->q_lora_rank));
    w.wk = params_new(params, prefix, "wk.weight", SHAPE(dim, hidden));
    w.k_norm = params_new(params, prefix, "k_norm.weight", SHAPE(dim));
    w.k_norm_bias = params_new(params, prefix, "k_norm.bias", SHAPE(dim));
    w.weights_proj = params_new(params, prefix, "weights_proj.weight", SHAPE(heads, hidden));
    params_set_dtype(params, w.weights_proj, F32);
    Tensor *const all[INDEXER_WEIGHTS] = {w.wq_b, w.wk, w.k_norm, w.k_norm_bias, w.weights_proj};
    memcpy(w.all, all, sizeof all);
    /* Who does not learn must not shrink. */
    for (int i = 0; i < INDEXER_WEIGHTS; i++) params_group(params, w.all[i])->decayed = false;
    return w;
}

void indexers_register(Indexers *indexers, Params *params, const IndexerConfig *cfg, int layers) {
    *indexers = (Indexers){.count = layers};
    indexers->list = must_alloc((size_t)layers, sizeof *indexers->list);
    indexers->records = must_alloc((size_t)layers, sizeof *indexers->records);
    for (int i = 0; i < layers; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d.self_attn.indexer", i);
        indexers->list[i] = indexer_register(params, prefix, cfg);
        indexers->list[i].record = &indexers->records[i];
    }
}

void indexers_free(Indexers *indexers) {
    free(indexers->list);
    free(indexers->records);
    *indexers = (Indexers){0};
}

void indexers_set_rope(Indexers *indexers, const Rope *rope) {
    for (int i = 0; i < indexers->count; i++) indexers->list[i].rope = rope;
}

void indexers_train(Indexers *indexers, Params *params, IndexerStage stage, float rate) {
    for (int i = 0; i < params->count && stage == INDEXER_WARMS_UP; i++)
        params_group(params, params->list[i])->frozen = true;
    for (int i = 0; i < indexers->count; i++) {
        indexers->list[i].stage = stage;
        for (int j = 0; j < INDEXER_WEIGHTS && stage != INDEXER_SELECTS; j++) {
            Tensor *w = indexers->list[i].all[j];
            *params_group(params, w) = (ParamGroup){.decayed = w->ndim > 1, .rate = rate};
        }
    }
}

void indexer_randomize(Params *params, const Indexer *w, float std) {
    params_normal(params, w->wq_b, std);
    params_normal(params, w->wk, std);
    params_fill(params, w->k_norm, 1);
    params_fill(params, w->k_norm_bias, 0);
    params_normal(params, w->weights_proj, std);
}

int64_t indexer_parameters(const IndexerConfig *cfg) {
    Params params = {0};
    indexer_register(&params, "layer", cfg);
    int64_t count = params_count(&params);
    params_free(&params);
    return count;
}

/* ---- selecting ---- */

/* The same numbers, to which no gradient goes back. */
static Tensor *detached(Context *ctx, const Tensor *t) {
    Tensor *view = arena_alloc(&ctx->host, sizeof *view);
    *view = tensor_view(t->data, t->name, t->dtype, t->device, t->shape, t->ndim);
    return view;
}

static Tensor *widened(Context *ctx, Tensor *x) {
    if (x->dtype == F32) return x;
    Tensor *y = tensor_new(ctx, x->name, F32, x->shape, x->ndim);
    ON(ctx, index_widen, y->data, x->data, tensor_count(x));
    y->requires_grad = false;
    return y;
}

/* [index_queries] */
/* q [B, T, H, D], k [B, T, D] and w [B, T, H] of the step's tokens, rotated. */
static IndexerRecord queries(Context *ctx, const Indexer *w, Tensor *x, Tensor *c_q,
                             LatentCache *cache) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1);
    int64_t heads = w->cfg.index_n_heads, dim = w->cfg.index_head_dim;
    x = detached(ctx, x), c_q = detached(ctx, c_q);
    Tensor *q = reshape(ctx, linear(ctx, c_q, w->wq_b, NULL), SHAPE(B, T, heads, dim));
    Tensor *k =
        layer_norm(ctx, linear(ctx, x, w->wk, NULL), w->k_norm, w->k_norm_bias, INDEXER_NORM_EPS);
    k = reshape(ctx, k, SHAPE(B, T, 1, dim));
    if (w->rope) {
        Tensor *positions =
            cache ? pages_positions(ctx, cache->pages) : positions_from(ctx, B, T, 0);
        rope_rotate(ctx, w->rope, q, 0, k, 0, positions);
    }
    k = reshape(ctx, k, SHAPE(B, T, dim));
    Tensor *weights = linear(ctx, widened(ctx, x), w->weights_proj, NULL); /* F32 throughout */
    return (IndexerRecord){.q = q, .k = k, .w = weights};
}
/* [/index_queries] */

static float score_scale(const IndexerConfig *cfg) {
    return 1 / sqrtf((float)cfg->index_n_heads * (float)cfg->index_head_dim);
}

/* The step's keys join the cache; in eight bits, if it has those, and then q is rounded too. */
static void keep_keys(Context *ctx, const IndexerRecord *r, LatentCache *cache) {
    int64_t dim = tensor_dim(r->k, -1);
    CHECK(cache->keys && cache->keys->width == dim, "indexer: the cache has no pool for its keys");
    if (latent_cache_is_e4m3(cache->keys)) {
        const Pages *pages = cache->pages;
        int64_t tokens = tensor_dim(r->k, 1);
        ON(ctx, hadamard, r->q->data, tensor_rows(r->q), dim);
        ON(ctx, hadamard, r->k->data, tensor_rows(r->k), dim);
        ON(ctx, index_round, r->q->data, tensor_rows(r->q), dim);
        latent_cache_writes(cache->keys, "indexer", tokens);
        pages_settle(ctx, cache->pages);
        ON(ctx, index_append_e4m3, cache->keys->latent.data, pages->block_table.data,
           pages->lengths.data, r->k->data, pages->batch, tokens, dim, pages->max_pages);
    } else {
        latent_cache_append(ctx, cache->keys, r->k, NULL);
    }
}

/* [choose] */
static Tensor *choose(Context *ctx, const Indexer *w, const IndexerRecord *r,
                      const LatentCache *cache) {
    int64_t B = tensor_dim(r->q, 0), T = tensor_dim(r->q, 1), topk = w->cfg.index_topk;
    const Pages *pages = cache ? cache->pages : NULL;
    int64_t S = pages ? pages_longest(pages) : T; /* a captured step also sees what comes later */
    if (pages && pages->horizon > S) S = pages->horizon;
    if (S <= topk) return NULL; /* all: dense attention */
    IndexShape shape = {.batch = (int)B,
                        .q_len = (int)T,
                        .heads = w->cfg.index_n_heads,
                        .dim = w->cfg.index_head_dim,
                        .scale = score_scale(&w->cfg),
                        .kv_len = (int)S};
    if (pages) {
        shape.block_table = pages->block_table.data, shape.lengths = pages->lengths.data;
        shape.max_pages = pages->max_pages;
        shape.e4m3 = latent_cache_is_e4m3(cache->keys);
    }
    const void *keys = cache ? cache->keys->latent.data : r->k->data;
    int64_t most = ctx->device == CPU ? INDEX_SCORES : INDEX_SCORES_CUDA;
    int64_t fit = most / (B * S), pass = fit < 1 ? 1 : fit < T ? fit : T;
    Tensor *selected = tensor_new(ctx, "selected", I32, SHAPE(B, T, topk));
    ArenaMark mark = arena_mark(&ctx->data);
    float *scores = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * pass * S));
    for (int64_t first = 0; first < T; first += pass) {
        shape.first = (int)first, shape.count = (int)(T - first < pass ? T - first : pass);
        ON(ctx, index_scores, scores, r->q->data, r->w->data, keys, shape);
        ON(ctx, top_k, selected->data, scores, (int)topk, shape);
    }
    arena_release(&ctx->data, mark);
    return selected;
}
/* [/choose] */

static Tensor *indexer_select(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                              LatentCache *cache) {
    const Indexer *w = (const Indexer *)self;
    bool recording = ctx->recording, learns = recording && w->stage != INDEXER_SELECTS;
    ctx->recording = learns;
    IndexerRecord r = queries(ctx, w, x, c_q, cache);
    if (cache) keep_keys(ctx, &r, cache);
    ctx->recording = false; /* a choice is not differentiated */
    bool chooses = !learns || w->stage == INDEXER_LEARNS;
    Tensor *selected = chooses ? choose(ctx, w, &r, cache) : NULL;
    ctx->recording = recording;
    if (learns) *w->record = r;
    return selected;
}

/* ---- learning ---- */

static void indexer_learn(Context *ctx, const Selection *self, const Attended *attended) {
    const Indexer *w = (const Indexer *)self;
    IndexerRecord *r = w->record;
    if (w->stage == INDEXER_SELECTS) return;
    r->loss = index_loss(ctx, attended, r->q, r->k, r->w, score_scale(&w->cfg), w->cfg.index_topk,
                         &r->measures);
}

Tensor *indexers_add_losses(Context *ctx, const Indexers *indexers, Tensor *loss,
                            float coefficient) {
    const Tensor *c = tensor_copy_in(ctx, "coefficient", F32, &coefficient, SHAPE(1));
    for (int i = 0; i < indexers->count; i++) {
        Tensor *own = indexers->records[i].loss;
        if (!own) continue;
        own = weighted_sum(ctx, own, c);
        loss = loss ? add(ctx, loss, own) : own;
    }
    return loss;
}

void indexers_share_measures(Indexers *indexers, struct Comm *comm) {
    for (int i = 0; i < indexers->count; i++)
        comm_broadcast_host(comm, &indexers->records[i].measures, sizeof(IndexMeasures),
                            comm_size(comm) - 1);
}

IndexMeasures indexers_measures(const Indexers *indexers, int layer) {
    IndexMeasures mean = {0};
    int first = layer < 0 ? 0 : layer, end = layer < 0 ? indexers->count : layer + 1;
    for (int i = first; i < end; i++) {
        const IndexMeasures *m = &indexers->records[i].measures;
        mean.loss += m->loss / (end - first);
        mean.recall += m->recall / (end - first);
        mean.mass += m->mass / (end - first);
        mean.best += m->best / (end - first);
        mean.dead_heads += m->dead_heads / (end - first);
    }
    return mean;
}
