/*
 * The demo: trains a small model of characters, looks at what its heads look at, lets it write with
 * a KV cache, and says what such a cache costs in models that are used.
 */
#include "03_multihead/charmodel.h"
#include "03_multihead/chartrain.h"
#include "03_multihead/heads.h"

#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT "03_multihead/figures/out/"

enum { BATCH = 24, SHOWN_HEADS = 4, MAPS_IN_TERMINAL = 2, MAP_SIZE = 32, WATCHED = 16, TRIES = 3 };
static const float PEAK_LR = 1e-2f;
static const char *const SENTENCE = "And God said, Let there be light: and there was light.";

/* ---- command line ---- */

typedef struct DemoOptions {
    CommonOptions common;
    const char *text;
    int steps, layers, heads, kv_heads, context;
} DemoOptions;

/* ---- what the steps of the demo share ---- */

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    CharText text;
    CharModel model;
    Params params;
    HeadHabits habits[CHARMODEL_MAX_LAYERS][64]; /* [layer][head] */
} Demo;

/* 1. Characters become numbers. */
static int read_text(Demo *d, Error *err) {
    if (chartext_load(&d->text, d->options.text, 40 * d->options.context, err)) return -1;
    printf("1. Text\n");
    chartext_print(&d->text);
    return 0;
}

/* 2. The model, and the shapes on the way through one layer's attention. */
static int make_model(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    enum { HIDDEN = 64 };
    if (HIDDEN % o->heads != 0)
        return error_set(err, "--heads %d: 64 numbers cannot be shared evenly; 1, 2, 4, 8, ... can",
                         o->heads);
    CharModelConfig cfg = {.vocab_size = d->text.alphabet.size,
                           .context = o->context,
                           .num_hidden_layers = o->layers,
                           .intermediate_size = 2 * HIDDEN,
                           .attention = {HIDDEN, o->heads, o->kv_heads, HIDDEN / o->heads, false}};
    if (charmodel_init(&d->model, &d->params, &cfg, err)) return -1;
    if (params_allocate(&d->params, true, err)) return -1;
    charmodel_randomize(&d->params, &d->model);

    const MultiheadConfig *a = &cfg.attention;
    char number[32];
    printf("2. Model\n   %d layers, %s parameters; query heads: %d, of %d numbers each\n",
           o->layers, format_count(number, sizeof number, params_count(&d->params)), o->heads,
           a->head_dim);
    printf("   Key and value heads: %d, that is %s\n", o->kv_heads,
           o->kv_heads == o->heads ? "multi-head attention (MHA)"
           : o->kv_heads == 1      ? "multi-query attention (MQA)"
                                   : "grouped-query attention (GQA)");
    printf("   x [%d, %d, %d] -> q [%d, %d, %d, %d], k and v [%d, %d, %d, %d]\n", BATCH, o->context,
           HIDDEN, BATCH, o->context, o->heads, a->head_dim, BATCH, o->context, o->kv_heads,
           a->head_dim);
    printf("   -> %d attentions side by side -> [%d, %d, %d] -> o_proj -> [%d, %d, %d]\n\n",
           BATCH * o->heads, BATCH, o->context, HIDDEN, BATCH, o->context, HIDDEN);
    return 0;
}

/* ---- training ---- */

static float validation_loss(Demo *d) {
    Tensor *input, *target;
    float loss;
    chartext_batch(&d->text, &d->ctx, NULL, BATCH, d->options.context, &input, &target);
    tensor_download(&d->ctx, &loss, charmodel_loss(&d->ctx, &d->model, input, target));
    context_reset(&d->ctx);
    return loss;
}

static Tensor *training_loss(Context *ctx, void *user, Tensor *ids, Tensor *targets,
                             Tensor **shown) {
    Demo *d = user;
    (void)shown;
    return charmodel_loss(ctx, &d->model, ids, targets);
}

/* 3. A few seconds of training. */
static int train(Demo *d, Error *err) {
    int steps = d->options.steps, T = d->options.context, vocab = d->text.alphabet.size;
    double *x = must_alloc(2 * (size_t)steps, sizeof *x), *losses = x + steps;
    for (int step = 0; step < steps; step++) x[step] = step;
    CharTraining how = {.label = "training",
                        .schedule = {steps, 50, 0, PEAK_LR, PEAK_LR / 10},
                        .batch = BATCH,
                        .length = T,
                        .rng = &d->ctx.rng,
                        .losses = losses,
                        .loss = training_loss,
                        .user = d};
    printf("3. Training: %d steps of %d x %d characters\n", steps, BATCH, T);
    printf("   before: validation loss %.3f (knowing nothing: ln %d = %.3f)\n", validation_loss(d),
           vocab, log(vocab));
    fflush(stdout);
    int status = chartrain(&d->ctx, &d->params, &d->text, &how, err);
    if (!status) {
        printf("   after:  validation loss %.3f\n\n", validation_loss(d));
        text_line_chart("   training loss", x, losses, steps, 8, 0);
        printf("\n");
    }
    free(x);
    return status;
}

/* ---- 4. heads ---- */

static int gain_order(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (y[0] > x[0]) - (y[0] < x[0]);
}

/* The heads to show: first the strongest of each habit, then the strongest of the others. */
static int choose_heads(const Demo *d, int chosen[SHOWN_HEADS][2]) {
    int layers = d->options.layers, heads = d->options.heads, n = 0;
    double order[CHARMODEL_MAX_LAYERS * 64][3]; /* gain, layer, head */
    for (int l = 0; l < layers; l++)
        for (int h = 0; h < heads; h++) {
            const HeadHabits *habits = &d->habits[l][h];
            Habit best = habits_best(habits);
            double *row = order[l * heads + h];
            row[0] = habits->share[best] - habits->chance[best];
            row[1] = l;
            row[2] = h;
        }
    qsort(order, (size_t)(layers * heads), sizeof order[0], gain_order);
    bool taken[CHARMODEL_MAX_LAYERS * 64] = {false}, shown[HABIT_COUNT] = {false};
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < layers * heads && n < SHOWN_HEADS; i++) {
            int l = (int)order[i][1], h = (int)order[i][2];
            Habit best = habits_best(&d->habits[l][h]);
            if (taken[i] || (round == 0 && shown[best])) continue;
            taken[i] = shown[best] = true;
            chosen[n][0] = l;
            chosen[n][1] = h;
            n++;
        }
    return n;
}

/* A sentence that has only characters of the alphabet: the demo's own, or the text's beginning. */
static const char *sentence_to_watch(const Demo *d) {
    for (const char *c = SENTENCE; *c; c++)
        if (d->text.alphabet.id[(uint8_t)*c] < 0) return d->text.data;
    return SENTENCE;
}

/* CSV field of one character: quotes doubled, what cannot be seen shown as a sign. */
static const char *csv_character(uint8_t byte, char buffer[8]) {
    if (byte == ' ') return "␣";
    if (byte == '"') return "\"\"";
    if (byte < 0x20 || byte >= 0x7f) return "·";
    buffer[0] = (char)byte;
    buffer[1] = 0;
    return buffer;
}

/* What is below 3 % is left blank, so that the eye finds the rest. */
static void print_map(const float *p, int T, const char *const *label) {
    float clear[MAP_SIZE * MAP_SIZE];
    for (int i = 0; i < T * T; i++) clear[i] = p[i] < 0.03f ? 0.0f : p[i];
    text_heat_map(clear, T, T, label, label);
    printf("\n");
}

/* The chosen heads on one sentence: the first ones here, all of them in the CSV. */
static void show_maps(Demo *d, int chosen[SHOWN_HEADS][2], int count) {
    const char *sentence = sentence_to_watch(d);
    int T = d->options.context < MAP_SIZE ? d->options.context : MAP_SIZE;
    int32_t ids[MAP_SIZE];
    char labels[MAP_SIZE][2];
    const char *label[MAP_SIZE];
    for (int t = 0; t < T; t++) {
        ids[t] = d->text.alphabet.id[(uint8_t)sentence[t]];
        labels[t][0] = sentence[t];
        labels[t][1] = 0;
        label[t] = labels[t];
    }
    Tensor *watched[CHARMODEL_MAX_LAYERS];
    charmodel_forward(&d->ctx, &d->model, tensor_copy_in(&d->ctx, "ids", I32, ids, SHAPE(1, T)),
                      NULL, watched);
    Csv csv = figure_open(&d->ctx, d->options.common.csv,
                          "panel,layer,head,habit,share,t,s,query,key,weight");
    for (int i = 0; i < count; i++) {
        int l = chosen[i][0], h = chosen[i][1];
        float p[MAP_SIZE * MAP_SIZE];
        char name[128], q[8], k[8];
        const HeadHabits *habits = &d->habits[l][h];
        head_probabilities(&d->ctx, p, watched[l], &d->model.layers[l].attention,
                           &d->model.cfg.attention, 0, h);
        if (i < MAPS_IN_TERMINAL) {
            printf("   Layer %d, head %d\n      %s\n"
                   "   Down: the character that looks. Across: the one it looks at.\n\n",
                   l, h, habits_name(habits, name, sizeof name));
            print_map(p, T, label);
        }
        for (int t = 0; t < T; t++)
            for (int s = 0; s <= t; s++)
                csv_row(&csv, "%d,%d,%d,%d,%.4f,%d,%d,\"%s\",\"%s\",%.4f", i + 1, l, h,
                        habits_best(habits), habits->share[habits_best(habits)], t, s,
                        csv_character((uint8_t)sentence[t], q),
                        csv_character((uint8_t)sentence[s], k), p[t * T + s]);
    }
    context_reset(&d->ctx);
    figure_close(&csv, "03_multihead/figures/heads");
    printf("\n");
}

/* Adds what every head does with one stretch of text. */
static void watch_stretch(Demo *d, const int32_t *ids, float *p) {
    int T = d->options.context;
    Tensor *watched[CHARMODEL_MAX_LAYERS];
    charmodel_forward(&d->ctx, &d->model, tensor_copy_in(&d->ctx, "ids", I32, ids, SHAPE(1, T)),
                      NULL, watched);
    for (int l = 0; l < d->options.layers; l++)
        for (int h = 0; h < d->options.heads; h++) {
            head_probabilities(&d->ctx, p, watched[l], &d->model.layers[l].attention,
                               &d->model.cfg.attention, 0, h);
            habits_add(&d->habits[l][h], p, ids, T, d->text.alphabet.id[' ']);
        }
    context_reset(&d->ctx);
}

/* 4. Every head's habit on text it has not seen, then maps of a few. */
static void watch_heads(Demo *d) {
    int T = d->options.context;
    float *p = must_alloc((size_t)(T * T), sizeof *p);
    printf("4. What each head looks at, on %d stretches of the validation text\n", WATCHED);
    int64_t room = d->text.count - d->text.train - T;
    for (int i = 0; i < WATCHED; i++)
        watch_stretch(d, d->text.ids + d->text.train + room * i / WATCHED, p);
    free(p);
    for (int l = 0; l < d->options.layers; l++)
        for (int h = 0; h < d->options.heads; h++) {
            char name[128];
            habits_average(&d->habits[l][h]);
            habits_name(&d->habits[l][h], name, sizeof name);
            printf("   layer %d, head %d\n      %s\n", l, h, name);
        }
    printf("\n");
    int chosen[SHOWN_HEADS][2];
    show_maps(d, chosen, choose_heads(d, chosen));
}

/* ---- 5. the cache ---- */

/* The largest difference of any logit between one pass over ids and one character at a time. */
static int cache_difference(Demo *d, const int32_t *ids, int T, float *difference, Error *err) {
    int vocab = d->text.alphabet.size, layers = d->options.layers, status = 0;
    const MultiheadConfig *a = &d->model.cfg.attention;
    float *whole = must_alloc((size_t)((T + 1) * vocab), sizeof *whole), *row = whole + T * vocab;
    Tensor *all = tensor_copy_in(&d->ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&d->ctx, whole, charmodel_forward(&d->ctx, &d->model, all, NULL, NULL));
    KVCache caches[CHARMODEL_MAX_LAYERS] = {0};
    for (int i = 0; i < layers && !status; i++)
        status = kv_cache_init(&caches[i], &d->ctx, 1, T, a->num_key_value_heads, a->head_dim, err);
    *difference = 0;
    for (int t = 0; t < T && !status; t++) {
        Tensor *one = tensor_copy_in(&d->ctx, "ids", I32, ids + t, SHAPE(1, 1));
        tensor_download(&d->ctx, row, charmodel_forward(&d->ctx, &d->model, one, caches, NULL));
        for (int i = 0; i < vocab; i++)
            *difference = fmaxf(*difference, fabsf(row[i] - whole[t * vocab + i]));
    }
    for (int i = 0; i < layers; i++) kv_cache_free(&caches[i]);
    free(whole);
    context_reset(&d->ctx);
    return status;
}

/* 5. A line of text, with the cache and without. */
static int write_line(Demo *d, Error *err) {
    const float temperature = 0.5f;
    int T = d->options.context, prompt = 12; /* "And God said" */
    const char *sentence = sentence_to_watch(d);
    int32_t *ids = must_alloc(2 * (size_t)T, sizeof *ids), *again = ids + T;
    for (int i = 0; i < prompt; i++) ids[i] = again[i] = d->text.alphabet.id[(uint8_t)sentence[i]];
    double best[2] = {INFINITY, INFINITY}; /* of a few tries: other programs run here, too */
    int status = 0;
    for (int i = 0; i < 2 * TRIES && !status; i++) {
        int cached = i % 2 == 0;
        double started = seconds_now();
        status = charmodel_generate(&d->ctx, &d->model, cached ? ids : again, prompt, T - prompt,
                                    temperature, d->options.common.seed, cached, err);
        best[!cached] = fmin(best[!cached], seconds_now() - started);
    }
    float difference = 0;
    if (!status) status = cache_difference(d, ids, T, &difference, err);
    if (!status) {
        printf("5. Writing, with a KV cache\n   \"");
        for (int i = 0; i < T; i++) {
            if (i == prompt) printf("|");
            uint8_t byte = d->text.alphabet.byte[ids[i]];
            putchar(byte < 0x20 || byte == 0x7f ? ' ' : byte); /* nothing that moves the cursor */
        }
        printf("\"\n   (before the bar: the prompt)\n");
        printf("   %d characters: %.1f ms with the cache, %.1f ms without; the same text: %s\n",
               T - prompt, 1e3 * best[0], 1e3 * best[1],
               memcmp(ids, again, sizeof *ids * (size_t)T) == 0 ? "yes" : "no");
        printf("   Largest difference of a logit, cached against uncached: %.1e\n\n", difference);
    }
    free(ids);
    return status;
}

/* ---- 6. bytes ---- */

typedef struct CacheOf {
    const char *name;
    int layers, heads, kv_heads, head_dim;
} CacheOf;

/* From the models' papers and config.json files. */
static const CacheOf caches_of[] = {
    {"GPT-3 175B", 96, 96, 96, 128},
    {"Llama 2 7B", 32, 32, 32, 128},
    {"Llama 2 70B", 80, 64, 8, 128},
    {"Llama 3.1 8B", 32, 32, 8, 128},
    {"Gemma 2B", 18, 8, 1, 256},
    {"PaLM 540B", 118, 48, 1, 256},
    {"DeepSeek-V3 MHA", 61, 128, 128, 128},
};
enum { CACHES = sizeof caches_of / sizeof *caches_of };

/* 6. What the cache of one token costs in models that are used. */
static void cache_bytes(Demo *d) {
    const char *labels[CACHES];
    double kib[CACHES];
    Csv csv = figure_open(&d->ctx, OUT "kv_cache.csv",
                          "model,heads,kv_heads,bytes_per_token,bytes_as_mha");
    printf("6. The KV cache of models that are used, BF16\n");
    printf("   %-16s %6s %5s %6s %6s %10s %11s\n", "", "", "", "kv", "head", "bytes of",
           "times less");
    printf("   %-16s %6s %5s %6s %6s %10s %11s %9s\n", "model", "layers", "heads", "heads", "dim",
           "a token", "than MHA", "of 128k");
    for (int i = 0; i < CACHES; i++) {
        const CacheOf *c = &caches_of[i];
        char number[32];
        int64_t bytes = kv_cache_bytes_per_token(c->layers, c->kv_heads, c->head_dim, BF16);
        printf("   %-16s %6d %5d %6d %6d %10s %11d %5.1f GiB\n", c->name, c->layers, c->heads,
               c->kv_heads, c->head_dim, format_count(number, sizeof number, bytes),
               c->heads / c->kv_heads, (double)bytes * 131072 / 0x1p30);
        csv_row(&csv, "%s,%d,%d,%" PRId64 ",%" PRId64, c->name, c->heads, c->kv_heads, bytes,
                bytes * c->heads / c->kv_heads);
        labels[i] = c->name;
        kib[i] = (double)bytes / 1024;
    }
    printf("\n");
    text_bars(labels, kib, CACHES, "KiB per token");
    figure_close(&csv, "03_multihead/figures/kv_cache");
    printf("\n");
}

int main(int argc, char **argv) {
    static Demo d = {
        .options = {
            .common.csv = OUT "heads.csv", .steps = 600, .layers = 2, .heads = 4, .context = 48}};
    DemoOptions *o = &d.options;
    const Option flags[] = {
        OPT_STRING("text", 't', "FILE", &o->text,
                   "Text to learn from (default: Genesis, from the program `bible`)"),
        OPT_INT("steps", 's', "N", &o->steps, 1, 100000, "Training steps"),
        OPT_INT("layers", 'l', "N", &o->layers, 1, 8, "Layers, 1 to 8"),
        OPT_INT("heads", 'H', "N", &o->heads, 1, 64, "Query heads; they share 64 numbers"),
        OPT_INT("kv-heads", 'k', "N", &o->kv_heads, 1, 64,
                "Key and value heads (default: as many as query heads)"),
        OPT_INT("context", 'c', "N", &o->context, 16, 512,
                "Characters that the model sees at once"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    Error err;
    options_parse(argc, argv,
                  "Trains a small model of characters for a few seconds, shows what its heads look "
                  "at, lets it write with a KV cache, and counts the bytes of such caches.",
                  flags);
    if (!o->kv_heads) o->kv_heads = o->heads;
    options_open(&o->common, &d.ctx);
    params_init(&d.params, &d.ctx);

    printf("\nWhy several heads, and what does it cost to remember what they saw?\n\n");
    if (read_text(&d, &err) || make_model(&d, &err) || train(&d, &err)) fatal("%s", err.text);
    watch_heads(&d);
    if (write_line(&d, &err)) fatal("%s", err.text);
    cache_bytes(&d);
    printf("Try next:  --kv-heads 1   (all heads share one pair of keys and values)\n"
           "           --heads 1      (can one head do all of it?)\n"
           "           --steps 3000 --context 96\n");
    chartext_free(&d.text);
    params_free(&d.params);
    context_free(&d.ctx);
    return 0;
}
