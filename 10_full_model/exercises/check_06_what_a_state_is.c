/*
 * Exercise 10.6's check. It trains twelve steps in one piece, and again for each item with a stop
 * after the sixth, at which that item is lost; then it compares the weights bit by bit.
 */
#include "10_full_model/exercises/06_what_a_state_is.h"
#include "10_full_model/tests/test_world.h"

#include <math.h>
#include <stdio.h>

static void world_for_resuming(World *w, const char *out) {
    world_init(w, CPU, F32);
    w->options.schedule = (Schedule){.steps = 12, .warmup = 2, .peak = 1e-2f};
    w->options.eval_interval = 6;
    w->options.dropout = 0.2f;
    w->options.bias_speed = 0.05f; /* fast, so that the bias decides something within six steps */
    w->options.out = out;
}

static void lose(Item item, Model *model, TrainingState *state) {
    Params *params = &model->params;
    size_t bytes = (size_t)params->size * sizeof(float);
    switch (item) {
    case WEIGHTS:
        model_randomize(model);
        break;
    case FIRST_MOMENTS:
        memset(params->m, 0, bytes);
        break;
    case SECOND_MOMENTS:
        memset(params->v, 0, bytes);
        break;
    case GRADIENTS:
        memset(params->grads, 0, bytes);
        break;
    case ROUTER_BIAS:
        params_fill(params, model->decoder.layers[1].moe.router.bias, 0);
        break;
    case ROUTER_LOAD:
        memset(model->decoder.layers[1].moe.load->data, 0,
               tensor_bytes(model->decoder.layers[1].moe.load));
        break;
    case RANDOM_STREAM:
        model->ctx->rng.stream = 0;
        break;
    default:
        state->best_validation_loss = INFINITY;
    }
}

/* The weights after twelve steps; after the sixth the run is stopped and loses `item` (ITEMS:
 * nothing). */
static float *weights_without(int item, size_t *bytes) {
    Scratch scratch = scratch_open();
    Error err = {0};
    TrainResult result;
    World w;
    world_for_resuming(&w, scratch.directory);
    Alarm alarm = {w.source, 5 * (uint64_t)w.options.batch_size, SIGINT};
    TokenSource source = alarm_source(&alarm);
    check_ok(train_run(&w.model, &source, &w.options, &result, &err), &err);
    cr_assert(result.steps == 6);

    world_for_resuming(&w, scratch.directory);
    Settings settings = train_settings(&w.model, &w.source, &w.options);
    TrainingState state = {.adamw = w.options.adamw, .schedule = w.options.schedule};
    char last[200];
    snprintf(last, sizeof last, "%s/last", scratch.directory);
    check_ok(training_state_load(&w.model, &state, &settings, last, &err), &err);
    if (item < ITEMS) lose((Item)item, &w.model, &state);
    check_ok(training_state_save(&w.model, &state, &settings, last, &err), &err);

    world_for_resuming(&w, scratch.directory);
    w.options.start = RUN_RESUME;
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
    cr_assert(result.steps == 12 && result.resumed_from == 6);
    *bytes = (size_t)w.model.params.size * sizeof(float);
    float *weights = malloc(*bytes);
    memcpy(weights, w.model.params.values, *bytes);
    return weights;
}

Test(state, what_matters) {
    static const char *const names[ITEMS] = {"WEIGHTS",       "FIRST_MOMENTS", "SECOND_MOMENTS",
                                             "GRADIENTS",     "ROUTER_BIAS",   "ROUTER_LOAD",
                                             "RANDOM_STREAM", "BEST_LOSS"};
    size_t bytes;
    float *whole = weights_without(ITEMS, &bytes);
    for (int item = 0; item < ITEMS; item++) {
        float *without = weights_without(item, &bytes);
        bool differ = memcmp(whole, without, bytes) != 0;
        cr_assert(differ == matters[item], "without %s the weights are %s", names[item],
                  differ ? "others" : "the same");
        free(without);
    }
    free(whole);
}
