/*
 * The demo's first half: the same model is trained without modules, with them and with independent
 * heads, from the same first numbers on the same text, and asked what it expects.
 */
#include "06_mtp/demo.h"

#include "03_multihead/chartrain.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HIDDEN = 64, SEEN = 48, PARTS = 4 };

/* With learned places; modules and heads learn of them through the states. */
static void make_config(Demo *d) {
    d->cfg = (DecoderConfig){.vocab_size = d->text.alphabet.size,
                             .num_hidden_layers = d->options.layers,
                             .places = DEMO_CONTEXT};
    d->cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                                 .intermediate_size = 3 * HIDDEN,
                                 .rms_norm_eps = 1e-6f,
                                 .attention = ATTENTION_MLA,
                                 .mla = {.hidden_size = HIDDEN,
                                         .num_attention_heads = 4,
                                         .kv_lora_rank = 64,
                                         .qk_nope_head_dim = 16,
                                         .v_head_dim = 16}}; /* all dense */
}

static int make_model(Demo *d, DemoModel *m, int modules, int heads, Error *err) {
    float std = 1.0f / sqrtf(HIDDEN); /* keeps a row's length */
    DecoderStart start = {0.5f, std, std, std};
    d->ctx.rng = (Rng){.seed = d->options.common.seed};
    m->depth = modules + heads;
    params_init(&m->params, &d->ctx);
    decoder_register(&m->decoder, &m->params, &d->cfg);
    mtp_register(&m->mtp, &m->params, &m->decoder, modules);
    mtp_heads_register(&m->heads, &m->params, &m->decoder, heads);
    if (params_allocate(&m->params, true, err)) return -1;
    decoder_randomize(&m->params, &m->decoder, start);
    mtp_randomize(&m->params, &m->mtp, start);
    mtp_heads_randomize(&m->params, &m->heads, start);
    for (int k = 0; k <= m->depth; k++)
        m->losses[k] = must_alloc((size_t)d->options.steps, sizeof(double));
    return 0;
}

/* ---- training ---- */

typedef struct Trainee {
    Demo *demo;
    DemoModel *model;
    Tensor *shown[1 + MTP_MAX_DEPTH];
} Trainee;

static Tensor *training_loss(Context *ctx, void *user, Tensor *ids, Tensor *targets,
                             Tensor **shown) {
    Trainee *t = user;
    DemoModel *m = t->model;
    const MtpTraining training = {(float)t->demo->options.lambda, -1};
    const DecoderRun run = {0};
    Tensor *loss =
        m->heads.depth
            ? mtp_heads_training_loss(ctx, &m->heads, ids, targets, &run, &training, t->shown)
            : mtp_training_loss(ctx, &m->mtp, ids, targets, &run, &training, t->shown);
    *shown = t->shown[0];
    return loss;
}

static void after_step(Context *ctx, void *user, int step) {
    Trainee *t = user;
    for (int k = 0; k <= t->model->depth; k++) {
        float loss;
        tensor_download(ctx, &loss, t->shown[k]);
        t->model->losses[k][step] = loss;
    }
}

static int likeliest(const float *row, int vocab) {
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (row[i] > row[best]) best = i;
    return best;
}

/* guesses[k][B T]: the likeliest id of each row, of the decoder (0) and of module k. */
static void guess(Demo *d, DemoModel *m, Tensor *ids, int32_t **guesses) {
    Context *ctx = &d->ctx;
    int64_t rows = tensor_count(ids), vocab = d->cfg.vocab_size;
    float *logits = must_alloc((size_t)(rows * vocab), sizeof *logits);
    Tensor *ids_k, *none;
    Tensor *h =
        decoder_normed(ctx, &m->decoder, decoder_states(ctx, &m->decoder, ids, &(DecoderRun){0}));
    for (int k = 0; k <= m->mtp.depth; k++) {
        mtp_shift(ctx, ids, ids, k, -1, &ids_k, &none);
        if (k) h = mtp_forward(ctx, &m->mtp, k, ids_k, h, &(BlockRun){0});
        tensor_download(ctx, logits, decoder_head(ctx, &m->decoder, h));
        for (int64_t i = 0; i < rows; i++)
            guesses[k][i] = likeliest(logits + i * vocab, (int)vocab);
    }
    free(logits);
}

/* Row i of module k and row i + k of the decoder guess the same token, from the same ones. */
static void count_agreement(Demo *d, DemoModel *m, Tensor *ids) {
    int32_t *guesses[1 + MTP_MAX_DEPTH];
    for (int k = 0; k <= m->mtp.depth; k++)
        guesses[k] = must_alloc((size_t)tensor_count(ids), sizeof(int32_t));
    guess(d, m, ids, guesses);
    for (int k = 0; k <= m->mtp.depth; k++) {
        int same = 0, rows = DEMO_BATCH * (DEMO_CONTEXT - k);
        for (int b = 0; b < DEMO_BATCH; b++)
            for (int i = b * DEMO_CONTEXT; i + k < (b + 1) * DEMO_CONTEXT; i++)
                same += guesses[k][i] == guesses[0][i + k];
        m->agrees[k] += (float)same / (float)rows / PARTS;
    }
    for (int k = 0; k <= m->mtp.depth; k++) free(guesses[k]);
}

static int train(Demo *d, DemoModel *m, const char *label, Error *err) {
    Trainee t = {.demo = d, .model = m};
    /* The same text for all, however many streams their first numbers took. */
    Rng windows = {.seed = d->options.common.seed, .stream = 1 << 20};
    CharTraining how = {.label = label,
                        .schedule = {d->options.steps, 50, 0, 1e-2f, 1e-3f},
                        .batch = DEMO_BATCH,
                        .length = DEMO_CONTEXT,
                        .rng = &windows,
                        .loss = training_loss,
                        .after = after_step,
                        .user = &t};
    double started = seconds_now();
    if (chartrain(&d->ctx, &m->params, &d->text, &how, err)) return -1;
    m->seconds = seconds_now() - started;
    for (int part = 0; part < PARTS; part++) {
        Tensor *ids, *targets, *shown;
        chartext_batch_kept(&d->text, &d->ctx, part * DEMO_BATCH, PARTS * DEMO_BATCH, DEMO_BATCH,
                            DEMO_CONTEXT, &ids, &targets);
        training_loss(&d->ctx, &t, ids, targets, &shown);
        for (int k = 0; k <= m->depth; k++) {
            float loss;
            tensor_download(&d->ctx, &loss, t.shown[k]);
            m->validation[k] += loss / PARTS;
        }
        count_agreement(d, m, ids);
        context_reset(&d->ctx);
    }
    return 0;
}

/* ---- what came of it ---- */

typedef struct Name {
    char text[32];
} Name;

static Name depth_name(int k) {
    Name name = {"the next character"};
    if (k) snprintf(name.text, sizeof name.text, "%d behind the next", k);
    return name;
}

static void print_losses(const Demo *d) {
    printf("   %-20s %9s %12s %9s %16s\n", "validation loss of", "plain", "modules", "heads",
           "modules agree *");
    for (int k = 0; k <= d->options.depth; k++) {
        printf("   %-20s ", depth_name(k).text);
        if (k == 0)
            printf("%9.3f %12.3f %9.3f\n", d->plain.validation[0], d->with.validation[0],
                   d->heads.validation[0]);
        else
            printf("%9s %12.3f %9.3f %14.0f %%\n", "", d->with.validation[k],
                   d->heads.validation[k], 100 * d->with.agrees[k]);
    }
    printf("   %-20s %7.1f s %10.1f s %7.1f s\n\n", "time of training", d->plain.seconds,
           d->with.seconds, d->heads.seconds);
    printf("   A module is told each character up to the one it predicts, as the model is\n"
           "   when it gets there; so it can be as good as the model, and here, where the\n"
           "   model is small, its block and its two inputs make it better. A head is told\n"
           "   nothing: what comes further is harder for it.\n"
           "   * how often a module's likeliest character is the model's own at that place:\n"
           "   what counts when the module writes and the model only checks.\n");
}

/* A stretch of validation text, and under each character what it was taken for, by depth: the
 * character where that was right, a dot where it was not. */
static void show_guesses(Demo *d) {
    Tensor *ids, *targets;
    int32_t text[SEEN], room[1 + MTP_MAX_DEPTH][SEEN], *guesses[1 + MTP_MAX_DEPTH];
    char line[SEEN + 1] = "", hits[SEEN + 1] = "";
    chartext_batch(&d->text, &d->ctx, NULL, 1, SEEN, &ids, &targets);
    tensor_download_ints(&d->ctx, text, ids);
    for (int k = 0; k <= d->with.mtp.depth; k++) guesses[k] = room[k];
    guess(d, &d->with, ids, guesses);
    for (int i = 0; i < SEEN; i++) {
        uint8_t byte = d->text.alphabet.byte[text[i]];
        line[i] = byte < ' ' || byte > '~' ? ' ' : (char)byte;
    }
    printf("   %-20s %s\n", "the text", line);
    for (int k = 0; k <= d->with.mtp.depth; k++) {
        for (int i = 0; i < SEEN; i++) { /* row i - k - 1 predicts character i */
            bool hit = i > k && guesses[k][i - k - 1] == text[i];
            hits[i] = i <= k ? ' ' : hit ? line[i] : '.';
        }
        printf("   %-20s %s\n", depth_name(k).text, hits);
    }
    context_reset(&d->ctx);
}

static void draw(const Demo *d) {
    enum { WINDOW = 20 }; /* steps that a point is the mean of */
    static const char *const names[] = {"plain", "modules", "heads"};
    const DemoModel *models[] = {&d->plain, &d->with, &d->heads};
    Csv csv = figure_open(&d->ctx, d->options.common.csv, "model,depth,step,loss");
    for (int m = 0; m < 3; m++)
        for (int k = 0; k <= models[m]->depth; k++)
            for (int end = WINDOW; end <= d->options.steps; end += WINDOW) {
                double mean = 0;
                for (int s = end - WINDOW; s < end; s++) mean += models[m]->losses[k][s] / WINDOW;
                csv_row(&csv, "%s,%d,%d,%.4f", names[m], k, end, mean);
            }
    figure_close(&csv, "06_mtp/figures/loss");
}

int demo_train(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    if (chartext_load(&d->text, o->text, 40 * DEMO_CONTEXT, err)) return -1;
    printf("1. Text and model\n");
    chartext_print(&d->text);
    make_config(d);
    if (make_model(d, &d->plain, 0, 0, err) || train(d, &d->plain, "plain", err)) return -1;
    if (make_model(d, &d->with, o->depth, 0, err)) return -1;
    long long base = params_count(&d->plain.params), all = params_count(&d->with.params);
    printf("   %d layers of width %d, %lld numbers; %d modules have %lld more,\n"
           "   of them %d in each eh_proj. Embedding and head are the model's own.\n\n",
           o->layers, HIDDEN, base, o->depth, all - base, 2 * HIDDEN * HIDDEN);
    printf("2. Learned alone, with modules, with heads: the same %d characters\n",
           o->steps * DEMO_BATCH * DEMO_CONTEXT);
    if (train(d, &d->with, "modules", err) || make_model(d, &d->heads, 0, o->depth, err) ||
        train(d, &d->heads, "heads", err))
        return -1;
    print_losses(d);
    draw(d);
    printf("\n3. What the model and its modules take the characters for (a dot: for another)\n");
    show_guesses(d);
    printf("\n");
    return 0;
}
