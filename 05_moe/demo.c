/*
 * The demo: counts what a layer of experts holds and what a token uses, trains a small model twice,
 * left alone and balanced, and looks at what each expert has come to see.
 */
#include "05_moe/decoder/decoder.h"
#include "05_moe/parameter_table.h"
#include "05_moe/specialty.h"

#include "03_multihead/chartrain.h"
#include "common/core/ops.h"
#include "common/program/options.h"
#include "common/program/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

/* Validation takes all the text that is kept, in stretches of CONTEXT; of a long text, a part. */
enum { MOST_STRETCHES = 48 * BATCH }; /* 55,296 characters */

/* What one run left behind, about the last layer's experts. */
typedef struct Run {
    Balance balance;
    const char *name;
    double share[WINDOWS][MAX_EXPERTS]; /* of the choices, in each window of steps */
    int windows;
    int validated; /* characters */
    double validation_loss;
    BalanceMeasures measures; /* of the last window */
    Specialty specialty;      /* on validation text */
} Run;

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    CharText text;
    DecoderConfig cfg;
    Run runs[2];
} Demo;

/* ---- 1. parameters ---- */

static void count_parameters(const Demo *d) {
    const MoeConfig *mine = &d->cfg.block.moe;
    int inner = mine->moe_intermediate_size, k = mine->router.num_experts_per_tok;
    printf("1. What is stored, and what a token is multiplied with\n");
    parameter_table(mine);
    printf("   Here: x [%d, %d, %d] -> %d tokens, %d choices -> by expert [%d, %d]\n", BATCH,
           CONTEXT, HIDDEN, BATCH * CONTEXT, BATCH * CONTEXT * k, BATCH * CONTEXT * k, HIDDEN);
    printf("   -> each expert's SwiGLU [%d -> %d -> %d] -> weighted, in order [%d, %d, %d]\n\n",
           HIDDEN, inner, HIDDEN, BATCH, CONTEXT, HIDDEN);
}

/* ---- 2. text and settings ---- */

static int read_text(Demo *d, Error *err) {
    if (chartext_load(&d->text, d->options.text, 40 * CONTEXT, err)) return -1;
    printf("2. Text\n");
    chartext_print(&d->text);
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
    cfg.vocab_size = d->text.alphabet.size;
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

/* A run while it trains. */
typedef struct Trainee {
    Demo *demo;
    Run *run;
    Decoder model;
    BlockTraining training;
    int step, windows;           /* those that are done */
    int32_t window[MAX_EXPERTS]; /* the choices in this one */
} Trainee;

static Tensor *training_loss(Context *ctx, void *user, Tensor *ids, Tensor *targets,
                             Tensor **shown) {
    Trainee *t = user;
    return decoder_training_loss(ctx, &t->model, ids, targets,
                                 &(DecoderRun){.training = &t->training}, shown);
}

/* Moves the bias, and counts what the last layer's experts were given. */
static void after_step(Context *ctx, void *user, int step) {
    Trainee *t = user;
    Run *run = t->run;
    const DemoOptions *o = &t->demo->options;
    int32_t counts[MAX_EXPERTS];
    t->step = step;
    tensor_download_ints(ctx, counts, t->model.records[o->layers - 1].dispatch.counts);
    decoder_rebalance(ctx, &t->model, (float)o->gamma);
    for (int e = 0; e < o->experts; e++) t->window[e] += counts[e];
    if (step + 1 < (t->windows + 1) * o->steps / run->windows) return;
    run->measures = balance_measure(t->window, o->experts, -1);
    for (int e = 0; e < o->experts; e++) {
        run->share[t->windows][e] = t->window[e] / run->measures.tokens;
        t->window[e] = 0;
    }
    t->windows++;
}

/* On validation text: the loss, and which experts each character goes to. */
static void validate(Demo *d, const Decoder *model, Run *run) {
    int layers = d->options.layers, k = d->options.top_k;
    int64_t kept = (d->text.count - d->text.train) / (BATCH * CONTEXT) * BATCH;
    int stretches = kept < BATCH ? BATCH : kept > MOST_STRETCHES ? MOST_STRETCHES : (int)kept;
    int32_t ids[BATCH * CONTEXT];
    int32_t *chosen = must_alloc((size_t)(BATCH * CONTEXT * k), sizeof *chosen);
    run->specialty.experts = d->options.experts;
    for (int first = 0; first < stretches; first += BATCH) {
        Tensor *input, *target, *loss;
        float mean;
        chartext_batch_kept(&d->text, &d->ctx, first, stretches, BATCH, CONTEXT, &input, &target);
        tensor_download_ints(&d->ctx, ids, input);
        decoder_training_loss(&d->ctx, model, input, target, &(DecoderRun){0}, &loss);
        tensor_download(&d->ctx, &mean, loss);
        run->validation_loss += mean * (double)BATCH / stretches;
        tensor_download_ints(&d->ctx, chosen, model->records[layers - 1].routing.indices);
        for (int n = 0; n < BATCH * CONTEXT; n++)
            specialty_add(&run->specialty, d->text.alphabet.byte[ids[n]], chosen + n * k, k);
        context_reset(&d->ctx);
    }
    run->validated = stretches * CONTEXT;
    free(chosen);
}

/* If a router saw a NaN, says which was the first, instead of what err says. */
static void name_the_nan(Demo *d, const Decoder *model, int step, Error *err) {
    Error where;
    if (decoder_healthy(&d->ctx, model, &where)) error_set(err, "step %d: %s", step, where.text);
}

/* Trains from the same weights on the same text; only the balance differs. */
static int train(Demo *d, Run *run, Error *err) {
    int steps = d->options.steps;
    DecoderConfig cfg = config_of(d, run->balance);
    Trainee t = {.demo = d, .run = run, .training = training_of(d, run->balance)};
    if (block_training_check(&t.training, &cfg.block, err)) return -1;
    Params params;
    d->ctx.rng = (Rng){.seed = d->options.common.seed};
    params_init(&params, &d->ctx);
    decoder_register(&t.model, &params, &cfg);
    if (params_allocate(&params, true, err)) return -1;
    float std = 1.0f / sqrtf((float)HIDDEN); /* keeps a row's length */
    decoder_randomize(&params, &t.model, (DecoderStart){0.5f, std, std, std});
    run->windows = steps < WINDOWS ? steps : WINDOWS;
    CharTraining how = {.label = run->name,
                        .schedule = {steps, 50, 0, PEAK_LR, PEAK_LR / 10},
                        .batch = BATCH,
                        .length = CONTEXT,
                        .rng = &d->ctx.rng,
                        .loss = training_loss,
                        .after = after_step,
                        .user = &t};
    int status = chartrain(&d->ctx, &params, &d->text, &how, err);
    if (status)
        name_the_nan(d, &t.model, t.step, err);
    else
        validate(d, &t.model, run);
    decoder_free(&t.model);
    params_free(&params);
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
    printf("\n   %-17s%14s %7s%7s%8s%7s%16s\n", "at the end", "largest share", "(even)", "MaxVio",
           "entropy", "unused", "validation loss");
    for (int r = 0; r < 2; r++) {
        const Run *run = &d->runs[r];
        const BalanceMeasures *m = &run->measures;
        printf("   %-17s%12.1f %% %5.1f %%%7.2f%8.2f%7d%16.3f\n", run->name,
               100 * m->max / m->tokens, 100.0 / experts, m->max_vio, m->entropy, m->unused,
               run->validation_loss);
    }
    printf("   (the load over the last %d steps, the loss over %d characters)\n\n",
           d->options.steps / d->runs[0].windows, d->runs[0].validated);
}

/* A row for each run: what is at the end of the table above. tools/seeds.py collects them. */
static void write_runs(Demo *d) {
    Csv csv = figure_open(&d->ctx, OUT "runs.csv",
                          "run,max_share,max_vio,entropy,unused,characters,validation_loss,"
                          "information");
    for (int r = 0; r < 2; r++) {
        const Run *run = &d->runs[r];
        const BalanceMeasures *m = &run->measures;
        csv_row(&csv, "%s,%.4f,%.4f,%.4f,%d,%d,%.5f,%.4f", r ? "balanced" : "left alone",
                m->max / m->tokens, m->max_vio, m->entropy, m->unused, run->validated,
                run->validation_loss, specialty_information(&run->specialty));
    }
    Error err;
    if (csv_close(&csv, &err)) fatal("%s", err.text);
}

static void show_load(Demo *d) {
    Csv csv = figure_open(&d->ctx, d->options.common.csv, "run,name,step,expert,share");
    print_load(d);
    for (int r = 0; r < 2; r++) {
        const Run *run = &d->runs[r];
        for (int e = 0; e < d->options.experts; e++)
            for (int w = 0; w < run->windows; w++)
                csv_row(&csv, "%d,\"%s\",%d,%d,%.5f", r, run->name,
                        (w + 1) * d->options.steps / run->windows, e, run->share[w][e]);
    }
    figure_close(&csv, "05_moe/figures/load");
    printf("\n");
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

static void show_experts(Demo *d) {
    const Run *run = &d->runs[1];
    int experts = d->options.experts;
    double share[KIND_COUNT][MAX_EXPERTS];
    float map[MAX_EXPERTS * KIND_COUNT];
    char names[MAX_EXPERTS][16];
    const char *labels[MAX_EXPERTS];
    specialty_kinds(&run->specialty, share);
    printf("4. What each expert of the last layer sees (%s), in validation\n"
           "   text: its share of all choices, and the characters that choose it most, if\n"
           "   more than half as often again as by chance:\n\n",
           run->name);
    for (int e = 0; e < experts; e++) {
        print_favourites(&run->specialty, e);
        snprintf(names[e], sizeof names[e], "expert %d", e);
        labels[e] = names[e];
        for (int k = 0; k < KIND_COUNT; k++) map[e * KIND_COUNT + k] = (float)share[k][e];
    }
    printf("\n   By kind of character: where a kind's choices go\n\n");
    text_heat_map(map, experts, KIND_COUNT, labels, specialty_kind_names);
    printf("\n   How much a token's kind says about its expert (0 nothing, 1 all): %.2f;\n"
           "   left alone: %.2f\n",
           specialty_information(&run->specialty), specialty_information(&d->runs[0].specialty));
    Csv csv = figure_open(&d->ctx, OUT "kinds.csv", "expert,kind,name,characters,share");
    for (int e = 0; e < experts; e++)
        for (int k = 0; k < KIND_COUNT; k++)
            csv_row(&csv, "%d,%d,%s,%.0f,%.4f", e, k, specialty_kind_names[k],
                    specialty_choices(&run->specialty, (CharKind)k) / d->options.top_k,
                    share[k][e]);
    figure_close(&csv, "05_moe/figures/kinds");
    printf("\n");
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
    Error err;
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
    if (make_config(&d, &err)) fatal("%s", err.text);
    count_parameters(&d);
    if (read_text(&d, &err)) fatal("%s", err.text);
    printf("3. Training twice, %d steps each: %d layers, the last with %d experts\n",
           d.options.steps, d.options.layers, d.options.experts);
    if (train(&d, &d.runs[0], &err) || train(&d, &d.runs[1], &err)) fatal("%s", err.text);
    show_load(&d);
    write_runs(&d);
    show_experts(&d);
    printf("Try next:  --balance aux      (Switch's loss instead of the bias)\n"
           "           --experts 32 --top-k 4\n"
           "           --shared 0 --scoring softmax --top-k 1\n"
           "           --router noisy --balance cv\n");
    chartext_free(&d.text);
    context_free(&d.ctx);
    return 0;
}
