/*
 * Decoding many steps at a time: the tokens are those of single steps, whatever the lengths, across
 * pages of the cache and up to its last place.
 */
#include "05_moe/decoder/decode_graph.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>

enum { BATCH = 3, VOCAB = 131, CAPACITY = 2 * PAGE_TOKENS + 7 };

static DecoderCache cache;
static DecodeGraph decode;
static const int prompt_lengths[BATCH] = {1, PAGE_TOKENS - 1, PAGE_TOKENS + 9};

/* Prompts of different lengths in the caches. */
static void world_with_prompts(World *w, Device device, DType dtype, bool even) {
    ModelConfig cfg = even ? tiny_even_config(VOCAB) : tiny_config(VOCAB);
    cfg.max_position_embeddings = CAPACITY;
    world_model(w, device, dtype, cfg, false);
    check_ok(model_cache_init(&w->model, &cache, BATCH, CAPACITY, &err), &err);
    int longest = prompt_lengths[BATCH - 1];
    int32_t ids[BATCH * CAPACITY];
    for (int i = 0; i < BATCH * longest; i++) ids[i] = (i * 37 + 11) % VOCAB;
    check_ok(model_cache_reserve(&w->model, &cache, longest, &err), &err);
    model_forward(&w->model, tensor_copy_in(&w->ctx, "ids", I32, ids, SHAPE(BATCH, longest)),
                  &cache);
    context_reset(&w->ctx);
    for (int b = 0; b < BATCH; b++) decoder_cache_truncate(&cache, b, prompt_lengths[b]);
    check_ok(decode_graph_init(&decode, &w->ctx, &w->model.decoder, model_position(&w->model),
                               &cache, &err),
             &err);
}

/* One step as anybody would write it; the largest logit of each sequence, and how far it leads. */
static void plain_step(World *w, const int32_t *ids, int32_t *next, float *lead) {
    static float logits[BATCH * VOCAB];
    check_ok(model_cache_reserve(&w->model, &cache, 1, &err), &err);
    Tensor *t = tensor_copy_in(&w->ctx, "ids", I32, ids, SHAPE(BATCH, 1));
    tensor_download(&w->ctx, logits, model_forward(&w->model, t, &cache));
    context_reset(&w->ctx);
    for (int b = 0; b < BATCH; b++) {
        const float *row = logits + b * VOCAB;
        float second = -INFINITY;
        next[b] = 0;
        for (int j = 1; j < VOCAB; j++)
            if (row[j] > row[next[b]]) next[b] = j;
        for (int j = 0; j < VOCAB; j++)
            if (j != next[b] && row[j] > second) second = row[j];
        lead[b] = row[next[b]] - second;
    }
}

/*
 * Steps in pieces of several sizes until the longest sequence is full; then the same token by
 * token. A captured step always runs absorbed attention while a single one takes the cheaper of
 * two, so logits may differ by a rounding: where the two likeliest are closer than that, either is
 * right.
 */
static void many_steps(Device device, DType dtype, bool even) {
    World w;
    world_with_prompts(&w, device, dtype, even);
    int room = CAPACITY - prompt_lengths[BATCH - 1], done = 0;
    static int32_t tokens[(1 + CAPACITY) * BATCH];
    const int pieces[] = {1, DECODE_STEPS, 3, 17};
    for (int b = 0; b < BATCH; b++) tokens[b] = 5 + b;
    for (int i = 0; done < room; i++) {
        int steps = pieces[i % 4] < room - done ? pieces[i % 4] : room - done;
        decode_greedy(&decode, tokens + done * BATCH, steps, tokens + (done + 1) * BATCH);
        done += steps;
        for (int b = 0; b < BATCH; b++)
            cr_assert(decoder_cache_length(&cache, b) == prompt_lengths[b] + done);
    }
    for (int b = 0; b < BATCH; b++) decoder_cache_truncate(&cache, b, prompt_lengths[b]);
    float rounding = dtype == BF16 ? 0.25f : 1e-3f; /* logits are of size 1 to 10 */
    for (int i = 0; i < room; i++) {
        int32_t next[BATCH];
        float lead[BATCH];
        plain_step(&w, tokens + i * BATCH, next, lead); /* the same text, even where they part */
        for (int b = 0; b < BATCH; b++)
            cr_assert(next[b] == tokens[(i + 1) * BATCH + b] || lead[b] < rounding,
                      "step %d, sequence %d: %d, not %d (leads by %g)", i, b,
                      tokens[(i + 1) * BATCH + b], next[b], lead[b]);
    }
}

DEVICE_TEST(decode_graph, many_steps_are_single_steps) { many_steps(device, dtype, false); }

/* Sizes for which a step has kernels of its own. */
DEVICE_TEST(decode_graph, many_fused_steps_are_single_steps) { many_steps(device, dtype, true); }

/*
 * And these steps are the model: their logits are those of the whole text at once, without a cache,
 * which no kernel for few rows has a part in (45 tokens of each sequence are more than few). The
 * BF16 model routes each token by itself: it may choose other experts where two are nearly equal,
 * and a text that has done so goes another way, so there only the first step is looked at, loosely.
 */
DEVICE_TEST(decode_graph, fused_steps_are_the_whole_text) {
    enum { TEXT = 45, STEPS = 6 };
    World w;
    world_with_prompts(&w, device, dtype, true);
    int32_t ids[BATCH * TEXT], next[BATCH];
    static float got[BATCH * VOCAB], whole[BATCH * TEXT * VOCAB];
    for (int i = 0; i < BATCH * TEXT; i++) ids[i] = (i * 29 + 3) % VOCAB;
    Tensor *t = tensor_copy_in(&w.ctx, "ids", I32, ids, SHAPE(BATCH, TEXT));
    tensor_download(&w.ctx, whole, model_forward(&w.model, t, NULL));
    context_reset(&w.ctx);
    decoder_cache_truncate(&cache, -1, 0);
    int32_t prompt[BATCH * (TEXT - STEPS)];
    for (int b = 0; b < BATCH; b++)
        memcpy(prompt + b * (TEXT - STEPS), ids + b * TEXT, (TEXT - STEPS) * sizeof *ids);
    check_ok(model_cache_reserve(&w.model, &cache, TEXT - STEPS, &err), &err);
    t = tensor_copy_in(&w.ctx, "ids", I32, prompt, SHAPE(BATCH, TEXT - STEPS));
    model_forward(&w.model, t, &cache);
    context_reset(&w.ctx);
    for (int i = TEXT - STEPS; i < (dtype == BF16 ? TEXT - STEPS + 1 : TEXT); i++) {
        for (int b = 0; b < BATCH; b++) next[b] = ids[b * TEXT + i];
        decode_logits(&decode, next, got);
        for (int b = 0; b < BATCH; b++)
            check_close("logits", got + b * VOCAB, whole + (b * TEXT + i) * VOCAB, VOCAB,
                        dtype == BF16 ? 16 * 0x1p-9 : 64 * tolerance_of(F32, 96));
    }
}

/* Logits for a sampler, in turn with greedy steps, and after a prompt has used the arena. */
DEVICE_TEST(decode_graph, logits_are_those_of_the_step) {
    World w;
    world_with_prompts(&w, device, dtype, false);
    static float logits[BATCH * VOCAB], again[BATCH * VOCAB];
    int32_t ids[BATCH] = {1, 2, 3}, best[BATCH];
    decode_logits(&decode, ids, logits);
    for (int pass = 0; pass < 2; pass++) {
        for (int b = 0; b < BATCH; b++) decoder_cache_truncate(&cache, b, prompt_lengths[b]);
        if (pass == 0) {
            decode_greedy(&decode, ids, 1, best);
            for (int b = 0; b < BATCH; b++)
                for (int j = 0; j < VOCAB; j++)
                    cr_assert(logits[b * VOCAB + j] <= logits[b * VOCAB + best[b]]);
        } else {
            test_poison(&w.ctx, tensor_new(&w.ctx, "junk", F32, SHAPE(1 << 14)));
            context_reset(&w.ctx);
            decode_logits(&decode, ids, again);
            check_close("again", again, logits, BATCH * VOCAB, 0);
        }
    }
}

/* Equal logits: the smaller id; one that is not finite: no token, and 0 to go on with. */
CONTEXT_TEST(decode_graph, likeliest) {
    enum { ROWS = 7, WIDTH = 2500 };
    static float z[ROWS][WIDTH];
    int32_t tokens[2 * ROWS] = {0}, ids[ROWS] = {0}, step = 1;
    const int32_t want[ROWS] = {7, 2499, -1, -1, -1, -1, -1};
    for (int i = 0; i < WIDTH; i++) {
        z[0][i] = -1, z[1][i] = (float)-i, z[2][i] = NAN;
        for (int b = 3; b < ROWS; b++) z[b][i] = 1;
    }
    z[0][7] = z[0][8] = z[0][1031] = z[0][2499] = 2;
    z[1][2499] = 1;
    z[3][3] = 5, z[3][2] = NAN;
    z[4][2499] = INFINITY, z[5][0] = -INFINITY, z[6][1200] = -NAN;
    Tensor *logits = tensor_copy_in(&ctx, "logits", dtype, z, SHAPE(ROWS, WIDTH));
    Tensor *t = tensor_copy_in(&ctx, "tokens", I32, tokens, SHAPE(2, ROWS));
    Tensor *n = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(ROWS));
    Tensor *s = tensor_copy_in(&ctx, "step", I32, &step, SHAPE(1));
    decode_likeliest(&ctx, n->data, t->data, s->data, logits);
    tensor_download_ints(&ctx, ids, n);
    tensor_download_ints(&ctx, tokens, t);
    tensor_download_ints(&ctx, &step, s);
    cr_assert(step == 2);
    for (int b = 0; b < ROWS; b++)
        cr_assert(tokens[ROWS + b] == want[b] && ids[b] == (want[b] < 0 ? 0 : want[b]),
                  "row %d: %d", b, ids[b]);
}
