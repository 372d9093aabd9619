/*
 * Micro-batch m of step s has the windows from (s accumulation + m) batch_size on, so batches of
 * one size and four of a quarter see the same text. The step's windows are all drawn at once, for a
 * micro-batch counts as much as it has targets of the step's; what it needs on the device is in the
 * arenas and goes with it.
 */
#include "10_full_model/train/train_step.h"

#include <stdlib.h>
#include <string.h>

/* The windows of a step [accumulation, batch_size, context_length]. */
typedef struct Windows {
    int32_t *inputs, *targets;
    int64_t counted; /* targets that are no IGNORE_TARGET */
} Windows;

static int64_t count_targets(const int32_t *targets, size_t tokens) {
    int64_t count = 0;
    for (size_t i = 0; i < tokens; i++) count += targets[i] != IGNORE_TARGET;
    return count;
}

static Windows draw_windows(const Trainer *t, int64_t step) {
    int windows = t->accumulation * t->batch_size;
    size_t tokens = (size_t)windows * (size_t)t->context_length;
    Windows w = {.inputs = must_alloc(2 * tokens, sizeof *w.inputs)};
    w.targets = w.inputs + tokens;
    source_batch(t->source, t->params->ctx->rng.seed, (uint64_t)step * (uint64_t)windows, windows,
                 t->context_length, w.inputs, w.targets);
    w.counted = count_targets(w.targets, tokens);
    return w;
}

/* Each row's tokens up to its last target: what comes behind is padding, and the mask is causal.
 * Returns the longest, at least 1. */
static int lengths_of(int32_t *lengths, const int32_t *targets, int rows, int length) {
    int longest = 1;
    for (int b = 0; b < rows; b++) {
        lengths[b] = length;
        while (lengths[b] > 1 && targets[b * length + lengths[b] - 1] == IGNORE_TARGET)
            lengths[b]--;
        if (lengths[b] > longest) longest = lengths[b];
    }
    return longest;
}

static bool are_padded(const int32_t *lengths, int rows, int width) {
    for (int b = 0; b < rows; b++)
        if (lengths[b] < width) return true;
    return false;
}

static Tensor *columns(Context *ctx, const char *name, const int32_t *ids, int rows, int length,
                       int width) {
    int32_t *some = arena_alloc(&ctx->host, (size_t)rows * (size_t)width * sizeof *some);
    for (int b = 0; b < rows; b++)
        memcpy(some + b * width, ids + b * length, (size_t)width * sizeof *some);
    return tensor_copy_in(ctx, name, I32, some, SHAPE(rows, width));
}

static MicroBatch micro_batch(const Trainer *t, const Windows *w, int m) {
    Context *ctx = t->params->ctx;
    int rows = t->batch_size, length = t->context_length;
    size_t tokens = (size_t)rows * (size_t)length, at = (size_t)m * tokens;
    int32_t *lengths = arena_alloc(&ctx->host, (size_t)rows * sizeof *lengths);
    int width = lengths_of(lengths, w->targets + at, rows, length);
    double counted = (double)count_targets(w->targets + at, tokens);
    return (MicroBatch){
        .ids = columns(ctx, "ids", w->inputs + at, rows, length, width),
        .targets = columns(ctx, "targets", w->targets + at, rows, length, width),
        .weight = w->counted ? (float)(counted * t->accumulation / (double)w->counted) : 1,
        .lengths = are_padded(lengths, rows, width) ? lengths : NULL};
}

/* A loss that is a mean over a micro-batch's targets, as the part of the step's mean that it is. */
static Tensor *weighed(Context *ctx, Tensor *loss, float weight) {
    if (weight == 1) return loss;
    return weighted_sum(ctx, loss, tensor_copy_in(ctx, "weight", F32, &weight, SHAPE(1)));
}

/* [train_step] */
void train_step(const Trainer *t, AdamW *adamw, StepReport *report) {
    Context *ctx = t->params->ctx;
    int64_t step = adamw->step;
    double total[OBJECTIVE_SHOWN] = {0};
    Windows windows = draw_windows(t, step);
    params_zero_grad(t->params);
    for (int micro = 0; micro < t->accumulation; micro++) {
        ctx->recording = true;
        MicroBatch batch = micro_batch(t, &windows, micro);
        Tensor *shown[OBJECTIVE_SHOWN];
        Tensor *loss = t->objective.loss(t->objective.self, &batch, shown);
        tape_backward(ctx, weighed(ctx, loss, batch.weight));
        for (int i = 0; i < t->objective.shown; i++) {
            float part;
            tensor_download(ctx, &part, shown[i]);
            total[i] += batch.weight * part;
        }
        context_reset(ctx);
    }
    free(windows.inputs);
    /* Were there several processes, they would add up their gradients here. */
    report->learning_rate = schedule_rate(&t->schedule, step);
    report->gradient_norm =
        adamw_step(adamw, t->params, report->learning_rate, 1.0f / t->accumulation);
    report->loss = (float)(total[0] / t->accumulation);
    for (int i = 1; i < t->objective.shown; i++)
        report->mtp_loss[i - 1] = (float)(total[i] / t->accumulation);
    report->step = step + 1;
    if (t->objective.after_step) t->objective.after_step(t->objective.self, report);
}
/* [/train_step] */
