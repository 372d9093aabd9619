/*
 * Speculative decoding without the host in the way.
 *
 * A step is a plain one's kernels, k + 1 rows high, then a module's for each draft: at a small
 * model's sizes the GPU runs them faster than the host launches them. So the whole step is captured
 * once as a CUDA graph, as decode_graph.c does with a plain one:
 *
 *     look -> accept -> told -> rewind by what was wrong -> guess -> rewind the guesses' rows
 *
 * On the CPU the same function takes the same steps one after the other.
 *
 * Everything that differs from step to step and from text to text is counted on the device: how
 * many drafts agreed (back), the lengths of the caches, how many tokens a text may still get (rest;
 * a text at its end goes on with nothing). So texts of a batch move on by different numbers of
 * tokens. The host launches some steps in a row, reads what they found, and looks for the texts'
 * ends.
 */
#include "06_mtp/speculate/speculate_loop.h"

#include <math.h>
#include <stdlib.h>

void speculate_accept_cpu(int32_t *ids, int32_t *last, int32_t *back, int32_t *rest, int32_t *found,
                          int32_t *step, const int32_t *says, int64_t batch, int64_t k,
                          int64_t most) {
    int32_t *row = found + *step * batch * (2 + most);
    for (int64_t b = 0; b < batch; b++, ids += 1 + SPECULATE_MOST, says += k + 1, row += 2 + most) {
        int64_t agree = 0;
        while (agree < k && ids[agree + 1] == says[agree]) agree++;
        int32_t count = agree + 1 < rest[b] ? (int32_t)agree + 1 : rest[b];
        rest[b] -= count;
        last[b] = count - 1;
        back[b] = (int32_t)k + 1 - count;
        row[0] = count;
        for (int64_t j = 0; j <= k; j++) row[1 + j] = says[j];
        if (count) ids[0] = says[count - 1] < 0 ? 0 : says[count - 1];
    }
    ++*step;
}

static void step(Speculator *s) {
    DecoderGenerator *g = s->g;
    Context *ctx = g->ctx;
    int64_t B = g->batch, k = s->most;
    int32_t *host = must_alloc((size_t)B, sizeof *host);
    Tensor wrong = tensor_view(s->back.data, "back", I32, ctx->device, SHAPE(B));
    Tensor added = tensor_view((int32_t *)s->back.data + B, "back", I32, ctx->device, SHAPE(B));
    Rows rows = speculate_look(s);
    Tensor *last = tensor_new(ctx, "last", I32, SHAPE(B));
    ON(ctx, speculate_accept, s->ids.data, last->data, wrong.data, s->rest.data, s->found.data,
       s->step.data, rows.judged->data, B, k, s->most);
    DraftRound round = speculate_round(s, rows.states, rows.says, last);
    round.count = s->most;
    round.found = 1;
    s->drafter->told(s->drafter, &round);
    /* The host counts as if each text had got one token: it will learn what it was. */
    for (int64_t b = 0; b < B; b++) host[b] = (int32_t)k;
    decoder_cache_rewind(ctx, &g->cache, &wrong);
    decoder_cache_follow(&g->cache, 0, host);
    s->drafter->draft(s->drafter, &round);
    int more = (int)k - s->drafter->depth; /* as in `added` */
    for (int64_t b = 0; b < B; b++) host[b] = more;
    if (more > 0) decoder_cache_rewind(ctx, &g->cache, &added);
    if (more > 0) decoder_cache_follow(&g->cache, 0, host);
    free(host);
}

static void cut(Speculator *s) {
    for (int b = 0; b < s->g->batch; b++)
        decoder_cache_truncate(&s->g->cache, b, s->g->sequences[b].count - 1);
}

static void reserve(Speculator *s, int tokens) {
    Error err;
    CHECK(decoder_cache_reserve(&s->g->cache, s->g->position, tokens, &err) == 0,
          "speculative decoding: %s", err.text);
}

/*
 * What is recorded for the GPU. The step runs once as it is, so that the arena has its memory and
 * cuBLAS its plans, and is then recorded at the same addresses (decode_graph.c). The first run
 * counts for nothing: rest is 0, so no text gets longer, and ids are put back.
 */
static void capture(Speculator *s) {
    DecoderGenerator *g = s->g;
    Context *ctx = g->ctx;
    device_get(ctx->gpu, s->guesses, s->ids.data, tensor_bytes(&s->ids));
    device_set(ctx->gpu, s->rest.data, 0, tensor_bytes(&s->rest));
    decoder_cache_capture(&g->cache, true);
    for (int pass = 0; pass < 2; pass++) {
        context_reset(ctx); /* both begin at the arena's first byte */
        reserve(s, 2 * s->most + 1);
        device_set(ctx->gpu, s->step.data, 0, tensor_bytes(&s->step));
        if (pass == 1) gpu_graph_begin(ctx->gpu);
        step(s);
        if (pass == 1) s->graph = gpu_graph_end(ctx->gpu);
        cut(s);
    }
    decoder_cache_capture(&g->cache, false);
    device_put(ctx->gpu, s->ids.data, s->guesses, tensor_bytes(&s->ids));
    context_reset(ctx);
}

/* How many steps can be launched in a row: there must be room for whatever they find. */
static int steps_in_a_row(const Speculator *s) {
    int longest = 0, left = 0;
    for (int b = 0; b < s->g->batch; b++) {
        if (s->g->sequences[b].count > longest) longest = s->g->sequences[b].count;
        if (!s->done[b] && s->left[b] > left) left = s->left[b];
    }
    int steps = (s->g->capacity - longest - 2 * s->most) / (s->most + 1);
    double each = speculate_tokens_a_step(&s->counts);
    int enough = each > 1 ? (int)ceil(left / each) : left;
    steps = steps < enough ? steps : enough;
    return steps < DECODE_STEPS ? steps : DECODE_STEPS;
}

bool speculate_launch(Speculator *s) {
    DecoderGenerator *g = s->g;
    Context *ctx = g->ctx;
    int B = g->batch, most = s->most, steps = steps_in_a_row(s), wide = 2 + most;
    if (!s->alone || !speculate_is_greedy(s) || !s->drafter->steady || s->drafted != most ||
        steps < 1)
        return false;
    if (ctx->gpu && !s->graph) capture(s);
    int32_t *rest = must_alloc((size_t)B, sizeof *rest);
    int32_t *back = must_alloc((size_t)B, sizeof *back);
    int32_t *found = must_alloc(tensor_bytes(&s->found), 1);
    for (int b = 0; b < B; b++) rest[b] = s->done[b] ? 0 : s->left[b];
    reserve(s, steps * (most + 1) + most);
    device_put(ctx->gpu, s->rest.data, rest, tensor_bytes(&s->rest));
    device_set(ctx->gpu, s->step.data, 0, tensor_bytes(&s->step));
    if (!ctx->gpu) decoder_cache_capture(&g->cache, true); /* the host's lengths stay behind */
    for (int i = 0; i < steps; i++) {
        if (s->graph) {
            gpu_graph_launch(ctx->gpu, s->graph);
        } else {
            step(s);
            context_reset(ctx);
        }
    }
    if (!ctx->gpu) decoder_cache_capture(&g->cache, false);
    device_get(ctx->gpu, found, s->found.data, tensor_bytes(&s->found));
    for (int b = 0; b < B; b++) {
        back[b] = steps * (most + 1);
        for (int i = 0; i < steps; i++) {
            const int32_t *row = found + (i * B + b) * wide;
            SampledToken tokens[1 + SPECULATE_MOST];
            for (int j = 0; j < row[0]; j++) tokens[j] = (SampledToken){row[1 + j], 0};
            back[b] -= row[0];
            if (!s->done[b]) speculate_append(s, b, tokens, row[0]);
        }
    }
    for (int b = 0; b < B && !ctx->gpu; b++) back[b] += steps; /* step() has counted one of each */
    decoder_cache_follow(&g->cache, steps * (most + 1), back);
    cut(s);
    free(found);
    free(back);
    free(rest);
    return true;
}
