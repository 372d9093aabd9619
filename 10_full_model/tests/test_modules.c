/*
 * Modules for multi-token prediction in the full model: their files, what is missing or too much in
 * them, and how a run trains them. What they compute, test_golden.c compares with transformers.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/weight_files.h"
#include "10_full_model/model/sizes.h"
#include "10_full_model/tests/test_world.h"
#include "common/files/files.h"

#include <math.h>
#include <stdio.h>

static Error err; /* what the last call that failed had to say */

static ModelConfig config_with(int modules) {
    ModelConfig cfg = tiny_config(19);
    cfg.num_nextn_predict_layers = modules;
    return cfg;
}

/* A folder with a model of three layers and so many modules. */
static void world_open(World *w, ModelConfig cfg) {
    world_model(w, CPU, F32, cfg, false);
    w->scratch = scratch_open();
    check_ok(
        checkpoint_save(&w->model, NULL, w->scratch.directory, &(SaveOptions){.dtype = F32}, &err),
        &err);
}

static int load(World *w, Model *model, const ModelConfig *cfg, bool training) {
    err = (Error){0};
    return checkpoint_load_model(model, &w->ctx, w->scratch.directory, cfg, training, &err);
}

static void same_weights(const Model *a, const Model *b, int count) {
    for (int i = 0; i < count; i++) {
        const Tensor *x = a->params.list[i], *y = params_find(&b->params, x->name);
        cr_assert(y && !memcmp(x->data, y->data, tensor_bytes(x)), "%s", x->name);
    }
}

/* Writes the folder's file again without the tensors whose names hold `cut`; the one called
 * `change` gets another number. */
static void rewrite(World *w, const char *cut, const char *change) {
    PathText path = file_path(w->scratch.directory, WEIGHTS_FILE);
    SafeTensors *file = safetensors_open(path.text, &err);
    cr_assert(file, "%s", err.text);
    Tensor tensors[300];
    int count = 0;
    for (int i = 0; i < safetensors_count(file); i++) {
        Tensor t = *safetensors_at(file, i);
        if (cut && strstr(t.name, cut)) continue;
        if (change && !strcmp(t.name, change)) {
            float *other = must_alloc((size_t)tensor_count(&t), sizeof *other);
            memcpy(other, t.data, tensor_bytes(&t));
            other[3] += 1;
            t.data = other;
        }
        cr_assert(count < 300);
        tensors[count++] = t;
    }
    check_ok(safetensors_write(path.text, tensors, count, NULL, 0, &err), &err);
}

/* ---- files ---- */

Test(modules, come_back_with_table_and_head_repeated) {
    for (int tied = 0; tied < 2; tied++) {
        World w;
        Model back;
        WeightFiles files;
        ModelConfig cfg = config_with(2);
        cfg.tie_word_embeddings = tied;
        world_open(&w, cfg);
        check_ok(load(&w, &back, NULL, false), &err);
        cr_assert(back.mtp.depth == 2);
        same_weights(&w.model, &back, w.model.params.count);
        check_ok(weight_files_open(&files, w.scratch.directory, &err), &err);
        static const char *const repeated[] = {
            "model.layers.3.embed_tokens.weight", "model.layers.4.embed_tokens.weight",
            "model.layers.3.shared_head.head.weight", "model.layers.4.shared_head.head.weight"};
        for (int i = 0; i < 4; i++) {
            const Tensor *t = weight_files_find(&files, repeated[i], NULL);
            const Tensor *of = i < 2 ? w.model.decoder.embed_tokens : w.model.decoder.lm_head;
            cr_assert(t && !memcmp(t->data, of->data, tensor_bytes(of)), "%s", repeated[i]);
        }
        check_ok(checkpoint_write_weights(&w.model, w.scratch.directory,
                                          &(SaveOptions){.dtype = BF16, .shard_size = 5000}, &err),
                 &err);
        check_ok(load(&w, &back, NULL, false), &err);
    }
}

Test(modules, what_is_missing_or_too_much_is_named) {
    static const struct {
        const char *cut, *change, *says;
        int counted; /* in config.json; 0: as many as there are */
    } cases[] = {
        {"layers.4.eh_proj", NULL, "model.layers.4.eh_proj.weight", 0},
        {"layers.3.mlp.experts.2.up_proj", NULL, "model.layers.3.mlp.experts.2.up_proj.weight", 0},
        {NULL, NULL, "modules for multi-token prediction up to model.layers.4", 1},
        {"layers.4.", NULL, "model.layers.4.", 0},
        {NULL, "model.layers.4.embed_tokens.weight", "differs from 'model.embed_tokens.weight'", 0},
        {NULL, "model.layers.3.shared_head.head.weight", "differs from 'lm_head.weight'", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        World w;
        Model back;
        ModelConfig cfg = config_with(2);
        world_open(&w, cfg);
        rewrite(&w, cases[i].cut, cases[i].change);
        if (cases[i].counted) cfg.num_nextn_predict_layers = cases[i].counted;
        check_ok(config_save(&cfg, NULL, w.scratch.directory, &err), &err);
        cr_assert(load(&w, &back, NULL, false) == -1, "case %zu", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu: %s", i, err.text);
    }
}

/* Files need not repeat table and head; and transformers counts modules that it did not write. */
Test(modules, may_be_counted_and_absent) {
    World w;
    Model back;
    world_open(&w, config_with(2));
    rewrite(&w, "embed_tokens.weight", NULL); /* takes the model's own too */
    cr_assert(load(&w, &back, NULL, false) == -1);
    cr_assert(strstr(err.text, "1 of the model's tensors are not in its files"), "%s", err.text);
    world_open(&w, config_with(2));
    rewrite(&w, "shared_head.head", NULL);
    check_ok(load(&w, &back, NULL, false), &err);
    world_open(&w, config_with(2));
    rewrite(&w, "layers.3.", NULL), rewrite(&w, "layers.4.", NULL);
    check_ok(load(&w, &back, NULL, false), &err);
    check_all(back.mtp.depth == 0, back.cfg.num_nextn_predict_layers == 0);
}

/* Fewer than the folder has: left out. Some where it has none, to train: begun. */
Test(modules, are_left_out_or_begun) {
    World w;
    Model back;
    ModelConfig cfg = config_with(2);
    world_open(&w, cfg);
    cfg.num_nextn_predict_layers = 1;
    check_ok(load(&w, &back, &cfg, false), &err);
    same_weights(&back, &w.model, back.params.count);
    world_open(&w, config_with(0));
    check_ok(load(&w, &back, &cfg, false), &err);
    cr_assert(back.mtp.depth == 0);
    check_ok(load(&w, &back, &cfg, true), &err);
    same_weights(&w.model, &back, w.model.params.count);
    const MtpModule *m = &back.mtp.modules[0];
    check_all(((float *)m->norm->data)[0] == 1, ((float *)m->eh_proj->data)[5] != 0);
}

/* ---- sizes ---- */

Test(modules, v3s_are_counted_beside_the_model) {
    ModelConfig cfg;
    check_ok(config_preset(&cfg, "v3", &err), &err);
    /* 671B, as the paper says; the 11.5B of DeepSeek's README leave eh_proj out */
    check_all(config_parameters(&cfg) == 671026404352,
              config_module_parameters(&cfg) == 11507307520 + 2LL * 7168 * 7168);
    Model model;
    cfg = config_with(2);
    check_ok(model_register(&model, NULL, &cfg, &err), &err);
    cr_assert(config_parameters(&cfg) + config_module_parameters(&cfg) ==
              params_count(&model.params));
}

/* ---- training ---- */

static void world_with_module(World *w, Device device, DType dtype, int modules) {
    world_init(w, device, dtype);
    ModelConfig cfg = w->model.cfg;
    cfg.num_nextn_predict_layers = modules;
    model_free(&w->model);
    check_ok(model_init(&w->model, &w->ctx, &cfg, true, &err), &err);
    w->ctx.rng.stream = 0;
    model_randomize(&w->model);
}

/* Two batches of four in a step are one of eight: every gradient, and what is shown. */
DEVICE_TEST(modules, accumulated_batches_are_one_batch) {
    StepReport reports[2];
    float *gradients[2];
    World w;
    for (int run = 0; run < 2; run++) {
        world_with_module(&w, device, dtype, 2);
        w.options.batch_size = run ? 4 : 8;
        LanguageModelObjective objective = {.model = &w.model, .mtp = {0.3f, -1}};
        Trainer trainer = {.params = &w.model.params,
                           .objective = objective_language_model(&objective),
                           .source = &w.source,
                           .schedule = {.steps = 1},
                           .context_length = 16};
        check_ok(step_cut(&trainer.cut, &w.ctx, w.options.batch_size, run ? 2 : 1, false, &err),
                 &err);
        AdamW adamw = adamw_defaults();
        train_step(&trainer, &adamw, &reports[run]);
        gradients[run] = test_weight_gradient(&w.model.params, w.model.decoder.embed_tokens);
        for (int64_t i = 0; run && i < tensor_count(w.model.decoder.embed_tokens); i++)
            gradients[run][i] /= 2;
    }
    /* Sums in another order; in BF16 each micro-batch rounds the numbers in between. */
    double tolerance = dtype == BF16 ? 2e-2 : 2e-5;
    check_close("gradient", gradients[1], gradients[0], tensor_count(w.model.decoder.embed_tokens),
                tolerance);
    check_close("losses", reports[1].mtp_loss, reports[0].mtp_loss, 2, tolerance);
    check_all(reports[0].mtp_loss[0] > 1, reports[0].mtp_loss[0] != reports[0].mtp_loss[1]);
}

/* A stopped run goes on to the same bits, modules and their columns included. */
DEVICE_TEST(modules, resume_to_the_same_bits) {
    Scratch whole = scratch_open(), parts = scratch_open();
    for (int run = 0; run < 3; run++) {
        World w;
        world_with_module(&w, device, dtype, 1);
        TrainOptions *o = &w.options;
        o->schedule = (Schedule){.steps = 8, .constant = 8, .peak = 1e-2f};
        o->eval_interval = 4, o->bias_speed = 0.01f, o->dropout = 0.1f;
        o->out = run ? parts.directory : whole.directory;
        o->tokenizer = w.tokenizer;
        o->csv = path_in(o->out, "metrics.csv");
        o->start = RUN_RESUME;
        Alarm alarm = {w.source, run == 1 ? 8 * 3 : 0, SIGINT};
        TokenSource source = alarm_source(&alarm);
        TrainResult result;
        check_ok(train_run(&w.model, &source, o, &result, &err), &err);
        cr_assert((result.interrupted != 0) == (run == 1));
    }
    same_bytes(whole.directory, parts.directory, "last/training.safetensors");
    same_bytes(whole.directory, parts.directory, "last/model.safetensors");
    size_t bytes;
    char *csv = file_text(path_in(parts.directory, "metrics.csv"), &bytes);
    cr_assert(strstr(csv, "idle_experts,mtp_loss_1\n1,"));
}

/* A window too short for the deepest module. */
Test(modules, need_windows_that_reach) {
    World w;
    TrainResult result;
    world_with_module(&w, CPU, F32, 2);
    w.options.context_length = 2;
    cr_assert(train_run(&w.model, &w.source, &w.options, &result, &err) == -1);
    cr_assert(strstr(err.text, "a window of 2 tokens holds no target for module 2"), "%s",
              err.text);
}

/* Each module costs its weights, a layer's attention, and the head again. */
Test(modules, operations_are_counted) {
    ModelConfig cfg = config_with(0);
    Model without, with;
    check_ok(model_register(&without, NULL, &cfg, &err), &err);
    cfg.num_nextn_predict_layers = 1;
    check_ok(model_register(&with, NULL, &cfg, &err), &err);
    BlockConfig block = config_block(&cfg);
    double more =
        2.0 * (double)(block_active_parameters(&block, 3) + 2 * 12 * 12 + 3 * 12 + 19 * 12) +
        16 * (5 + 4 + 6) * 3;
    cr_assert_float_eq(metrics_flop_per_token(&with, 16) - metrics_flop_per_token(&without, 16),
                       more, 1e-6 * more);
}
