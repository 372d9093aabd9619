/*
 * Micro-batch m of `all` of step s has the windows from (s all + m) windows on, so batches of one
 * size and four of a quarter see the same text, and so do one rank and four. The step's windows are
 * all drawn at once, and by every rank, for a micro-batch counts as much as it has targets of the
 * step's; what it needs on the device is in the arenas and goes with it.
 *
 * All micro-batches use the same streams of random numbers, and their samples are told apart by
 * their numbers in the step (rng.h).
 */
#include "10_full_model/train/train_step.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- how a step is cut ---- */

static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

/* Ranks share micro-batches where their number allows it, and else the windows of each. */
static bool cut_evenly(StepCut *cut, int batch_size, int accumulation, int ranks) {
    int shared = gcd(accumulation, ranks), parts = ranks / shared;
    *cut = (StepCut){batch_size / parts, accumulation * parts, accumulation / shared, 0};
    return batch_size % parts == 0;
}

/* As few micro-batches to a slot as a batch_size allows. */
static bool cut_slots(StepCut *cut, int batch_size, int accumulation, int ranks) {
    int64_t windows = (int64_t)batch_size * accumulation;
    if (windows % RANKS_SLOTS || RANKS_SLOTS % ranks) return false;
    int slot = (int)(windows / RANKS_SLOTS), each = 1;
    while (slot % each || slot / each > batch_size) each++;
    *cut = (StepCut){slot / each, RANKS_SLOTS * each, RANKS_SLOTS / ranks * each, 0};
    return true;
}

int step_cut_for(StepCut *cut, int batch_size, int accumulation, int ranks, bool slots,
                 Error *err) {
    bool (*way)(StepCut *, int, int, int) = slots ? cut_slots : cut_evenly;
    int batch = batch_size, fewer = ranks;
    if (way(cut, batch_size, accumulation, ranks)) return 0;
    if (slots && RANKS_SLOTS % ranks)
        return error_set(err, "--deterministic is for 1, 2, 4 or 8 ranks, not %d", ranks);
    StepCut other;
    while (!way(&other, batch, accumulation, ranks)) batch++;
    while (!slots && !way(&other, batch_size, accumulation, fewer)) fewer--;
    char others[80] = "";
    if (!slots && fewer > 1) snprintf(others, sizeof others, ", or %d ranks", fewer);
    return error_set(err,
                     "a step of --batch %d x --accumulate %d windows cannot be shared evenly by %d "
                     "%s; --batch %d could%s",
                     batch_size, accumulation, slots ? RANKS_SLOTS : ranks,
                     slots ? "slots (--deterministic)" : "ranks", batch, others);
}

int step_cut(StepCut *cut, const Context *ctx, int batch_size, int accumulation, bool slots,
             Error *err) {
    if (step_cut_for(cut, batch_size, accumulation, comm_size(ctx->comm), slots, err)) return -1;
    cut->first = comm_rank(ctx->comm) * cut->count;
    return 0;
}

/* ---- windows ---- */

/* The windows of a step [all * windows, context_length]. */
typedef struct Windows {
    int32_t *inputs, *targets;
    int64_t counted; /* targets that are no IGNORE_TARGET */
    bool padded;     /* some window is, so tapes may differ */
} Windows;

static int64_t count_targets(const int32_t *targets, size_t tokens) {
    int64_t count = 0;
    for (size_t i = 0; i < tokens; i++) count += targets[i] != IGNORE_TARGET;
    return count;
}

static Windows draw_windows(const Trainer *t, int64_t step) {
    int windows = t->cut.all * t->cut.windows, length = t->context_length;
    size_t tokens = (size_t)windows * (size_t)length;
    Windows w = {.inputs = must_alloc(2 * tokens, sizeof *w.inputs)};
    w.targets = w.inputs + tokens;
    source_batch(t->source, t->params->ctx->rng.seed, (uint64_t)step * (uint64_t)windows, windows,
                 length, w.inputs, w.targets);
    w.counted = count_targets(w.targets, tokens);
    for (size_t end = (size_t)length; end <= tokens; end += (size_t)length)
        w.padded = w.padded || w.targets[end - 1] == IGNORE_TARGET;
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

/* Number m of the step's. */
static MicroBatch micro_batch(const Trainer *t, const Windows *w, int m) {
    Context *ctx = t->params->ctx;
    int rows = t->cut.windows, length = t->context_length;
    size_t tokens = (size_t)rows * (size_t)length, at = (size_t)m * tokens;
    int32_t *lengths = arena_alloc(&ctx->host, (size_t)rows * sizeof *lengths);
    int width = lengths_of(lengths, w->targets + at, rows, length);
    double counted = (double)count_targets(w->targets + at, tokens);
    return (MicroBatch){.ids = columns(ctx, "ids", w->inputs + at, rows, length, width),
                        .targets = columns(ctx, "targets", w->targets + at, rows, length, width),
                        .weight =
                            w->counted ? (float)(counted * t->cut.all / (double)w->counted) : 1,
                        .lengths = are_padded(lengths, rows, width) ? lengths : NULL};
}

/* A loss that is a mean over a micro-batch's targets, as the part of the step's mean that it is. */
static Tensor *weighed(Context *ctx, Tensor *loss, float weight) {
    if (weight == 1) return loss;
    return weighted_sum(ctx, loss, tensor_copy_in(ctx, "weight", F32, &weight, SHAPE(1)));
}

/* Each micro-batch's numbers for the log, from their ranks, added in the order of the step. */
static void add_shown(const Trainer *t, const double *mine, double total[OBJECTIVE_SHOWN]) {
    size_t row = (size_t)t->objective.shown, bytes = (size_t)t->cut.count * row * sizeof *mine;
    double *all = must_alloc((size_t)t->cut.all * row, sizeof *all);
    comm_gather_host(t->params->ctx->comm, all, mine, bytes);
    for (int m = 0; m < t->cut.all; m++)
        for (size_t i = 0; i < row; i++) total[i] += all[(size_t)m * row + i];
    for (size_t i = 0; i < row; i++) total[i] /= t->cut.all;
    free(all);
}

/* Its forward and backward pass; shown: its numbers for the log. */
static void learn_from(const Trainer *t, const Windows *windows, int micro, double *shown) {
    Context *ctx = t->params->ctx;
    ctx->recording = true;
    ctx->rng.sample = (uint64_t)(t->cut.first + micro) * (uint64_t)t->cut.windows;
    MicroBatch batch = micro_batch(t, windows, t->cut.first + micro);
    Tensor *parts[OBJECTIVE_SHOWN];
    Tensor *loss = t->objective.loss(t->objective.self, &batch, parts);
    loss = weighed(ctx, loss, batch.weight);
    ranks_before_backward(t->ranks, micro, t->cut.count, windows->padded);
    tape_backward(ctx, loss);
    ranks_after_backward(t->ranks, micro, t->cut.count);
    for (int i = 0; i < t->objective.shown; i++) {
        float part;
        tensor_download(ctx, &part, parts[i]);
        shown[i] = batch.weight * part;
    }
    ctx->rng.sample = 0;
    context_reset(ctx);
}

void train_step(const Trainer *t, AdamW *adamw, StepReport *report) {
    Context *ctx = t->params->ctx;
    int64_t step = adamw->step;
    uint64_t stream = ctx->rng.stream;
    double total[OBJECTIVE_SHOWN] = {0};
    double *shown = must_alloc((size_t)(t->cut.count * t->objective.shown), sizeof *shown);
    Windows windows = draw_windows(t, step);
    params_zero_grad(t->params);
    for (int micro = 0; micro < t->cut.count; micro++) {
        ctx->rng.stream = stream;
        learn_from(t, &windows, micro, shown + micro * t->objective.shown);
    }
    report->learning_rate = schedule_rate(&t->schedule, step);
    report->gradient_norm = ranks_adamw_step(t->ranks, adamw, t->params, report->learning_rate,
                                             1.0f / (float)t->cut.all);
    add_shown(t, shown, total);
    report->loss = (float)total[0];
    for (int i = 1; i < t->objective.shown; i++) report->mtp_loss[i - 1] = (float)total[i];
    report->step = step + 1;
    if (t->objective.after_step) t->objective.after_step(t->objective.self, report);
    free(windows.inputs);
    free(shown);
}
