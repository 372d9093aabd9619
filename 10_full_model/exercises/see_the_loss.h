/*
 * Exercises 10.19 to 10.21 change the model, and look at what becomes of its loss.
 *
 * For their checks: the small world of this chapter's tests, one sentence over and over, trained
 * for LOSS_STEPS steps, after which what can be known of it is known: what is left is that a window
 * may begin anywhere. Two runs differ by what was changed and by nothing else; the seed alone moves
 * their losses by some thousandths, so a difference below LOSS_LUCK is none.
 */
#ifndef SEE_THE_LOSS_H
#define SEE_THE_LOSS_H

#include "10_full_model/tests/test_world.h"

#include <math.h>
#include <omp.h>

enum { LOSS_STEPS = 250 };
#define LOSS_LUCK 0.02

/* The world's own model: two layers, of which the second has six experts; a token takes two. */
static inline ModelConfig loss_config(void) {
    World w;
    world_init(&w, CPU, F32);
    return w.model.cfg;
}

/* The loss over the last tenth of the steps. selection: of every layer; NULL: none. */
static inline double loss_after(ModelConfig cfg, const Selection *selection) {
    World w;
    Model model;
    Error err = {0};
    TrainResult result;
    omp_set_num_threads(1); /* small steps: waking another thread takes longer than they */
    world_init(&w, CPU, F32);
    check_ok(model_init(&model, &w.ctx, &cfg, true, &err), &err);
    model_randomize(&model);
    for (int i = 0; i < cfg.num_hidden_layers; i++) model.decoder.layers[i].selection = selection;
    w.options.schedule = (Schedule){.steps = LOSS_STEPS, .warmup = 5, .peak = 1e-2f};
    w.options.eval_interval = LOSS_STEPS;
    check_ok(train_run(&model, &w.source, &w.options, &result, &err), &err);
    return (double)result.loss;
}

/* The learner's answer (1 lower, 2 the same, 3 higher) against what was measured. */
static inline void check_verdict(int verdict, double before, double after) {
    int truth = fabs(after - before) < LOSS_LUCK ? 2 : after < before ? 1 : 3;
    cr_assert(verdict == truth,
              "after %d steps the loss is %.3f with the change and %.3f without it; verdict is %d",
              LOSS_STEPS, after, before, verdict);
}

#endif
