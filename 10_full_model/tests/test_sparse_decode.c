/*
 * Decoding with a sparse model on every device: token by token is the whole text at once, in a
 * captured step, too, which is made for the longest text that the cache may hold; and with keys and
 * latents in eight bits.
 */
#include "05_moe/decoder/decode_graph.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>
#include <stdlib.h>

enum { BATCH = 2, TOKENS = 48, PROMPT = 21, VOCAB = 50, CAPACITY = 2 * TOKENS };

static DecoderCache cache;

/* Where BF16 rounds, scores that are nearly equal may choose other tokens. So there k is the text's
 * length: a step that is made for more than k picks by lists all the same. */
static int topk_of(DType dtype) { return dtype == BF16 ? TOKENS : 6; }

/* Logits of the tiny model in F32 hardly differ; in BF16, of three layers, by some percent. */
static double tolerance(DType dtype) { return dtype == BF16 ? 0.1 : 256 * tolerance_of(F32, 32); }

static void sparse_world(World *w, Device device, DType dtype, int topk, bool even) {
    ModelConfig cfg = tiny_sparse_config(even ? tiny_even_config(VOCAB) : tiny_config(VOCAB));
    cfg.index_topk = topk;
    cfg.max_position_embeddings = CAPACITY;
    world_model(w, device, dtype, cfg, false);
}

static int32_t id_at(int b, int t) { return (7 * t + t * t + 13 * b) % VOCAB; }

static Tensor *some_ids(Context *ctx, int first, int count) {
    int32_t ids[BATCH * TOKENS];
    for (int i = 0; i < BATCH * count; i++) ids[i] = id_at(i / count, first + i % count);
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(BATCH, count));
}

/* The whole text's logits; then the prompt goes into the cache. */
static float *whole_and_prompt(World *w) {
    float *whole =
        test_values(&w->ctx, model_forward(&w->model, some_ids(&w->ctx, 0, TOKENS), NULL));
    context_reset(&w->ctx);
    check_ok(model_cache_init(&w->model, &cache, BATCH, CAPACITY, &err), &err);
    check_ok(model_cache_reserve(&w->model, &cache, PROMPT, &err), &err);
    model_forward(&w->model, some_ids(&w->ctx, 0, PROMPT), &cache);
    context_reset(&w->ctx);
    return whole;
}

static void check_step(const float *got, const float *whole, int t, DType dtype) {
    for (int b = 0; b < BATCH; b++)
        check_close("logits", got + b * VOCAB, whole + (b * TOKENS + t) * VOCAB, VOCAB,
                    tolerance(dtype));
}

/* With the sizes of a captured step and without. */
DEVICE_TEST(sparse_decode, a_horizon_changes_nothing) {
    for (int horizon = 0; horizon < 2; horizon++) {
        World w;
        sparse_world(&w, device, dtype, topk_of(dtype), false);
        float *whole = whole_and_prompt(&w);
        decoder_cache_capture(&cache, horizon);
        for (int t = PROMPT, count; t < TOKENS; t += count) {
            count = t % 3 == 0 && t + 1 < TOKENS ? 2 : 1; /* as a guess comes along, or not */
            check_ok(model_cache_reserve(&w.model, &cache, count, &err), &err);
            float *got =
                test_values(&w.ctx, model_forward(&w.model, some_ids(&w.ctx, t, count), &cache));
            check_step(got, whole, t + count - 1, dtype);
            free(got);
            context_reset(&w.ctx);
        }
        free(whole);
        decoder_cache_free(&cache);
    }
}

/* On a GPU these are launches of one graph. */
DEVICE_TEST(sparse_decode, captured_steps_are_the_whole_text) {
    for (int even = 0; even < 2; even++) {
        World w;
        DecodeGraph decode;
        static float got[BATCH * VOCAB];
        sparse_world(&w, device, dtype, topk_of(dtype), even);
        float *whole = whole_and_prompt(&w);
        check_ok(decode_graph_init(&decode, &w.ctx, &w.model.decoder, model_position(&w.model),
                                   &cache, &err),
                 &err);
        for (int t = PROMPT; t < TOKENS; t++) {
            int32_t next[BATCH];
            for (int b = 0; b < BATCH; b++) next[b] = id_at(b, t);
            decode_logits(&decode, next, got);
            check_step(got, whole, t, dtype);
        }
        free(whole);
        decode_graph_free(&decode);
        decoder_cache_free(&cache);
    }
}

/* Three bits behind the point, in a model of random weights: what is selected may differ in a few
 * places; with everything selected only the latents' rounding is left. */
DEVICE_TEST(sparse_decode, a_cache_in_eight_bits) {
    for (int topk = 6; topk <= TOKENS; topk += TOKENS - 6) {
        World w;
        sparse_world(&w, device, dtype, topk, false);
        w.model.decoder.cfg.block.e4m3_cache = true;
        float *whole = whole_and_prompt(&w);
        cr_assert(latent_cache_is_e4m3(cache.layers[0].latent.keys));
        decoder_cache_capture(&cache, true);
        double difference = 0, size = 0;
        for (int t = PROMPT; t < TOKENS; t++) {
            check_ok(model_cache_reserve(&w.model, &cache, 1, &err), &err);
            float *got =
                test_values(&w.ctx, model_forward(&w.model, some_ids(&w.ctx, t, 1), &cache));
            for (int i = 0; i < BATCH * VOCAB; i++) {
                float want = whole[(i / VOCAB * TOKENS + t) * VOCAB + i % VOCAB];
                difference += pow(got[i] - want, 2), size += pow(want, 2);
            }
            free(got);
            context_reset(&w.ctx);
        }
        double distance = sqrt(difference / size), most = topk == TOKENS ? 0.15 : 0.5;
        cr_assert(distance > 1e-4 && distance < most, "k = %d: %g away", topk, distance);
        free(whole);
        decoder_cache_free(&cache);
    }
}
