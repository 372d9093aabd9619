/*
 * Training sparse models: while indexers warm up nothing else moves; afterwards the model learns
 * from the text alone and the indexers from attention alone; and a stopped run goes on.
 */
#define _GNU_SOURCE /* memmem */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/tests/test_deepseek.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>
#include <stdlib.h>

static Error err; /* what the last call that failed had to say */

/* world_init's text, and a sparse model that is to train like this. In place. */
static void sparse_world_on(World *w, Device device, DType dtype, IndexerStage stage, int modules) {
    World dense;
    world_init(&dense, device, dtype);
    *w = dense;
    w->source = source_of_corpus(&w->corpus);
    ModelConfig cfg = tiny_sparse_config(dense.model.cfg);
    cfg.index_topk = 4;
    cfg.num_nextn_predict_layers = modules;
    check_ok(model_register(&w->model, &w->ctx, &cfg, &err), &err);
    indexers_train(&w->model.indexers, &w->model.params, stage, 1);
    check_ok(model_allocate(&w->model, true, &err), &err);
    w->ctx.rng.seed = 3;
    model_randomize(&w->model);
    w->scratch = scratch_open();
}

static void sparse_world(World *w, IndexerStage stage, int modules) {
    sparse_world_on(w, CPU, F32, stage, modules);
}

static bool is_indexers(const Tensor *t) { return strstr(t->name, ".indexer."); }

/* All weights, and the routers' biases, one after the other. */
static float *all_numbers(Model *m, size_t *count) {
    size_t n = 0;
    for (int i = 0; i < m->params.count + m->params.buffer_count; i++)
        n += (size_t)tensor_count(i < m->params.count ? m->params.list[i]
                                                      : m->params.buffers[i - m->params.count]);
    float *all = must_alloc(n, sizeof *all), *at = all;
    for (int i = 0; i < m->params.count; i++) {
        params_get(&m->params, m->params.list[i], at);
        at += tensor_count(m->params.list[i]);
    }
    for (int i = 0; i < m->params.buffer_count; i++) {
        const Tensor *t = m->params.buffers[i];
        if (t->dtype == F32 && strstr(t->name, "bias"))
            memcpy(at, t->data, tensor_bytes(t)), at += tensor_count(t);
    }
    *count = (size_t)(at - all);
    return all;
}

Test(train_sparse, warming_up_moves_indexers_alone) {
    World w;
    TrainResult result;
    size_t count, moved = 0, others = 0;
    sparse_world(&w, INDEXER_WARMS_UP, 1);
    float *before = all_numbers(&w.model, &count), first = NAN, last = NAN;
    w.options.csv = path_in(w.scratch.directory, "metrics.csv");
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
    float *after = all_numbers(&w.model, &count);
    size_t at = 0;
    for (int i = 0; i < w.model.params.count; i++) {
        const Tensor *t = w.model.params.list[i];
        for (int64_t j = 0; j < tensor_count(t); j++, at++)
            *(is_indexers(t) ? &moved : &others) += before[at] != after[at];
    }
    for (; at < count; at++) others += before[at] != after[at]; /* routers' biases */
    cr_assert(others == 0 && moved > 0, "%zu of the indexers' numbers moved, %zu others", moved,
              others);
    /* The column behind one module's is the indexers' loss. */
    char row[2000];
    FILE *file = fopen(w.options.csv, "r");
    while (file && fgets(row, sizeof row, file)) {
        float loss;
        char *cell = row;
        for (int i = 0; i < 10 && cell; i++) cell = strchr(cell + 1, ',');
        if (!cell || sscanf(cell, ",%f", &loss) != 1) continue;
        if (isnan(first)) first = loss;
        last = loss;
    }
    cr_assert(last < 0.5f * first && last > 0, "the indexers' loss went from %g to %g", first,
              last);
}

/* The gradients of one batch, of the text's loss and of the indexers' with these weights. */
static float *gradients(float text, float index, size_t *count) {
    World w;
    int32_t ids[2 * 16], next[2 * 16];
    sparse_world(&w, INDEXER_LEARNS, 1);
    Context *ctx = &w.ctx;
    source_batch(&w.source, 1, 0, 2, 16, ids, next);
    ctx->recording = true;
    Tensor *shown[OBJECTIVE_SHOWN], *zero = tensor_copy_in(ctx, "0", F32, &(float){0}, SHAPE(1));
    const DecoderRun run = {.position = model_position(&w.model)};
    Tensor *loss =
        mtp_training_loss(ctx, &w.model.mtp, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(2, 16)),
                          tensor_copy_in(ctx, "next", I32, next, SHAPE(2, 16)), &run,
                          &(MtpTraining){0.3f, -1}, shown);
    loss = indexers_add_losses(ctx, &w.model.indexers, text > 0 ? loss : NULL, index);
    tape_backward(ctx, add(ctx, loss, zero));
    params_finish_gradients(&w.model.params);
    *count = (size_t)w.model.params.size;
    float *all = must_alloc(*count, sizeof *all), *at = all;
    for (int turn = 0; turn < 2; turn++) /* the model's, then the indexers' */
        for (int i = 0; i < w.model.params.count; i++) {
            const Tensor *t = w.model.params.list[i];
            if (is_indexers(t) != turn) continue;
            params_get_grad(&w.model.params, t, at);
            at += tensor_count(t);
        }
    return all;
}

Test(train_sparse, each_learns_from_its_own_loss) {
    size_t n, model = 0;
    World w;
    sparse_world(&w, INDEXER_LEARNS, 1);
    for (int i = 0; i < w.model.params.count; i++)
        if (!is_indexers(w.model.params.list[i]))
            model += (size_t)tensor_count(w.model.params.list[i]);
    float *both = gradients(1, 1, &n), *text = gradients(1, 0, &n), *index = gradients(0, 1, &n);
    size_t indexers = (size_t)params_count(&w.model.params) - model, live = 0;
    cr_assert(!memcmp(both, text, model * sizeof *both), "the indexers' loss moves the model");
    cr_assert(!memcmp(both + model, index + model, indexers * sizeof *both),
              "the text's loss moves the indexers");
    for (size_t i = 0; i < indexers; i++) {
        cr_assert(text[model + i] == 0);
        live += both[model + i] != 0;
    }
    for (size_t i = 0; i < model; i++) cr_assert(index[i] == 0, "number %zu", i);
    cr_assert(live > indexers / 2, "%zu of %zu", live, indexers);
}

/* Both stages: stopped and resumed is not stopped, to the bit. */
Test(train_sparse, a_stopped_run_goes_on) {
    for (IndexerStage stage = INDEXER_WARMS_UP; stage <= INDEXER_LEARNS; stage++) {
        World whole, stopped;
        TrainResult result;
        size_t count;
        sparse_world(&whole, stage, 0);
        whole.options.schedule.steps = 8;
        check_ok(train_run(&whole.model, &whole.source, &whole.options, &result, &err), &err);
        sparse_world(&stopped, stage, 0);
        stopped.options.schedule.steps = 8;
        stopped.options.out = path_in(stopped.scratch.directory, "run");
        Alarm alarm = {stopped.source, 4 * 8, SIGTERM}; /* while step 5 reads its windows */
        TokenSource source = alarm_source(&alarm);
        check_ok(train_run(&stopped.model, &source, &stopped.options, &result, &err), &err);
        cr_assert(result.interrupted == SIGTERM && result.steps == 5);
        const char *run = stopped.options.out;
        sparse_world(&stopped, stage, 0);
        stopped.options.schedule.steps = 8;
        stopped.options.out = run, stopped.options.start = RUN_RESUME;
        check_ok(train_run(&stopped.model, &stopped.source, &stopped.options, &result, &err), &err);
        cr_assert_eq(result.resumed_from, 5);
        float *a = all_numbers(&whole.model, &count), *b = all_numbers(&stopped.model, &count);
        cr_assert(!memcmp(a, b, count * sizeof *a), "stage %d", stage);
    }
}

/* Both stages on a GPU: the losses that the CPU comes to. In BF16 the model is another one. */
CUDA_TEST(train_sparse, a_gpu_learns_what_the_cpu_learns) {
    for (IndexerStage stage = INDEXER_WARMS_UP; stage <= INDEXER_LEARNS; stage++) {
        IndexMeasures measures[2];
        TrainResult result[2];
        for (int gpu = 0; gpu < 2; gpu++) {
            World w;
            sparse_world_on(&w, gpu ? CUDA : CPU, gpu ? dtype : F32, stage, 1);
            w.options.schedule.steps = 6;
            check_ok(train_run(&w.model, &w.source, &w.options, &result[gpu], &err), &err);
            measures[gpu] = indexers_measures(&w.model.indexers, -1);
        }
        float t = dtype == BF16 ? 0.05f : 2e-3f;
        cr_assert_float_eq(measures[1].loss, measures[0].loss, t * (float)measures[0].loss);
        cr_assert_float_eq(measures[1].mass, measures[0].mass, t);
        cr_assert_float_eq(result[1].loss, result[0].loss, t * (float)result[0].loss);
    }
}

/* Nothing asked for: not even decay moves an indexer. */
Test(train_sparse, indexers_stay_as_they_are) {
    World w;
    TrainResult result;
    sparse_world(&w, INDEXER_SELECTS, 0);
    float *before[8];
    for (int i = 0, n = 0; i < w.model.params.count && n < 8; i++)
        if (is_indexers(w.model.params.list[i]))
            before[n++] = test_values(&w.ctx, w.model.params.list[i]);
    w.options.schedule.steps = 5;
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
    for (int i = 0, n = 0; i < w.model.params.count && n < 8; i++)
        if (is_indexers(w.model.params.list[i]))
            cr_assert(!memcmp(before[n++], w.model.params.list[i]->data,
                              tensor_bytes(w.model.params.list[i])),
                      "%s", w.model.params.list[i]->name);
}

/* ---- as a user does it ---- */

Test(train_sparse, from_dense_to_sparse) {
    Scratch s = scratch_open();
    const char *text = path_in(s.directory, "text.txt"), *dense = path_in(s.directory, "dense");
    const char *tiny = path_in(s.directory, "tiny"), *v32 = path_in(s.directory, "v32");
    const char *warm = path_in(s.directory, "warm"), *sparse = path_in(s.directory, "sparse");
    size_t size;
    char *words = world_text(&size);
    FILE *file = fopen(text, "wb");
    cr_assert(fwrite(words, 1, size, file) == size && fclose(file) == 0);
    ModelConfig cfg = tiny_config(0);
    cfg.rope_interleave = true, cfg.initializer_range = 0.05f;
    cfg.vocab_size = 300;
    check_ok(checkpoint_write_setup(&cfg, NULL, tiny, F32, &err), &err);
#define TRAIN                                                                                    \
    "train", "--data", text, "--batch", "4", "--context", "32", "--eval-batches", "1", "--peak", \
        "0", "--steps", "6"
    EXPECT(0, "Done after 6 steps", TRAIN, "--config", tiny, "--out", dense, "--vocab", "300");
    EXPECT(1, "`deepseek convert --add-indexer` gives it some", TRAIN, "--from", dense, "--out",
           warm, "--dsa", "warmup");
    EXPECT(1, "need a deepseek_v3 model with q_lora_rank", TRAIN, "--config", "nano", "--out", warm,
           "--dsa", "sparse");
    EXPECT(2, "are for --add-indexer", "convert", "--model", dense, "--out", v32, "--index-topk",
           "8");
    EXPECT(0, "indexers of 1 heads of 8 numbers that pick 8 tokens", "convert", "--model", dense,
           "--out", v32, "--add-indexer", "--index-topk", "8");
    EXPECT(1, "has indexers already", "convert", "--model", v32, "--out", warm, "--add-indexer");
    EXPECT(1, "--from says which", TRAIN, "--config", v32, "--out", warm, "--dsa", "warmup");
    Output o = EXPECT(0, "Done after 6 steps", TRAIN, "--from", v32, "--out", warm, "--dsa",
                      "warmup", "--index-rate", "2");
    expect(&o, 0, "learn what attention looks at, which sees all; nothing else moves");
    o = EXPECT(0, "Done after 6 steps", TRAIN, "--from", warm, "--out", sparse, "--index-loss",
               "0.5");
    expect(&o, 0, "choose what attention sees, and learn with the model");
    EXPECT(1, "--index-loss 0.5, but now it is 1", TRAIN, "--out", sparse, "--resume");
    EXPECT(0, "", "generate", "--model", sparse, "--prompt", "the cat", "--max-new-tokens", "20",
           "--cache", "fp8");
    EXPECT(0, "", "eval", "--model", sparse, "--data", text);
}
