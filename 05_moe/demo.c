/*
 * The demo: counts what a layer of experts holds and what a token uses, trains a small model twice,
 * left alone and balanced, and looks at what each expert has come to see.
 */
#include "05_moe/decoder.h"
#include "05_moe/parameter_table.h"
#include "05_moe/specialty.h"

#include "03_multihead/charmodel.h"
#include "03_multihead/chartext.h"
#include "common/core/ops.h"
#include "common/core/optimizer.h"
#include "common/files/csv.h"
#include "common/files/machine.h"
#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT "05_moe/figures/out/"

enum { BATCH = 24, HIDDEN = 64, CONTEXT = 48, HEADS = 4, WINDOWS = 50 };
enum { MAX_EXPERTS = SPECIALTY_MAX_EXPERTS };
static const float PEAK_LR = 1e-2f;

/* ---- command line ---- */

typedef enum Balance { LEFT_ALONE, BY_BIAS, BY_AUX, BY_SEQUENCE, BY_VARIATION } Balance;
static const char *const balance_names[] = {"none", "bias", "aux", "seq", "cv", NULL};

typedef struct DemoOptions {
    CommonOptions common;
    const char *text;
    int steps, layers, experts, top_k, shared, width;
    GateKind gate;
    ScoringFunc scoring;
    Balance balance;
    double gamma, alpha;
} DemoOptions;

/* ---- what the steps of the demo share ---- */

/* What one run left behind, about the last layer's experts. */
typedef struct Run {
    Balance balance;
    const char *name;
    double share[WINDOWS][MAX_EXPERTS]; /* of the choices, in each window of steps */
    int windows;
    float validation_loss;
    BalanceMeasures measures; /* of the last window */
    Specialty specialty;      /* on validation text */
} Run;

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    CharText text;
    Alphabet alphabet;
    int32_t *ids;         /* the whole text */
    int64_t train, count; /* characters to learn from, and all; the rest is for validation */
    DecoderConfig cfg;
    Run runs[2];
} Demo;

/* ---- 1. parameters ---- */

static void count_parameters(const Demo *d) {
    const MoeConfig *mine = &d->cfg.block.moe;
    int inner = mine->moe_intermediate_size, k = mine->router.num_experts_per_tok;
    printf("1. What is stored, and what a token is multiplied with\n");
    parameter_table(mine);
    printf("   Here: x [%d, %d, %d] -> %d tokens, %d choices -> rows sorted by expert [%d, %d]\n",
           BATCH, CONTEXT, HIDDEN, BATCH * CONTEXT, BATCH * CONTEXT * k, BATCH * CONTEXT * k,
           HIDDEN);
    printf("   -> each expert's own SwiGLU [%d -> %d -> %d] -> weighted, back in order -> [%d, %d, "
           "%d]\n\n",
           HIDDEN, inner, HIDDEN, BATCH, CONTEXT, HIDDEN);
}

/* ---- 2. text and settings ---- */

static int read_text(Demo *d, Error *err) {
    char number[32];
    if (chartext_load(&d->text, d->options.text, 40 * CONTEXT, err)) return -1;
    d->alphabet = alphabet_of(d->text.data, d->text.size);
    d->count = (int64_t)d->text.size;
    d->train = d->count - d->count / 20;
    d->ids = alphabet_encode(&d->alphabet, d->text.data, d->text.size);
    printf("2. Text\n   %s: %s characters, %d different ones. The last 5 %% are kept for "
           "validation.\n\n",
           d->text.source, format_count(number, sizeof number, d->count), d->alphabet.size);
    return 0;
}

static int make_config(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    int inner = o->width / o->experts;
    if (inner < 1)
        return error_set(err, "--width %d is not enough for %d experts", o->width, o->experts);
    MoeConfig moe = moe_config(HIDDEN, inner, o->experts, o->top_k);
    moe.router.scoring_func = o->scoring;
    moe.router.gate_kind = o->gate;
    moe.router.temperature = 0.1f;
    moe.n_shared_experts = o->shared;
    d->cfg = (DecoderConfig){.places = CONTEXT, .num_hidden_layers = o->layers};
    d->cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                                 .intermediate_size = 2 * HIDDEN,
                                 .rms_norm_eps = 1e-6f,
                                 .multihead = {HIDDEN, HEADS, HEADS, HIDDEN / HEADS, false},
                                 .first_k_dense_replace = 1,
                                 .moe = moe};
    return block_check(&d->cfg.block, err);
}

/* What a way of balancing changes in the model: bias needs noaux_tc, the others must not have
 * it. */
static DecoderConfig config_of(const Demo *d, Balance balance) {
    DecoderConfig cfg = d->cfg;
    cfg.vocab_size = d->alphabet.size;
    cfg.block.moe.router.topk_method = balance == BY_BIAS ? TOPK_NOAUX_TC : TOPK_GREEDY;
    return cfg;
}

/* And in the steps of training. */
static BlockTraining training_of(const Demo *d, Balance balance) {
    float alpha = (float)d->options.alpha;
    bool noisy = d->options.gate == GATE_NOISY;
    BlockTraining training = {0};
    if (balance == BY_AUX || balance == BY_SEQUENCE) training.losses.aux_loss_alpha = alpha;
    training.losses.seq_aux = balance == BY_SEQUENCE;
    if (balance == BY_VARIATION) training.losses.importance_loss_coef = alpha;
    if (balance == BY_VARIATION && noisy) training.losses.load_loss_coef = alpha;
    return training;
}

/* ---- 3. training ---- */

/* BATCH stretches of text from [low, high), drawn by rng, or (rng NULL) evenly spaced. */
static void take_batch(Demo *d, Rng *rng, int64_t low, int64_t high, int32_t *ids, Tensor **input,
                       Tensor **target) {
    int32_t next[BATCH * CONTEXT];
    int64_t room = high - low - CONTEXT - 1;
    uint64_t stream = rng ? rng_next_stream(rng) : 0;
    for (int b = 0; b < BATCH; b++) {
        double where = rng ? rng_uniform(rng->seed, stream, (uint64_t)b) : (double)b / BATCH;
        const int32_t *from = d->ids + low + (int64_t)(where * (double)room);
        memcpy(ids + b * CONTEXT, from, CONTEXT * sizeof *ids);
        memcpy(next + b * CONTEXT, from + 1, CONTEXT * sizeof *ids);
    }
    *input = tensor_copy_in(&d->ctx, "ids", I32, ids, SHAPE(BATCH, CONTEXT));
    *target = tensor_copy_in(&d->ctx, "targets", I32, next, SHAPE(BATCH, CONTEXT));
}

/* One step; counts [E] of the last layer. Returns the loss, NaN if anything was not finite. */
static float step(Demo *d, Decoder *model, const BlockTraining *training, Params *params,
                  AdamW *adamw, int number, int32_t *counts) {
    int32_t ids[BATCH * CONTEXT];
    Tensor *input, *target, *loss;
    params_zero_grad(params);
    take_batch(d, &d->ctx.rng, 0, d->train, ids, &input, &target);
    d->ctx.recording = true;
    Tensor *total = decoder_training_loss(&d->ctx, model, input, target,
                                          &(DecoderRun){.training = training}, &loss);
    tape_backward(&d->ctx, total);
    const Schedule schedule = {d->options.steps, 50, 0, PEAK_LR, PEAK_LR / 10};
    float value, lr = schedule_rate(&schedule, number);
    tensor_download(&d->ctx, &value, loss);
    tensor_download_ints(&d->ctx, counts, model->records[d->options.layers - 1].dispatch.counts);
    float norm = adamw_step(adamw, params, lr, 1.0f);
    decoder_rebalance(&d->ctx, model, (float)d->options.gamma);
    context_reset(&d->ctx);
    return isfinite(norm) ? value : NAN;
}

/* On validation text: the loss, and which experts each character goes to. */
static void validate(Demo *d, const Decoder *model, Run *run) {
    int layers = d->options.layers, k = d->options.top_k;
    int32_t ids[BATCH * CONTEXT];
    int32_t *chosen = must_alloc((size_t)(BATCH * CONTEXT * k), sizeof *chosen);
    Tensor *input, *target, *loss;
    take_batch(d, NULL, d->train, d->count, ids, &input, &target);
    decoder_training_loss(&d->ctx, model, input, target, &(DecoderRun){0}, &loss);
    tensor_download(&d->ctx, &run->validation_loss, loss);
    tensor_download_ints(&d->ctx, chosen, model->records[layers - 1].routing.indices);
    run->specialty.experts = d->options.experts;
    for (int n = 0; n < BATCH * CONTEXT; n++)
        specialty_add(&run->specialty, d->alphabet.byte[ids[n]], chosen + n * k, k);
    free(chosen);
    context_reset(&d->ctx);
}

/* If a router saw a NaN, says which was the first, instead of what err says. */
static void name_the_nan(Demo *d, const Decoder *model, int step, Error *err) {
    Error where;
    for (int i = 0; i < d->options.layers; i++)
        if (!model->layers[i].dense &&
            router_healthy(&d->ctx, &model->layers[i].moe.router, &where)) {
            error_set(err, "step %d: %s", step, where.text);
            return;
        }
}

/* Trains from the same weights on the same text; only the balance differs. */
static int train(Demo *d, Run *run, Error *err) {
    int steps = d->options.steps, experts = d->options.experts;
    DecoderConfig cfg = config_of(d, run->balance);
    BlockTraining training = training_of(d, run->balance);
    Decoder model;
    Params params;
    d->ctx.rng = (Rng){.seed = d->options.common.seed};
    params_init(&params, &d->ctx);
    decoder_register(&model, &params, &cfg);
    int status = params_allocate(&params, true, err);
    float std = 1.0f / sqrtf((float)HIDDEN); /* keeps a row's length */
    if (!status) decoder_randomize(&params, &model, (DecoderStart){0.5f, std, std, std});
    AdamW adamw = adamw_defaults();
    Progress progress = progress_start(run->name, steps);
    int32_t counts[MAX_EXPERTS], window[MAX_EXPERTS] = {0};
    run->windows = steps < WINDOWS ? steps : WINDOWS;
    for (int i = 0, w = 0; i < steps && !status; i++) {
        float loss = step(d, &model, &training, &params, &adamw, i, counts);
        if (!isfinite(loss)) {
            status = error_set(err, "%s: the loss is not finite at step %d; try another --seed",
                               run->name, i);
            name_the_nan(d, &model, i, err);
            break;
        }
        for (int e = 0; e < experts; e++) window[e] += counts[e];
        progress_update(&progress, i + 1, "loss %.3f", loss);
        if (i + 1 < (w + 1) * steps / run->windows) continue;
        run->measures = balance_measure(window, experts, -1);
        for (int e = 0; e < experts; e++) {
            run->share[w][e] = window[e] / run->measures.tokens;
            window[e] = 0;
        }
        w++;
    }
    if (!status) {
        progress_finish(&progress, NULL);
        validate(d, &model, run);
    }
    decoder_free(&model);
    params_free(&params);
    context_reset(&d->ctx);
    return status;
}

/* Both runs in one map, so that a shade means the same: down the experts, across the steps. */
static void print_load(const Demo *d) {
    enum { COLUMNS = 25 };
    int experts = d->options.experts;
    float map[(2 * MAX_EXPERTS + 1) * COLUMNS] = {0};
    char names[2 * MAX_EXPERTS + 1][16] = {{0}}; /* a blank line between the runs */
    const char *labels[2 * MAX_EXPERTS + 1];
    labels[experts] = names[experts];
    for (int r = 0; r < 2; r++)
        for (int e = 0; e < experts; e++) {
            int row = r * (experts + 1) + e;
            snprintf(names[row], sizeof names[row], "%s %d", r ? "balanced" : "alone", e);
            labels[row] = names[row];
            for (int c = 0; c < COLUMNS; c++)
                map[row * COLUMNS + c] =
                    (float)d->runs[r].share[c * d->runs[r].windows / COLUMNS][e];
        }
    printf("   Each expert's share of the choices, from the first step to the last:\n\n");
    text_heat_map(map, 2 * experts + 1, COLUMNS, labels, NULL);
    printf("\n   %-20s %13s %7s %7s %8s %6s %15s\n", "at the end", "largest share", "(even)",
           "MaxVio", "entropy", "unused", "validation loss");
    for (int r = 0; r < 2; r++) {
        const Run *run = &d->runs[r];
        const BalanceMeasures *m = &run->measures;
        printf("   %-20s %11.1f %% %5.1f %% %7.2f %8.2f %6d %15.3f\n", run->name,
               100 * m->max / m->tokens, 100.0 / experts, m->max_vio, m->entropy, m->unused,
               run->validation_loss);
    }
    printf("\n");
}

static int show_load(Demo *d, Error *err) {
    const char *path = d->options.common.csv;
    Csv csv;
    if (csv_open(&csv, path, "run,name,step,expert,share", device_describe(&d->ctx).text,
                 d->options.common.seed, err))
        return -1;
    print_load(d);
    for (int r = 0; r < 2; r++) {
        const Run *run = &d->runs[r];
        for (int e = 0; e < d->options.experts; e++)
            for (int w = 0; w < run->windows; w++)
                csv_row(&csv, "%d,\"%s\",%d,%d,%.5f", r, run->name,
                        (w + 1) * d->options.steps / run->windows, e, run->share[w][e]);
    }
    if (csv_close(&csv, err)) return -1;
    plot_or_explain("05_moe/figures/load.gp", path, OUT "load");
    printf("\n");
    return 0;
}

/* ---- 4. what an expert sees ---- */

/* "e l r space": what can be seen, and names for what cannot. */
static void print_favourites(const Specialty *specialty, int e) {
    uint8_t bytes[12];
    int count = specialty_favourites(specialty, e, bytes, 12, 12);
    printf("   expert %-2d %5.1f %%  ", e, 100 * specialty_share(specialty, e));
    for (int i = 0; i < count; i++)
        if (bytes[i] > ' ' && bytes[i] < 0x7f)
            printf(" %c", bytes[i]);
        else
            printf(" %s", bytes[i] == ' ' ? "space" : bytes[i] == '\n' ? "newline" : "?");
    printf("\n");
}

static int show_experts(Demo *d, Error *err) {
    const Run *run = &d->runs[1];
    int experts = d->options.experts;
    double share[KIND_COUNT][MAX_EXPERTS];
    float map[MAX_EXPERTS * KIND_COUNT];
    char names[MAX_EXPERTS][16];
    const char *labels[MAX_EXPERTS];
    specialty_kinds(&run->specialty, share);
    printf("4. What each expert of the last layer sees (%s), on validation text\n"
           "   Its share of all choices, and the characters that choose it most, if more than half "
           "as often again as by chance:\n\n",
           run->name);
    for (int e = 0; e < experts; e++) {
        print_favourites(&run->specialty, e);
        snprintf(names[e], sizeof names[e], "expert %d", e);
        labels[e] = names[e];
        for (int k = 0; k < KIND_COUNT; k++) map[e * KIND_COUNT + k] = (float)share[k][e];
    }
    printf("\n   By kind of character: where a kind's choices go\n\n");
    text_heat_map(map, experts, KIND_COUNT, labels, kind_names);
    printf(
        "\n   How much a token's kind says about its expert (0 nothing, 1 everything): %.2f; left "
        "alone: %.2f\n",
        specialty_information(&run->specialty), specialty_information(&d->runs[0].specialty));
    const char *path = OUT "kinds.csv";
    Csv csv;
    if (csv_open(&csv, path, "expert,kind,name,share", device_describe(&d->ctx).text,
                 d->options.common.seed, err))
        return -1;
    for (int e = 0; e < experts; e++)
        for (int k = 0; k < KIND_COUNT; k++)
            csv_row(&csv, "%d,%d,%s,%.4f", e, k, kind_names[k], share[k][e]);
    if (csv_close(&csv, err)) return -1;
    plot_or_explain("05_moe/figures/kinds.gp", path, OUT "kinds");
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    static Demo d;
    DemoOptions *o = &d.options;
    *o = (DemoOptions){.common.csv = OUT "load.csv",
                       .steps = 400,
                       .layers = 2,
                       .experts = 8,
                       .top_k = 2,
                       .shared = 1,
                       .width = 512,
                       .scoring = SCORING_SIGMOID,
                       .balance = BY_BIAS,
                       .gamma = 0.01,
                       .alpha = 0.05};
    const Option flags[] = {
        OPT_STRING("text", 't', "FILE", &o->text,
                   "Text to learn from (default: Genesis, from the program `bible`)"),
        OPT_INT("steps", 's', "N", &o->steps, 1, 100000, "Training steps of each run"),
        OPT_INT("layers", 'l', "N", &o->layers, 2, 8, "Layers, 2 to 8; the first is dense"),
        OPT_INT("experts", 'e', "N", &o->experts, 1, MAX_EXPERTS, "Routed experts, up to 64"),
        OPT_INT("top-k", 'k', "N", &o->top_k, 1, MAX_EXPERTS, "Experts for each token"),
        OPT_INT("shared", 'S', "N", &o->shared, 0, 8, "Shared experts, which see every token"),
        OPT_INT("width", 'w', "N", &o->width, 8, 8192,
                "Inner width of all routed experts together: more experts are narrower ones"),
        OPT_CHOICE("router", 'r', "NAME", &o->gate, router_gate_names, "linear, noisy or centroid"),
        OPT_CHOICE("scoring", 'c', "NAME", &o->scoring, router_scoring_names, "softmax or sigmoid"),
        OPT_CHOICE("balance", 'b', "NAME", &o->balance, balance_names,
                   "In the second run: bias (V3), aux (Switch), seq (DeepSeek's loss for each "
                   "sequence), cv (Shazeer's importance, and load if noisy), none"),
        OPT_FLOAT("gamma", 'g', "X", &o->gamma, 0, 1, "Step of the bias"),
        OPT_FLOAT("alpha", 'a', "X", &o->alpha, 0, 10, "Weight of a balance loss"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    Error err = {0};
    options_parse(argc, argv,
                  "Counts what a layer of experts holds and uses, trains a small model twice, left "
                  "alone and balanced, and shows what each expert has come to see.",
                  flags);
    options_open(&o->common, &d.ctx);
    static char balanced[32];
    snprintf(balanced, sizeof balanced, "balanced by %s", balance_names[d.options.balance]);
    d.runs[0] = (Run){.balance = LEFT_ALONE, .name = "left alone"};
    d.runs[1] = (Run){.balance = d.options.balance, .name = balanced};

    printf("\nMany experts, few at a time: who gets to work?\n\n");
    int status = make_config(&d, &err);
    if (!status) count_parameters(&d);
    status = status || read_text(&d, &err);
    if (!status)
        printf("3. Training twice, %d steps each: %d layers, the last with %d experts\n",
               d.options.steps, d.options.layers, d.options.experts);
    status = status || train(&d, &d.runs[0], &err) || train(&d, &d.runs[1], &err) ||
             show_load(&d, &err) || show_experts(&d, &err);
    if (!status)
        printf("Try next:  --balance aux      (Switch's loss instead of the bias)\n"
               "           --experts 32 --top-k 4\n"
               "           --shared 0 --scoring softmax --top-k 1\n"
               "           --router noisy --balance cv\n");
    free(d.ids);
    chartext_free(&d.text);
    context_free(&d.ctx);
    if (status) fatal("%s", err.text);
    return 0;
}
