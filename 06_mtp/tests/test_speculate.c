/*
 * Speculative decoding against plain decoding: the same tokens and the same bits in the caches,
 * whatever is guessed, for every number of drafts and modules, texts of different lengths side by
 * side, ends inside a step, and the end of the context. And what it refuses.
 */
#include "06_mtp/tests/test_speculate.h"
#include "06_mtp/speculate/speculate.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

static const int lengths[TEXTS + 1] = {1, 7, PAGE_TOKENS + 3, 30, 2};
static const int *prompts = lengths; /* of the texts */

/* The texts that plain decoding makes, and what its caches hold. */
typedef struct Plain {
    int32_t ids[TEXTS][CAPACITY];
    int count[TEXTS];
    float *caches;
    DecoderGenerateResult result;
} Plain;

static void put_prompts(DecoderGenerator *g) {
    for (int b = 0; b < g->batch; b++) {
        g->sequences[b].count = prompts[b];
        for (int i = 0; i < prompts[b]; i++)
            g->sequences[b].ids[i] = (i * i + 5 * i * b + b) % SPECULATE_VOCAB;
    }
}

/* All rows of the decoder's caches, [layers, texts, capacity, width], zeros behind a text's end. */
static float *cached(Context *ctx, const Decoder *d, const Pages *pages, const BlockCache *layers,
                     int count) {
    int64_t rank = d->cfg.block.mla.kv_lora_rank, rope = d->cfg.block.mla.qk_rope_head_dim;
    int64_t B = pages->batch, size = B * CAPACITY * (rank + rope);
    float *all = test_floats(count * size);
    for (int i = 0; i < count; i++) {
        Tensor *c = tensor_new(ctx, "c_kv", ctx->dtype, SHAPE(B, CAPACITY, rank));
        Tensor *k = tensor_new(ctx, "k_rope", ctx->dtype, SHAPE(B, CAPACITY, rope));
        ON(ctx, latent_gather, c->data, k->data, layers[i].latent.latent.data,
           pages->block_table.data, pages->lengths.data, B, CAPACITY, rank, rope, pages->max_pages);
        tensor_download(ctx, all + i * size, c);
        tensor_download(ctx, all + i * size + B * CAPACITY * rank, k);
    }
    context_reset(ctx);
    return all;
}

static const DecoderGenerateOptions likeliest = {
    .sampling = {.top_p = 1}, .max_new_tokens = 40, .end = -1};

static Plain plain_decoding(SpeculateModel *m, int batch, const DecoderGenerateOptions *o) {
    Context *ctx = m->params.ctx;
    DecoderGenerator g;
    Error err = {0};
    Plain plain = {0};
    check_ok(decoder_generator_init(&g, ctx, &m->decoder, NULL, batch, CAPACITY, &err), &err);
    put_prompts(&g);
    decoder_generate(&g, o, &plain.result);
    for (int b = 0; b < batch; b++) {
        plain.count[b] = g.sequences[b].count;
        memcpy(plain.ids[b], g.sequences[b].ids, (size_t)plain.count[b] * sizeof(int32_t));
    }
    plain.caches = cached(ctx, &m->decoder, &g.cache.pages, g.cache.layers, LAYERS);
    decoder_generator_free(&g);
    return plain;
}

typedef enum Guesser { MODULES, PLANTED, PRICED, GUESSERS } Guesser;
static const char *const guesser_names[] = {"modules", "planted", "planted on modules"};

/* Right and wrong in all mixtures: every text has another pattern, for its places differ. */
static const int32_t *patterns(void) {
    static int32_t right[SPECULATE_MOST * 17];
    for (int j = 0; j < SPECULATE_MOST; j++)
        for (int p = 0; p < 17; p++)
            right[j * 17 + p] = p < 6 || rng_uniform(7, (uint64_t)j, (uint64_t)p) < 0.7f;
    return right;
}

static Drafter *drafter_of(Guesser guesser, SpeculateModel *m, DecoderGenerator *g, int drafts,
                           const Plain *plain) {
    Error err = {0};
    Context *ctx = g->ctx;
    Drafter *modules = NULL;
    if (guesser != PLANTED) {
        modules = drafter_of_modules(ctx, &m->mtp, &g->cache, drafts, &err);
        cr_assert(modules, "%s", err.text);
        if (guesser == MODULES) return modules;
    }
    Drafter *planted = drafter_planted(ctx, &g->cache, plain->ids[0], CAPACITY, patterns(), 17,
                                       SPECULATE_VOCAB, modules, &err);
    cr_assert(planted, "%s", err.text);
    return planted;
}

/* One run; counts are returned. */
static SpeculateCounts check_run(SpeculateModel *m, int batch, int drafts, Guesser guesser,
                                 bool alone, int vocabulary, const DecoderGenerateOptions *o,
                                 const Plain *plain) {
    Context *ctx = m->params.ctx;
    DecoderGenerator g;
    Speculator s;
    Error err = {0};
    DecoderGenerateResult result;
    DraftVocabulary *v = NULL;
    check_ok(decoder_generator_init(&g, ctx, &m->decoder, NULL, batch, CAPACITY, &err), &err);
    if (vocabulary) {
        int32_t ids[SPECULATE_VOCAB];
        v = must_alloc(1, sizeof *v);
        check_ok(draft_vocabulary_frequent(ids, vocabulary, plain->ids[0], plain->count[0],
                                           SPECULATE_VOCAB, o->end, &err),
                 &err);
        check_ok(draft_vocabulary_init(v, ctx, &m->decoder, ids, vocabulary, o->end, &err), &err);
    }
    Drafter *drafter =
        drafter_of(guesser, m, &g, guesser == MODULES ? drafts : SPECULATE_MOST, plain);
    check_ok(speculator_init(&s, &g, drafter, v, drafts, &err), &err);
    s.alone = alone;
    put_prompts(&g);
    speculate_generate(&s, o, &result);
    int broken = plain->result.broken;
    char what[96];
    snprintf(what, sizeof what, "%s, depth %d, %d drafts, %d texts%s", guesser_names[guesser],
             m->mtp.depth, drafts, batch, alone ? ", alone" : "");
    for (int b = 0; b < batch; b++) {
        const DecoderSequence *q = &g.sequences[b];
        for (int i = 0; i < q->count && i < plain->count[b]; i++)
            cr_assert(q->ids[i] == plain->ids[b][i], "%s: text %d differs at token %d", what, b, i);
        cr_assert(broken ? q->count <= plain->count[b] : q->count == plain->count[b],
                  "%s: text %d has %d tokens, plainly %d", what, b, q->count, plain->count[b]);
    }
    cr_assert(result.broken == broken, "%s: broken %d, plainly %d", what, result.broken, broken);
    cr_assert(broken || (result.new_tokens == plain->result.new_tokens &&
                         result.full == plain->result.full),
              "%s: %d new tokens, full %d", what, result.new_tokens, result.full);
    float *caches = cached(ctx, &m->decoder, &g.cache.pages, g.cache.layers, LAYERS);
    int64_t rows = (int64_t)LAYERS * batch * CAPACITY;
    int64_t width =
        m->decoder.cfg.block.mla.kv_lora_rank + m->decoder.cfg.block.mla.qk_rope_head_dim;
    for (int64_t i = 0; i < rows * width && !broken; i++)
        cr_assert(caches[i] == plain->caches[i], "%s: number %lld of the caches", what,
                  (long long)i);
    SpeculateCounts counts = s.counts;
    free(caches);
    speculator_free(&s);
    decoder_generator_free(&g);
    return counts;
}

/* Until 40 tokens are there; the third text has room for as many and no more. */
DEVICE_TEST(speculate, the_text_is_that_of_plain_decoding) {
    static const int depths[] = {1, 3}, drafts[] = {1, 2, 3, 7}, batches[] = {1, 2, TEXTS};
    for (int d = 0; d < 2; d++) {
        Context ctx = test_context(device, dtype);
        SpeculateModel m;
        omp_set_num_threads(1 + d); /* small steps: waking another thread takes longer than they */
        speculate_model_init(&m, &ctx, speculate_config(), depths[d]);
        for (int i = 0; i < 3; i++) {
            Plain plain = plain_decoding(&m, batches[i], &likeliest);
            for (int j = 0; j < 4 && batches[i] * (drafts[j] + 1) <= CPU_FEW_ROWS; j++)
                for (int run = 0; run < 2 * GUESSERS; run++) {
                    Guesser guesser = run / 2;
                    if (guesser == PLANTED && d) continue; /* without modules, once is enough */
                    SpeculateCounts c = check_run(
                        &m, batches[i], drafts[j], guesser, run % 2,
                        guesser == MODULES && j % 2 ? SPECULATE_VOCAB / 2 : 0, &likeliest, &plain);
                    /* Two thirds and more of the first drafts are right. */
                    if (guesser != MODULES)
                        cr_assert(c.kept[0] > 0.55 * c.seen[0] && c.kept[0] < c.seen[0] &&
                                      speculate_tokens_a_step(&c) > 1.5,
                                  "%lld of %lld", (long long)c.kept[0], (long long)c.seen[0]);
                }
            free(plain.caches);
        }
        speculate_model_free(&m);
        context_free(&ctx);
    }
}

/* ---- ends ---- */

typedef struct Ends {
    int32_t ids[2];
    int seen; /* tokens: all but end tokens, the last that a text may have among them */
} Ends;

static bool ends_text(void *user, int b, int32_t id) {
    Ends *ends = user;
    ends->seen++;
    return id == ends->ids[b];
}

/* An end token, and an end that the caller sees (a stop string), wherever they fall in a step: what
 * was kept behind them is gone, from the caches too. Then the texts go on as if nothing had been.
 * */
DEVICE_TEST(speculate, ends_within_a_step) {
    Context ctx = test_context(device, dtype);
    SpeculateModel m;
    speculate_model_init(&m, &ctx, speculate_config(), 2);
    Plain whole = plain_decoding(&m, 2, &likeliest);
    for (int at = 2; at < 11; at++) {
        Ends ends = {{whole.ids[0][prompts[0] + at], whole.ids[1][prompts[1] + 12 - at]}, 0};
        if (at == 2) ends.ids[0] = ends.ids[1] = -1; /* nothing ends them */
        DecoderGenerateOptions o = likeliest;
        o.end = ends.ids[0];
        o.ends = ends_text, o.user = &ends;
        Plain plain = plain_decoding(&m, 2, &o);
        int seen = ends.seen;
        cr_assert(at == 2 || plain.count[0] <= prompts[0] + at + 1);
        memcpy(plain.ids, whole.ids, sizeof plain.ids); /* what is planted goes on */
        for (int run = 0; run < 2 * GUESSERS; run++) {
            ends.seen = 0;
            check_run(&m, 2, 4, run / 2, run % 2, 0, &o, &plain);
            cr_assert(ends.seen == seen, "%d of %d tokens seen", ends.seen, seen);
        }
        free(plain.caches);
    }
}

/* A token whose embedding is no number: behind it there is no next one, and the text ends with it,
 * wherever in a step it falls; or sooner, when it is guessed, for attention multiplies what a row
 * must not see with zero, and zero times NaN is NaN. */
DEVICE_TEST(speculate, stops_where_numbers_end) {
    Context ctx = test_context(device, dtype);
    SpeculateModel m;
    speculate_model_init(&m, &ctx, speculate_config(), 2);
    Tensor *embedding = m.decoder.embed_tokens;
    float *values = test_floats(tensor_count(embedding));
    Plain whole = plain_decoding(&m, 1, &likeliest);
    int met = 0;
    for (int at = prompts[0]; at < whole.count[0] - 1; at++) {
        int32_t id = whole.ids[0][at], first = 0;
        while (whole.ids[0][first] != id) first++;
        if (first < at) continue;
        params_get(&m.params, embedding, values);
        float *number = values + id * tensor_dim(embedding, 1), was = *number;
        *number = NAN;
        params_set(&m.params, embedding, values);
        Plain plain = plain_decoding(&m, 1, &likeliest);
        cr_assert(plain.result.broken == 1 && plain.count[0] == at + 1);
        memcpy(plain.ids, whole.ids, sizeof plain.ids); /* what is planted goes on */
        for (int run = 0; run < 2 * GUESSERS; run++)
            check_run(&m, 1, 4, run / 2, run % 2, 0, &likeliest, &plain);
        *number = was;
        params_set(&m.params, embedding, values);
        free(plain.caches);
        met++;
    }
    cr_assert(met > 3, "%d", met);
    speculate_model_free(&m);
    context_free(&ctx);
}

/* A text that is continued, run after run, is that of one long run; so is one that is cut and begun
 * anew. */
DEVICE_TEST(speculate, a_text_goes_on) {
    for (int alone = 0; alone < 2; alone++) {
        Context ctx = test_context(device, dtype);
        SpeculateModel m;
        Error err = {0};
        DecoderGenerator g;
        Speculator s;
        DecoderGenerateResult result;
        speculate_model_init(&m, &ctx, speculate_config(), 3);
        Plain plain = plain_decoding(&m, 2, &likeliest);
        check_ok(decoder_generator_init(&g, &ctx, &m.decoder, NULL, 2, CAPACITY, &err), &err);
        check_ok(speculator_init(&s, &g, drafter_of(PRICED, &m, &g, 3, &plain), NULL, 3, &err),
                 &err);
        s.alone = alone;
        for (int time = 0; time < 2; time++) {
            decoder_generator_truncate(&g, -1, 0);
            put_prompts(&g);
            static const int pieces[] = {1, 2, 13, 0, 5, 19};
            for (int i = 0; i < 6; i++) {
                DecoderGenerateOptions o = likeliest;
                o.max_new_tokens = pieces[i];
                speculate_generate(&s, &o, &result);
                cr_assert(result.new_tokens == 2 * pieces[i]);
            }
            for (int b = 0; b < 2; b++)
                cr_assert(g.sequences[b].count == plain.count[b] &&
                              !memcmp(g.sequences[b].ids, plain.ids[b],
                                      (size_t)plain.count[b] * sizeof(int32_t)),
                          "text %d, time %d", b, time);
        }
        speculator_free(&s);
        decoder_generator_free(&g);
    }
}

/* ---- the modules' caches ---- */

/* |a - b| / |b| */
static double distance(const float *a, const float *b, int64_t n) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++)
        difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
    return sqrt(difference / size);
}

/* After drafts right and wrong, module m's rows are those that it makes of the whole text at once,
 * with true tokens and states: all rows but the last m, whose tokens were guesses. */
DEVICE_TEST(speculate, the_modules_rows_are_true_ones) {
    Context ctx = test_context(device, dtype);
    enum { DEPTH = 3 };
    SpeculateModel m;
    prompts =
        lengths + 1; /* of a text with fewer tokens than modules not all rows can be made again */
    Error err = {0};
    DecoderGenerator g;
    Speculator s;
    DecoderGenerateResult result;
    speculate_model_init(&m, &ctx, speculate_config(), DEPTH);
    Plain plain = plain_decoding(&m, 2, &likeliest);
    for (int run = 0; run < 4; run++) {
        check_ok(decoder_generator_init(&g, &ctx, &m.decoder, NULL, 2, CAPACITY, &err), &err);
        Drafter *modules = drafter_of_modules(&ctx, &m.mtp, &g.cache, DEPTH, &err);
        Drafter *planted = drafter_planted(&ctx, &g.cache, plain.ids[0], CAPACITY, patterns(), 17,
                                           SPECULATE_VOCAB, modules, &err);
        check_ok(speculator_init(&s, &g, planted, NULL, run < 2 ? 4 : 2, &err), &err);
        s.alone = run % 2;
        put_prompts(&g);
        speculate_generate(&s, &likeliest, &result);
        float *got =
            cached(&ctx, &m.decoder, &g.cache.pages, drafter_module_caches(modules), DEPTH);
        for (int b = 0; b < 2; b++) {
            int n = g.sequences[b].count - 1;
            DecoderCache whole;
            check_ok(decoder_cache_init(&whole, &ctx, &m.decoder.cfg.block, LAYERS + DEPTH, 1,
                                        CAPACITY, &err),
                     &err);
            Tensor *ids = tensor_copy_in(&ctx, "ids", I32, g.sequences[b].ids, SHAPE(1, n));
            Tensor *h = decoder_normed(
                &ctx, &m.decoder,
                decoder_states(&ctx, &m.decoder, ids, &(DecoderRun){.cache = &whole}));
            for (int k = 1; k <= DEPTH; k++) {
                const BlockRun run_k = {.cache = &whole.layers[LAYERS + k - 1]};
                int32_t shifted[CAPACITY] = {0};
                memcpy(shifted, g.sequences[b].ids + k, (size_t)(n + 1 - k) * sizeof *shifted);
                h = mtp_forward(&ctx, &m.mtp, k,
                                tensor_copy_in(&ctx, "ids", I32, shifted, SHAPE(1, n)), h, &run_k);
            }
            float *want = cached(&ctx, &m.decoder, &whole.pages, whole.layers + LAYERS, DEPTH);
            int64_t rank = m.decoder.cfg.block.mla.kv_lora_rank, width = rank + 16;
            for (int k = 1; k <= DEPTH; k++) {
                double all = 0;
                int64_t rows = n + 1 - k;
                for (int64_t i = 0; i < rows; i++) {
                    const float *x =
                        got + (k - 1) * 2 * CAPACITY * width + (b * CAPACITY + i) * rank;
                    double apart = distance(x, want + (k - 1) * CAPACITY * width + i * rank, rank);
                    /* Rows made of guesses are 0.75 to 1.4 apart. In BF16 rounding may send a row
                     * to another expert. */
                    cr_assert(apart < (dtype == BF16 ? 0.6 : 1e-3),
                              "run %d, text %d, module %d, row %lld: %g apart", run, b, k,
                              (long long)i, apart);
                    all += apart;
                }
                cr_assert(all < rows * (dtype == BF16 ? 0.1 : 1e-4), "module %d: %g apart", k,
                          all / (double)rows);
            }
            free(want);
            decoder_cache_free(&whole);
        }
        free(got);
        speculator_free(&s);
        decoder_generator_free(&g);
    }
}

/* ---- what is refused ---- */

Test(speculate, what_cannot_be_is_said) {
    Context ctx = test_context(CPU, F32);
    SpeculateModel m;
    Error err = {0};
    DecoderGenerator g;
    Speculator s;
    DraftVocabulary v;
    speculate_model_init(&m, &ctx, speculate_config(), 1);
    check_ok(decoder_generator_init(&g, &ctx, &m.decoder, NULL, 4, CAPACITY, &err), &err);
    Plain none = {0};
    cr_assert(speculator_init(&s, &g, drafter_of(PLANTED, &m, &g, 0, &none), NULL, 4, &err) == -1);
    cr_assert(strstr(err.text, "4 texts side by side it can be 1 to 3"), "%s", err.text);
    cr_assert(speculator_init(&s, &g, drafter_of(PLANTED, &m, &g, 0, &none), NULL, 0, &err) == -1);
    int32_t ids[] = {5, 2, 9}, twice[] = {5, 2, 5}, wide[] = {1, SPECULATE_VOCAB};
    cr_assert(draft_vocabulary_init(&v, &ctx, &m.decoder, ids, 3, 7, &err) == -1);
    cr_assert(strstr(err.text, "without the end token (7)"), "%s", err.text);
    cr_assert(draft_vocabulary_init(&v, &ctx, &m.decoder, twice, 3, -1, &err) == -1);
    cr_assert(strstr(err.text, "id 5 twice"), "%s", err.text);
    cr_assert(draft_vocabulary_init(&v, &ctx, &m.decoder, wide, 2, -1, &err) == -1);
    cr_assert(strstr(err.text, "id 48"), "%s", err.text);
    cr_assert(draft_vocabulary_frequent(ids, 49, ids, 3, SPECULATE_VOCAB, -1, &err) == -1);
    cr_assert(strstr(err.text, "of 49 tokens"), "%s", err.text);
    /* The most frequent ones, the end token whatever its count, then the smaller ids. */
    const int32_t text[] = {4, 4, 4, 9, 9, 3, 8, 8};
    check_ok(draft_vocabulary_frequent(ids, 3, text, 8, SPECULATE_VOCAB, 20, &err), &err);
    cr_assert(ids[0] == 20 && ids[1] == 4 && ids[2] == 8);
}
