/*
 * A whole decoder on quantised weights: what it says is what its numbers say, prompts and single
 * tokens, and guessing changes no token of it.
 */
#include "06_mtp/speculate/speculate.h"
#include "06_mtp/tests/test_speculate.h"
#include "08_quant/formats.h"
#include "08_quant/methods/layer.h"
#include "08_quant/tests/test_quantised.h"

#include <omp.h>
#include <stdio.h>

/* How all linear layers are held, the head too if it says so. */
typedef struct Holding {
    DType dtype;
    int block_out, block_in;
    bool head;
    const QuantisedProducts *products;
    double tolerance; /* of logits, beside those of the same numbers as F32 */
} Holding;

/* As numbers the weights give the same bits. With x in INT8 each layer rounds to 1 part in 254 of
 * the largest number of a group; two layers and a head make 1 to 2 % of that. */
static const Holding holdings[] = {
    {U8, 1, 32, false, &quantised_weight_only, 0},
    {I4, 1, 32, true, &quantised_weight_only, 0},
    {F8_E4M3, 128, 128, true, &quantised_weight_only, 0},
    {U8, 1, 32, false, &quantised_products, 0.05},
    {U8, 1, 16, true, &quantised_products, 0.05},
    {I4, 1, 32, true, &quantised_products, 0.05},
};
enum { HOLDINGS = sizeof holdings / sizeof *holdings };

static int linears(SpeculateModel *m, Tensor **list, bool head) {
    int count = 0;
    for (int i = 0; i < LAYERS + m->mtp.depth; i++) {
        Tensor **places[BLOCK_LINEARS];
        Block *b = i < LAYERS ? &m->decoder.layers[i] : &m->mtp.modules[i - LAYERS].block;
        int n = block_linears(b, places);
        for (int j = 0; j < n; j++) list[count++] = *places[j];
    }
    if (head) list[count++] = m->decoder.lm_head;
    return count;
}

/* A model, and the same with quantised weights, whose numbers the first one gets. */
typedef struct Two {
    SpeculateModel plain, held;
} Two;

static void two_init(Two *t, Context *ctx, const Holding *h, int depth, int experts_per_tok) {
    enum { MOST = 128 };
    Tensor *from[MOST], *to[MOST];
    SpeculateModel *m = &t->held;
    DecoderConfig cfg = speculate_config();
    cfg.block.moe.router.num_experts_per_tok = experts_per_tok;
    speculate_model_init(&t->plain, ctx, cfg, depth);
    params_init(&m->params, ctx);
    decoder_register(&m->decoder, &m->params, &cfg);
    mtp_register(&m->mtp, &m->params, &m->decoder, depth);
    int count = linears(m, to, h->head);
    linears(&t->plain, from, h->head);
    for (int i = 0; i < count; i++)
        params_set_quantised(&m->params, to[i], h->dtype, h->block_out, h->block_in, h->products);
    check_ok(params_allocate(&m->params, false, &err), &err);
    for (int i = 0; i < m->params.count; i++) {
        Tensor *w = m->params.list[i], *of = t->plain.params.list[i];
        float *numbers = test_floats(tensor_count(w));
        params_get(&t->plain.params, of, numbers);
        if (w->quantised) {
            QuantFormat format = {h->dtype, h->block_out, h->block_in, false};
            int64_t experts = w->ndim == 3 ? w->shape[0] : 1, out = tensor_dim(w, -2);
            int64_t in = tensor_dim(w, -1), scales = tensor_count(&w->quantised->scale) / experts;
            uint8_t *codes = must_alloc(tensor_bytes(w), 1);
            float *scale = test_floats(experts * scales);
            for (int64_t e = 0; e < experts; e++)
                check_ok(quantise(codes + dtype_bytes(h->dtype, e * out * in), scale + e * scales,
                                  numbers + e * out * in, out, in, &format, &err),
                         &err);
            params_set_codes(&m->params, w, codes, scale);
            params_get(&m->params, w, numbers);
            params_set(&t->plain.params, of, numbers);
            free(codes), free(scale);
        } else {
            params_set(&m->params, w, numbers);
        }
        free(numbers);
    }
}

/* ---- what it says ---- */

/* Logits of a prompt of 7 tokens of 2 texts, without a cache and with one (where attention makes
 * keys, or is absorbed), and of 9 tokens behind it, one at a time. */
static float *says(SpeculateModel *m, int64_t *count) {
    enum { B = 2, PROMPT = 7, MORE = 9 };
    Context *ctx = m->params.ctx;
    DecoderCache cache;
    int64_t each = B * SPECULATE_VOCAB, at = 0;
    int32_t ids[B * PROMPT];
    *count = (2 * PROMPT + MORE) * each;
    float *logits = test_floats(*count);
    for (int i = 0; i < B * PROMPT; i++) ids[i] = i * 11 % SPECULATE_VOCAB;
    check_ok(decoder_cache_init(&cache, ctx, &m->decoder.cfg.block, LAYERS, B, CAPACITY, &err),
             &err);
    for (int i = 0; i < 2 + MORE; i++) {
        int T = i < 2 ? PROMPT : 1;
        DecoderRun run = {.cache = i ? &cache : NULL};
        Tensor *tokens = tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T));
        if (i) check_ok(decoder_cache_reserve(&cache, NULL, T, &err), &err);
        Tensor *x = i < 2 ? decoder_states(ctx, &m->decoder, tokens, &run)
                          : decoder_decode(ctx, &m->decoder, tokens, &run);
        tensor_download(ctx, logits + at, decoder_logits(ctx, &m->decoder, x));
        at += T * each;
        for (int b = 0; b < B; b++) ids[b] = (ids[b] * 5 + i + b) % SPECULATE_VOCAB;
        context_reset(ctx);
    }
    cr_assert(at == *count);
    decoder_cache_free(&cache);
    return logits;
}

CPU_TEST(quantised_decoder, says_what_its_numbers_say) {
    for (int i = 0; i < HOLDINGS; i++) {
        Two t;
        int64_t count;
        char what[64];
        two_init(&t, &ctx, holdings + i, 1, 8); /* all: else rounding would choose others */
        float *should = says(&t.plain, &count), *is = says(&t.held, &count);
        snprintf(what, sizeof what, "holding %d", i);
        check_close(what, is, should, count, holdings[i].tolerance);
        bool same = !memcmp(is, should, (size_t)count * sizeof *is);
        cr_assert(same == (holdings[i].tolerance == 0), "holding %d: to the bit: %d", i, same);
        cr_assert(params_count(&t.held.params) == params_count(&t.plain.params));
        free(is), free(should);
        speculate_model_free(&t.plain), speculate_model_free(&t.held);
    }
}

/* ---- guesses ---- */

static void generate(SpeculateModel *m, DecoderGenerator *g, int batch, int drafts, bool few) {
    Context *ctx = m->params.ctx;
    Speculator s;
    DecoderGenerateResult result;
    const DecoderGenerateOptions likeliest = {
        .sampling = {.top_p = 1}, .max_new_tokens = 20, .end = -1};
    check_ok(decoder_generator_init(g, ctx, &m->decoder, NULL, batch, CAPACITY, &err), &err);
    for (int b = 0; b < batch; b++) {
        g->sequences[b].count = 3 + 4 * b;
        for (int i = 0; i < 3 + 4 * b; i++) g->sequences[b].ids[i] = (i * i + b) % SPECULATE_VOCAB;
    }
    if (!drafts) {
        decoder_generate(g, &likeliest, &result);
        return;
    }
    DraftVocabulary *v = NULL;
    int32_t ids[SPECULATE_VOCAB / 2];
    for (int i = 0; i < SPECULATE_VOCAB / 2; i++) ids[i] = 2 * i;
    if (few) {
        v = must_alloc(1, sizeof *v);
        check_ok(draft_vocabulary_init(v, ctx, &m->decoder, ids, SPECULATE_VOCAB / 2, -1, &err),
                 &err);
    }
    Drafter *drafter = drafter_of_modules(ctx, &m->mtp, &g->cache, drafts, &err);
    check_ok(speculator_init(&s, g, drafter, v, drafts, &err), &err);
    speculate_generate(&s, &likeliest, &result);
    speculator_free(&s);
}

/* A draft vocabulary's rows of a quantised head are that head's numbers. */
CPU_TEST(quantised_decoder, draft_vocabulary_has_the_heads_numbers) {
    Two t;
    DraftVocabulary v;
    static const int32_t ids[] = {40, 3, 7};
    two_init(&t, &ctx, holdings + 1, 1, 2);
    int64_t hidden = t.plain.decoder.cfg.block.hidden_size;
    check_ok(draft_vocabulary_init(&v, &ctx, &t.held.decoder, ids, 3, -1, &err), &err);
    const float *head = t.plain.decoder.lm_head->data, *has = v.head.data;
    for (int i = 0; i < 3; i++)
        cr_assert(
            !memcmp(has + i * hidden, head + v.ids[i] * hidden, (size_t)hidden * sizeof *head),
            "row %d", i);
}

/* Up to 16 rows at a time have the bits that they have alone, so the text is the same. */
CPU_TEST(quantised_decoder, guesses_change_nothing) {
    static const int drafts[] = {1, 3, 7};
    omp_set_num_threads(1); /* small steps: waking another thread takes longer than they */
    for (int i = 0; i < HOLDINGS; i++) {
        Two t;
        two_init(&t, &ctx, holdings + i, 2, 2);
        for (int batch = 1; batch <= 2; batch++) {
            DecoderGenerator plain, g;
            generate(&t.held, &plain, batch, 0, false);
            for (int j = 0; j < 3; j++) {
                generate(&t.held, &g, batch, drafts[j], j % 2);
                for (int b = 0; b < batch; b++) {
                    const DecoderSequence *is = g.sequences + b, *should = plain.sequences + b;
                    cr_assert(
                        is->count == should->count &&
                            !memcmp(is->ids, should->ids, (size_t)is->count * sizeof *is->ids),
                        "holding %d, text %d of %d, %d drafts", i, b, batch, drafts[j]);
                }
                decoder_generator_free(&g);
            }
            decoder_generator_free(&plain);
        }
        speculate_model_free(&t.plain), speculate_model_free(&t.held);
    }
}
