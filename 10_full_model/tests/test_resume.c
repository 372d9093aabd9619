/*
 * Runs that are stopped: by Ctrl-C, by a full disk, by kill -9 at any moment. Resumed, they end in
 * the same bits as a run that nothing happened to; and what cannot be resumed is refused by name.
 */
#include "10_full_model/tests/test_world.h"
#include "10_full_model/train/run_folder.h"
#include "10_full_model/train/train_flags.h"
#include "10_full_model/train/training_state.h"

#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* Every kind of state is in use: dropout's random numbers, moments, biases, several batches a
 * step. */
static void options_for_resuming(World *w, const char *out) {
    w->options.schedule = (Schedule){.steps = 18, .warmup = 3, .constant = 4, .peak = 1e-2f};
    w->options.batch_size = 4;
    w->options.accumulation = 2;
    w->options.eval_interval = 6;
    w->options.dropout = 0.2f;
    w->options.bias_speed = 0.01f;
    w->options.out = out;
    w->options.tokenizer = w->tokenizer;
}

/* Trains in a world of its own, with a schedule of its own if that is not NULL; the signal comes in
 * the middle of the step behind `stop` others (0: never). */
static TrainResult run_as(const Schedule *schedule, Device device, DType dtype, const char *out,
                          bool resume, int64_t stop, int signal) {
    World w;
    world_init(&w, device, dtype);
    options_for_resuming(&w, out);
    if (schedule) w.options.schedule = *schedule;
    w.options.csv = path_in(out, "metrics.csv");
    w.options.start = resume ? RUN_RESUME : RUN_NEW;
    Alarm alarm = {w.source, 8 * (uint64_t)stop, signal};
    TokenSource source = alarm_source(&alarm);
    TrainResult result;
    check_ok(train_run(&w.model, &source, &w.options, &result, &err), &err);
    return result;
}

static TrainResult run(Device device, DType dtype, const char *out, bool resume, int64_t stop,
                       int signal) {
    return run_as(NULL, device, dtype, out, resume, stop, signal);
}

/* The best model, the last one, and all of the state: every byte. */
static void same_run(const char *a, const char *b) {
    same_bytes(a, b, "last/training.safetensors");
    same_bytes(a, b, "last/model.safetensors");
    same_bytes(a, b, "model.safetensors");
}

/* One row for each step, in order. */
static void check_rows(const char *out, int steps) {
    char line[512];
    FILE *file = fopen(path_in(out, "metrics.csv"), "r");
    cr_assert(file);
    int seen = 0, heads = 0;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "step,", 5)) heads++;
        if (line[0] >= '0' && line[0] <= '9') cr_assert_eq(atoi(line), ++seen);
    }
    fclose(file);
    cr_assert(seen == steps && heads == 1, "%d rows, %d heads", seen, heads);
}

/* What a process leaves that was killed two steps after its last save, in the middle of a row. */
static void add_rows_of_lost_steps(const char *out, int step) {
    FILE *file = fopen(path_in(out, "metrics.csv"), "a");
    cr_assert(file);
    fprintf(file, "%d,2.5\n%d,2.4\n%d", step + 1, step + 2, step);
    fclose(file);
}

DEVICE_TEST(resume, ends_in_the_same_bits) {
    Scratch whole = scratch_open(), parts = scratch_open();
    const char *out = parts.directory;
    TrainResult undisturbed = run(device, dtype, whole.directory, false, 0, 0);
    TrainResult result = run(device, dtype, out, true, 4, SIGINT); /* nothing there yet: begins */
    check_all(result.interrupted == SIGINT, result.steps == 5);
    cr_assert(result.best_step == 0, "a step that is not due is no candidate for the best");
    add_rows_of_lost_steps(out, 5);
    result = run(device, dtype, out, true, 6, SIGTERM);
    check_all(result.interrupted, result.resumed_from == 5, result.steps == 7);
    result = run(device, dtype, out, true, 0, 0);
    check_all(!result.interrupted, result.resumed_from == 7, result.steps == 18);
    check_all(result.best_validation_loss == undisturbed.best_validation_loss,
              result.best_step == undisturbed.best_step);
    same_run(whole.directory, out);
    check_rows(out, 18);
    result = run(device, dtype, out, true, 0, 0); /* nothing is left to do, and nothing is lost */
    cr_assert(result.steps == 18);
    same_run(whole.directory, out);
    check_rows(out, 18);
}

/* Level for 9 steps; then, resumed, twice as long, with a cosine behind. And a run that was stopped
 * on its level part and gets a longer one. Both are one run with the second schedule. */
DEVICE_TEST(resume, more_steps_are_a_longer_run) {
    const struct {
        Schedule first, then;
        int64_t stop;
    } cases[] = {
        {{.steps = 12, .warmup = 3, .constant = 9, .peak = 1e-2f},
         {.steps = 24, .warmup = 3, .constant = 9, .peak = 1e-2f, .floor = 1e-3f},
         0},
        {{.steps = 18, .warmup = 3, .constant = 4, .peak = 1e-2f},
         {.steps = 12, .warmup = 3, .constant = 7, .peak = 1e-2f},
         6},
    };
    for (int i = 0; i < 2; i++) {
        Scratch whole = scratch_open(), parts = scratch_open();
        int64_t stop = cases[i].stop, done = stop ? stop + 1 : cases[i].first.steps;
        run_as(&cases[i].then, device, dtype, whole.directory, false, 0, 0);
        TrainResult result =
            run_as(&cases[i].first, device, dtype, parts.directory, false, stop, SIGINT);
        cr_assert_eq(result.steps, done);
        result = run_as(&cases[i].then, device, dtype, parts.directory, true, 0, 0);
        cr_assert_eq(result.resumed_from, done);
        same_run(whole.directory, parts.directory);
        check_rows(parts.directory, (int)cases[i].then.steps);
    }
}

/* ---- kill -9 ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A child that trains, or goes on; killed after `seconds` unless that is 0. Was it finished? */
static bool child(const char *out, double seconds) {
    pid_t pid = fork();
    cr_assert(pid >= 0);
    if (pid == 0) {
        run(CPU, F32, out, true, 0, 0);
        _exit(0);
    }
    if (seconds > 0) {
        struct timespec pause = {(time_t)seconds, (long)(1e9 * (seconds - floor(seconds)))};
        nanosleep(&pause, NULL);
        kill(pid, SIGKILL);
    }
    int status;
    cr_assert(waitpid(pid, &status, 0) == pid);
    cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "the child failed");
    return !WIFSIGNALED(status);
}

/* The parent computes nothing: OpenMP's threads do not survive a fork. */
Test(resume, after_being_killed_at_any_moment) {
    Scratch whole = scratch_open(), parts = scratch_open();
    double begin = now();
    cr_assert(child(whole.directory, 0));
    double time = now() - begin;
    int kills = 0;
    for (; kills < 8; kills++) {
        /* The first one at a time when no process can have finished, however slow the first was. */
        double most = kills ? 0.9 : 0.2;
        double share = 0.05 + most * rng_uniform((uint64_t)(1e9 * begin), 1, (uint64_t)kills);
        if (child(parts.directory, share * time)) break;
    }
    cr_assert(child(parts.directory, 0));
    cr_assert(kills > 0);
    same_run(whole.directory, parts.directory);
    check_rows(parts.directory, 18);
    cr_assert_eq(scratch_count(&parts), scratch_count(&whole), "temporary files are left");
}

/* ---- what is refused ---- */

static void refused(World *w, const char *says) {
    TrainResult result;
    cr_assert(train_run(&w->model, &w->source, &w->options, &result, &err) == -1, "no error: %s",
              says);
    cr_assert(strstr(err.text, says), "'%s' says: %s", says, err.text);
}

Test(resume, with_other_settings_is_refused_by_name) {
    Scratch scratch = scratch_open();
    run(CPU, F32, scratch.directory, false, 9, SIGINT); /* the cosine has begun */
    World w;
    world_init(&w, CPU, F32);
    options_for_resuming(&w, scratch.directory);
    refused(&w, "--overwrite"); /* a run is there, and not a word of it */
    w.options.start = RUN_RESUME;
    const TrainOptions fine = w.options;
#define REFUSED(setting, value, says) \
    w.options = fine;                 \
    w.options.setting = value;        \
    refused(&w, says)
    REFUSED(schedule.steps, 20, "but now it is --steps 20 --warmup 3 --constant 4 ");
    REFUSED(schedule.steps, 20, "Step 9 of the 10 that are done had the learning rate 0.0097");
    REFUSED(schedule.peak, 2e-2f, "--learning-rate 0.01 --lowest-rate 0, but now it is --steps 18");
    REFUSED(schedule.constant, 7, "Step 9");
    REFUSED(eval_interval, 5, "--eval-every 6, but");
    REFUSED(eval_batches, 2, "--eval-batches 1, but");
    REFUSED(batch_size, 8, "--batch 4, but");
    REFUSED(accumulation, 1, "--accumulate");
    REFUSED(dropout, 0, "--dropout");
    REFUSED(bias_speed, 0, "--bias-speed");
    REFUSED(adamw.weight_decay, 0, "--weight-decay");
    w.options = fine;
    w.ctx.rng.seed++;
    refused(&w, "seed");
    w.ctx.rng.seed--;
    for (int i = 0; i < 100; i++) w.corpus.ids[100 + 7 * i] = 1; /* another text, as long */
    refused(&w, "hash of the first batch");
    w.model.cfg.n_routed_experts = 7;
    refused(&w, "n_routed_experts 6, but now it is 7");
}

Test(resume, two_trainers_do_not_share_a_folder) {
    Scratch scratch = scratch_open();
    RunFolder folder;
    check_ok(run_folder_open(&folder, scratch.directory, RUN_NEW, &err), &err);
    World w;
    world_init(&w, CPU, F32);
    options_for_resuming(&w, scratch.directory);
    refused(&w, "another process is training there");
    run_folder_close(&folder);
    w.options.schedule.steps = 1;
    w.options.schedule.warmup = w.options.schedule.constant = 0;
    TrainResult result;
    check_ok(train_run(&w.model, &w.source, &w.options, &result, &err), &err);
}

/* Where `what` stands in the bytes, of which not all are text. */
static char *find(char *bytes, size_t size, const char *what) {
    size_t length = strlen(what);
    for (char *at = bytes; at + length <= bytes + size; at++)
        if (!memcmp(at, what, length)) return at;
    return NULL;
}

/* A state that is cut short or of another format changes nothing in the model. */
Test(resume, from_a_damaged_state) {
    Scratch scratch = scratch_open();
    run(CPU, F32, scratch.directory, false, 4, SIGINT);
    World w;
    world_init(&w, CPU, F32);
    options_for_resuming(&w, scratch.directory);
    w.options.start = RUN_RESUME;
    const char *path = scratch_path(&scratch, "last/training.safetensors");
    size_t size;
    char *bytes = file_text(path, &size);
    float before = tensor_get(w.model.decoder.embed_tokens, 5);
    const struct {
        const char *what, *with, *says;
    } changes[] = {{"\"training_format\":\"2\"", "\"training_format\":\"9\"", "format 9"},
                   {"\"schedule\":\"--steps", "\"schedule\":\"--stops", "schedule is '--stops"},
                   {"\"step\":\"5\"", "\"step\":\"x\"", "step is 'x'"},
                   {"weight.model.norm", "weight.model.form", "weight.model.norm.weight"},
                   {"adamw.v.model.norm", "adamw.v.model.form", "adamw.v.model.norm.weight"}};
    for (int i = 0; i < 6; i++) {
        bool cut = i == 5;
        char *at = cut ? NULL : find(bytes, size, changes[i].what);
        cr_assert(cut || at, "there is no %s", cut ? "" : changes[i].what);
        if (at) memcpy(at, changes[i].with, strlen(changes[i].with));
        FILE *out = fopen(path, "wb");
        fwrite(bytes, 1, cut ? size - 100 : size, out);
        fclose(out);
        refused(&w, cut ? "training.safetensors" : changes[i].says);
        if (at) memcpy(at, changes[i].what, strlen(changes[i].what));
        cr_assert(tensor_get(w.model.decoder.embed_tokens, 5) == before, "half a state was loaded");
    }
}

/* The limit lets the weights through, but not the state, which is three times as large. */
Test(resume, after_a_full_disk) {
    Scratch whole = scratch_open(), scratch = scratch_open();
    run(CPU, F32, whole.directory, false, 0, 0);
    run(CPU, F32, scratch.directory, false, 6, SIGINT);
    World w;
    world_init(&w, CPU, F32);
    options_for_resuming(&w, scratch.directory);
    w.options.start = RUN_RESUME;
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    struct rlimit small = {.rlim_cur = 8 * (rlim_t)params_count(&w.model.params),
                           .rlim_max = limit.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    refused(&w, "training.safetensors");
    setrlimit(RLIMIT_FSIZE, &limit);
    TrainResult result = run(CPU, F32, scratch.directory, true, 0, 0);
    cr_assert_eq(result.resumed_from, 7);
    same_run(whole.directory, scratch.directory);
}

/* ---- the schedule ---- */

Test(schedule, up_level_down) {
    Schedule s = {.steps = 20, .warmup = 4, .constant = 6, .peak = 2, .floor = 1};
    const struct {
        int64_t step;
        float rate;
    } points[] = {{0, 0.5f}, {3, 2}, {4, 2}, {9, 2}, {10, 2}, {15, 1.5f}, {20, 1}, {99, 1}};
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        float rate = schedule_rate(&s, points[i].step);
        /* A handful of F32 roundings of numbers up to 2. */
        cr_assert(fabsf(rate - points[i].rate) < 1e-6f, "step %lld: %g, not %g",
                  (long long)points[i].step, rate, points[i].rate);
    }
    for (int64_t i = 0; i < 20; i++)
        cr_assert(schedule_rate(&s, i + 1) <= schedule_rate(&s, i) || i < 4, "it rises again");
}

/* A flag that is changed is seen, or belongs to the schedule, which has a rule of its own. */
Test(resume, every_flag_of_training_is_compared) {
    World w;
    world_init(&w, CPU, F32);
    TrainOptions changed;
    TrainFlags flags = train_flags(&changed);
    Settings before = train_settings(&w.model, &w.source, &w.options);
    for (const Option *row = flags.rows; row->kind != OPTION_END; row++) {
        if (row->kind == OPTION_HEAD) continue;
        const char *at = row->value, *schedule = (const char *)&changed.schedule;
        bool scheduled = at >= schedule && at < schedule + sizeof changed.schedule;
        cr_expect(row->setting != scheduled, "--%s: compared, or the schedule's?", row->name);
        changed = w.options;
        if (row->kind == OPTION_FLOAT)
            *(float *)row->value += 0.001f;
        else if (row->kind == OPTION_FLAG)
            *(bool *)row->value = !*(bool *)row->value;
        else if (row->size == 8)
            *(int64_t *)row->value += 1;
        else
            *(int *)row->value += 1;
        Settings after = train_settings(&w.model, &w.source, &changed);
        bool seen = false;
        for (int i = 0; i < before.count; i++)
            seen |= !strcmp(before.list[i].name + 2, row->name) &&
                    strcmp(before.list[i].value, after.list[i].value);
        cr_expect(seen == row->setting, "--%s: a change is not seen", row->name);
    }
}
