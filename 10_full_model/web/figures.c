/*
 * Figures of chapter 10 for the book: a small sparse model (nano.h), trained by this program on the
 * King James Bible, that writes; and what its heads look at in the reader's own words, with all
 * tokens to choose from or with those that its indexers select.
 *
 * Writing multiplies with codes of four and eight bits, as `deepseek generate` does with a model
 * that was quantised. Looking needs the tape, so there all weights are numbers: a second copy.
 * What attention does reaches us by the door that chapter 04 has for selections: a Watcher stands
 * before each layer's own indexer, passes its choice on, and is shown queries and keys.
 */
#include "10_full_model/web/nano.h"
#include "common/program/web.h"

#include "05_moe/decoder/decoder_generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TEXT = 600, CAPACITY = 256, MOST_PROMPT = 120, MOST_WORDS = 48 };

static Nano *opened(Nano *nano, bool numbers) {
    Error err;
    size_t size;
    const void *data = web_file(&size);
    if (!nano->model.ctx && nano_open(nano, data, size, numbers, &err)) fatal("%s", err.text);
    return nano;
}

/* Tokens as one text, the separator 0x1f behind each. */
static void say_tokens(const char *name, const Nano *nano, const int32_t *ids, int count) {
    char *text = must_alloc((size_t)count * 64 + 1, 1), *to = text;
    for (int i = 0; i < count; i++) {
        const char *token = nano->token[ids[i]] ? nano->token[ids[i]] : "";
        size_t length = strnlen(token, 62);
        memcpy(to, token, length);
        to += length;
        *to++ = 0x1f;
    }
    *to = 0;
    web_string(name, text);
    free(text);
}

/* ---- writing ---- */

static Nano writer;
static DecoderGenerator generator;
static int prompt_tokens;

static void begin_text(Nano *nano) {
    Error err;
    char text[MOST_TEXT];
    if (!generator.ctx && decoder_generator_init(&generator, &nano->ctx, &nano->model.decoder,
                                                 model_position(&nano->model), 1, CAPACITY, &err))
        fatal("%s", err.text);
    decoder_generator_truncate(&generator, 0, 0);
    web_text(text, sizeof text, "prompt");
    DecoderSequence *s = generator.sequences;
    prompt_tokens = s->count = nano_encode(nano, s->ids, MOST_PROMPT, *text ? text : " ");
}

/*
 * step 0 begins with the prompt; each call adds a few tokens -> tokens: all of them; prompt: how
 * many are the reader's; candidates: what the last one was drawn from, the likeliest, and how
 * likely the settings make them.
 */
WEB(write) {
    enum { MANY = 4, LENGTH = 160, CANDIDATES = 6 };
    Nano *nano = opened(&writer, false);
    int step = web_int("step", 0, CAPACITY), vocab = nano->model.cfg.vocab_size;
    if (!step || !generator.ctx) begin_text(nano);
    DecoderGenerateOptions options = {
        .sampling = {.temperature = (float)web_number("temperature", 0, 2),
                     .top_k = web_int("top_k", 0, 1000),
                     .top_p = (float)web_number("top_p", 0.01, 1),
                     .seed = (uint64_t)web_int("seed", 0, 9999)},
        .max_new_tokens = MANY,
        .end = vocab - 1};
    DecoderGenerateResult result;
    DecoderSequence *s = generator.sequences;
    decoder_generate(&generator, &options, &result);

    float *p = must_alloc((size_t)vocab, sizeof *p), likely[CANDIDATES] = {0};
    int32_t candidates[CANDIDATES] = {0}; /* of the last token that was drawn */
    sample_probabilities(p, generator.logits, vocab, &options.sampling);
    for (int c = 0; c < CANDIDATES; c++) {
        for (int i = 0; i < vocab; i++)
            if (p[i] > likely[c]) likely[c] = p[i], candidates[c] = i;
        p[candidates[c]] = 0;
    }
    free(p);
    int drawn = s->count - prompt_tokens;
    say_tokens("tokens", nano, s->ids, s->count);
    web_ints("ids", s->ids, s->count);
    web_value("prompt", prompt_tokens);
    say_tokens("candidates", nano, candidates, CANDIDATES);
    web_floats("likely", likely, CANDIDATES);
    web_value("per_second_ms",
              1e3 * result.seconds / (result.new_tokens > 0 ? result.new_tokens : 1));
    web_value("progress", fmin(1, drawn / (double)LENGTH));
    web_value("done", drawn >= LENGTH || result.full || result.new_tokens < MANY);
}

/* ---- looking ---- */

static Nano reader;

typedef struct Watcher {
    Selection selection;    /* first: a Watcher * is a Selection * */
    const Selection *inner; /* the layer's own; NULL: attention sees all */
    float *p;               /* [heads, T, T] of this layer, or NULL */
    int32_t *chosen;        /* [T, T]: 1 where the query may look */
} Watcher;

static Tensor *watch_select(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                            LatentCache *cache) {
    const Watcher *w = (const Watcher *)self;
    return w->inner ? w->inner->select(ctx, w->inner, x, c_q, cache) : NULL;
}

/* exp(scale q . k - lse), where the query may look. */
static void watch_learn(Context *ctx, const Selection *self, const Attended *a) {
    const Watcher *w = (const Watcher *)self;
    (void)ctx;
    if (!w->p) return;
    int T = (int)a->q->shape[1], H = (int)a->q->shape[2], d = (int)a->q->shape[3];
    const float *q = a->q->data, *k = a->k->data;
    const int32_t *selected = a->selected ? a->selected->data : NULL;
    for (int t = 0; t < T; t++) {
        for (int s = 0; s < T; s++) w->chosen[t * T + s] = !selected && s <= t;
        for (int i = 0; selected && i < (int)a->selected->shape[2]; i++) {
            int32_t s = selected[t * (int)a->selected->shape[2] + i];
            if (s >= 0 && s <= t) w->chosen[t * T + s] = 1;
        }
        for (int h = 0; h < H; h++)
            for (int s = 0; s < T; s++) {
                double dot = 0;
                for (int c = 0; c < d; c++)
                    dot += (double)q[(t * H + h) * d + c] * k[(s * H + h) * d + c];
                w->p[(h * T + t) * T + s] =
                    w->chosen[t * T + s] ? expf(a->scale * (float)dot - a->lse[h * T + t]) : 0;
            }
    }
}

/*
 * text, layer, k (0: attention sees all; else what the indexers choose) -> tokens, p [heads, T, T],
 * chosen [T, T], loss: of each next token, the mean.
 */
WEB(attends) {
    enum { LAYERS = 4 };
    Nano *nano = opened(&reader, true);
    Model *model = &nano->model;
    char text[MOST_TEXT];
    int32_t ids[MOST_WORDS + 1];
    web_text(text, sizeof text, "text");
    int T = nano_encode(nano, ids, MOST_WORDS, text), layer = web_int("layer", 0, LAYERS - 1);
    int k = web_int("k", 0, MOST_WORDS), heads = model->cfg.num_attention_heads;
    say_tokens("tokens", nano, ids, T);
    if (T < 2) return;
    Watcher watchers[LAYERS];
    const Selection *list[LAYERS];
    float *p = must_alloc((size_t)(heads * T * T), sizeof *p);
    int32_t *chosen = must_alloc((size_t)(T * T), sizeof *chosen);
    for (int i = 0; i < LAYERS; i++) {
        Indexer *indexer = &model->indexers.list[i];
        indexer->cfg.index_topk = k ? k : 1;
        watchers[i] = (Watcher){{watch_select, watch_learn},
                                k ? &indexer->selection : NULL,
                                i == layer ? p : NULL,
                                chosen};
        list[i] = &watchers[i].selection;
    }
    const DecoderRun run = {.position = model_position(model), .selections = list};
    Context *ctx = &nano->ctx;
    ctx->recording = true;
    Tensor *x = tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, T));
    Tensor *logits =
        decoder_logits(ctx, &model->decoder, decoder_states(ctx, &model->decoder, x, &run));
    ids[T] = IGNORE_TARGET;
    Tensor *targets = tensor_copy_in(ctx, "targets", I32, ids + 1, SHAPE(1, T));
    Tensor *loss = cross_entropy(ctx, logits, targets);
    web_floats("p", p, heads * T * T);
    web_ints("chosen", chosen, T * T);
    web_value("loss", tensor_get(loss, 0));
    ctx->recording = false;
    context_reset(ctx);
    free(p), free(chosen);
}
