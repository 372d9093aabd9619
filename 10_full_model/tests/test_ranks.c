/*
 * Several ranks train as one does: the same numbers, to the bit where that is promised, whatever
 * they share; and a run that was begun by two goes on with one or four.
 */
#include "common/tests/test_ranks.h"
#include "10_full_model/commands/training.h"
#include "10_full_model/tests/test_world.h"
#include "10_full_model/train/train_flags.h"

#include <math.h>

typedef enum Kind { PLAIN, MODULES, SPARSE } Kind;

/* A run: how many ranks, how they share, and what of. */
typedef struct Ran {
    int ranks;
    RankOptions how;
    Kind kind;
    const char *out;
    int stop; /* it is interrupted behind so many steps; 0: it is not */
    bool resume;
    float clip;   /* 0: none */
    int batch[2]; /* of rank 0 and the others; 0: the usual */
} Ran;

#define SHARED .expert_parallel = 1, .bucket = 1000
static const RankOptions USUAL = {SHARED}, SLOTS = {SHARED, .deterministic = true},
                         ZERO = {SHARED, .zero = true}, IN_TURN = {SHARED, .in_turn = true},
                         SPREAD = {.expert_parallel = 2, .bucket = 1000},
                         ALL = {.expert_parallel = 2, .bucket = 1000, .zero = true},
                         SLOTS_ZERO = {SHARED, .deterministic = true, .zero = true};

static ModelConfig config_of(const World *w, Kind kind) {
    ModelConfig cfg = w->model.cfg;
    if (kind == MODULES) cfg.num_nextn_predict_layers = 2;
    return kind == SPARSE ? tiny_sparse_config(cfg) : cfg;
}

/* Everything is in use: dropout, biases that move, and a step in several parts. */
static void train(Comm *comm, void *user) {
    const Ran *ran = user;
    World w;
    Error err = {0};
    TrainOptions *o = &w.options;
    world_init(&w, CPU, F32);
    ModelConfig cfg = config_of(&w, ran->kind);
    model_free(&w.model);
    context_free(&w.ctx);
    const CommonOptions common = {.device = CPU, .dtype = F32, .seed = 5};
    o->schedule = (Schedule){.steps = 8, .warmup = 2, .constant = 3, .peak = 1e-2f};
    o->batch_size = 8, o->accumulation = 2, o->eval_interval = 4, o->eval_batches = 3;
    if (ran->batch[0]) o->batch_size = ran->batch[comm_rank(comm) > 0];
    o->dropout = 0.2f, o->bias_speed = 0.01f, o->adamw.clip = ran->clip;
    o->ranks = ran->how;
    o->out = ran->out, o->tokenizer = w.tokenizer;
    o->csv = path_in(ran->out, "metrics.csv");
    o->start = ran->resume ? RUN_RESUME : RUN_NEW;
    rank_ok(comm, training_open_context(&w.ctx, comm, &common, &o->ranks, &err), &err);
    rank_ok(comm, training_model(&w.model, &w.ctx, NULL, &cfg, o, &err), &err);
    Alarm alarm = {w.source, 16 * (uint64_t)ran->stop, SIGINT};
    TokenSource source = w.source;
    if (ran->stop && comm_rank(comm) == comm_size(comm) - 1) source = alarm_source(&alarm);
    TrainResult result;
    rank_ok(comm, train_run(&w.model, &source, o, &result, &err), &err);
    comm_close(w.ctx.experts);
}

/* TRAIN(2, ZERO, PLAIN, folder, .stop = 3) */
#define TRAIN(count, way, what, folder, ...) \
    train_well((Ran){.ranks = count, .how = way, .kind = what, .out = folder, ##__VA_ARGS__})

static void train_well(Ran ran) {
    cr_assert(ranks_run(ran.ranks, train, &ran) == 0, "%d ranks did not end well", ran.ranks);
}

static void same_run(const char *a, const char *b) {
    same_bytes(a, b, "last/training.safetensors");
    same_bytes(a, b, "last/model.safetensors");
    same_bytes(a, b, "model.safetensors");
}

/* Columns of the metrics that do not tell the time. Returns how many numbers there are. */
static int read_metrics(const char *out, double *numbers) {
    static const int columns[] = {1, 2, 4, 7, 8}; /* loss, validation, norm, max_vio, idle */
    char line[512];
    FILE *file = fopen(path_in(out, "metrics.csv"), "r");
    cr_assert_not_null(file);
    int count = 0;
    while (fgets(line, sizeof line, file)) {
        if (line[0] < '0' || line[0] > '9') continue;
        char *at = line;
        for (int column = 0, next = 0; next < 5; column++) {
            char *cell = strsep(&at, ",");
            if (column == columns[next]) numbers[count++] = atof(cell), next++;
        }
    }
    fclose(file);
    return count;
}

/* A sum in another order: differences of F32's rounding, which eight steps of AdamW make larger. */
static void close_run(const char *what, const char *a, const char *b) {
    double x[64], y[64];
    int count = read_metrics(a, x);
    cr_assert(count == 40 && read_metrics(b, y) == count);
    for (int i = 0; i < count; i++)
        cr_assert(fabs(x[i] - y[i]) <= 2e-3 * fabs(y[i]), "%s: number %d is %g, not %g", what, i,
                  x[i], y[i]);
}

/* ---- the same bits ---- */

Test(ranks, by_slots_the_same_bits_for_any_number) {
    for (Kind kind = PLAIN; kind <= SPARSE; kind++) {
        Scratch one = scratch_open();
        TRAIN(1, SLOTS, kind, one.directory, .clip = 0.5f);
        for (int ranks = 2; ranks <= 4; ranks *= 2) {
            Scratch many = scratch_open();
            TRAIN(ranks, ranks == 4 ? SLOTS_ZERO : SLOTS, kind, many.directory, .clip = 0.5f);
            same_run(one.directory, many.directory);
            double x[64], y[64];
            int count = read_metrics(one.directory, x);
            cr_assert(count == read_metrics(many.directory, y) &&
                      !memcmp(x, y, (size_t)count * sizeof *x));
        }
    }
}

/* Saved by two, gone on with by one, and then by four. */
Test(ranks, a_run_goes_on_with_any_number) {
    Scratch whole = scratch_open(), parts = scratch_open();
    TRAIN(1, SLOTS, PLAIN, whole.directory);
    TRAIN(2, SLOTS_ZERO, PLAIN, parts.directory, .stop = 2);
    TRAIN(1, SLOTS, PLAIN, parts.directory, .stop = 5, .resume = true);
    TRAIN(4, SLOTS_ZERO, PLAIN, parts.directory, .resume = true);
    same_run(whole.directory, parts.directory);
}

/* Who adds up when, and who takes AdamW's steps, changes nothing; nor does another time. */
Test(ranks, what_is_shared_changes_no_bit) {
    static const RankOptions *const ways[] = {&USUAL, &IN_TURN, &ZERO};
    Scratch first = scratch_open();
    TRAIN(2, USUAL, MODULES, first.directory);
    for (int i = 0; i < 3; i++) {
        Scratch again = scratch_open();
        TRAIN(2, *ways[i], MODULES, again.directory);
        same_run(first.directory, again.directory);
    }
}

/* ---- nearly the same ---- */

Test(ranks, train_as_one_does) {
    static const struct {
        const char *name;
        int ranks;
        const RankOptions *how;
    } ways[] = {{"two", 2, &USUAL},
                {"four", 4, &USUAL},
                {"ZeRO-1", 2, &ZERO},
                {"experts over two", 2, &SPREAD},
                {"two times two, all", 4, &ALL}};
    Scratch one = scratch_open();
    TRAIN(1, USUAL, MODULES, one.directory, .clip = 0.5f);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        Scratch many = scratch_open();
        TRAIN(ways[i].ranks, *ways[i].how, MODULES, many.directory, .clip = 0.5f);
        close_run(ways[i].name, many.directory, one.directory);
    }
}

/* Experts of two ranks, then of four times nobody. */
Test(ranks, spread_experts_are_saved_as_one) {
    Scratch whole = scratch_open(), parts = scratch_open();
    TRAIN(2, SPREAD, PLAIN, whole.directory);
    TRAIN(2, SPREAD, PLAIN, parts.directory, .stop = 3);
    TRAIN(2, ALL, PLAIN, parts.directory, .resume = true);
    same_run(whole.directory, parts.directory);
}

/* ---- what is refused ---- */

Test(ranks, steps_that_do_not_divide_are_refused_with_what_would) {
    static const struct {
        int batch, accumulation, ranks;
        bool slots;
        const char *says;
    } cases[] = {{6, 1, 4, false, "by 4 ranks; --batch 8 could, or 3 ranks"},
                 {5, 3, 2, false, "by 2 ranks; --batch 6 could"},
                 {4, 1, 1, true, "8 slots (--deterministic); --batch 8 could"},
                 {8, 1, 3, true, "1, 2, 4 or 8 ranks, not 3"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {0};
        StepCut cut;
        cr_assert(step_cut_for(&cut, cases[i].batch, cases[i].accumulation, cases[i].ranks,
                               cases[i].slots, &err) == -1);
        cr_assert(strstr(err.text, cases[i].says), "%s", err.text);
    }
}

Test(ranks, that_are_about_to_do_different_things_are_refused_by_name) {
    Scratch scratch = scratch_open();
    Ran ran = {.ranks = 2, .how = USUAL, .kind = PLAIN, .out = scratch.directory, .batch = {8, 16}};
    fflush(stderr);
    FILE *said = tmpfile();
    int saved = dup(2);
    dup2(fileno(said), 2);
    int failed = ranks_run(2, train, &ran);
    dup2(saved, 2);
    char text[4000];
    rewind(said);
    text[fread(text, 1, sizeof text - 1, said)] = 0;
    cr_assert(failed == 2, "%d ranks failed", failed);
    const char *at = strstr(text, "'--batch 16' here, '--batch 8' there");
    cr_assert(at && strstr(text, "rank 1"), "%s", text);
    cr_assert(!strstr(at, "\n") || !strstr(strstr(at, "\n"), "rank 0"), "said more than once:\n%s",
              text);
}
