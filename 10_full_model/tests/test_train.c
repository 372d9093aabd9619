/*
 * Training: what it learns and saves, how a step is put together, and when it stops.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/generate/generate.h"
#include "10_full_model/tests/test_world.h"
#include "common/files/files.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <unistd.h>

DEVICE_TEST(train, learns_a_repeated_text) {
    World w;
    world_init(&w, device, dtype);
    float before = train_validation_loss(&w.model, &w.source, 8, 8, 16);
    TrainResult result;
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
    float guess = logf((float)w.model.cfg.vocab_size);
    cr_assert(fabsf(before - guess) < 0.5f, "untrained: %g, guessing %g", before, guess);
    /* What the model sees fits one sentence; a bigram model, which knows only the last token, would
     * stay at the entropy of what follows it. */
    cr_assert(result.validation_loss < 0.3f * before, "%g before, %g after", before,
              result.validation_loss);
}

/* Two runs from the same seed end in the same bits; one with four threads too. */
Test(train, is_reproducible) {
    float *weights[2];
    int64_t count = 0;
    for (int run = 0; run < 2; run++) {
        omp_set_num_threads(run ? 4 : 1);
        World w;
        world_init(&w, CPU, F32);
        TrainResult result;
        w.options.schedule.steps = 10;
        check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
        count = tensor_count(w.model.decoder.embed_tokens);
        weights[run] = test_values(&w.ctx, w.model.decoder.embed_tokens);
    }
    cr_assert(!memcmp(weights[0], weights[1], (size_t)count * sizeof(float)));
}

/* Four micro-batches of two are one batch of eight. */
DEVICE_TEST(train, accumulated_gradients_are_those_of_the_large_batch) {
    float *weights[2];
    int64_t count = 0;
    for (int run = 0; run < 2; run++) {
        World w;
        world_init(&w, device, dtype);
        TrainResult result;
        w.options.schedule.steps = 3;
        w.options.schedule.warmup = 0;
        w.options.batch_size = run ? 2 : 8;
        w.options.accumulation = run ? 4 : 1;
        check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
        count = tensor_count(w.model.decoder.embed_tokens);
        weights[run] = malloc((size_t)count * sizeof(float));
        params_get(&w.model.params, w.model.decoder.embed_tokens, weights[run]);
    }
    /*
     * AdamW divides by the gradient's own size, so where a gradient is nearly zero its rounding
     * decides the sign of a step of lr = 1e-2 in weights of 0.05: the sums differ by rounding, a
     * few such weights by steps.
     */
    check_close("weights after 3 steps", weights[1], weights[0], count, dtype == BF16 ? 0.1 : 5e-3);
}

typedef struct Text {
    char bytes[4096];
    size_t count;
} Text;

static void collect(void *user, const char *text, size_t bytes) {
    Text *t = user;
    cr_assert(t->count + bytes < sizeof t->bytes);
    memcpy(t->bytes + t->count, text, bytes);
    t->count += bytes;
}

/* The saved model, loaded, writes what the trained one writes. */
DEVICE_TEST(train, what_it_saves_has_learned_the_same) {
    World w;
    world_init(&w, device, dtype);
    Scratch scratch = scratch_open();
    const char *folder = scratch.directory;
    w.options.out = folder;
    w.options.tokenizer = w.tokenizer;
    TrainResult result;
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);

    Model loaded;
    Tokenizer *tokenizer;
    check_ok(checkpoint_load(&loaded, &tokenizer, &w.ctx, folder, &err), &err);
    Text texts[2] = {0};
    GenerateResult g;
    GenerateOptions greedy = {.max_new_tokens = 20, .emit = collect, .user = &texts[0]};
    check_ok(generate(&w.model, w.tokenizer, "the cat", &greedy, &g, &err), &err);
    greedy.user = &texts[1];
    check_ok(generate(&loaded, tokenizer, "the cat", &greedy, &g, &err), &err);
    cr_assert(texts[0].count > 0 && !strcmp(texts[0].bytes, texts[1].bytes), "'%s' and '%s'",
              texts[0].bytes, texts[1].bytes);
    cr_assert(!strncmp(texts[1].bytes, " sat", 4), "it learned: '%s'", texts[1].bytes);
}

/* A learning rate that no training survives. */
Test(train, a_loss_that_is_not_finite_stops_and_keeps_what_was_saved) {
    World w;
    world_init(&w, CPU, F32);
    Scratch scratch = scratch_open();
    const char *folder = scratch.directory;
    char path[1024];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    check_ok(checkpoint_write_setup(&w.model.cfg, w.tokenizer, folder, F32, &err), &err);
    check_ok(checkpoint_write_weights(&w.model, folder, &(SaveOptions){.dtype = F32}, &err), &err);
    float first = tensor_get(w.model.decoder.embed_tokens, 0);
    w.options.out = folder;
    w.options.start = RUN_OVERWRITE;
    w.options.schedule.peak = 1e30f;
    w.options.schedule.warmup = 0;
    TrainResult result;
    cr_assert(train_run(&w.model, &w.source, &w.options, &result, &err) == -1,
              "training must stop");
    cr_assert(strstr(err.text, "step ") && strstr(err.text, "learning-rate"), "%s", err.text);
    SafeTensors *file = safetensors_open(path, &err);
    cr_assert(file, "%s", err.text);
    const Tensor *t = safetensors_find(file, "model.embed_tokens.weight");
    cr_assert(t && tensor_get(t, 0) == first, "the weights on disk changed");
}

/* Weights so large that the loss overflows after one step: nothing of it may be saved. */
Test(train, weights_with_a_loss_that_is_not_finite_are_not_saved) {
    World w;
    world_init(&w, CPU, F32);
    Scratch scratch = scratch_open();
    char path[1024];
    snprintf(path, sizeof path, "%s/model.safetensors", scratch.directory);
    w.options.out = scratch.directory;
    w.options.tokenizer = w.tokenizer;
    w.options.schedule.peak = 1e13f;
    w.options.schedule.warmup = 0;
    w.options.eval_interval = 1;
    TrainResult result;
    cr_assert(train_run(&w.model, &w.source, &w.options, &result, &err) == -1,
              "training must stop");
    cr_assert(access(path, F_OK) != 0, "weights without a finite loss were saved");
}

/* An objective of one's own: it asks a teacher that is not recorded, and counts its calls. */
typedef struct Own {
    Model *model;
    int losses, steps;
} Own;

static Tensor *own_loss(void *self, const MicroBatch *micro, Tensor **shown) {
    Own *own = self;
    own->model->ctx->recording = false;
    model_forward(own->model, micro->ids, NULL);
    own->model->ctx->recording = true;
    own->losses++;
    return *shown = model_loss(own->model, micro->ids, micro->targets);
}

static void own_after_step(void *self, StepReport *report) {
    cr_assert_eq(report->step, ++((Own *)self)->steps);
    cr_assert(report->gradient_norm > 0, "%g", report->gradient_norm);
}

/* With nothing for the routers, the language model's objective is the cross entropy alone; and a
 * run is nothing but such steps. */
DEVICE_TEST(train, a_step_takes_any_objective) {
    float *weights[2];
    int64_t count = 0;
    for (int run = 0; run < 2; run++) {
        World w;
        world_init(&w, device, dtype);
        Error err = {0};
        TrainOptions *o = &w.options;
        o->schedule = (Schedule){.steps = 3, .peak = 1e-2f};
        o->accumulation = 2;
        o->balance_alpha = o->bias_speed = 0;
        Own own = {.model = &w.model};
        Trainer trainer = {.params = &w.model.params,
                           .objective = {&own, 1, own_loss, own_after_step},
                           .source = &w.source,
                           .schedule = o->schedule,
                           .context_length = o->context_length};
        check_ok(step_cut(&trainer.cut, &w.ctx, o->batch_size, 2, false, &err), &err);
        AdamW adamw = o->adamw;
        StepReport report;
        TrainResult result;
        if (run) check_ok(train_run(&w.model, &w.source, o, &result, &err), &err);
        for (int i = 0; !run && i < 3; i++) train_step(&trainer, &adamw, &report);
        cr_assert(run || (own.losses == 6 && own.steps == 3 && adamw.step == 3));
        count = tensor_count(w.model.decoder.embed_tokens);
        weights[run] = malloc((size_t)count * sizeof(float));
        params_get(&w.model.params, w.model.decoder.embed_tokens, weights[run]);
    }
    cr_assert(!memcmp(weights[0], weights[1], (size_t)count * sizeof(float)));
}

/* Settings of a step are looked at before it, and leave the model's own alone. */
Test(train, settings_of_the_step_are_checked_and_stay_there) {
    World w;
    world_init(&w, CPU, F32);
    TrainResult result;
    BlockConfig before = w.model.decoder.cfg.block;
    w.options.schedule.steps = 1;
    w.options.dropout = 1;
    cr_assert_eq(train_run(&w.model, &w.source, &w.options, &result, &err), -1);
    cr_assert(strstr(err.text, "dropout"), "%s", err.text);
    w.options.dropout = 0.5f;
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
    cr_assert(!memcmp(&before, &w.model.decoder.cfg.block, sizeof before));
}

/* Counted from the weights that are there, as config.c counts without any. */
Test(train, operations_of_a_token) {
    for (int tied = 0; tied < 2; tied++) {
        Context ctx = test_context(CPU, F32);
        ModelConfig cfg = tiny_config(300);
        cfg.tie_word_embeddings = tied;
        Model model;
        Error err = {0};
        check_ok(model_init(&model, &ctx, &cfg, false, &err), &err);
        double attention = 10 * (5 + 4 + 6) * 3 * 3; /* half of 10 tokens, 3 heads, 3 layers */
        cr_assert(metrics_flop_per_token(&model, 10) ==
                  2.0 * (double)config_active_parameters(&cfg) + attention);
    }
}

/* A sparse model of 3 indexer heads of 16 numbers that pick 4 of 10 tokens: a query sees 5 of them
 * on average, and reads 4 but for the first four, which read 2. While they warm up, attention sees
 * all.
 */
Test(train, operations_of_a_sparse_token) {
    for (IndexerStage stage = INDEXER_SELECTS; stage <= INDEXER_LEARNS; stage++) {
        Context ctx = test_context(CPU, F32);
        ModelConfig cfg = tiny_sparse_config(tiny_config(300));
        cfg.index_topk = 4;
        Model model;
        Error err = {0};
        check_ok(model_register(&model, &ctx, &cfg, &err), &err);
        indexers_train(&model.indexers, &model.params, stage, 1);
        check_ok(model_allocate(&model, true, &err), &err);
        double read = stage == INDEXER_WARMS_UP ? 5 : (4 * 2 + 6 * 4) / 10.0;
        double attention = 2 * read * (5 + 4 + 6) * 3 * 3 + 2 * 5.0 * 3 * 16 * 3;
        cr_assert_float_eq(metrics_flop_per_token(&model, 10),
                           2.0 * (double)config_active_parameters(&cfg) + attention, 1e-6);
    }
}

/* Shares and loads that can be worked out by hand; gaps where nothing was measured. */
Test(train, metrics) {
    World w;
    world_init(&w, CPU, F32);
    Scratch scratch = scratch_open();
    int32_t *load = w.model.decoder.layers[1].moe.load->data;
    memcpy(load, (int32_t[6]){10, 20, 0, 10, 10, 10}, 6 * sizeof *load); /* the mean is 10 */
    ExpertLoad measured = metrics_expert_load(&w.model);
    cr_assert(measured.max_vio == 1 && measured.idle == 1, "%g, %d", measured.max_vio,
              measured.idle);
    double flop = 3 * metrics_flop_per_token(&w.model, 16);
    Metrics metrics;
    const char *path = scratch_path(&scratch, "m.csv");
    check_ok(metrics_open(&metrics, path, &w.model, 16, 0, 2000 * flop, &err), &err);
    StepReport report = {.step = 1,
                         .loss = 2.5f,
                         .validation_loss = NAN,
                         .learning_rate = 0.25f,
                         .gradient_norm = 1,
                         .tokens_per_second = 1000,
                         .load = measured};
    metrics_row(&metrics, &report);
    check_ok(metrics_close(&metrics, &err), &err);
    MappedFile file;
    check_ok(file_map(&file, path, &err), &err);
    const char *row = "\n1,2.50000,,0.25,1.0000,1000,0.5000,1.000,1\n";
    cr_assert(file.size > strlen(row) &&
                  !memcmp(file.data + file.size - strlen(row), row, strlen(row)),
              "%.*s", (int)file.size, file.data);
    file_unmap(&file);
}
