/*
 * What the parts of the demo share: a small model, questions to learn from and questions held out.
 */
#ifndef GRPO_DEMO_H
#define GRPO_DEMO_H

#include "09_grpo/grpo.h"
#include "09_grpo/rewards/tasks.h"
#include "common/program/options.h"

#define DEMO_OUT "09_grpo/figures/out/"

enum { DEMO_HELD_OUT = 256, DEMO_TEACHING = 64 }; /* questions to judge by; examples in a step */

typedef struct DemoOptions {
    CommonOptions common;
    const char *task, *rewards;
    int digits, layers, hidden, steps;
    bool reversed;
    double stop_at, teaching_lr, lr;
} DemoOptions;

/* Questions of one part of a task. */
typedef struct DemoSource {
    TaskConfig task;
    bool held_out;
} DemoSource;

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    Params params, frozen;
    Decoder decoder, reference; /* the reference: as the teacher left it; where beta is not 0 */
    AdamW adamw;
    GrpoConfig cfg;
    DemoSource train, held_out;
    Rollouts judge; /* DEMO_HELD_OUT questions, answered once */
    int64_t taught; /* examples */
} Demo;

/* The source of its questions for GRPO. */
GrpoSource demo_source(DemoSource *source);

/* The model with its first numbers, the task, and how long prompts and answers get. -1 and a
 * message. */
int demo_open(Demo *d, Error *err);

/* The share of held-out questions that the likeliest answer gets right, whatever is paid for. */
double demo_accuracy(Demo *d);

/* Supervised training on examples, until demo_accuracy() is options.stop_at or `most` steps are
 * over; returns that accuracy. -1 and a message in err when the loss is no number any more. */
double demo_teach(Demo *d, int most, Error *err);

/* The model as it is now becomes the reference. -1 and a message. */
int demo_freeze(Demo *d, Error *err);

/* ---- beside its own run ---- */

typedef struct DemoCurve {
    double *step, *accuracy;
    int count;
    double last;
} DemoCurve;

/* A few points of the curve, and beside them the lowest and highest of the seeds that
 * DEMO_SEEDS holds of the same step, with the plain settings. Without that file: nothing. */
#define DEMO_SEEDS "09_grpo/figures/seeds.csv"
void demo_beside(const DemoCurve *curve);

#endif
