/*
 * Sparse models as wholes: dense where everything is selected, the same from a cache as without
 * one, whole after saving, and never with a T x T of anything.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/tests/test_world.h"

#include "common/files/files.h"

#include <math.h>
#include <stdlib.h>

static Error err; /* what the last call that failed had to say */

enum { TOKENS = 48, VOCAB = 50 };

/* A V3 whose attention is as V3.2's can only be. */
static ModelConfig dense_config(void) {
    ModelConfig cfg = tiny_config(VOCAB);
    cfg.rope_interleave = true;
    return cfg;
}

static void sparse_world_on(World *w, Device device, DType dtype, int topk, int modules) {
    ModelConfig cfg = tiny_sparse_config(tiny_config(VOCAB));
    cfg.index_topk = topk;
    cfg.num_nextn_predict_layers = modules;
    world_model(w, device, dtype, cfg, false);
}

static void sparse_world(World *w, int topk, int modules) {
    sparse_world_on(w, CPU, F32, topk, modules);
}

static Tensor *some_ids(Context *ctx, int B, int first, int count) {
    int32_t ids[4 * TOKENS];
    for (int b = 0; b < B; b++)
        for (int t = 0; t < count; t++) {
            int at = first + t;
            ids[b * count + t] = (7 * at + at * at + 13 * b) % VOCAB;
        }
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, count));
}

/* k as long as the text: V3's numbers, to the bit, whose weights come from the same seed. One token
 * fewer, and there are others. */
Test(sparse, all_selected_is_dense) {
    World dense, sparse;
    world_model(&dense, CPU, F32, dense_config(), false);
    float *want = test_values(
        &dense.ctx, model_forward(&dense.model, some_ids(&dense.ctx, 2, 0, TOKENS), NULL));
    for (int topk = TOKENS - 1; topk <= TOKENS + 1; topk++) {
        sparse_world(&sparse, topk, 0);
        float *got = test_values(
            &sparse.ctx, model_forward(&sparse.model, some_ids(&sparse.ctx, 2, 0, TOKENS), NULL));
        bool same = !memcmp(got, want, sizeof *got * 2 * TOKENS * VOCAB);
        cr_assert(same == (topk >= TOKENS), "k = %d of %d: the same is %d", topk, TOKENS, same);
        /* only the last token has one more to see than it may */
        check_close("before the last", got, want, (TOKENS - 1) * VOCAB, 64 * tolerance_of(F32, 32));
    }
}

/* A prompt in chunks and then token by token, two texts of different lengths after a cut. */
Test(sparse, cached_is_uncached) {
    static const int chunks[2][8] = {{3, 20, 1, 1, 4, 1, 18}, {1, 4, 1, 25}}; /* from 0, from 17 */
    World w;
    DecoderCache cache;
    sparse_world(&w, 6, 0);
    float *whole =
        test_values(&w.ctx, model_forward(&w.model, some_ids(&w.ctx, 2, 0, TOKENS), NULL));
    check_ok(model_cache_init(&w.model, &cache, 2, 2 * TOKENS, &err), &err);
    for (int round = 0; round < 2; round++) {
        int first = decoder_cache_length(&cache, -1);
        for (const int *chunk = chunks[round]; *chunk; first += *chunk++) {
            int count = *chunk;
            check_ok(model_cache_reserve(&w.model, &cache, count, &err), &err);
            float *got = test_values(
                &w.ctx, model_forward(&w.model, some_ids(&w.ctx, 2, first, count), &cache));
            for (int b = 0; b < 2; b++)
                check_close("logits", got + b * VOCAB,
                            whole + (b * TOKENS + first + count - 1) * VOCAB, VOCAB,
                            64 * tolerance_of(F32, 32));
            free(got);
        }
        decoder_cache_truncate(&cache, -1, 17);
    }
    decoder_cache_free(&cache);
}

/* A step that is captured for all lengths to come chooses from fewer tokens than it has room for:
 * before k of them are there, and after. */
DEVICE_TEST(sparse, a_horizon_changes_nothing) {
    World w;
    sparse_world_on(&w, device, dtype, 6, 0);
    for (int first = 3; first <= 30; first += 9) {
        float *logits[2];
        for (int captured = 0; captured < 2; captured++) {
            DecoderCache cache;
            check_ok(model_cache_init(&w.model, &cache, 2, 2 * TOKENS, &err), &err);
            model_forward(&w.model, some_ids(&w.ctx, 2, 0, first), &cache);
            decoder_cache_capture(&cache, captured);
            Tensor *y = model_forward(&w.model, some_ids(&w.ctx, 2, first, 1), &cache);
            logits[captured] = test_values(&w.ctx, y);
            decoder_cache_free(&cache);
        }
        check_close("logits", logits[1], logits[0], 2 * VOCAB,
                    dtype == BF16 ? 0.1 : 64 * tolerance_of(F32, 32));
    }
}

/* Texts of different lengths side by side: one below k, one above. */
Test(sparse, of_different_lengths) {
    enum { SHORT = 4, LONG = 30 };
    World w;
    DecoderCache cache;
    sparse_world(&w, 6, 0);
    float *whole =
        test_values(&w.ctx, model_forward(&w.model, some_ids(&w.ctx, 2, 0, TOKENS), NULL));
    check_ok(model_cache_init(&w.model, &cache, 2, TOKENS, &err), &err);
    model_forward(&w.model, some_ids(&w.ctx, 2, 0, LONG), &cache);
    decoder_cache_truncate(&cache, 0, SHORT);
    int32_t next[2];
    Tensor *all = some_ids(&w.ctx, 2, 0, TOKENS);
    next[0] = ((int32_t *)all->data)[SHORT], next[1] = ((int32_t *)all->data)[TOKENS + LONG];
    Tensor *ids = tensor_copy_in(&w.ctx, "ids", I32, next, SHAPE(2, 1));
    float *got = test_values(&w.ctx, model_forward(&w.model, ids, &cache));
    check_close("short", got, whole + SHORT * VOCAB, VOCAB, 64 * tolerance_of(F32, 32));
    check_close("long", got + VOCAB, whole + (TOKENS + LONG) * VOCAB, VOCAB,
                64 * tolerance_of(F32, 32));
}

/* Keys and latents in eight bits: three bits behind the point, in a model of random weights. What
 * is selected may differ in a few places; with everything selected only the latents' rounding is
 * left. */
Test(sparse, a_cache_in_eight_bits) {
    for (int topk = 6; topk <= TOKENS; topk += TOKENS - 6) {
        World w;
        DecoderCache cache;
        sparse_world(&w, topk, 0);
        w.model.decoder.cfg.block.e4m3_cache = true;
        float *whole =
            test_values(&w.ctx, model_forward(&w.model, some_ids(&w.ctx, 1, 0, TOKENS), NULL));
        check_ok(model_cache_init(&w.model, &cache, 1, TOKENS, &err), &err);
        cr_assert(latent_cache_is_e4m3(cache.layers[0].latent.keys));
        double difference = 0, size = 0;
        for (int t = 0; t < TOKENS; t++) {
            float *got =
                test_values(&w.ctx, model_forward(&w.model, some_ids(&w.ctx, 1, t, 1), &cache));
            for (int i = 0; i < VOCAB; i++) {
                difference += pow(got[i] - whole[t * VOCAB + i], 2);
                size += pow(whole[t * VOCAB + i], 2);
            }
            free(got);
        }
        double distance = sqrt(difference / size), most = topk == TOKENS ? 0.1 : 0.5;
        cr_assert(distance > 1e-4 && distance < most, "k = %d: %g away", topk, distance);
        decoder_cache_free(&cache);
    }
}

static bool same_logits(World *a, Model *b) {
    float *x =
        test_values(&a->ctx, model_forward(&a->model, some_ids(&a->ctx, 1, 0, TOKENS), NULL));
    float *y = test_values(b->ctx, model_forward(b, some_ids(b->ctx, 1, 0, TOKENS), NULL));
    return !memcmp(x, y, sizeof *x * TOKENS * VOCAB);
}

/* With modules, which have indexers of their own. */
Test(sparse, saved_and_loaded) {
    World w;
    Model again;
    Scratch scratch = scratch_open();
    sparse_world(&w, 6, 2);
    cr_assert_eq(w.model.indexers.count, w.model.cfg.num_hidden_layers + 2);
    const char *folder = scratch_path(&scratch, "model");
    check_ok(checkpoint_save(&w.model, NULL, folder, &(SaveOptions){.dtype = F32}, &err), &err);
    check_ok(checkpoint_load_model(&again, &w.ctx, folder, NULL, LOAD_TO_RUN, &err), &err);
    cr_assert(same_logits(&w, &again));
    for (int i = 0; i < w.model.params.count; i++)
        cr_assert(!memcmp(w.model.params.list[i]->data, again.params.list[i]->data,
                          tensor_bytes(again.params.list[i])),
                  "%s", again.params.list[i]->name);
}

/* Weights of a dense model under a sparse config.json: what is missing is named. Asked for as
 * sparse, they get indexers, and their own numbers stay. */
Test(sparse, indexers_that_are_missing) {
    World w;
    Model sparse;
    Scratch scratch = scratch_open();
    world_model(&w, CPU, F32, dense_config(), false);
    const char *folder = scratch_path(&scratch, "model");
    check_ok(checkpoint_save(&w.model, NULL, folder, &(SaveOptions){.dtype = F32}, &err), &err);
    ModelConfig cfg = tiny_sparse_config(w.model.cfg);
    cfg.index_topk = TOKENS;
    check_ok(checkpoint_load_model(&sparse, &w.ctx, folder, &cfg, LOAD_WEIGHT_ONLY, &err), &err);
    cr_assert(same_logits(&w, &sparse));
    check_ok(checkpoint_write_setup(&cfg, NULL, folder, F32, &err), &err);
    cr_assert(checkpoint_load_model(&sparse, &w.ctx, folder, NULL, LOAD_TO_RUN, &err) == -1);
    cr_assert(strstr(err.text, "15 of the model's tensors are not in its files") &&
                  strstr(err.text, "model.layers.0.self_attn.indexer.wq_b.weight"),
              "%s", err.text);
}

/* 32,768 tokens through the indexer and attention: a square of them would be 4 GiB. */
DEVICE_TEST(sparse, no_square_of_a_long_text) {
    enum { T = 32768 };
    Context ctx = test_context(device, dtype);
    MlaConfig mla = {4, 1, 4, 4, 4, 0, 4, false};
    IndexerConfig cfg = {.index_n_heads = 1,
                         .index_head_dim = 4,
                         .index_topk = 16,
                         .hidden_size = 4,
                         .q_lora_rank = 4};
    Params params;
    Indexers indexers;
    params_init(&params, &ctx);
    Mla w = mla_init(&params, "attention", &mla);
    indexers_register(&indexers, &params, &cfg, 1);
    check_ok(params_allocate(&params, false, &err), &err);
    mla_randomize(&params, &w, 1, 1);
    indexer_randomize(&params, &indexers.list[0], 1);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, T, 4));
    Tensor *y = mla_forward(&ctx, x, &w, &mla, NULL, &indexers.list[0].selection, NULL, MLA_AUTO,
                            (Residual){0});
    const float *values = test_values(&ctx, y);
    for (int i = 0; i < 4 * T; i++) cr_assert(isfinite(values[i]), "number %d", i);
    /* a GPU has passes of 2^26 scores */
    size_t most = (size_t)(device == CPU ? 64 : 512) << 20;
    cr_assert(context_peak_bytes(&ctx) < most, "%.1f MiB",
              (double)context_peak_bytes(&ctx) / 1048576);
}

/* Logits on a GPU. In BF16 scores that are nearly equal may choose others: so all are chosen. */
CUDA_TEST(sparse, a_gpu_gives_what_the_cpu_gives) {
    World cpu, gpu;
    int topk = dtype == BF16 ? TOKENS : 6;
    sparse_world(&cpu, topk, 0), sparse_world_on(&gpu, CUDA, dtype, topk, 0);
    float *want =
        test_values(&cpu.ctx, model_forward(&cpu.model, some_ids(&cpu.ctx, 2, 0, TOKENS), NULL));
    check_tensor(&gpu.ctx, "logits",
                 model_forward(&gpu.model, some_ids(&gpu.ctx, 2, 0, TOKENS), NULL), want,
                 dtype == BF16 ? 0.1 : 256 * tolerance_of(F32, 32));
}
