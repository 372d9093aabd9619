/*
 * The loop of speculative decoding, as one would write it: look, judge, cut, guess. The host
 * judges; where the likeliest tokens are wanted and a GPU does the work, speculate_graph.c does the
 * same steps without it.
 *
 *     look     the newest token and its drafts through the decoder: logits and states of all rows
 *     judge    how many drafts stay, and the token behind them; the texts grow
 *     told     the drafter's rows of this step, while the wrong ones are still in the cache
 *     cut      caches of decoder and drafter, to all tokens of each text but its last
 *     guess    the drafts that are missing; their rows are cut off again
 */
#include "06_mtp/speculate/speculate_loop.h"

#include "common/core/cpu_matmul.h"
#include "common/cuda/few_rows.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a random number is for. The first kind is also decoder_generate()'s. */
typedef enum Purpose { DRAW, ACCEPT, GUESS } Purpose;

static float uniform(const Speculator *s, int b, int place, Purpose purpose) {
    uint64_t index = (uint64_t)place + ((uint64_t)purpose << 40);
    return rng_uniform(s->options->sampling.seed, s->g->sequences[b].stream, index);
}

/* Is the likeliest token always the one? */
bool speculate_is_greedy(const Speculator *s) {
    const Sampling *o = &s->options->sampling;
    return o->temperature == 0 && (o->repetition_penalty == 1 || o->repetition_penalty == 0);
}

int speculate_rows(const Context *ctx) { return ctx->device == CUDA ? FEW_ROWS : CPU_FEW_ROWS; }

double speculate_tokens_a_step(const SpeculateCounts *c) {
    return c->steps ? (double)c->tokens / (double)c->steps : 0;
}

void speculate_add(SpeculateCounts *sum, const SpeculateCounts *more) {
    sum->steps += more->steps, sum->tokens += more->tokens;
    for (int j = 0; j < SPECULATE_MOST; j++)
        sum->seen[j] += more->seen[j], sum->kept[j] += more->kept[j];
}

void speculate_print(FILE *out, const SpeculateCounts *c) {
    fprintf(out, "%.2f tokens a step", speculate_tokens_a_step(c));
    for (int j = 0; j < SPECULATE_MOST && c->seen[j]; j++)
        fprintf(out, "%s %.0f %%",
                j ? "," : "; drafts kept:", 100 * (double)c->kept[j] / (double)c->seen[j]);
    fprintf(out, "\n");
}

/* ---- memory ---- */

static bool own(Context *ctx, Tensor *t, const char *name, const int64_t *shape, int ndim) {
    *t = tensor_view(NULL, name, I32, ctx->device, shape, ndim);
    if (!(t->data = device_alloc(ctx->gpu, tensor_bytes(t)))) return false;
    device_set(ctx->gpu, t->data, 0, tensor_bytes(t));
    return true;
}

int speculator_init(Speculator *s, DecoderGenerator *g, Drafter *drafter,
                    DraftVocabulary *vocabulary, int drafts, Error *err) {
    Context *ctx = g->ctx;
    size_t B = (size_t)g->batch, V = (size_t)g->decoder->cfg.vocab_size, T = (size_t)drafts + 1;
    int most = speculate_rows(ctx) / g->batch - 1;
    *s = (Speculator){.g = g, .drafter = drafter, .vocabulary = vocabulary, .most = drafts};
    s->alone = ctx->gpu != NULL;
    if (drafts < 1 || drafts > SPECULATE_MOST || drafts > most) {
        speculator_free(s);
        if (most < 1)
            return error_set(err,
                             "%d texts side by side leave no row for a guess (%d rows fit a step); "
                             "at most %d texts",
                             g->batch, speculate_rows(ctx), speculate_rows(ctx) / 2);
        return error_set(err, "%d drafts at a time; with %d texts side by side it can be 1 to %d",
                         drafts, g->batch, most < SPECULATE_MOST ? most : SPECULATE_MOST);
    }
    s->guessed = must_alloc(B * (size_t)g->capacity, sizeof *s->guessed);
    s->done = must_alloc(B, sizeof *s->done);
    s->left = must_alloc(B, sizeof *s->left);
    s->last = must_alloc(B, sizeof *s->last);
    s->says = must_alloc(B * T, sizeof *s->says);
    s->guesses = must_alloc(B * (1 + SPECULATE_MOST), sizeof *s->guesses);
    s->logits = must_alloc(B * T * V, sizeof *s->logits);
    s->q = must_alloc(B * (size_t)drafts * V, sizeof *s->q);
    s->p = must_alloc(2 * V, sizeof *s->p);
    if (own(ctx, &s->ids, "ids", SHAPE(g->batch, 1 + SPECULATE_MOST)) &&
        own(ctx, &s->rest, "rest", SHAPE(g->batch)) &&
        own(ctx, &s->back, "back", SHAPE(2, g->batch)) &&
        own(ctx, &s->found, "found", SHAPE(DECODE_STEPS, g->batch, 2 + drafts)) &&
        own(ctx, &s->step, "step", SHAPE(1))) {
        for (int b = 0; b < g->batch; b++)
            s->last[b] = drafts > drafter->depth ? drafts - drafter->depth : 0;
        device_put(ctx->gpu, (int32_t *)s->back.data + g->batch, s->last, B * sizeof *s->last);
        return 0;
    }
    speculator_free(s);
    return error_set(err, "no memory for the guesses of %d sequences", g->batch);
}

void speculator_free(Speculator *s) {
    if (!s->g) return;
    Gpu *gpu = s->g->ctx->gpu;
    Tensor *const tensors[] = {&s->ids, &s->rest, &s->back, &s->found, &s->step};
    void *const host[] = {s->done,   s->left, s->last, s->says,   s->guesses,
                          s->logits, s->q,    s->p,    s->guessed};
    gpu_graph_free(s->graph);
    for (int i = 0; i < 5; i++) device_free(gpu, tensors[i]->data);
    for (int i = 0; i < 9; i++) free(host[i]);
    drafter_free(s->drafter);
    if (s->vocabulary) draft_vocabulary_free(s->vocabulary);
    free(s->vocabulary);
    *s = (Speculator){0};
}

/* ---- look ---- */

Rows speculate_look(Speculator *s) {
    DecoderGenerator *g = s->g;
    Context *ctx = g->ctx;
    const DecoderRun run = {.position = g->position, .cache = &g->cache};
    int64_t T = s->drafted + 1;
    Tensor *ids = tensor_new(ctx, "ids", I32, SHAPE(g->batch, T));
    ON(ctx, draft_window, ids->data, s->ids.data, g->batch, T, 0, 1 + SPECULATE_MOST);
    Tensor *x = decoder_decode(ctx, g->decoder, ids, &run);
    Rows rows = {.logits = decoder_logits(ctx, g->decoder, x),
                 .states = decoder_normed(ctx, g->decoder, x),
                 .says = tensor_new(ctx, "says", I32, SHAPE(g->batch, T)),
                 .judged = tensor_new(ctx, "judged", I32, SHAPE(g->batch, T))};
    decode_likeliest(ctx, rows.says->data, rows.judged->data, NULL, rows.logits);
    return rows;
}

/* ---- judge ---- */

/*
 * Drawn text: what rows 0, 1, ... of sequence b say, until one refuses its draft; returns how many
 * tokens that are. Penalties see the drafts as if they had been said.
 */
static int judge_drawn(Speculator *s, int b, SampledToken *tokens) {
    DecoderSequence *seq = &s->g->sequences[b];
    const Sampling *sampling = &s->options->sampling;
    int vocab = s->g->decoder->cfg.vocab_size, n = seq->count, k = s->drafted;
    const int32_t *drafts = s->guesses + b * (1 + SPECULATE_MOST) + 1;
    memcpy(seq->ids + n, drafts, (size_t)k * sizeof *drafts);
    for (int j = 0;; j++) {
        float *row = s->logits + (size_t)(b * (k + 1) + j) * (size_t)vocab;
        float draw = uniform(s, b, n + j, DRAW), *p = s->p, *rest = s->p + vocab;
        if (!decode_finite(row, vocab)) {
            tokens[j] = (SampledToken){-1, 0};
            return j + 1;
        }
        penalize_repetitions(row, vocab, seq->ids, n + j, sampling->repetition_penalty);
        if (j == k) { /* the bonus */
            tokens[j] = sample_token(row, vocab, sampling, draw);
            return j + 1;
        }
        bool drawn = s->drafter->has_logits && !s->argmax;
        const float *q = drawn ? s->q + (size_t)(b * s->most + j) * (size_t)vocab : NULL;
        sample_probabilities(p, row, vocab, sampling);
        int32_t id = drafts[j];
        bool stays = verify_accepts(p, q, id, uniform(s, b, n + j, ACCEPT));
        if (!stays) id = verify_replace(rest, p, q, id, vocab, draw);
        tokens[j] = (SampledToken){id, logf(p[id])};
        if (!stays) return j + 1;
    }
}

/* The same for the likeliest tokens. */
static int judge_likeliest(const Speculator *s, int b, SampledToken *tokens) {
    const int32_t *drafts = s->guesses + b * (1 + SPECULATE_MOST) + 1;
    const int32_t *says = s->says + b * (s->drafted + 1);
    for (int j = 0;; j++) {
        tokens[j] = (SampledToken){says[j], 0};
        if (j == s->drafted || says[j] != drafts[j]) return j + 1;
    }
}

void speculate_append(Speculator *s, int b, const SampledToken *tokens, int count) {
    const DecoderGenerateOptions *o = s->options;
    DecoderSequence *seq = &s->g->sequences[b];
    SpeculateCounts *c = &s->counts;
    int i = 0;
    while (i < count && !s->done[b] && !s->broken) {
        int32_t id = tokens[i].id;
        if (id < 0) { /* there is no next token, and no going on */
            s->broken = b + 1;
            break;
        }
        s->guessed[b * s->g->capacity + seq->count] = i < count - 1;
        seq->ids[seq->count] = id;
        seq->logprobs[seq->count++] = tokens[i++].logprob;
        seq->drawn++;
        bool ends = id == o->end || (o->ends && o->ends(o->user, b, id)); /* the last, too */
        s->done[b] = --s->left[b] == 0 || ends;
    }
    for (int j = 0; j < i && j < s->drafted; j++) {
        bool refused = j == count - 1;
        c->seen[j]++, c->kept[j] += !refused;
    }
    c->steps++, c->tokens += i;
    s->last[b] = i - 1;
}

static void judge(Speculator *s, const Rows *rows) {
    DecoderGenerator *g = s->g;
    Context *ctx = g->ctx;
    SampledToken tokens[1 + SPECULATE_MOST];
    device_get(ctx->gpu, s->guesses, s->ids.data, tensor_bytes(&s->ids));
    device_get(ctx->gpu, s->says, rows->judged->data, tensor_bytes(rows->judged));
    if (!speculate_is_greedy(s)) tensor_download(ctx, s->logits, rows->logits);
    for (int b = 0; b < g->batch; b++) {
        int32_t *says = s->says + b * (s->drafted + 1);
        s->last[b] = -1;
        if (s->done[b] || s->broken) continue;
        int count =
            speculate_is_greedy(s) ? judge_likeliest(s, b, tokens) : judge_drawn(s, b, tokens);
        for (int j = 0; j < count; j++) says[j] = tokens[j].id;
        speculate_append(s, b, tokens, count);
        if (s->broken) continue;
        s->guesses[b * (1 + SPECULATE_MOST)] = tokens[s->last[b]].id; /* the newest */
    }
    device_put(ctx->gpu, rows->says->data, s->says, tensor_bytes(rows->says));
    device_put(ctx->gpu, s->ids.data, s->guesses, tensor_bytes(&s->ids));
}

/* ---- guess ---- */

/* Draft j of drawn text: drawn from what the drafter thinks, under the same settings; q is kept. */
static void draw_drafts(Speculator *s, int j, Tensor *logits, Tensor *chosen) {
    DecoderGenerator *g = s->g;
    const Sampling *sampling = &s->options->sampling;
    int vocab = g->decoder->cfg.vocab_size, N = (int)tensor_dim(logits, -1);
    float *some = must_alloc((size_t)g->batch * (size_t)N, sizeof *some), *all = s->p;
    int32_t *ids = must_alloc((size_t)g->batch, sizeof *ids);
    tensor_download(g->ctx, some, logits);
    for (int b = 0; b < g->batch; b++) {
        DecoderSequence *seq = &g->sequences[b];
        float *q = s->q + (size_t)(b * s->most + j - 1) * (size_t)vocab;
        int32_t *drafts = s->guesses + b * (1 + SPECULATE_MOST) + 1;
        int place = seq->count + j - 1;
        if (s->done[b]) continue;
        bool finite = decode_finite(some + b * N, N);       /* or any guess is as good as another */
        for (int i = 0; i < vocab; i++) all[i] = -INFINITY; /* never guessed */
        for (int i = 0; i < N; i++)
            all[s->vocabulary ? s->vocabulary->ids[i] : i] = finite ? some[b * N + i] : 0;
        memcpy(seq->ids + seq->count, drafts, (size_t)(j - 1) * sizeof *drafts);
        penalize_repetitions(all, vocab, seq->ids, place, sampling->repetition_penalty);
        sample_probabilities(q, all, vocab, sampling);
        ids[b] = drafts[j - 1] = sample_weights(q, vocab, uniform(s, b, place, GUESS));
    }
    device_put(g->ctx->gpu, chosen->data, ids, tensor_bytes(chosen));
    free(ids);
    free(some);
}

static Tensor *choose(DraftRound *r, int j, Tensor *logits) {
    Speculator *s = r->user;
    int64_t B = s->g->batch;
    bool likeliest = speculate_is_greedy(s) || s->argmax;
    Tensor *chosen = tensor_new(r->ctx, "draft", I32, SHAPE(B, 1));
    if (likeliest)
        decode_likeliest(r->ctx, chosen->data, NULL, NULL, logits);
    else
        draw_drafts(s, j, logits, chosen);
    ON(r->ctx, draft_put, chosen->data, s->ids.data,
       likeliest && s->vocabulary ? s->vocabulary->map.data : NULL, B, j);
    return chosen;
}

DraftRound speculate_round(Speculator *s, Tensor *states, Tensor *next, Tensor *last) {
    DecoderGenerator *g = s->g;
    return (DraftRound){.ctx = g->ctx,
                        .cache = &g->cache,
                        .position = g->position,
                        .states = states,
                        .next = next,
                        .last = last,
                        .drafts = &s->ids,
                        .choose = choose,
                        .head = s->vocabulary ? &s->vocabulary->head : g->decoder->lm_head,
                        .user = s};
}

/* How many drafts the next step can use: there must be room for their rows, and no text needs more
 * than it may still get. */
static int useful(const Speculator *s) {
    int room = s->g->capacity, most = 0;
    for (int b = 0; b < s->g->batch; b++) {
        int left = s->g->capacity - s->g->sequences[b].count;
        if (left < room) room = left;
        if (!s->done[b] && s->left[b] - 1 > most) most = s->left[b] - 1;
    }
    most = most < room ? most : room;
    return most < s->most ? most : s->most;
}

static void cut(Speculator *s) {
    for (int b = 0; b < s->g->batch; b++)
        decoder_cache_truncate(&s->g->cache, b, s->g->sequences[b].count - 1);
}

/* last [batch] is s->last: what the drafter is told about the step's rows. */
static void guess(Speculator *s, Tensor *states, Tensor *next) {
    DraftRound round = speculate_round(
        s, states, next, tensor_copy_in(s->g->ctx, "last", I32, s->last, SHAPE(s->g->batch)));
    round.found = INT32_MAX;
    for (int b = 0; b < s->g->batch; b++)
        if (s->last[b] + 1 < round.found) round.found = s->last[b] + 1;
    s->drafted = round.count = useful(s);
    s->drafter->told(s->drafter, &round);
    cut(s);
    if (s->drafted) s->drafter->draft(s->drafter, &round);
    if (s->drafted > s->drafter->depth) cut(s);
}

/* ---- the loop ---- */

/* [step] */
static void step(Speculator *s) {
    DecoderGenerator *g = s->g;
    Error err;
    CHECK(decoder_cache_reserve(&g->cache, g->position, s->drafted + 1, &err) == 0,
          "speculative decoding: %s", err.text);
    Rows rows = speculate_look(s);
    judge(s, &rows);
    if (s->broken)
        cut(s);
    else
        guess(s, rows.states, rows.says);
    context_reset(g->ctx);
}
/* [/step] */

/* Prompts go into the caches, padded on the right, as in decoder_generate(); and first guesses are
 * made, if there is a new token in every cache to make them from. */
static int begin(Speculator *s) {
    DecoderGenerator *g = s->g;
    Context *ctx = g->ctx;
    const DecoderRun run = {.position = g->position, .cache = &g->cache};
    int longest = 0, total = 0;
    Error err;
    for (int b = 0; b < g->batch; b++) {
        int missing = g->sequences[b].count - 1 - decoder_cache_length(&g->cache, b);
        s->last[b] = missing - 1;
        s->guesses[b * (1 + SPECULATE_MOST)] = g->sequences[b].ids[g->sequences[b].count - 1];
        total += missing;
        if (missing > longest) longest = missing;
    }
    device_put(ctx->gpu, s->ids.data, s->guesses, tensor_bytes(&s->ids));
    s->drafted = 0;
    if (longest == 0) return 0;
    size_t all = (size_t)g->batch * (size_t)longest;
    int32_t *tokens = must_alloc(all, sizeof *tokens), *next = must_alloc(all, sizeof *next);
    for (int b = 0; b < g->batch; b++)
        for (int i = 0; i <= s->last[b]; i++) {
            const int32_t *ids = g->sequences[b].ids + decoder_cache_length(&g->cache, b);
            tokens[b * longest + i] = ids[i], next[b * longest + i] = ids[i + 1];
        }
    CHECK(decoder_cache_reserve(&g->cache, g->position, longest, &err) == 0,
          "speculative decoding: %s", err.text);
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, tokens, SHAPE(g->batch, longest));
    Tensor *x = decoder_normed(ctx, g->decoder, decoder_states(ctx, g->decoder, ids, &run));
    guess(s, x, tensor_copy_in(ctx, "next", I32, next, SHAPE(g->batch, longest)));
    context_reset(ctx);
    free(tokens);
    free(next);
    return total;
}

static bool all_done(const Speculator *s) {
    if (s->broken || (s->options->cancelled && *s->options->cancelled)) return true;
    for (int b = 0; b < s->g->batch; b++)
        if (!s->done[b]) return false;
    return true;
}

void speculate_generate(Speculator *s, const DecoderGenerateOptions *o,
                        DecoderGenerateResult *result) {
    DecoderGenerator *g = s->g;
    int longest = 0, ended = 0;
    *result = (DecoderGenerateResult){0};
    s->options = o;
    s->broken = 0;
    for (int b = 0; b < g->batch; b++) {
        CHECK(g->sequences[b].count > 0, "speculate_generate: sequence %d is empty", b);
        g->sequences[b].drawn = 0;
        if (g->sequences[b].count > longest) longest = g->sequences[b].count;
    }
    int room = g->capacity - longest, most = room < o->max_new_tokens ? room : o->max_new_tokens;
    for (int b = 0; b < g->batch; b++) s->left[b] = most, s->done[b] = most <= 0;

    s->drafter->begin(s->drafter);
    double started = seconds_now();
    result->prompt_tokens = begin(s);
    result->prompt_seconds = seconds_now() - started;
    started = seconds_now();
    while (!all_done(s))
        if (!speculate_launch(s)) step(s);
    result->seconds = seconds_now() - started;
    for (int b = 0; b < g->batch; b++) {
        const DecoderSequence *seq = &g->sequences[b];
        result->new_tokens += seq->drawn;
        ended += seq->drawn < most;
    }
    result->broken = s->broken;
    result->full = room < o->max_new_tokens && ended < g->batch && !s->broken;
}
