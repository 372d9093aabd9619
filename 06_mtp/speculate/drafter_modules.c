/*
 * Guesses by MTP modules.
 *
 * A module's rows follow the decoder's, so most of its work is a layer more of the decoder's own
 * step: the rows that were looked at, with true tokens now. Module m's last D - 1 rows were made
 * from guesses: module 2 sees t_{i+2}, which was a draft when row i was made. So the states and
 * tokens of the W = D - 1 rows before the step are kept, and these rows are made again:
 *
 *     G    = [kept states | the step's states]          [B, W + T, hidden_size]
 *     line = [kept tokens | next | d_1, d_2, ...]       module m's ids begin at its place m - 1
 *
 * Of a text just begun fewer rows are known, and it is those; side by side with others, that is the
 * fewest of all, and some rows of the others stay as they were guessed.
 */
#include "06_mtp/speculate/drafter.h"

#include "common/cuda/few_rows.h"

#include <stdlib.h>

typedef struct Modules {
    Drafter drafter; /* first */
    Context *ctx;
    const Mtp *mtp;
    BlockCache *caches;  /* [depth], pools under the decoder's pages */
    int W, known;        /* rows that are kept, and how many of them are true */
    Tensor kept, before; /* [B, W, hidden_size], I32 [B, W] */
    Tensor *state; /* of the round: what the last module that guessed was at, [B, 1, hidden] */
    Tensor *guess; /* and what it guessed, I32 [B, 1] */
} Modules;

static void modules_free(Drafter *drafter) {
    Modules *m = (Modules *)drafter;
    for (int i = 0; i < m->drafter.depth; i++) latent_cache_free(&m->caches[i].latent);
    device_free(m->ctx->gpu, m->kept.data);
    device_free(m->ctx->gpu, m->before.data);
    free(m->caches);
    free(m);
}

static void begin(Drafter *drafter) {
    Modules *m = (Modules *)drafter;
    m->known = 0;
    drafter->steady = m->W == 0;
}

/* Module k, over the rows of the step. */
static Tensor *run_module(Modules *m, DraftRound *r, int k, Tensor *ids, Tensor *h) {
    const BlockRun run = {.position = r->position, .cache = &m->caches[k - 1]};
    bool few = tensor_rows(h) <= FEW_ROWS; /* a prompt is not */
    return (few ? mtp_decode : mtp_forward)(r->ctx, m->mtp, k, ids, h, &run);
}

static void told(Drafter *drafter, DraftRound *r) {
    Modules *m = (Modules *)drafter;
    Context *ctx = r->ctx;
    int64_t B = tensor_dim(r->states, 0), T = tensor_dim(r->states, 1), W = m->W;
    int64_t hidden = tensor_dim(r->states, 2), depth = drafter->depth;
    int64_t guesses = r->count > depth ? r->count : depth, width = W + T + guesses;
    int64_t skip = m->known; /* rows before the step's that are made again */
    Tensor *G = r->states;
    if (W)
        G = concat(ctx, reshape(ctx, &m->kept, SHAPE(B, W * hidden)),
                   reshape(ctx, G, SHAPE(B, T * hidden)));
    G = reshape(ctx, G, SHAPE(B, W + T, hidden));
    Tensor *line = tensor_new(ctx, "line", I32, SHAPE(B, width));
    Tensor *rows = tensor_new(ctx, "rows", I32, SHAPE(B, 1));
    Tensor *kept = tensor_new(ctx, "kept", I32, SHAPE(B, W ? W : 1));
    ON(ctx, draft_line, line->data, rows->data, kept->data, m->before.data, r->next->data,
       r->last->data, B, W, T, guesses, skip);
    if (skip) pages_revisit(&r->cache->pages, (int)(skip + T));

    Tensor *h = G; /* h^0 */
    if (skip < W) {
        Tensor *known = slice(ctx, reshape(ctx, G, SHAPE(B, (W + T) * hidden)), (W - skip) * hidden,
                              (skip + T) * hidden);
        h = reshape(ctx, known, SHAPE(B, skip + T, hidden));
    }
    for (int i = 1; i <= depth; i++) {
        Tensor *ids = tensor_new(ctx, "ids", I32, SHAPE(B, skip + T));
        ON(ctx, draft_window, ids->data, line->data, B, skip + T, W - skip + i - 1, width);
        h = run_module(m, r, i, ids, h); /* h^i [B, skip + T, hidden_size] */
        if (i > r->count) continue;      /* no guess is wanted, but its cache goes on */
        Tensor *all = reshape(ctx, h, SHAPE(B * (skip + T), hidden));
        m->state = embedding(ctx, all, rows); /* of the last true row, [B, 1, hidden_size] */
        m->guess = r->choose(r, i, linear(ctx, m->state, r->head, NULL));
        ON(ctx, draft_append, line->data, m->guess->data, r->last->data, B, W, i, width);
    }
    if (!W) return;
    Tensor *last = embedding(ctx, reshape(ctx, G, SHAPE(B * (W + T), hidden)), kept);
    device_copy(ctx->gpu, m->kept.data, last->data, tensor_bytes(&m->kept));
    m->known = m->known + r->found < W ? m->known + r->found : (int)W;
    drafter->steady = m->known == W;
}

/* More drafts than modules: the last one goes on from its own states. */
static void draft(Drafter *drafter, DraftRound *r) {
    Modules *m = (Modules *)drafter;
    int depth = drafter->depth;
    for (int j = depth + 1; j <= r->count; j++) {
        decoder_cache_begin(r->cache, 1);
        m->state = run_module(m, r, depth, m->guess, m->state);
        m->guess = r->choose(r, j, linear(r->ctx, m->state, r->head, NULL));
    }
}

Drafter *drafter_of_modules(Context *ctx, const Mtp *mtp, DecoderCache *cache, int drafts,
                            Error *err) {
    const BlockConfig *cfg = &mtp->decoder->cfg.block;
    int depth = mtp->depth < drafts ? mtp->depth : drafts;
    CHECK(depth > 0 && cache->kind == ATTENTION_MLA, "a drafter needs modules and latents");
    Modules *m = must_alloc(1, sizeof *m);
    int64_t B = cache->batch, W = depth - 1, hidden = cfg->hidden_size;
    *m = (Modules){{begin, told, draft, depth, true, W == 0, modules_free}, ctx, mtp, .W = (int)W};
    m->caches = must_alloc((size_t)depth, sizeof *m->caches);
    m->kept = tensor_view(NULL, "kept states", ctx->dtype, ctx->device, SHAPE(B, W, hidden));
    m->before = tensor_view(NULL, "kept tokens", I32, ctx->device, SHAPE(B, W));
    bool room = !W || ((m->kept.data = device_alloc(ctx->gpu, tensor_bytes(&m->kept))) &&
                       (m->before.data = device_alloc(ctx->gpu, tensor_bytes(&m->before))));
    if (!room) error_set(err, "no memory for the states of %d sequences", cache->batch);
    if (room && W) { /* never read as states, but NaN would travel in products with zeros */
        device_set(ctx->gpu, m->kept.data, 0, tensor_bytes(&m->kept));
        device_set(ctx->gpu, m->before.data, 0, tensor_bytes(&m->before));
    }
    for (int i = 0; i < depth && room; i++)
        room = block_cache_init_latents(&m->caches[i], ctx, &cache->pages, cfg, err) == 0;
    if (room) return &m->drafter;
    modules_free(&m->drafter);
    return NULL;
}

const BlockCache *drafter_module_caches(const Drafter *drafter) {
    return ((const Modules *)drafter)->caches;
}

void drafter_free(Drafter *drafter) {
    if (drafter) drafter->free(drafter);
}
