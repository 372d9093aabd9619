/*
 * Planted guesses, and the kernels of all drafters on the CPU: lists of a few ids.
 */
#include "06_mtp/speculate/drafter.h"

#include <stdlib.h>
#include <string.h>

typedef struct Planted {
    Drafter drafter; /* first */
    Context *ctx;
    Drafter *costs;
    Tensor truth, right; /* I32 [B, length], [SPECULATE_MOST, period] */
    int vocab;
} Planted;

static void planted_free(Drafter *drafter) {
    Planted *p = (Planted *)drafter;
    drafter_free(p->costs);
    device_free(p->ctx->gpu, p->truth.data);
    device_free(p->ctx->gpu, p->right.data);
    free(p);
}

static void begin(Drafter *drafter) {
    Planted *p = (Planted *)drafter;
    if (p->costs) p->costs->begin(p->costs);
    drafter->steady = !p->costs;
}

static void told(Drafter *drafter, DraftRound *r) {
    Planted *p = (Planted *)drafter;
    if (p->costs) p->costs->told(p->costs, r);
    drafter->steady = !p->costs || p->costs->steady;
}

static void draft(Drafter *drafter, DraftRound *r) {
    Planted *p = (Planted *)drafter;
    Pages *pages = &r->cache->pages;
    pages_settle(r->ctx, pages);
    ON(r->ctx, draft_plant, r->drafts->data, p->truth.data, p->right.data, pages->lengths.data,
       r->cache->batch, r->count, tensor_dim(&p->truth, 1), tensor_dim(&p->right, 1), p->vocab);
}

/* What `costs` guesses is planted over; it comes first, so that its rows can be cut off. */
static void draft_at_a_price(Drafter *drafter, DraftRound *r) {
    Planted *p = (Planted *)drafter;
    draft(drafter, r); /* lengths are right now: what is planted must outlast the other's drafts */
    Tensor *planted = tensor_new(r->ctx, "planted", I32, r->drafts->shape, r->drafts->ndim);
    device_copy(r->ctx->gpu, planted->data, r->drafts->data, tensor_bytes(planted));
    p->costs->draft(p->costs, r);
    device_copy(r->ctx->gpu, r->drafts->data, planted->data, tensor_bytes(planted));
}

static bool put(Context *ctx, Tensor *t, const char *name, const int32_t *host,
                const int64_t *shape, int ndim) {
    *t = tensor_view(NULL, name, I32, ctx->device, shape, ndim);
    if (!(t->data = device_alloc(ctx->gpu, tensor_bytes(t)))) return false;
    device_put(ctx->gpu, t->data, host, tensor_bytes(t));
    return true;
}

Drafter *drafter_planted(Context *ctx, DecoderCache *cache, const int32_t *truth, int length,
                         const int32_t *right, int period, int vocab, Drafter *costs, Error *err) {
    Planted *p = must_alloc(1, sizeof *p);
    CHECK(length > 0 && period > 0 && vocab > 1, "planted guesses: %d tokens, period %d, %d ids",
          length, period, vocab);
    *p = (Planted){.drafter = {begin, told, costs ? draft_at_a_price : draft,
                               costs ? costs->depth : SPECULATE_MOST, false, !costs, planted_free},
                   .ctx = ctx,
                   .costs = costs,
                   .vocab = vocab};
    if (put(ctx, &p->truth, "truth", truth, SHAPE(cache->batch, length)) &&
        put(ctx, &p->right, "right", right, SHAPE(SPECULATE_MOST, period)))
        return &p->drafter;
    error_set(err, "no memory for planted guesses of %d tokens", length);
    planted_free(&p->drafter);
    return NULL;
}

/* ---- kernels ---- */

void draft_line_cpu(int32_t *line, int32_t *rows, int32_t *kept, int32_t *before,
                    const int32_t *next, const int32_t *last, int64_t batch, int64_t W, int64_t T,
                    int64_t k, int64_t skip) {
    for (int64_t b = 0; b < batch; b++, line += W + T + k) {
        int64_t end = last[b] < 0 ? 0 : last[b];
        for (int64_t i = 0; i < W + T + k; i++)
            line[i] = i < W ? before[b * W + i] : i <= W + end ? next[b * T + i - W] : 0;
        rows[b] = (int32_t)(b * (skip + T) + skip + end);
        for (int64_t w = 0; w < W; w++) {
            kept[b * W + w] = (int32_t)(b * (W + T) + last[b] + 1 + w);
            before[b * W + w] = line[last[b] + 1 + w];
        }
    }
}

void draft_window_cpu(int32_t *ids, const int32_t *line, int64_t batch, int64_t count, int64_t from,
                      int64_t width) {
    for (int64_t b = 0; b < batch; b++)
        memcpy(ids + b * count, line + b * width + from, (size_t)count * sizeof *ids);
}

void draft_put_cpu(int32_t *chosen, int32_t *drafts, const int32_t *map, int64_t batch, int64_t j) {
    for (int64_t b = 0; b < batch; b++) {
        if (map) chosen[b] = map[chosen[b]];
        drafts[b * (1 + SPECULATE_MOST) + j] = chosen[b];
    }
}

void draft_append_cpu(int32_t *line, const int32_t *chosen, const int32_t *last, int64_t batch,
                      int64_t W, int64_t j, int64_t width) {
    for (int64_t b = 0; b < batch; b++)
        line[b * width + W + (last[b] < 0 ? 0 : last[b]) + j] = chosen[b];
}

void draft_plant_cpu(int32_t *drafts, const int32_t *truth, const int32_t *right,
                     const int32_t *lengths, int64_t batch, int64_t k, int64_t length,
                     int64_t period, int64_t vocab) {
    for (int64_t b = 0; b < batch; b++)
        for (int64_t j = 1; j <= k; j++) {
            int64_t place = lengths[b] + j;
            int32_t id = place < length ? truth[b * length + place] : 0;
            bool wrong = !right[(j - 1) * period + place % period];
            drafts[b * (1 + SPECULATE_MOST) + j] = (int32_t)((id + wrong) % vocab);
        }
}
