/*
 * A batch is a rectangle of ids. The states of the tokens before the ones that are asked for are
 * gathered out of it, [rows, hidden_size], go through norm and head, and the log-probability of
 * each next token is chapter 09's.
 */
#include "10_full_model/evaluate/score.h"

#include "05_moe/decoder/decode_graph.h"
#include "09_grpo/loss/token_logprobs.h"
#include "common/core/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tokens ---- */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

int score_encode(ScoredText *text, const Tokenizer *tokenizer, int begin, const char *context,
                 const char *continuation, int longest, Error *err) {
    size_t before = strlen(context), behind = strlen(continuation), count, of_context;
    char *whole = must_alloc(before + behind + 1, 1);
    memcpy(whole, context, before);
    memcpy(whole + before, continuation, behind);
    int32_t *ids = tokenizer_encode(tokenizer, whole, before + behind, &count);
    while (before && is_space(whole[before - 1])) before--;
    free(tokenizer_encode(tokenizer, whole, before, &of_context));
    free(whole);
    *text = (ScoredText){.ids = ids};
    if (!of_context) { /* none, or one of spaces alone */
        if (begin < 0)
            return error_set(err, "there is no context, and this model has no token to begin with: "
                                  "no bos_token_id and no <|endoftext|>");
        text->ids = must_realloc(ids, count + 1, sizeof *ids);
        memmove(text->ids + 1, text->ids, count * sizeof *ids);
        text->ids[0] = begin;
        count += of_context = 1;
    }
    if (of_context >= count) of_context = count - 1; /* one token of both: it is asked for */
    if (of_context == 0 || count - of_context > (size_t)longest)
        return error_set(err, "what is to be judged has %zu tokens behind %zu; this model takes %d",
                         count - of_context, of_context, longest);
    text->asked = (int)(count - of_context);
    if (count > (size_t)longest + 1) { /* the last one is predicted, not read */
        size_t left_out = count - (size_t)longest - 1;
        count -= left_out;
        memmove(text->ids, text->ids + left_out, count * sizeof *ids);
        text->cut = true;
    }
    text->count = (int)count;
    return 0;
}

/* ---- batches ---- */

int score_batch_tokens(const Model *model) {
    int64_t logits = model->ctx->gpu ? 1 << 28 : 1 << 25, least = 256, most = 16384;
    int64_t tokens = logits / model->cfg.vocab_size;
    return (int)(tokens < least ? least : tokens > most ? most : tokens);
}

/* The next `batch` texts, the first of which is the longest. */
typedef struct Batch {
    ScoredText *const *texts;
    int batch, width, rows;
} Batch;

static Batch next_batch(ScoredText *const *texts, size_t left, int tokens) {
    Batch b = {.texts = texts, .width = texts[0]->count - 1};
    int most = tokens / b.width;
    while ((size_t)b.batch < left && (b.batch < most || b.batch == 0))
        b.rows += texts[b.batch++]->asked;
    return b;
}

/* The token of each row [rows] whose logit is largest, of equals the smaller id, as in
 * torch.argmax. Found where the logits are: a vocabulary of them for each row would be long on its
 * way. */
static void find_likeliest(Context *ctx, const Tensor *logits, int32_t *likeliest) {
    Tensor *ids = tensor_new(ctx, "likeliest", I32, SHAPE(tensor_dim(logits, 0)));
    decode_likeliest(ctx, ids->data, NULL, NULL, logits);
    tensor_download_ints(ctx, likeliest, ids);
}

static void score_batch(Model *model, const Batch *b, bool greedy) {
    Context *ctx = model->ctx;
    int64_t width = b->width, hidden = model->cfg.hidden_size;
    size_t room = (size_t)b->batch * (size_t)width, row = 0;
    int32_t *ids = must_alloc(room, sizeof *ids); /* zeros: the padding */
    int32_t *places = must_alloc((size_t)b->rows, sizeof *places);
    int32_t *targets = must_alloc((size_t)b->rows, sizeof *targets);
    float *logprobs = must_alloc((size_t)b->rows, sizeof *logprobs);
    int32_t *likeliest = must_alloc((size_t)b->rows, sizeof *likeliest);
    for (int i = 0; i < b->batch; i++) {
        const ScoredText *t = b->texts[i];
        memcpy(ids + i * width, t->ids, (size_t)(t->count - 1) * sizeof *ids);
        for (int j = t->count - t->asked; j < t->count; j++, row++) {
            places[row] = (int32_t)(i * width + j - 1); /* whose state predicts token j */
            targets[row] = t->ids[j];
        }
    }
    const DecoderRun run = {.position = model_position(model)};
    Tensor *x = decoder_states(ctx, &model->decoder,
                               tensor_copy_in(ctx, "ids", I32, ids, SHAPE(b->batch, width)), &run);
    x = embedding(ctx, reshape(ctx, x, SHAPE((int64_t)room, hidden)),
                  tensor_copy_in(ctx, "places", I32, places, SHAPE(b->rows)));
    Tensor *logits = decoder_logits(ctx, &model->decoder, x);
    Tensor *next = tensor_copy_in(ctx, "targets", I32, targets, SHAPE(b->rows));
    tensor_download(ctx, logprobs, token_logprobs(ctx, logits, next, 1, NULL).logprobs);
    if (greedy) find_likeliest(ctx, logits, likeliest);
    context_reset(ctx);
    for (int i = 0, r = 0; i < b->batch; i++) {
        ScoredText *t = b->texts[i];
        t->logprob = 0;
        t->greedy = greedy;
        for (int j = 0; j < t->asked; j++, r++) {
            t->logprob += logprobs[r];
            t->greedy = t->greedy && likeliest[r] == targets[r];
        }
    }
    free(ids), free(places), free(targets), free(logprobs), free(likeliest);
}

/* The longest first: what a device has to hold at once is known from the first batch on. */
static int by_length(const void *a, const void *b) {
    const ScoredText *x = *(ScoredText *const *)a, *y = *(ScoredText *const *)b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return x < y ? -1 : x > y;
}

int score_texts(Model *model, ScoredText *texts, size_t count, const ScoreOptions *o, Error *err) {
    ScoredText **order = must_alloc(count, sizeof *order);
    for (size_t i = 0; i < count; i++) order[i] = &texts[i];
    qsort(order, count, sizeof *order, by_length);
    int status = 0;
    for (size_t done = 0; done < count && !status;) {
        Batch b = next_batch(order + done, count - done, o->batch_tokens);
        score_batch(model, &b, o->greedy);
        for (int i = 0; i < b.batch && !status; i++) {
            const ScoredText *t = b.texts[i];
            if (isfinite(t->logprob)) continue;
            status = model_not_finite(model, t->ids, t->count - 1, err);
            if (!status) status = error_set(err, "though all logits are");
            error_prefix(err, "a log-probability is not finite: ");
        }
        done += (size_t)b.batch;
        if (o->progress) o->progress(o->user, done);
    }
    free(order);
    return status;
}
