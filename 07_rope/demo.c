/*
 * The demo: turns one pair of numbers, shows what distance does to a product, lays the ways to
 * lengthen the context side by side, and tries them on a small model trained on short texts.
 */
#include "07_rope/rope.h"
#include "07_rope/trial.h"

#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT "07_rope/figures/out/"

/* Five ways to give positions; all but the first again after some tuning. */
enum { MAX_LENGTHS = 16, WAYS = 5, ROWS = 2 * WAYS - 1, BATCH = 16 };
typedef double Table[ROWS][MAX_LENGTHS]; /* perplexity */

/* ---- command line ---- */

typedef struct DemoOptions {
    CommonOptions common;
    const char *text;
    int steps, train_length, windows, tune;
    int lengths[MAX_LENGTHS], length_count;
    double theta, factor, mscale, beta_fast, beta_slow;
} DemoOptions;

/* --lengths: N,N,... */
static int parse_lengths(void *value, const char *text, Error *err) {
    DemoOptions *o = value;
    char copy[256], *end;
    snprintf(copy, sizeof copy, "%s", text);
    o->length_count = 0;
    for (char *next, *one = strtok_r(copy, ",", &next); one; one = strtok_r(NULL, ",", &next)) {
        long low = o->length_count ? o->lengths[o->length_count - 1] + 1 : TRIAL_LAST, most = 8192;
        long length = strtol(one, &end, 10);
        if (o->length_count == MAX_LENGTHS)
            return error_set(err, "at most %d lengths", MAX_LENGTHS);
        if (*end) return error_set(err, "'%s' is not a whole number", one);
        if (length < low || length > most)
            return error_set(err, "%s is not between %ld and %ld", one, low, most);
        o->lengths[o->length_count++] = (int)length;
    }
    return o->length_count ? 0 : error_set(err, "no length in '%s'", text);
}

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    CharText text;
} Demo;

/* ---- 1. one pair ---- */

/* A quarter turn for each position: cos and sin are 0, 1 or -1, and every number stays whole. */
static void quarter_turns(float *pairs, float a, float b, int count) {
    static const float cosines[] = {1, 0, -1, 0, 1}, sines[] = {0, 1, 0, -1, 0};
    int32_t positions[5];
    for (int p = 0; p < count; p++) {
        positions[p] = p;
        pairs[2 * p] = a;
        pairs[2 * p + 1] = b;
    }
    rope_rotate_cpu((RopePart){pairs, 1, 2, 0}, (RopePart){0}, cosines, sines, positions, count, 2,
                    5, ROPE_INTERLEAVED, 0);
}

static void one_pair(Demo *d) {
    enum { COUNT = 5, HANDS = 5, PLACES = 65 };
    float q[2 * COUNT], k[2 * COUNT];
    quarter_turns(q, 3, 1, COUNT);
    quarter_turns(k, 2, 1, COUNT);
    printf("1. One pair of numbers, a quarter turn for each position\n   position p  ");
    for (int p = 0; p < COUNT; p++) printf("%9d", p);
    printf("\n   q = (3, 1)  ");
    for (int p = 0; p < COUNT; p++) printf("  (%2.0f,%2.0f)", q[2 * p], q[2 * p + 1]);
    printf("\n   k = (2, 1)  ");
    for (int p = 0; p < COUNT; p++) printf("  (%2.0f,%2.0f)", k[2 * p], k[2 * p + 1]);
    printf("\n   q at place p (down) times k at place s (across):\n");
    for (int p = 0; p < COUNT; p++) {
        printf("     p = %d ", p);
        for (int s = 0; s <= p; s++)
            printf("%6.0f", q[2 * p] * k[2 * s] + q[2 * p + 1] * k[2 * s + 1]);
        printf("\n");
    }
    printf("   Along each diagonal it is one number: only the distance p - s is left. But\n"
           "   four back looks like the token itself. So there are several pairs, each\n"
           "   slower than the last.\n");
    Csv csv = figure_open(&d->ctx, OUT "rotation.csv", "what,p,x,y");
    for (int p = 0; p < 4; p++) {
        csv_row(&csv, "q,%d,%g,%g", p, q[2 * p], q[2 * p + 1]);
        csv_row(&csv, "k,%d,%g,%g", p, k[2 * p], k[2 * p + 1]);
    }
    RopeConfig cfg = rope_config(2 * HANDS, PLACES);
    double f[HANDS];
    rope_frequencies(&cfg, f);
    for (int i = 0; i < HANDS; i++)
        for (int p = 0; p < PLACES; p++)
            csv_row(&csv, "pair %d,%d,%.5f,%.5f", i, p, cos(p * f[i]), sin(p * f[i]));
    figure_close(&csv, "07_rope/figures/rotation");
    printf("\n");
}

/* ---- 2. distance ---- */

enum { DECAY_DIM = 64, FARTHEST = 4096 };

/* The mean of q.k over all q = k of length 1, at a distance: every pair counts alike. */
static double likeness(const double *f, int distance) {
    double sum = 0;
    for (int i = 0; i < DECAY_DIM / 2; i++) sum += cos(distance * f[i]);
    return sum / (DECAY_DIM / 2);
}

/* Its mean over the next eighth of distances, so that the chart's lines can be told apart. */
static double smooth(const double *f, int distance) {
    double sum = 0;
    int count = 1 + distance / 8;
    for (int i = 0; i < count; i++) sum += likeness(f, distance + i);
    return sum / count;
}

static void decay(Demo *d) {
    static const double thetas[] = {100, 10000, 1000000};
    enum { BARS = 11 };
    double f[3][DECAY_DIM / 2], values[BARS];
    char names[BARS][16];
    const char *labels[BARS];
    for (int i = 0; i < 3; i++) {
        RopeConfig cfg = rope_config(DECAY_DIM, FARTHEST);
        cfg.rope_theta = thetas[i];
        rope_frequencies(&cfg, f[i]);
    }
    printf("2. Farther is fainter, on the whole: the product of a q with the same k so many\n"
           "   places away (%d numbers, theta 10000, 1 where they meet; mean over all\n"
           "   directions). Not from each place to the next: the slow pairs swing, too\n",
           DECAY_DIM);
    for (int i = 0; i < BARS; i++) {
        int distance = i == 0 ? 0 : 1 << (i - 1);
        snprintf(names[i], sizeof names[i], "%d", distance);
        labels[i] = names[i];
        values[i] = likeness(f[1], distance);
    }
    text_bars(labels, values, BARS, "");
    Csv csv = figure_open(&d->ctx, OUT "decay.csv",
                          "distance,exact_10000,theta_100,theta_10000,theta_1000000");
    for (int x = 1; x <= FARTHEST; x += 1 + x / 50)
        csv_row(&csv, "%d,%.5f,%.5f,%.5f,%.5f", x, likeness(f[1], x), smooth(f[0], x),
                smooth(f[1], x), smooth(f[2], x));
    figure_close(&csv, "07_rope/figures/decay");
    printf("\n");
}

/* ---- 3. longer contexts ---- */

static const char *const way_names[WAYS] = {"no positions", "as trained", "PI", "NTK", "YaRN"};

static int longest(const DemoOptions *o) { return o->lengths[o->length_count - 1]; }

/* The positions of one way (1 .. WAYS - 1), for the small model. */
static RopeConfig way_config(const DemoOptions *o, int dim, int way) {
    static const RopeType types[WAYS] = {ROPE_DEFAULT, ROPE_DEFAULT, ROPE_LINEAR, ROPE_NTK,
                                         ROPE_YARN};
    int places = longest(o) > o->train_length ? longest(o) : o->train_length;
    RopeConfig cfg = rope_config(dim, places);
    cfg.rope_theta = o->theta;
    cfg.rope_type = types[way];
    cfg.factor = o->factor;
    cfg.original_max_position_embeddings = o->train_length;
    cfg.beta_fast = o->beta_fast;
    cfg.beta_slow = o->beta_slow;
    /* DeepSeek: both are given, so that cos and sin keep their size and the softmax gets it all. */
    cfg.mscale = cfg.mscale_all_dim = way == 4 ? o->mscale : 0;
    if (way == 4 && o->mscale == 0) cfg.attention_factor = 1;
    return cfg;
}

/* Tokens until each pair has come round once, of DeepSeek-V3's 32 pairs; for the chart. */
static void wavelengths_of_v3(Demo *d) {
    static const RopeType types[] = {ROPE_DEFAULT, ROPE_LINEAR, ROPE_NTK, ROPE_YARN};
    enum { DIM = 64 };
    double f[4][DIM / 2];
    for (int i = 0; i < 4; i++) {
        RopeConfig cfg = rope_config(DIM, 4096);
        cfg.rope_type = types[i];
        cfg.factor = 40;
        cfg.original_max_position_embeddings = 4096;
        rope_frequencies(&cfg, f[i]);
    }
    Csv csv = figure_open(&d->ctx, OUT "wavelengths.csv", "pair,none,linear,ntk,yarn");
    for (int i = 0; i < DIM / 2; i++)
        csv_row(&csv, "%d,%.6g,%.6g,%.6g,%.6g", i, 2 * M_PI / f[0][i], 2 * M_PI / f[1][i],
                2 * M_PI / f[2][i], 2 * M_PI / f[3][i]);
    figure_close(&csv, "07_rope/figures/wavelengths");
}

static DecoderConfig model_config(int vocab) {
    return trial_config(vocab, 2, 128,
                        (MlaConfig){.hidden_size = 64,
                                    .num_attention_heads = 4,
                                    .kv_lora_rank = 48,
                                    .qk_nope_head_dim = 16,
                                    .qk_rope_head_dim = 16,
                                    .v_head_dim = 16});
}

static int longer_contexts(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    int dim = model_config(2).block.mla.qk_rope_head_dim;
    double f[WAYS][64];
    for (int way = 1; way < WAYS; way++) {
        RopeConfig cfg = way_config(o, dim, way);
        if (rope_check(&cfg, err)) return -1;
        rope_frequencies(&cfg, f[way]);
    }
    printf("3. Trained on texts of %d, used up to %d: each pair may be slowed down, up to\n"
           "   %g times\n"
           "   pair   once round in   turns in %-4d  slowed down by PI    NTK   YaRN\n",
           o->train_length, longest(o), o->factor, o->train_length);
    for (int i = 0; i < dim / 2; i++)
        printf("   %4d %10.0f tokens %11.2f %18.2f %6.2f %6.2f\n", i, 2 * M_PI / f[1][i],
               o->train_length * f[1][i] / (2 * M_PI), f[1][i] / f[2][i], f[1][i] / f[3][i],
               f[1][i] / f[4][i]);
    RopeConfig yarn = way_config(o, dim, 4);
    printf("   YaRN also multiplies the scores by %.3f, for there is more to choose from.\n",
           rope_softmax_factor(&yarn));
    wavelengths_of_v3(d);
    printf("\n");
    return 0;
}

/* ---- 4. the trial ---- */

/* All weights into `host`, or (back) out of it. */
static void copy_weights(Params *params, float *host, bool back) {
    for (int i = 0; i < params->count; host += tensor_count(params->list[i++]))
        if (back)
            params_set(params, params->list[i], host);
        else
            params_get(params, params->list[i], host);
}

static int read_text(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    int most = longest(o) > o->train_length ? longest(o) : o->train_length;
    char number[32];
    if (chartext_load(&d->text, o->text, 6 * most, err)) return -1;
    int64_t count = d->text.count, kept = count / 10;
    if (kept < 2 * most) kept = 2 * most;
    d->text.train = count - kept;
    printf("4. The trial\n   %s:\n   %s characters, %d different; the last %.0f %% are kept back\n",
           d->text.source, format_count(number, sizeof number, count), d->text.alphabet.size,
           100.0 * (double)kept / (double)count);
    fflush(stdout); /* the progress bar is on stderr */
    return 0;
}

static int train_at(Demo *d, Params *params, const Decoder *model, const Position *position,
                    const char *label, bool tuning, Error *err) {
    const DemoOptions *o = &d->options;
    int length = tuning ? longest(o) : o->train_length;
    int batch = BATCH * o->train_length / length; /* as many characters a step at any length */
    TrialTraining how = {.label = label,
                         .steps = tuning ? o->tune : o->steps,
                         .batch = batch > 0 ? batch : 1,
                         .length = length,
                         .learning_rate = tuning ? 3e-3f : 1e-2f,
                         .seed = o->common.seed};
    return trial_train(&d->ctx, params, model, &d->text, position, &how, err);
}

static void ask(Demo *d, const Decoder *model, const Position *position, double *row) {
    const DemoOptions *o = &d->options;
    for (int i = 0; i < o->length_count; i++)
        row[i] = trial_perplexity(&d->ctx, model, &d->text, position, o->lengths[i], longest(o),
                                  o->windows);
}

/* The model that was trained on short texts, asked in each way; then tuned in that way from the
 * same weights, and asked again. */
static int ask_ways(Demo *d, Params *params, const Decoder *model, int dim, Table table,
                    Error *err) {
    float *weights = must_alloc((size_t)params_count(params), sizeof *weights);
    int status = 0;
    copy_weights(params, weights, false);
    for (int way = 1; way < WAYS && !status; way++) {
        RopeConfig cfg = way_config(&d->options, dim, way);
        Rope rope;
        if ((status = rope_init(&rope, &d->ctx, &cfg, err))) break;
        ask(d, model, &rope.position, table[way]);
        if (d->options.tune) {
            char label[64];
            snprintf(label, sizeof label, "tuning, %s", way_names[way]);
            status = train_at(d, params, model, &rope.position, label, true, err);
            if (!status) ask(d, model, &rope.position, table[WAYS + way - 1]);
            copy_weights(params, weights, true);
        }
        rope_free(&rope);
    }
    free(weights);
    return status;
}

/* Two models that begin with the same weights: one without positions, one with. */
static int ask_all(Demo *d, Table table, Error *err) {
    DecoderConfig cfg = model_config(d->text.alphabet.size);
    int dim = cfg.block.mla.qk_rope_head_dim, status = 0;
    for (int with = 0; with < 2 && !status; with++) {
        Params params;
        Decoder model;
        Rope rope;
        RopeConfig trained = way_config(&d->options, dim, 1);
        params_init(&params, &d->ctx);
        d->ctx.rng = (Rng){.seed = d->options.common.seed};
        decoder_register(&model, &params, &cfg);
        status = rope_init(&rope, &d->ctx, &trained, err) || params_allocate(&params, true, err);
        if (!status) {
            trial_randomize(&params, &model);
            status = train_at(d, &params, &model, with ? &rope.position : NULL,
                              with ? "training" : "training without positions", false, err);
        }
        if (!status && !with) ask(d, &model, NULL, table[0]);
        if (!status && with) status = ask_ways(d, &params, &model, dim, table, err);
        rope_free(&rope);
        decoder_free(&model);
        params_free(&params);
    }
    return status;
}

static void print_rows(const Demo *d, Table table, int from, int to) {
    for (int row = from; row < to; row++) {
        printf("   %-12s", way_names[row < WAYS ? row : row - WAYS + 1]);
        for (int i = 0; i < d->options.length_count; i++) printf(" %6.2f", table[row][i]);
        printf("\n");
    }
}

static void write_rows(const Demo *d, Csv *csv, Table table) {
    const DemoOptions *o = &d->options;
    for (int i = 0; i < o->length_count; i++) {
        char line[256] = "", *end = line;
        for (int row = 0; row < (o->tune ? ROWS : WAYS); row++)
            end += sprintf(end, ",%.6g", table[row][i]);
        csv_row(csv, "%d,%d%s%s", o->lengths[i], o->train_length, line, o->tune ? "" : ",,,,");
    }
}

static int trial(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    static Table table;
    if (read_text(d, err)) return -1;
    /* opened first: better to hear of a bad path before the training than after */
    Csv csv = figure_open(&d->ctx, o->common.csv,
                          "length,train_length,no_positions,as_trained,pi,ntk,yarn,"
                          "tuned_as_trained,tuned_pi,tuned_ntk,tuned_yarn");
    if (ask_all(d, table, err)) return -1;
    write_rows(d, &csv, table);
    printf("   Perplexity of the same %d characters, with more and more text before them:\n"
           "   length      ",
           o->windows * TRIAL_LAST);
    for (int i = 0; i < o->length_count; i++) printf("%6d ", o->lengths[i]);
    printf("\n");
    print_rows(d, table, 0, WAYS);
    if (o->tune)
        printf("   After %d steps more on texts of %d (trained with %d on texts of %d):\n", o->tune,
               longest(o), o->steps, o->train_length);
    print_rows(d, table, WAYS, o->tune ? ROWS : WAYS);
    figure_close(&csv, "07_rope/figures/length");
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    static Demo d = {.options = {.common.csv = OUT "length.csv",
                                 .steps = 600,
                                 .train_length = 64,
                                 .windows = 128,
                                 .tune = 60,
                                 .lengths = {32, 64, 96, 128, 192, 256, 384, 512},
                                 .length_count = 8,
                                 .theta = 10000,
                                 .mscale = 1}};
    DemoOptions *o = &d.options;
    const Option flags[] = {
        OPT_STRING("text", 't', "FILE", &o->text,
                   "Text to learn from (default: Genesis, from the program `bible`)"),
        OPT_INT("steps", 's', "N", &o->steps, 1, 100000, "Training steps"),
        OPT_INT("train-length", 'T', "N", &o->train_length, 8, 4096,
                "Characters in a training text"),
        OPT_CALL("lengths", 'l', "N,N,...", o, parse_lengths,
                 "Lengths to ask at, ascending (default 32 to 512)"),
        OPT_INT("windows", 'w', "N", &o->windows, 1, 100000, "Stretches of text to ask at"),
        OPT_FLOAT("theta", 'b', "X", &o->theta, 1.001, 1e12, "Base of the frequencies"),
        OPT_FLOAT("factor", 'f', "X", &o->factor, 1, 1e6,
                  "Growth of the context (default: longest / train length)"),
        OPT_FLOAT("mscale", 'm', "X", &o->mscale, 0, 10,
                  "YaRN's mscale and mscale_all_dim; 0: none"),
        OPT_FLOAT("beta-fast", 'F', "X", &o->beta_fast, 1e-3, 1e6,
                  "YaRN: pairs with more turns stay as they are (default 32)"),
        OPT_FLOAT("beta-slow", 'S', "X", &o->beta_slow, 1e-3, 1e6,
                  "YaRN: pairs with fewer turns are squeezed (default 1)"),
        OPT_INT("tune", 'u', "N", &o->tune, 0, 100000,
                "Then train N steps more at the longest length"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    Error err;
    options_parse(argc, argv,
                  "Turns pairs of numbers, trains a small model on short texts, and asks it about "
                  "long ones.",
                  flags);
    if (o->factor == 0) o->factor = fmax(1, (double)longest(o) / o->train_length);
    options_open(&o->common, &d.ctx);

    printf("\nHow far away is that other token? And what if it is farther than any ever was?\n\n");
    one_pair(&d);
    decay(&d);
    if (longer_contexts(&d, &err) || trial(&d, &err)) fatal("%s", err.text);
    printf("Try next:  --tune 600       (as much training again, at the new length)\n"
           "           --factor 2 --lengths 32,64,96,128\n"
           "           --theta 100      (more pairs come round in training)\n"
           "           --beta-fast 1.01 (YaRN with a step instead of a ramp)\n");
    chartext_free(&d.text);
    context_free(&d.ctx);
    return 0;
}
